"""Deciding: is the candidate better than the incumbent by more than a seed can do?

Three baseline runs that differ only in their seed measure the spread. A candidate is compared with the incumbent
on the same seed, and is kept when it scores lower by more than that spread.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

SMALLEST_SPREAD_BPB = 1e-4


@dataclass(frozen=True)
class Decision:
    verdict: str  # keep or discard
    reason: str
    gain_bpb: float  # incumbent minus candidate, on the paired seed


def spread_bpb(baseline: list[float]) -> float:
    """Standard deviation over seeds, in bits per byte. Raises ValueError for fewer than two."""
    return max(SMALLEST_SPREAD_BPB, statistics.stdev(baseline))


def decide(candidate_bpb: float, incumbent_bpb: float, spread: float) -> Decision:
    gain = incumbent_bpb - candidate_bpb
    compared = f"{candidate_bpb:.4f} against {incumbent_bpb:.4f} on the same seed, {-gain:+.4f} bits per byte"
    if gain > spread:
        return Decision("keep", f"{compared}: better by more than the seed spread of {spread:.4f}", gain)
    why = "worse" if gain < 0 else "not better by more than"
    return Decision("discard", f"{compared}: {why}{'' if gain < 0 else f' the seed spread of {spread:.4f}'}", gain)
