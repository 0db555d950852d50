"""The yardstick: which spans of a split are scored, and in which order.

A row is at most ROW_BYTES of one document, so every tokenizer and recipe is scored on the same bytes
with the same context. Rows are ordered by hash: any prefix of the list is a fair sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from autoresearch.data.text import char_boundary

ROW_BYTES = 1024


def spans(document: bytes, row_bytes: int = ROW_BYTES) -> list[bytes]:
    """The document in consecutive spans: every byte once, no character divided. Spans end where words do
    if there is white space in the last quarter."""
    if row_bytes < 4:
        raise ValueError(f"row_bytes = {row_bytes}: a character can take 4")
    found, start = [], 0
    while len(document) - start > row_bytes:
        end = _end(document, start, row_bytes)
        found.append(document[start:end])
        start = end
    return [*found, document[start:]] if start < len(document) else found


def _end(document: bytes, start: int, row_bytes: int) -> int:
    low, high = start + row_bytes - row_bytes // 4, start + row_bytes
    if (newline := document.rfind(b"\n", low, high)) >= 0:
        return newline + 1
    if (space := document.rfind(b" ", low, high)) >= 0:
        return space  # tokenizers join a space to the word that follows
    return char_boundary(document, high)


def rows(documents: Iterable[bytes], row_bytes: int = ROW_BYTES) -> list[bytes]:
    """Every span of every document, ordered by the hash of its index in the document and its content: a
    document's rows keep their order among themselves when others are added."""
    keyed = [(hashlib.sha256(index.to_bytes(8, "little") + span).digest(), span)
             for document in documents for index, span in enumerate(spans(document, row_bytes))]
    return [span for _, span in sorted(keyed)]


def digest(rows: Iterable[bytes]) -> str:
    """sha256 over the rows, their lengths and their order."""
    total = hashlib.sha256()
    for row in rows:
        total.update(len(row).to_bytes(8, "little") + row)
    return total.hexdigest()


def sampling_error_bpb(nats_R: np.ndarray, bytes_R: np.ndarray) -> float | None:
    """Standard error of total nats over total bytes, in bits per byte: that of a ratio of sums over rows drawn
    independently; None for a single row. Rows of one document are more alike than that, so with few long documents it
    is too small."""
    rows = len(nats_R)
    if rows < 2:
        return None
    residuals_R = nats_R - nats_R.sum() / bytes_R.sum() * bytes_R
    return float(np.sqrt((residuals_R**2).sum() * rows / (rows - 1)) / bytes_R.sum() / np.log(2))
