"""Compile caches: code compiled for a candidate, kept for the next trial of the same code.

    home, of    where they are kept, of all candidates and of one
    copy        what is kept, for a process of its own
    keep        what a process has compiled
    trim        drops what was used longest ago

A trial works on a copy of its own. What it has compiled is kept when it is warm, before it has seen any text: a cache
that could be written later would carry what one trial has learnt, or a score's text, to the next one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from autoresearch import paths
from autoresearch.harness import assemble
from autoresearch.harness.watch import folder_bytes

NAME = "compiled"  # below a process's scratch folder, and below the cache
MAX_BYTES, MAX_FILES, MAX_DEPTH = 2 << 30, 20_000, 16
BLOCK_BYTES = 1 << 20
KEPT_BYTES, DAY_S = 10 * 10**9, 86400.0  # of all candidates together
UNFINISHED = ".new-"  # how the names of files begin that are being written
LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # no link, and no waiting for whoever should write to a pipe


def home() -> Path:
    """Of all candidates."""
    return paths.cache() / NAME


def of(candidate: dict[str, bytes], below: Path | None = None) -> Path:
    """Of one candidate's code, in the cache or `below` another folder."""
    return (below or home()) / assemble.code_digest(candidate)


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
    """Files that are new in `own`, which a stranger may be changing at this moment: regular ones only, and none if
    there are too many. We stand outside the sandbox, where a link could lead anywhere: none is followed."""
    with contextlib.suppress(OSError):  # nothing was compiled, something else lies in its place, or the disk is full
        top = os.open(own, LOOK | os.O_DIRECTORY)
        try:
            _keep(top, kept)
        finally:
            os.close(top)


def _keep(top: int, kept: Path) -> None:
    sizes = [os.fstat(fd).st_size for _, fd in itertools.islice(_new(top, kept), MAX_FILES + 1)]
    if len(sizes) > MAX_FILES or sum(sizes) > MAX_BYTES:
        return
    left = MAX_BYTES
    for path, fd in itertools.islice(_new(top, kept), MAX_FILES):
        left -= _copy_file(fd, path, left)
        if left < 0:  # it has grown since its size was asked
            return


def _new(top: int, kept: Path) -> Iterator[tuple[Path, int]]:
    """(where it is to be kept, its descriptor) of what is not kept so far."""
    return ((kept / name, fd) for name, fd in _regular(top) if not (kept / name).exists())


def _regular(folder: int, depth: int = MAX_DEPTH) -> Iterator[tuple[str, int]]:
    """Regular files below an open folder, and their descriptors. Each name is opened in the folder where it was found,
    and looked at afterwards: what it stands for may change in between."""
    for name in os.listdir(folder):
        try:
            fd = os.open(name, LOOK, dir_fd=folder)
        except OSError:  # a link, or gone again
            continue
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISREG(mode):
                yield name, fd
            elif stat.S_ISDIR(mode) and depth:
                yield from ((f"{name}/{below}", file) for below, file in _regular(fd, depth - 1))
        finally:
            os.close(fd)


def _copy_file(fd: int, to: Path, most_bytes: int) -> int:
    """How many bytes were read; a file of more than `most_bytes` is not kept. It appears whole or not at all: other
    trials of this code may be reading."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with open(fd, "rb", closefd=False) as f, \
            tempfile.NamedTemporaryFile(dir=to.parent, prefix=UNFINISHED, delete=False) as new:
        try:
            size = 0
            while size <= most_bytes and (block := f.read(BLOCK_BYTES)):
                size += new.write(block)
            if size <= most_bytes:
                new.flush()
                os.chmod(new.name, 0o755)
                os.replace(new.name, to)
            return size
        finally:
            with contextlib.suppress(FileNotFoundError):  # it has its name
                os.unlink(new.name)
