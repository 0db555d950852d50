"""Documents -> train, dev, val, confirm, holdout. How depends on the text:

    hash    many documents: each goes whole where a hash of its content sends it, so a document stays in
            its split when others are added, and equal documents are never on both sides
    span    one or few long texts: cut in strata; the tail of each gives a span to every other split, so
            all of them see the whole length of the text
    pinned  the source says which documents are scored: val, confirm and holdout are of these alone, by hash,
            and the others give train and dev

The first two can set aside the tail of the text, so many characters exactly, as the holdout. A split is a list of
ranges of the text, which is too large to hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from autoresearch.data.manifest import SPLITS
from autoresearch.data.spool import Spool
from autoresearch.data.text import chars, cut_near, decode
from autoresearch.errors import UserError

SCORED = SPLITS[1:]  # by rows of the yardstick
FRACTIONS = {"dev": 0.02, "val": 0.04, "confirm": 0.04, "holdout": 0.04}
PINNED_FRACTIONS = {"val": 1 / 3, "confirm": 1 / 3, "holdout": 1 / 3}  # of the pinned documents
CAP_BYTES = 10_000_000  # of each split but train: more would be read by nobody
MIN_BYTES = 20_000
STRATUM_BYTES, MAX_STRATA = 65_536, 20
MAX_REACH = 1_000_000  # how far from its place a cut may be, for the sake of a document's or a line's end
MIN_DOCUMENTS, MAX_DOCUMENT_FRAC = 200, 0.05  # what `hash` needs to give every split its share


@dataclass(frozen=True)
class Division:
    policy: str  # hash, span or pinned
    ranges: dict[str, np.ndarray]  # by split: int64 (pieces, 2), where each piece begins and ends in the text
    left_out_bytes: int = 0  # pinned documents beyond the cap


@dataclass(frozen=True)
class _Part:
    """Some documents of a text, one after another, and what fraction each split but train takes of them."""

    text: Spool
    ranges_D2: np.ndarray
    hashes_D: np.ndarray
    full: dict[str, float] = field(default_factory=lambda: FRACTIONS)

    @property
    def begin(self) -> int:
        return int(self.ranges_D2[0, 0])

    @property
    def end(self) -> int:
        return int(self.ranges_D2[-1, 1])

    @property
    def bytes(self) -> int:
        return self.end - self.begin if len(self.ranges_D2) else 0

    def fractions(self) -> dict[str, float]:
        return {name: min(frac, CAP_BYTES / self.bytes) for name, frac in self.full.items()}


def divide(text: Spool, holdout_chars: int = 0) -> Division:
    """The five splits of a text; with what is left out their bytes sum to its bytes. Raises UserError where it is
    too small."""
    whole = _Part(text, text.ranges_D2, text.hashes_D)
    if text.pinned:
        if holdout_chars:
            raise UserError("this text has its scored documents pinned: its tail can't be the holdout as well",
                            "Leave out --holdout-chars.")
        return _by_pin(whole)
    if not holdout_chars:
        _check(whole, "are too few to split")
        return _by_hash_or_span(whole)
    before, tail = _tail(whole, holdout_chars)
    _check(before, f"stand before the last {holdout_chars:,} characters, too few to split")
    division = _by_hash_or_span(before)
    return replace(division, ranges={**division.ranges, "holdout": tail})


def _check(part: _Part, fault: str) -> None:
    if part.bytes < MIN_BYTES:
        raise UserError(f"{part.bytes:,} bytes of text {fault}: at least {MIN_BYTES:,} are needed",
                        "Add more files or longer ones.")


def _by_hash_or_span(part: _Part) -> Division:
    sizes_D = part.ranges_D2[:, 1] - part.ranges_D2[:, 0]
    if len(sizes_D) >= MIN_DOCUMENTS and sizes_D.max() <= MAX_DOCUMENT_FRAC * part.bytes:
        by_hash = _by_hash(part)
        if all(_bytes(by_hash[name]) >= part.bytes * frac / 4 for name, frac in part.fractions().items()):
            return Division("hash", by_hash)
    return Division("span", _by_span(part))


def _bytes(ranges_R2: np.ndarray) -> int:
    return int((ranges_R2[:, 1] - ranges_R2[:, 0]).sum())


def _by_hash(part: _Part) -> dict[str, np.ndarray]:
    """A split's interval of hashes starts at a fixed place, whatever its cap leaves of it, so a growing corpus moves
    no document from train to a split that is scored."""
    u_D = part.hashes_D / 2.0**64
    is_train_D = np.full(len(u_D), True)
    found, start, fractions = {}, 0.0, part.fractions()
    for name, full in part.full.items():
        is_here_D = (start <= u_D) & (u_D < start + fractions[name])
        found[name] = part.ranges_D2[is_here_D]
        is_train_D &= ~is_here_D
        start += full
    return {"train": part.ranges_D2[is_train_D], **found}


def _by_pin(whole: _Part) -> Division:
    free = len(whole.ranges_D2) - whole.text.pinned
    trained = replace(whole, ranges_D2=whole.ranges_D2[:free], hashes_D=whole.hashes_D[:free],
                      full={"dev": FRACTIONS["dev"]})
    scored = replace(whole, ranges_D2=whole.ranges_D2[free:], hashes_D=whole.hashes_D[free:], full=PINNED_FRACTIONS)
    _check(trained, "are too few to train on")
    _check(scored, "are pinned for scoring, too few")
    rest = _by_hash(scored)
    left_out = _bytes(rest.pop("train"))
    ranges = {**_by_hash(trained), **rest}
    if empty := [name for name in SPLITS if not len(ranges[name])]:
        raise UserError(f"{free:,} documents and {whole.text.pinned:,} pinned ones leave {empty[0]} without any",
                        "Take more of the text.")
    return Division("pinned", ranges, left_out)


def _tail(whole: _Part, count: int) -> tuple[_Part, np.ndarray]:
    """What stands before the last `count` characters, and the ranges of these."""
    left = count
    for i in reversed(range(len(whole.ranges_D2))):
        begin, end = map(int, whole.ranges_D2[i])
        document = whole.text.read(begin, end)
        if (found := chars(document)) < left:
            left -= found
            continue
        cut = end - len(decode(document)[found - left:].encode("utf-8", "surrogateescape"))
        return _before(whole, i, cut), _clipped(whole.ranges_D2[i:], cut, end=whole.end)
    raise UserError(f"the text has {count - left:,} characters, fewer than the {count:,} of --holdout-chars",
                    "Ask for fewer, or add more text.")


def _before(whole: _Part, document: int, cut: int) -> _Part:
    kept = document + (cut > whole.ranges_D2[document, 0])
    full = {name: frac for name, frac in FRACTIONS.items() if name != "holdout"}
    return replace(whole, ranges_D2=_clipped(whole.ranges_D2[:kept], whole.begin, end=cut),
                   hashes_D=whole.hashes_D[:kept], full=full)


def _clipped(ranges_R2: np.ndarray, begin: int, end: int) -> np.ndarray:
    return np.clip(ranges_R2, begin, end)


def _by_span(part: _Part) -> dict[str, np.ndarray]:
    """Strata are cut from all documents on end; a span that crosses documents is one piece of each."""
    strata = min(MAX_STRATA, max(1, part.bytes // STRATUM_BYTES))
    found: dict[str, list[np.ndarray]] = {name: [np.empty((0, 2), np.int64)] for name in SPLITS}
    start = part.begin
    for i in range(strata):
        edges = _edges(part, part.begin + part.bytes * i // strata, part.begin + part.bytes * (i + 1) // strata)
        for name, edge in zip(("train", *part.full), edges, strict=True):
            end = max(start, edge)
            found[name].append(_pieces(part.ranges_D2[:, 1], start, end))
            start = end
    return {name: np.concatenate(pieces) for name, pieces in found.items()}


def _pieces(ends_D: np.ndarray, start: int, end: int) -> np.ndarray:
    """The range from `start` to `end`, divided where documents end."""
    if start == end:
        return np.empty((0, 2), np.int64)
    inner = ends_D[np.searchsorted(ends_D, start, "right"):np.searchsorted(ends_D, end, "left")]
    places = np.concatenate([[start], inner, [end]]).astype(np.int64)
    return np.stack([places[:-1], places[1:]], axis=1)


def _edges(part: _Part, low: int, high: int) -> list[int]:
    """Where train and the spans of one stratum end, in their order; cut between documents, paragraphs or lines where
    there are any nearby."""
    fractions = part.fractions()
    target = high - (high - low) * sum(fractions.values())
    edges = []
    for frac in fractions.values():
        width = (high - low) * frac
        edges.append(_cut(part, round(target), int(width / 3)))
        target += width
    return [*edges, high if high == part.end else _cut(part, high, int((high - low) * 0.01))]


def _cut(part: _Part, target: int, reach: int) -> int:
    reach = min(reach, MAX_REACH)
    ends_D = part.ranges_D2[:, 1]
    near = ends_D[np.searchsorted(ends_D, target - reach, "left"):np.searchsorted(ends_D, target + reach, "right")]
    if len(near):
        return int(near[np.argmin(np.abs(near - target))])
    low = max(part.begin, target - reach - 4)  # of a character, 4 bytes may have to be seen
    window = part.text.read(low, min(part.end, target + reach + 4))
    return low + cut_near(window, target - low, reach)
