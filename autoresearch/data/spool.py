"""A corpus on disk while it is being divided: its bytes in one file, where its documents end and their hashes in
memory, 16 bytes a document."""

from __future__ import annotations

import contextlib
import hashlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from autoresearch.data import disk
from autoresearch.data.corpus import Corpus
from autoresearch.data.text import invalid_bytes
from autoresearch.errors import UserError

PROGRESS_BYTES = 200_000_000


@dataclass(frozen=True)
class Spool:
    """Documents in the order they came; the last `pinned` of them are those the source pins for scoring."""

    path: Path
    ends_D: np.ndarray  # int64: where each document ends
    hashes_D: np.ndarray  # uint64: the first 8 bytes of each document's sha256
    pinned: int
    sha256: str  # of all bytes
    total_bytes: int

    @property
    def ranges_D2(self) -> np.ndarray:
        """int64 (documents, 2): where each begins and ends."""
        return between(self.ends_D)

    @property
    def ends_sha256(self) -> str:
        return hashlib.sha256(self.ends_D.astype("<u8").tobytes()).hexdigest()

    def read(self, begin: int, end: int) -> bytes:
        return next(disk.ranges(self.path, np.array([[begin, end]])))

    def pieces(self, ranges_R2: np.ndarray) -> Iterator[bytes]:
        return disk.ranges(self.path, ranges_R2)


def between(ends_D: np.ndarray) -> np.ndarray:
    """int64 (documents, 2): where documents begin and end, of where they end."""
    return np.stack([np.append(0, ends_D)[:-1], ends_D], axis=1).astype(np.int64)


def fill(path: Path, corpus: Corpus, progress: Callable[[str], None] = lambda line: None) -> Spool:
    """Reads the corpus once. Empty documents are left out."""
    ends, hashes = array("q"), array("Q")
    total, size, invalid, said = hashlib.sha256(), 0, 0, 0
    pinned = 0
    with open(path, "wb", buffering=1 << 20) as file:
        for document, is_pinned in _read(corpus):
            file.write(document)
            total.update(document)
            size += len(document)
            ends.append(size)
            hashes.append(int.from_bytes(hashlib.sha256(document).digest()[:8], "big"))
            pinned += is_pinned
            invalid += _invalid(document)
            if size - said >= PROGRESS_BYTES:
                said = size
                progress(f"read {size / 1e6:,.0f} MB{_of(corpus)}")
    if invalid:
        corpus.notes.insert(0, f"{invalid:,} bytes are not UTF-8; they are kept as they are, and count as one "
                               "character each. Text in another encoding is better converted first: "
                               "iconv -f LATIN1 -t UTF-8 FILE")
    progress(f"{corpus.source}: {len(ends):,} document{'' if len(ends) == 1 else 's'}, {size:,} bytes")
    return Spool(path, np.frombuffer(ends, np.int64) if ends else np.empty(0, np.int64),
                 np.frombuffer(hashes, np.uint64) if hashes else np.empty(0, np.uint64),
                 pinned, total.hexdigest(), size)


def fetch(corpus: Corpus) -> None:
    """Brings here what reading the corpus needs."""
    with _reading(corpus):
        corpus.fetch()


def _read(corpus: Corpus) -> Iterator[tuple[bytes, bool]]:
    """(document, is pinned), none of them empty."""
    pinned = corpus.pinned() if corpus.pinned is not None else iter(())
    with _reading(corpus):
        for document, is_pinned in chain(((d, False) for d in corpus.documents()), ((d, True) for d in pinned)):
            if document:
                yield document, is_pinned


@contextlib.contextmanager
def _reading(corpus: Corpus) -> Iterator[None]:
    """An OSError of the source is not one of the cache."""
    try:
        yield
    except OSError as e:
        if e.errno in disk.NOT_OF_FILES:
            raise
        raise UserError(f"{corpus.source} can't be read: {e.strerror or e}", "Try again, or use other text.") from e


def _invalid(document: bytes) -> int:
    try:
        document.decode()
    except UnicodeDecodeError:
        return invalid_bytes(document)
    return 0


def _of(corpus: Corpus) -> str:
    return f" of about {corpus.expected_bytes / 1e6:,.0f} MB" if corpus.expected_bytes else ""
