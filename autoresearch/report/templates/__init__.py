"""Pages as templates that escape all they are given: of the report and of the dashboard, with one style sheet.

    render   a template of this folder as text
    style    the style sheet
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from autoresearch import words
from autoresearch.harness.text import clean

FOLDER = Path(__file__).parent


def render(name: str, values: Mapping[str, Any]) -> str:
    return str(_environment().get_template(name).render(values))


def style() -> str:
    return (FOLDER / "style.css").read_text(encoding="utf-8")


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters["printable"] = _printable  # control characters would garble a page, and hide parts of it
    environment.filters |= {"line": words.one_line, "prose": _prose}
    environment.globals["style"] = style
    return environment


def _prose(text: str) -> Any:
    """Sentences of ours, with `commands` in them."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(_printable(text)))))


def _printable(text: str, limit: int = 20_000) -> str:
    return clean(str(text), limit)
