"""Files of the cache: written whole or not at all, read in pieces that memory can hold."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from autoresearch.data.manifest import File
from autoresearch.errors import UserError

READ_BYTES = 4_000_000
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
    with open(path, "rb", buffering=0) as file:
        for low, high in zip([0, *joined.tolist()], [*joined.tolist(), len(begins)], strict=True):
            while low < high:
                begin = int(begins[low])
                last = max(low + 1, int(np.searchsorted(ends[low:high], begin + READ_BYTES, "right")) + low)
                block = _exactly(file.fileno(), begin, int(ends[last - 1]), path)
                for a, b in zip(begins[low:last].tolist(), ends[low:last].tolist(), strict=True):
                    yield block[a - begin:b - begin]
                low = last


def _exactly(descriptor: int, begin: int, end: int, path: Path) -> bytes:
    data = os.pread(descriptor, end - begin, begin)
    if len(data) != end - begin:
        raise OSError(errno.EIO, f"{path.name} ends too early")
    return data


def check_space(root: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed_bytes:
        raise UserError(f"{root} has {free / 1e6:,.0f} MB free; preparing this text needs {needed_bytes / 1e6:,.0f} MB",
                        "Free some space, limit the text with --max-bytes, or set AUTORESEARCH_CACHE to another disk.")


@contextlib.contextmanager
def writing(root: Path) -> Iterator[None]:
    """What the system says while the cache is written, as a sentence."""
    try:
        yield
    except OSError as e:
        if e.errno in FULL:
            raise UserError(f"no space is left for {root}: {e.strerror}",
                            "Free some space and prepare again, limit the text with --max-bytes, or set "
                            "AUTORESEARCH_CACHE to another disk.") from e
        raise UserError(f"can't write to {root}: {e.strerror or e}",
                        "Name another folder: AUTORESEARCH_CACHE=/path ar prepare") from e


@contextlib.contextmanager
def lock(root: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """One writer at a time in a cache. The system drops the lock of a process that dies."""
    import fcntl  # not on native Windows

    with open(root / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another ar prepare is running in this cache; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
