"""How much of what is scored also stands in the train split, exactly or nearly.

White space is dropped and ASCII letters are made small; then every window of 64 bytes has a polynomial hash modulo
2**64, computed with NumPy by doubling. One window in eight is looked at, those with the smallest hashes, which are the
same ones on both sides. A row of the yardstick counts as found when at least half of its windows that are looked at
stand anywhere in train.

So a row is found through other line breaks, other capitals and a few changed words; it is not found with a change in
every dozen words, nor in translation. A row with fewer than MIN_WINDOWS windows to look at (under about 100 bytes) is
not judged. A licence or a table that many documents share is found for what it is: text that training has seen.
Memory is some 40 bytes for each window of the scored rows, and a table of 16 MB.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from autoresearch.data import disk
from autoresearch.data.manifest import Overlap

WINDOW_BYTES = 64
MIN_WINDOWS = 4
FOUND_FRAC = 0.5
NEAR_FRAC = 0.01  # of a split's rows, above which a person hears that they stand in train
BLOCK_BYTES = 1 << 15  # hashed at once, so that the arrays stay in the processor's cache
OVERLAP_BYTES = 512  # of neighbouring blocks, so that no window is lost between them unless it is mostly white space
TABLE_BITS = 24
_BELOW = np.uint64(1 << 61)  # one window in eight
_FACTOR = 0x9E3779B97F4A7C15
_SMALL, _SPACES = bytes(range(256)).lower(), b" \t\r\n\v\f"


def warning(found: dict[str, Overlap]) -> str:
    """What a person should know of it; nothing where next to no row was found."""
    shares = [f"{o.found:,} of {o.judged:,} rows of {split} ({o.found / o.judged:.1%})" for split, o in found.items()
              if o.found > NEAR_FRAC * o.judged]
    return f"{', '.join(shares)} also stand in train, exactly or nearly: their scores flatter a model that memorises" \
        if shares else ""


def measure(rows: dict[str, list[bytes]], train: Path) -> dict[str, Overlap]:
    """By split: how many of its rows were judged, and how many of these were found in the file `train`."""
    windows = [_windows(row) for split in rows.values() for row in split]
    counts_R = np.array([len(found) for found in windows], np.int64)
    looked_for, places = np.unique(np.concatenate([np.empty(0, np.uint64), *windows]), return_inverse=True)
    is_found = _found_in(train, looked_for)[places]
    totals = np.concatenate([[0], np.cumsum(is_found)])
    ends_R = np.cumsum(counts_R)
    found_R = totals[ends_R] - totals[ends_R - counts_R]
    is_judged_R = counts_R >= MIN_WINDOWS
    is_near_R = is_judged_R & (found_R >= FOUND_FRAC * counts_R)
    result, start = {}, 0
    for split, texts in rows.items():
        some = slice(start, start := start + len(texts))
        result[split] = Overlap(int(is_judged_R[some].sum()), int(is_near_R[some].sum()))
    return result


def _found_in(path: Path, looked_for: np.ndarray) -> np.ndarray:
    """Which of the sorted hashes belong to a window of the file."""
    is_found = np.zeros(len(looked_for), bool)
    may_be = np.zeros(1 << TABLE_BITS, bool)  # most windows are in none of the rows: one look tells
    may_be[_place(looked_for)] = True

    def look(block: bytes) -> np.ndarray:
        hashes = _windows(block)
        hashes = hashes[may_be[_place(hashes)]]
        places = np.searchsorted(looked_for, hashes)
        places = np.minimum(places, len(looked_for) - 1)
        return places[looked_for[places] == hashes]

    threads = os.cpu_count() or 1
    waiting: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for block in _blocks(path):
            waiting.append(pool.submit(look, block))
            if len(waiting) > 2 * threads:
                is_found[waiting.popleft().result()] = True
        for future in waiting:
            is_found[future.result()] = True
    return is_found


def _blocks(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    starts = np.arange(0, max(1, size - OVERLAP_BYTES), BLOCK_BYTES)
    ends = np.minimum(starts + BLOCK_BYTES + OVERLAP_BYTES, size)
    return disk.ranges(path, np.stack([starts, ends], axis=1))


def _place(hashes: np.ndarray) -> np.ndarray:
    return (hashes >> np.uint64(61 - TABLE_BITS)).astype(np.int64)


def _windows(text: bytes) -> np.ndarray:
    """uint64: the hashes of the windows of a text that are looked at."""
    codes = np.frombuffer(text.translate(_SMALL, delete=_SPACES), np.uint8)
    hashes = _values()[codes]
    spare, length, factor = np.empty_like(hashes), 1, _FACTOR
    while length < WINDOW_BYTES:
        count = len(hashes) - length
        if count <= 0:
            return np.empty(0, np.uint64)
        joined = np.multiply(hashes[:count], np.uint64(factor), out=spare[:count])
        joined += hashes[length:]
        hashes, spare = joined, hashes
        length, factor = 2 * length, factor * factor % 2**64
    return hashes[hashes < _BELOW]


@functools.cache
def _values() -> np.ndarray:
    """A random odd number for each byte value."""
    return np.random.default_rng(0).integers(1 << 63, size=256, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
