"""Documents -> five splits. How depends on the corpus:

    hash    many documents: each goes whole where a hash of its content sends it, so a document stays in
            its split when others are added, and equal documents are never on both sides
    span    one or few long texts: cut in strata; the tail of each gives a span to every other split, so
            all of them see the whole length of the text
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from dataclasses import dataclass

from autoresearch.data.text import cut_near
from autoresearch.errors import UserError

SPLITS = ("train", "dev", "val", "confirm", "holdout")
FRACTIONS = {"dev": 0.02, "val": 0.04, "confirm": 0.04, "holdout": 0.04}
CAP_BYTES = 10_000_000  # of each split but train: more would be read by nobody
MIN_BYTES = 20_000
STRATUM_BYTES, MAX_STRATA = 65_536, 20
MIN_DOCUMENTS, MAX_DOCUMENT_FRAC = 200, 0.05  # what `hash` needs to give every split its share


@dataclass(frozen=True)
class Division:
    policy: str  # hash or span
    documents: dict[str, list[bytes]]  # by split


def divide(documents: list[bytes]) -> Division:
    """The five splits of a corpus; their bytes sum to its bytes. Raises UserError where it is too small."""
    total = sum(map(len, documents))
    if total < MIN_BYTES:
        raise UserError(f"{total:,} bytes of text are too few to split: at least {MIN_BYTES:,} are needed",
                        "Add more files or longer ones.")
    if len(documents) >= MIN_DOCUMENTS and max(map(len, documents)) <= MAX_DOCUMENT_FRAC * total:
        by_hash = _by_hash(documents, total)
        if all(_share(by_hash[name], total) >= frac / 4 for name, frac in _fractions(total).items()):
            return Division("hash", by_hash)
    return Division("span", _by_span(documents, total))


def _fractions(total_bytes: int) -> dict[str, float]:
    return {name: min(frac, CAP_BYTES / total_bytes) for name, frac in FRACTIONS.items()}


def _share(documents: list[bytes], total_bytes: int) -> float:
    return sum(map(len, documents)) / total_bytes


def _by_hash(documents: list[bytes], total_bytes: int) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {name: [] for name in SPLITS}
    for document in documents:
        u = int.from_bytes(hashlib.sha256(document).digest()[:8], "big") / 2**64
        found[_split_of(u, _fractions(total_bytes))].append(document)
    return found


def _split_of(u: float, fractions: dict[str, float]) -> str:
    """The split that owns u in [0, 1). A split's interval starts at a fixed place, whatever its cap leaves
    of it, so a growing corpus moves no document from train to a split that is scored."""
    start = 0.0
    for name, full in FRACTIONS.items():
        if start <= u < start + fractions[name]:
            return name
        start += full
    return "train"


def _by_span(documents: list[bytes], total_bytes: int) -> dict[str, list[bytes]]:
    """Strata are cut from the concatenation; a span that crosses documents is one piece of each."""
    whole = b"".join(documents)
    ends = list(itertools.accumulate(map(len, documents)))
    strata = min(MAX_STRATA, max(1, total_bytes // STRATUM_BYTES))
    found: dict[str, list[bytes]] = {name: [] for name in SPLITS}
    start = 0
    for i in range(strata):
        edges = _edges(whole, total_bytes * i // strata, total_bytes * (i + 1) // strata, ends)
        for name, end in zip(SPLITS, edges, strict=True):
            end = max(start, end)
            inner = ends[bisect.bisect_right(ends, start):bisect.bisect_left(ends, end)]
            found[name] += [piece for a, b in itertools.pairwise([start, *inner, end]) if (piece := whole[a:b])]
            start = end
    return found


def _edges(whole: bytes, low: int, high: int, ends: list[int]) -> list[int]:
    """Where train and the four spans of one stratum end, in the order of SPLITS; cut between documents,
    paragraphs or lines where there are any nearby."""
    fractions = _fractions(len(whole))
    target = high - (high - low) * sum(fractions.values())
    edges = []
    for name in SPLITS[1:]:
        width = (high - low) * fractions[name]
        edges.append(_cut(whole, round(target), int(width / 3), ends))
        target += width
    return [*edges, high if high == len(whole) else _cut(whole, high, int((high - low) * 0.01), ends)]


def _cut(whole: bytes, target: int, reach: int, ends: list[int]) -> int:
    near = ends[bisect.bisect_left(ends, target - reach):bisect.bisect_right(ends, target + reach)]
    return min(near, key=lambda end: abs(end - target)) if near else cut_near(whole, target, reach)
