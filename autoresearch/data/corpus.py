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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autoresearch.data.text import char_boundary, invalid_bytes
from autoresearch.errors import UserError

STDLIB = "stdlib"
STDLIB_MAX_BYTES = 12_000_000
TEXT_MAX_BYTES = 1_000_000_000  # it is held in memory while it is split
SEPARATOR = re.compile(rb"^<\|endoftext\|>[ \t]*\r?(?:\n|\Z)", re.MULTILINE)
SNIFF_BYTES = 8192
# encodings and pydoc_data are generated: tables that are near copies of one another would be on both sides of a split.
_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
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


def stdlib(max_bytes: int | None = None) -> Corpus:
    """The standard library of the Python that runs this: real text on every machine, no network."""
    root = Path(sysconfig.get_path("stdlib"))
    # _sysconfigdata* is written when Python is built and holds that machine's paths.
    files = [path for path in _walk(root, _NOT_LIBRARY)
             if path.suffix == ".py" and not path.is_symlink() and not path.name.startswith("_sysconfigdata")]
    documents, notes = _read_all(files, max_bytes or STDLIB_MAX_BYTES)
    if not documents:
        raise UserError(f"this Python has no source of its standard library in {root}",
                        "Use text of your own: ar prepare --text PATH")
    version = ".".join(map(str, sys.version_info[:3]))
    return Corpus("stdlib", f"standard library of Python {version}", STDLIB, documents, notes)


def text(paths: list[Path], max_bytes: int | None = None) -> Corpus:
    """Files, and folders recursively in sorted order. Raises UserError for one that gives no text."""
    limit = max_bytes or TEXT_MAX_BYTES
    documents: list[bytes] = []
    notes: list[str] = []
    for path in paths:
        left = limit - sum(map(len, documents))
        found, skipped = _folder(path, left) if os.path.isdir(path) else _file(path, left)
        documents += found
        notes += skipped
        if left <= 0:
            break
    if bad := sum(map(invalid_bytes, documents)):
        notes.append(f"{bad:,} bytes are not UTF-8; they are kept as they are, and count as one character each")
    rest = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    name = Path(os.path.abspath(paths[0])).stem
    return Corpus("text", f"{paths[0]}{rest}", name, documents, list(dict.fromkeys(notes)))


def _file(path: Path, limit: int) -> tuple[list[bytes], list[str]]:
    try:
        return _documents(path, limit)
    except _Unusable as e:
        raise UserError(f"{path} {e.why}", e.hint) from None


def _folder(path: Path, limit: int) -> tuple[list[bytes], list[str]]:
    if not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{path} can't be opened: permission denied", f"Try: ls -ld '{path}'")
    documents, notes = _read_all(list(_walk(path, set())), limit)
    if not documents:
        why = f"; {notes[0]}" if notes else ""
        raise UserError(f"the folder {path} holds no text{why}", "Name a text file, or a folder of them.")
    return documents, notes


def _walk(root: Path, leave_out: set[str]) -> Iterator[Path]:
    """Files below `root` in sorted order, hidden ones left out; links to folders are not followed."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in leave_out)
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def _read_all(files: list[Path], limit: int) -> tuple[list[bytes], list[str]]:
    documents: list[bytes] = []
    notes: list[str] = []
    left = limit
    for path in files:
        try:
            found, cut = _documents(path, left)
        except _Unusable as e:
            if e.why != "is empty":  # an empty file in a folder is nothing to speak of
                notes.append(f"skipped {path}: it {e.why}")
            continue
        documents += found
        notes += cut
        left -= sum(map(len, found))
        if cut:
            break
    return documents, notes


def _documents(path: Path, limit: int) -> tuple[list[bytes], list[str]]:
    """The documents of one file, at most `limit` bytes. Raises _Unusable."""
    data = _read(path, limit + SNIFF_BYTES)
    notes = []
    if len(data) > limit:
        newline = data.rfind(b"\n", max(0, limit - SNIFF_BYTES), limit)
        data = data[:newline + 1 if newline >= 0 else char_boundary(data, limit)]
        notes = ["the text beyond the limit on bytes is left out"]
    found = [document for document in SEPARATOR.split(data) if document]
    if not found and not notes:
        raise _Unusable("holds nothing but separators")
    return found, notes


def _read(path: Path, limit: int) -> bytes:
    """At most `limit` bytes of a regular file that looks like text. A pipe or device is never read."""
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if kind := next((words for test, words in _KINDS if test(status.st_mode)), None):
                raise _Unusable(f"is {kind}, not a file", "Write its content to a file and name that.")
            data = file.read(min(limit, status.st_size + SNIFF_BYTES))
    except OSError as e:
        raise _unreadable(path, e) from None
    except ValueError:
        raise _Unusable("is not a path") from None
    if not data:
        raise _Unusable("is empty")
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
    if error.errno == errno.ENXIO:  # what opening a socket gives
        return _Unusable("is a socket, not a file")
    return _Unusable(f"can't be read: {error.strerror}")
