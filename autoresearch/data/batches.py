"""A token stream -> rows. The order is NumPy's, so a seed means the same data on every device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from autoresearch.errors import UserError


def training_rows(tokens: np.ndarray, bos: int, seq_len: int, seed: int) -> Iterator[tuple[np.ndarray, int]]:
    """Endless (row, epoch): row is int32 (seq_len + 1,), BOS and seq_len consecutive tokens; epochs count from 0.

    The stream is a ring. Each epoch starts at a random place, cuts it in consecutive rows and shuffles
    them, so every token is used once but for fewer than seq_len left over. A stream shorter than one row
    goes round.
    """
    _check(tokens, seq_len)
    return _training_rows(tokens, bos, seq_len, seed)


def _training_rows(tokens: np.ndarray, bos: int, seq_len: int, seed: int) -> Iterator[tuple[np.ndarray, int]]:
    epoch = 0
    while True:
        rng = np.random.default_rng([seed, epoch])
        phase = int(rng.integers(len(tokens)))
        for index in rng.permutation(max(1, len(tokens) // seq_len)):
            yield _row(tokens, bos, seq_len, phase + int(index) * seq_len), epoch
        epoch += 1


def dev_rows(tokens: np.ndarray, bos: int, seq_len: int, count: int) -> np.ndarray:
    """int32 (count, seq_len + 1): the same rows for every seed, evenly spaced. They overlap, or go round,
    where the stream is too short for `count`."""
    _check(tokens, seq_len)
    starts = np.linspace(0, max(0, len(tokens) - seq_len), count).astype(int)
    return np.stack([_row(tokens, bos, seq_len, int(start)) for start in starts])


def _check(tokens: np.ndarray, seq_len: int) -> None:
    if seq_len < 1:
        raise ValueError(f"seq_len = {seq_len}: must be at least 1")
    if len(tokens) < 2:
        raise UserError(f"the text has {len(tokens)} tokens: nothing can be learned from it",
                        "Prepare more text: ar prepare --text PATH")


def _row(tokens: np.ndarray, bos: int, seq_len: int, start: int) -> np.ndarray:
    row = np.empty(seq_len + 1, dtype=np.int32)
    row[0] = bos
    start %= len(tokens)
    if start + seq_len <= len(tokens):
        row[1:] = tokens[start:start + seq_len]
    else:
        row[1:] = np.take(tokens, np.arange(start, start + seq_len) % len(tokens))
    return row
