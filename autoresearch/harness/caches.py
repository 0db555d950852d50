"""Compile caches: code compiled for a candidate, kept for the next trial of the same code.

A trial works on a copy of its own. What it has compiled is kept when it is warm, before it has seen any text: a cache
that could be written later would carry what one trial has learnt, or a score's text, to the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from autoresearch.harness.watch import folder_bytes

NAME = "compiled"  # below a process's scratch folder
MAX_BYTES, MAX_FILES = 2 << 30, 20_000
KEPT_BYTES, DAY_S = 10 * 10**9, 86400.0  # of all candidates together
UNFINISHED = ".new-"  # how the names of files begin that are being written


def copy(kept: Path, own: Path) -> None:
    """What was compiled for this code so far, to a folder that the process may change."""
    if kept.is_dir():
        shutil.copytree(kept, own, ignore=shutil.ignore_patterns(f"{UNFINISHED}*"))
        os.utime(kept)  # used now


def trim(kept: Path, most_bytes: int = KEPT_BYTES) -> None:
    """Of the folders of all candidates below `kept`, deletes those used longest ago where they are too much together;
    never one that was used within a day, which another study may be reading."""
    total = 0
    for folder in sorted(kept.glob("*"), key=lambda p: p.stat().st_mtime, reverse=True):
        total += folder_bytes(folder)
        if total > most_bytes and time.time() - folder.stat().st_mtime > DAY_S:
            shutil.rmtree(folder, ignore_errors=True)


def keep(own: Path, kept: Path) -> None:
    """Files that are new in `own`, which a stranger writes to: regular ones only, and none if there are too many."""
    new = [(path, size) for path, size in _files(own) if not (kept / path.relative_to(own)).exists()]
    if len(new) > MAX_FILES or sum(size for _, size in new) > MAX_BYTES:
        return
    for path, _ in new:
        with contextlib.suppress(OSError):  # gone again, or replaced by something else
            _copy_file(path, kept / path.relative_to(own))


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    for directory, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(directory, name))
                if stat.S_ISREG(status.st_mode):
                    yield Path(directory, name), status.st_size


def _copy_file(path: Path, to: Path) -> None:
    """Appears whole or not at all: other trials of this code may be reading."""
    to.parent.mkdir(parents=True, exist_ok=True)
    source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(source, "rb") as f, \
            tempfile.NamedTemporaryFile(dir=to.parent, prefix=UNFINISHED, delete=False) as new:
        try:
            shutil.copyfileobj(f, new)
            os.chmod(new.name, 0o755)
            os.replace(new.name, to)
        except BaseException:
            os.unlink(new.name)
            raise
