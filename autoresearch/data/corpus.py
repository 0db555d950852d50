"""What text there is: a person's files and folders, or the source of the running Python's standard library.

A corpus is read as a stream, every byte as it was: nothing here holds more than one document.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch.data import readers
from autoresearch.data.readers import DEFAULT_FIELDS, SNIFF_BYTES, Fields, File, Unusable
from autoresearch.data.text import char_boundary
from autoresearch.errors import UserError

STDLIB = "stdlib"
STDLIB_MAX_BYTES = 12_000_000
STDIN = Path("-")
LINKED = "is a link to a folder, and not followed"
NAMED = 3  # of what was skipped
TRUNCATED = "the text beyond the limit on bytes is left out"
_NOT_LIBRARY = {
    "site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__",
    "encodings", "pydoc_data",  # generated, near copies of one another: the same text would be on both sides of a split
}


@dataclass
class Corpus:
    kind: str  # stdlib, text, or the name of a published corpus
    source: str  # in words, for the manifest
    name: str  # what to call the prepared set unless told
    documents: Callable[[], Iterator[bytes]]  # reads afresh at each call; raises UserError for what can't be read
    pinned: Callable[[], Iterator[bytes]] | None = None  # where the source pins what is scored: val, confirm, holdout
    fetch: Callable[[], object] = lambda: None  # brings here what is read; may take hours, and nothing the second time
    revision: str = ""
    licence: str = ""
    expected_bytes: int | None = None  # of text, estimated before it is read
    notes: list[str] = field(default_factory=list)  # what is odd; grows while documents are read
    skipped: dict[str, str] = field(default_factory=dict)  # {what a folder holds: why it is not read}; grows too

    def note(self, line: str) -> None:
        """Said once, however often the corpus is read."""
        if line not in self.notes:
            self.notes.append(line)

    def remarks(self) -> list[str]:
        """The notes, and what was skipped in one line: a folder may hold thousands of pictures."""
        if not self.skipped:
            return list(self.notes)
        odd_first = sorted(self.skipped.items(), key=lambda item: item[1] == readers.BINARY)
        named = [f"{path} {why}" for path, why in odd_first[:NAMED]]
        more = f"; and {len(self.skipped) - NAMED} more" if len(self.skipped) > NAMED else ""
        count = f"{len(self.skipped):,} path{'' if len(self.skipped) == 1 else 's'}"
        return [*self.notes, f"skipped {count}: {'; '.join(named)}{more}"]


def stdlib(max_bytes: int | None = None) -> Corpus:
    """The standard library of the Python that runs this: real text on every machine, no network."""
    root = Path(sysconfig.get_path("stdlib"))
    version = ".".join(map(str, sys.version_info[:3]))
    limit = max_bytes or STDLIB_MAX_BYTES

    def sources() -> list[Path]:
        # _sysconfigdata* is written when Python is built and holds that machine's paths.
        return [path for path in walk(root, {}, _NOT_LIBRARY)
                if path.suffix == ".py" and not path.is_symlink() and not path.name.startswith("_sysconfigdata")]

    if not sources():
        raise UserError(f"this Python has no source of its standard library in {root}",
                        "Use text of your own: ar prepare --text PATH")
    corpus = Corpus(STDLIB, f"standard library of Python {version}", STDLIB, lambda: capped(
        (document for path in sources() for document in _or_note(path, DEFAULT_FIELDS, corpus)), limit, corpus),
        licence="PSF-2.0", expected_bytes=limit)
    return corpus


def text(paths: list[Path], max_bytes: int | None = None, fields: Fields = DEFAULT_FIELDS) -> Corpus:
    """Files, folders recursively in sorted order, and `-`, which is standard input. Raises UserError for one that
    can't be read."""
    parts = [_part(path) for path in paths]
    expected = sum(map(_expected_bytes, parts))
    rest = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    first = "standard input" if paths[0] == STDIN else paths[0]
    corpus = Corpus("text", f"{first}{rest}", _name(paths[0]), lambda: capped(
        (document for part in parts for document in _taken(part, fields, corpus)), max_bytes, corpus),
        expected_bytes=min(expected, max_bytes or expected))
    return corpus


def capped(documents: Iterator[bytes], max_bytes: int | None, corpus: Corpus) -> Iterator[bytes]:
    """Documents of at most `max_bytes` together; the last is cut after a line if one ends nearby."""
    left = max_bytes if max_bytes is not None else sys.maxsize
    for document in documents:
        if len(document) > left:
            newline = document.rfind(b"\n", max(0, left - SNIFF_BYTES), left)
            document = document[:newline + 1 if newline >= 0 else char_boundary(document, left)]
            corpus.note(TRUNCATED)
            if document:
                yield document
            return
        left -= len(document)
        yield document


def _part(path: Path) -> File | Path:
    """What a person named: a file, or the path of a folder. Raises UserError at once for one that holds no text."""
    if path.is_dir():
        if not os.access(path, os.R_OK | os.X_OK):
            raise UserError(f"{path} can't be opened: permission denied", f"Try: ls -ld '{path}'")
        skipped: dict[str, str] = {}
        if next(walk(path, skipped), None) is None:
            raise _no_text(path, list(skipped.items()))
        return path
    label = "standard input" if path == STDIN else str(path)
    try:
        file = _stdin(label) if path == STDIN else readers.at(path)
        readers.check(file)
        return file
    except Unusable as e:
        raise UserError(f"{label} {e.why}", e.hint) from None


def _stdin(label: str) -> File:
    if sys.stdin is None:  # closed by whoever started this
        raise Unusable("is closed", "Pipe text into it: cat FILE | ar prepare --text -")
    return readers.spooled(sys.stdin.buffer, label)


def _name(path: Path) -> str:
    """`letters` for letters.jsonl.gz, `stdin` for standard input."""
    path = Path(os.path.abspath(path)) if path != STDIN else Path("stdin")
    return Path(path.stem).stem if path.suffix in readers.CODECS else path.stem


def _expected_bytes(part: File | Path) -> int:
    if isinstance(part, File):
        return part.expected_bytes
    total = 0
    for path in walk(part, {}):
        with contextlib.suppress(Unusable):
            total += readers.at(path).expected_bytes
    return total


def _taken(part: File | Path, fields: Fields, corpus: Corpus) -> Iterator[bytes]:
    """The documents of a file or folder that a person named."""
    if isinstance(part, File):
        yield from _file(part, fields, corpus)
        return
    is_empty, before = True, len(corpus.skipped)
    for path in walk(part, corpus.skipped):
        for document in _or_note(path, fields, corpus):
            is_empty = False
            yield document
    if is_empty:
        raise _no_text(part, list(corpus.skipped.items())[before:])


def documents(path: Path, corpus: Corpus) -> Iterator[bytes]:
    """Those of one file. Raises UserError if it has none."""
    try:
        yield from _file(readers.at(path), DEFAULT_FIELDS, corpus)
    except Unusable as e:
        raise UserError(f"{path} {e.why}", e.hint) from None


def _file(file: File, fields: Fields, corpus: Corpus) -> Iterator[bytes]:
    try:
        yield from readers.documents(file, fields, corpus.note)
    except Unusable as e:
        raise UserError(f"{file.label} {e.why}", e.hint) from None


def _or_note(path: Path, fields: Fields, corpus: Corpus) -> Iterator[bytes]:
    """The documents of a file found in a folder; none where it is no text, which is remembered."""
    try:
        yield from readers.documents(readers.at(path), fields, corpus.note)
    except Unusable as e:
        if e.why != readers.EMPTY:  # nothing to speak of in a folder
            corpus.skipped[str(path)] = e.why


def _no_text(folder: Path, skipped: list[tuple[str, str]]) -> UserError:
    why = "".join(f"; {path} {why}" for path, why in skipped[:1])
    return UserError(f"the folder {folder} holds no text{why}", "Name a text file, or a folder of them.")


def walk(root: Path, skipped: dict[str, str], leave_out: Set[str] = frozenset()) -> Iterator[Path]:
    """Files below `root` in sorted order. Hidden ones are left out, and those in folders called as in `leave_out`; what
    can't be opened and links to folders, which are not followed, are `skipped`."""
    def remember(error: OSError) -> None:
        skipped[str(error.filename)] = f"can't be opened: {(error.strerror or str(error)).lower()}"

    for folder, folders, files in os.walk(root, onerror=remember):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in leave_out)
        skipped |= {path: LINKED for name in folders if os.path.islink(path := os.path.join(folder, name))}
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))
