"""Text made from a seed."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from autoresearch.data.corpus import Corpus
from autoresearch.data.spool import Spool, fill

SYLLABLES = "ka lo mi ren to shi bra pel un dor est vi quo né 東 京 дом 🙂 ing er st".split()


@functools.lru_cache(64)
def made_text(size: int, seed: int = 0) -> bytes:
    """`size` bytes or a little more: lines and paragraphs of made-up words, some numbers, some emoji."""
    rng = np.random.default_rng(seed)
    syllables, lengths = iter(rng.integers(len(SYLLABLES), size=size).tolist()), iter(rng.integers(1, 5, size).tolist())
    words, total = [], 0
    while total < size:
        length = next(lengths)
        word = "".join(SYLLABLES[next(syllables)] for _ in range(length))
        if len(words) % 13 == 0:
            word += str(1000 + 37 * len(words) % 9000)
        word += "\n\n" if len(words) % 50 == 49 else "\n" if len(words) % 10 == 9 else " "
        words.append(word)
        total += len(word.encode())
    return "".join(words).encode()


def made_corpus(documents: Iterable[bytes], pinned: Iterable[bytes] = ()) -> Corpus:
    kept, scored = list(documents), list(pinned)
    return Corpus("text", "made up", "made", lambda: iter(kept), (lambda: iter(scored)) if scored else None)


def spooled(folder: Path, documents: Iterable[bytes], pinned: Iterable[bytes] = ()) -> Spool:
    return fill(folder / "spool", made_corpus(documents, pinned))
