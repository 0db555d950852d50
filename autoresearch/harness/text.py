"""Text from strangers, made fit to show: the end of a log, without control sequences, of bounded length."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[@-_])")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text: str, limit: int = 4000) -> str:
    """Printable characters, tabs and line ends; at most the last `limit` characters."""
    return CONTROLS.sub("", ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))[-limit:]


def line(text: str) -> str:
    """All of it on one line."""
    return " ".join(clean(text, len(text)).split())


def cut(path: Path, most_bytes: int) -> None:
    """Leaves the end of a file that may be huge, or missing."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size <= most_bytes:
        return
    with open(path, "r+b") as f:
        f.seek(-most_bytes, os.SEEK_END)
        end = f.read()
        f.seek(0)
        f.write(end)
        f.truncate()


def tail(path: Path, lines: int = 30) -> str:
    """The last lines of a file that may be missing, huge, binary, or a pipe that a stranger put there."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as f:
            status = os.fstat(f.fileno())
            if not stat.S_ISREG(status.st_mode):
                return ""
            f.seek(max(0, status.st_size - 16384))
            return "\n".join(clean(f.read().decode("utf-8", "replace")).splitlines()[-lines:])
    except OSError:
        return ""
