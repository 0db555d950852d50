"""Temporary folders for work outside a study, which do not pile up: whoever makes one removes those of the dead."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "autoresearch-"  # then the process that works there


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """An empty folder, gone afterwards; after a kill, when the next one is made."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}[0-9]*-*"):
        if not _lives(left.name.split("-")[1]):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True
