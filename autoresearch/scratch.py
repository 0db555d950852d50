"""Folders that are thrown away. Those for work outside a study do not pile up: whoever makes one removes those of the
dead."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "autoresearch-"  # then the process that works there


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """An empty folder, gone afterwards; after a kill, when the next one is made."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}[0-9]*-*"):
        if not _lives(left.name.split("-")[1]):
            remove(left)
    made = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    try:
        yield made
    finally:
        remove(made)


def remove(folder: Path) -> None:
    """As far as it can be. A candidate may have nested folders deeper than Python can follow them."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:
        subprocess.run(["rm", "-rf", "--", folder], stderr=subprocess.DEVNULL)


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True
