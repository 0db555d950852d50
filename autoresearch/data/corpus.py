"""Where text comes from: a person's files and folders, or the source of the running Python's standard library.

Bytes are kept exactly as they are. A file is a document, or several if lines of `<|endoftext|>` divide it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch.data.text import char_boundary, invalid_bytes
from autoresearch.errors import UserError

STDLIB = "stdlib"
STDLIB_MAX_BYTES = 12_000_000
TEXT_MAX_BYTES = 1_000_000_000  # it is held in memory while it is split
SEPARATOR = re.compile(rb"^<\|endoftext\|>[ \t]*\r?(?:\n|\Z)", re.MULTILINE)
SNIFF_BYTES = 8192
EMPTY = "is empty"
_NOT_LIBRARY = {
    "site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__",
    "encodings", "pydoc_data",  # generated, near copies of one another: the same text would be on both sides of a split
}
_KINDS = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
          (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))


@dataclass(frozen=True)
class Corpus:
    kind: str  # stdlib or text
    source: str  # in words, for the manifest
    name: str  # what to call the prepared set unless told
    documents: list[bytes]
    notes: list[str]  # what was skipped or is odd about it

    @property
    def bytes(self) -> int:
        return sum(map(len, self.documents))

    def sha256(self) -> str:
        """Of the documents joined; of the file itself, where one file is one document."""
        total = hashlib.sha256()
        for document in self.documents:
            total.update(document)
        return total.hexdigest()


class _Unusable(Exception):
    """A file that holds no text: why, in the words that follow its path, and what to do about it."""

    def __init__(self, why: str, hint: str = "Name a text file, or a folder of them."):
        self.why, self.hint = why, hint
        super().__init__(why)


@dataclass
class _Taken:
    """Documents read so far, and how many bytes may still follow."""

    left_bytes: int
    documents: list[bytes] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_full: bool = False

    def file(self, path: Path) -> None:
        """Raises _Unusable for a file without text."""
        data = _read(path, self.left_bytes + SNIFF_BYTES)
        if len(data) > self.left_bytes:
            newline = data.rfind(b"\n", max(0, self.left_bytes - SNIFF_BYTES), self.left_bytes)
            data = data[:newline + 1 if newline >= 0 else char_boundary(data, self.left_bytes)]
            self.is_full = True
            self.notes.append("the text beyond the limit on bytes is left out")
        found = [document for document in SEPARATOR.split(data) if document]
        if not found and not self.is_full:
            raise _Unusable("holds nothing but separators")
        self.documents += found
        self.left_bytes -= sum(map(len, found))

    def files(self, paths: Iterable[Path]) -> None:
        """Those with text; a note for each of the others."""
        for path in paths:
            if self.is_full:
                break
            try:
                self.file(path)
            except _Unusable as e:
                if e.why != EMPTY:  # nothing to speak of in a folder
                    self.notes.append(f"skipped {path}: it {e.why}")


def stdlib(max_bytes: int | None = None) -> Corpus:
    """The standard library of the Python that runs this: real text on every machine, no network."""
    root = Path(sysconfig.get_path("stdlib"))
    taken = _Taken(max_bytes or STDLIB_MAX_BYTES)
    # _sysconfigdata* is written when Python is built and holds that machine's paths.
    taken.files(path for path in _walk(root, _NOT_LIBRARY)
                if path.suffix == ".py" and not path.is_symlink() and not path.name.startswith("_sysconfigdata"))
    if not taken.documents:
        raise UserError(f"this Python has no source of its standard library in {root}",
                        "Use text of your own: ar prepare --text PATH")
    version = ".".join(map(str, sys.version_info[:3]))
    return Corpus("stdlib", f"standard library of Python {version}", STDLIB, taken.documents, taken.notes)


def text(paths: list[Path], max_bytes: int | None = None) -> Corpus:
    """Files, and folders recursively in sorted order. Raises UserError for one that gives no text."""
    taken = _Taken(max_bytes or TEXT_MAX_BYTES)
    for path in paths:
        if taken.is_full:
            break
        if os.path.isdir(path):
            _folder(path, taken)
        else:
            try:
                taken.file(path)
            except _Unusable as e:
                raise UserError(f"{path} {e.why}", e.hint) from None
    if bad := sum(map(invalid_bytes, taken.documents)):
        taken.notes.append(f"{bad:,} bytes are not UTF-8; they are kept as they are, and count as one character each")
    rest = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return Corpus("text", f"{paths[0]}{rest}", Path(os.path.abspath(paths[0])).stem, taken.documents, taken.notes)


def _folder(path: Path, taken: _Taken) -> None:
    if not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{path} can't be opened: permission denied", f"Try: ls -ld '{path}'")
    documents, notes = len(taken.documents), len(taken.notes)
    taken.files(_walk(path, set()))
    if len(taken.documents) == documents and not taken.is_full:
        why = "".join(f"; {note}" for note in taken.notes[notes:notes + 1])
        raise UserError(f"the folder {path} holds no text{why}", "Name a text file, or a folder of them.")


def _walk(root: Path, leave_out: set[str]) -> Iterator[Path]:
    """Files below `root` in sorted order, hidden ones left out; links to folders are not followed."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in leave_out)
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def _read(path: Path, limit: int) -> bytes:
    """At most `limit` bytes of a regular file that looks like text. A pipe or device is never read."""
    try:
        status = os.stat(path)
        if kind := next((words for test, words in _KINDS if test(status.st_mode)), None):
            raise _Unusable(f"is {kind}, not a file", "Write its content to a file and name that.")
        with open(path, "rb") as file:
            data = file.read(min(limit, status.st_size + SNIFF_BYTES))
    except OSError as e:
        raise _unreadable(path, e) from None
    if not data:
        raise _Unusable(EMPTY)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise _Unusable("is UTF-16", f"Convert it: iconv -f UTF-16 -t UTF-8 '{path}' > text.txt")
    if b"\0" in data[:SNIFF_BYTES]:
        raise _Unusable("is binary, not text")
    return data


def _unreadable(path: Path, error: OSError) -> _Unusable:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return _Unusable("does not exist", "Check the spelling; a path is relative to the current folder.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return _Unusable("can't be read: permission denied", f"Try: ls -l '{path}'")
    return _Unusable(f"can't be read: {error.strerror}")
