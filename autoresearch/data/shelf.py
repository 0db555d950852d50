"""What is prepared in the cache, taken as a whole.

    Entry    a set by its name, whole or not
    entries  all of them
    entry    one of them
    delete   remove one, and nothing else
    samples  some of its documents
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from autoresearch.data import disk, prepared
from autoresearch.data.prepared import Prepared
from autoresearch.errors import UserError

DELETED = ".tmp-deleted-"  # such folders are also removed by the next `prepare`


@dataclass(frozen=True)
class Entry:
    name: str
    root: Path
    found: Prepared | None  # as its manifest describes it; None where that can't be read
    problem: str  # why it can't be used; "" where it can
    remedy: str  # for whatever is wrong with it
    is_current: bool

    def disk_bytes(self) -> int:
        """What its files take on the disk."""
        return sum(_blocks(path) for path in [self.root, *self.root.iterdir()])

    def faults(self) -> list[str]:
        """What is wrong with its files, all of which are read."""
        return [self.problem] if self.found is None else list(self.found.faults())


def entries() -> list[Entry]:
    """By name. UserError for none of them: what is damaged is listed as such."""
    return [_entry(name) for name in prepared.names()]


def entry(name: str | None) -> Entry:
    """The set of that name, or the current one. UserError where there is none."""
    if name is None:
        name = prepared.current_name() or prepared.current().name
    if name not in prepared.names():
        prepared.find(name)
    return _entry(name)


def delete(name: str, progress: Callable[[str], None] = lambda line: None) -> None:
    """Remove a set. It is gone at once, by a new name, before its files are: killed at any moment, this leaves a whole
    set or none. Where the set is a link, only the link goes."""
    root = prepared.folder()
    with disk.lock(root, progress):
        chosen = entry(name)
        gone = root / f"{DELETED}{name}"
        _remove(gone)  # of a run that was killed
        chosen.root.rename(gone)
        if chosen.is_current:
            (root / prepared.CURRENT).unlink(missing_ok=True)
        disk.sync(root)
        _remove(gone)


def _entry(name: str) -> Entry:
    root, found, problem = prepared.folder() / name, None, ""
    remedy = prepared.again(root)
    try:
        found = prepared.described(root)
        prepared.load(root)
    except UserError as e:
        problem, remedy = e.message, e.hint
    return Entry(name, root, found, problem, remedy, prepared.current_name() == name)


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def _blocks(path: Path) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0


def samples(found: Prepared, count: int) -> Iterator[bytes]:
    """Documents of train, evenly spaced."""
    total = found.manifest.splits["train"].documents
    yield from found.documents("train", slice(None, None, max(1, -(-total // count))))
