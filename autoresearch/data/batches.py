"""Token streams -> rows. The order is NumPy's, so a seed means the same data on every device.

    training_rows    documents packed best-fit into rows that begin with BOS, without padding
    dev_rows         the same few rows for every seed

A stream is BOS and the tokens of each document, one after another.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from autoresearch.errors import UserError

POOL = 1024  # pieces that wait for a row: enough for one of nearly every length


class Piece(NamedTuple):
    """Tokens of one document, without BOS."""

    stream: int
    start: int
    length: int


def training_rows(streams: Sequence[np.ndarray], bos: int, seq_len: int, seed: int) -> Iterator[tuple[np.ndarray, int]]:
    """Endless (row, epoch): row is int32 (seq_len + 1,) and begins with BOS; epochs count from 0.

    A row takes the document that has waited longest, then always the longest that still fits, each after a BOS.
    Where none fits, one is cropped and its rest waits for another row: an epoch uses every token once. A document
    longer than a row is cut in rows from a place that changes with the epoch, which leaves short pieces at its ends.
    """
    documents = _documents(streams, bos)
    _check(int(documents[2].sum()), seq_len)
    return _pack(streams, bos, seq_len, _Waiting(_epochs(documents, seq_len, seed)))


def _pack(streams: Sequence[np.ndarray], bos: int, seq_len: int, waiting: _Waiting) -> Iterator[tuple[np.ndarray, int]]:
    while True:
        row = np.empty(seq_len + 1, np.int32)
        row[0], at = bos, 1
        piece, epoch = waiting.oldest(), waiting.epoch
        while True:
            row[at:at + piece.length] = streams[piece.stream][piece.start:piece.start + piece.length]
            at += piece.length
            if at == len(row):
                break
            row[at] = bos  # also where it is the last: that a document has ended is worth learning
            at += 1
            if at == len(row):
                break
            piece = waiting.best_fit(len(row) - at)
        yield row, epoch


@dataclass
class _Waiting:
    """Pieces by age and by length, refilled from one epoch until that is used up."""

    epochs: Iterator[Iterator[Piece]]
    epoch: int = -1  # of the pieces that wait
    _coming: Iterator[Piece] = field(default_factory=lambda: iter(()))
    _by_age: OrderedDict[int, Piece] = field(default_factory=OrderedDict)
    _by_length: list[tuple[int, int]] = field(default_factory=list)  # (length, age), sorted
    _age: int = 0

    def oldest(self) -> Piece:
        self._refill()
        age, piece = self._by_age.popitem(last=False)
        del self._by_length[bisect.bisect_left(self._by_length, (piece.length, age))]
        return piece

    def best_fit(self, room: int) -> Piece:
        """The longest piece up to `room` tokens; where all are longer, the beginning of the one that waited longest."""
        self._refill()
        place = bisect.bisect_left(self._by_length, (room + 1,))
        if place:
            return self._by_age.pop(self._by_length.pop(place - 1)[1])
        stream, start, length = self.oldest()
        self._add(Piece(stream, start + room, length - room))
        return Piece(stream, start, room)

    def _refill(self) -> None:
        while len(self._by_age) < POOL:
            piece = next(self._coming, None)
            if piece is not None:
                self._add(piece)
            elif self._by_age:
                return
            else:
                self._coming = next(self.epochs)
                self.epoch += 1

    def _add(self, piece: Piece) -> None:
        self._by_age[self._age] = piece
        bisect.insort(self._by_length, (piece.length, self._age))
        self._age += 1


def _documents(streams: Sequence[np.ndarray], bos: int) -> np.ndarray:
    """int64 (3, documents): stream, first token after BOS, tokens; empty documents are left out."""
    found = []
    for index, tokens in enumerate(streams):
        starts = np.flatnonzero(tokens == bos) + 1
        lengths = np.append(starts[1:] - 1, len(tokens)) - starts
        found.append(np.stack([np.full(len(starts), index), starts, lengths])[:, lengths > 0])
    return np.concatenate(found, axis=1)


def _epochs(documents: np.ndarray, seq_len: int, seed: int) -> Iterator[Iterator[Piece]]:
    """The shuffled pieces of each epoch."""
    epoch = 0
    while True:
        rng = np.random.default_rng([seed, epoch])
        pieces = _cut(documents, seq_len, rng)
        order = rng.permutation(pieces.shape[1])
        yield (Piece(*map(int, pieces[:, i])) for i in order)
        epoch += 1


def _cut(documents: np.ndarray, seq_len: int, rng: np.random.Generator) -> np.ndarray:
    """int64 (3, pieces): documents longer than a row in pieces of seq_len, but for the first and the last."""
    length_D = documents[2]
    first_D = np.where(length_D > seq_len, rng.integers(1, seq_len + 1, len(length_D)), length_D)
    count_D = 1 + -(-(length_D - first_D) // seq_len)
    stream_P, start_P, length_P, first_P = np.repeat([*documents, first_D], count_D, axis=1)
    index_P = np.arange(len(start_P)) - np.repeat(np.cumsum(count_D) - count_D, count_D)
    offset_P = np.where(index_P == 0, 0, first_P + (index_P - 1) * seq_len)
    size_P = np.minimum(np.where(index_P == 0, first_P, seq_len), length_P - offset_P)
    return np.stack([stream_P, start_P + offset_P, size_P])


def dev_rows(tokens: np.ndarray, bos: int, seq_len: int, count: int) -> np.ndarray:
    """int32 (count, seq_len + 1): BOS and consecutive tokens of one stream, from evenly spaced places. They overlap,
    or go round, where the stream is too short for `count`."""
    _check(len(tokens), seq_len)
    starts = np.linspace(0, max(0, len(tokens) - seq_len), count).astype(int)
    places = (starts[:, None] + np.arange(seq_len)) % len(tokens)
    return np.concatenate([np.full((count, 1), bos), np.asarray(tokens)[places]], axis=1).astype(np.int32)


def _check(tokens: int, seq_len: int) -> None:
    if seq_len < 1:
        raise ValueError(f"seq_len = {seq_len}: must be at least 1")
    if tokens < 2:
        raise UserError(f"the text has {tokens} tokens: nothing can be learned from it",
                        "Prepare more text: ar prepare --text PATH")
