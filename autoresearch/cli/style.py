"""Colour for terminals, and text fitted to them. Plain where stdout is no terminal, or NO_COLOR is set."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata

import click

VERDICT_COLOURS = {"keep": "green", "discard": "bright_black", "crash": "red", "timeout": "red", "invalid": "magenta",
                   "interrupted": "yellow"}


def has_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def style(text: str, colour: str | None = None, bold: bool = False) -> str:
    return click.style(text, fg=colour, bold=bold or None) if has_colour() and text else text


def width() -> int | None:
    """Columns of the terminal; None where stdout is none, and so nothing has to be cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fit(text: str, columns: int | None) -> str:
    """The text in at most so many columns, its end cut where it is longer."""
    if columns is None or sum(map(_cells, text)) <= columns:
        return text
    kept, used = "", 0
    for char in text:
        used += _cells(char)
        if used > columns - 1:
            break
        kept += char
    return kept.rstrip() + "…" if columns > 0 else ""


def _cells(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
