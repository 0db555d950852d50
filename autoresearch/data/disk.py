"""Files of the cache: written whole or not at all, read in pieces that memory can hold."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from autoresearch.data.manifest import File
from autoresearch.errors import UserError

READ_BYTES = 4_000_000
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# No fault of the file at hand, as when whoever read our progress has left: the command line says what to do.
NOT_OF_FILES = {errno.EPIPE, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def write(folder: Path, name: str, blocks: Iterable[bytes | memoryview]) -> dict[str, File]:
    """A file, synced, with its facts. It belongs to a set only when a manifest names it."""
    total, size = hashlib.sha256(), 0
    with open(folder / name, "wb", buffering=1 << 20) as file:
        for block in blocks:
            file.write(block)
            total.update(block)
            size += len(block)
        file.flush()
        os.fsync(file.fileno())
    return {name: File(size, total.hexdigest())}


def replace(folder: Path, name: str, content: str) -> None:
    """The file's new content, at once."""
    new = f".{name}.new"
    write(folder, new, [content.encode()])
    (folder / new).replace(folder / name)
    sync(folder)


def sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def ranges(path: Path, ranges_R2: np.ndarray) -> Iterator[bytes]:
    """The bytes of each (begin, end) of a file, neighbours read together."""
    begins, ends = ranges_R2[:, 0], ranges_R2[:, 1]
    joined = np.flatnonzero(begins[1:] != ends[:-1]) + 1  # where a new stretch begins
    with reading(path), open(path, "rb", buffering=0) as file:
        for low, high in zip([0, *joined.tolist()], [*joined.tolist(), len(begins)], strict=True):
            while low < high:
                begin = int(begins[low])
                last = max(low + 1, int(np.searchsorted(ends[low:high], begin + READ_BYTES, "right")) + low)
                block = _exactly(file.fileno(), begin, int(ends[last - 1]))
                for a, b in zip(begins[low:last].tolist(), ends[low:last].tolist(), strict=True):
                    yield block[a - begin:b - begin]
                low = last


def _exactly(descriptor: int, begin: int, end: int) -> bytes:
    data = os.pread(descriptor, end - begin, begin)
    if len(data) != end - begin:
        raise OSError(errno.EIO, "it ends too early")
    return data


def check_space(root: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed_bytes:
        raise UserError(f"{root} has {free / 1e6:,.0f} MB free; preparing this text needs {needed_bytes / 1e6:,.0f} MB",
                        "Free some space, limit the text with --max-bytes, or set AUTORESEARCH_CACHE to another disk.")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """What the system says while a file of the cache is read, as a sentence."""
    try:
        yield
    except OSError as e:
        if e.errno in NOT_OF_FILES:
            raise
        raise UserError(f"{path} can't be read: {e.strerror or e}",
                        "Check its permissions and the disk; `ar data verify` tells whether what is prepared is whole."
                        ) from e


@contextlib.contextmanager
def writing(root: Path) -> Iterator[None]:
    """What the system says while the cache is written, as a sentence."""
    try:
        yield
    except OSError as e:
        raise unwritable(
            root, e, "Free some space and prepare again, limit the text with --max-bytes, or set AUTORESEARCH_CACHE to "
                     "another disk.", "prepare in another folder: AUTORESEARCH_CACHE=/path ar prepare") from e


def unwritable(folder: Path, error: OSError, if_full: str, otherwise: str) -> UserError:
    """The sentence, with what to do: `if_full`, or see whose the folder is, or do `otherwise`. Raises the error itself
    where it is not the folder's."""
    if error.errno in NOT_OF_FILES:
        raise error
    if error.errno in FULL:
        return UserError(f"no space is left for {folder}: {error.strerror}", if_full)
    return UserError(f"can't write to {error.filename or folder}: {error.strerror or error}",
                     f"See whose it is, and who may write: ls -ld '{folder}'; or {otherwise}")


@contextlib.contextmanager
def lock(root: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """One writer at a time in a cache. The system drops the lock of a process that dies."""
    with open(root / ".lock", "a") as file:
        hold(file, lambda: progress("another process is preparing text in this cache; waiting for it"))
        yield


def hold(file: IO[Any], on_wait: Callable[[], None]) -> None:
    """The lock of a file, until it is closed. `on_wait` is called where another has it; Ctrl-C ends the wait."""
    import fcntl  # not on native Windows

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait()
        fcntl.flock(file, fcntl.LOCK_EX)
