"""Two models on the same seeds: how far they lie apart, and how well that is known.

    Gain    the mean of paired differences in bits per byte, with its 95% interval
    gain    of one model over another
    plain   a gain, or what holds some, for JSON
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

# Two-sided 95% points of Student's t by degrees of freedom.
_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
         2.120, 2.110, 2.101, 2.093, 2.086)


@dataclass(frozen=True)
class Gain:
    """Over another model, in bits per byte: positive is better. A single pair has an interval without ends."""

    over: str
    mean_bpb: float
    low_bpb: float
    high_bpb: float
    percent: float  # of the other's score
    seeds: int

    @property
    def is_real(self) -> bool:
        """The interval leaves out no difference and a loss."""
        return self.low_bpb > 0

    @property
    def is_loss(self) -> bool:
        return self.high_bpb < 0


def gain(over: str, theirs: dict[int, float], ours: dict[int, float]) -> Gain | None:
    """From {seed: bits per byte} of both; None where they share no seed."""
    seeds = sorted(theirs.keys() & ours.keys())
    if not seeds:
        return None
    differences = [theirs[s] - ours[s] for s in seeds]
    mean, half = statistics.fmean(differences), half_width(differences)
    percent = 100 * mean / statistics.fmean(theirs[s] for s in seeds)
    return Gain(over, mean, mean - half, mean + half, percent, len(seeds))


def plain(value: Any) -> Any:
    """As JSON has it: an interval without ends has null for them."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def half_width(values: list[float]) -> float:
    """Of the 95% interval of their mean."""
    if len(values) < 2:
        return math.inf
    return t_95(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def t_95(dof: int) -> float:
    """Beyond the table by Cornish and Fisher's expansion, to three digits."""
    if dof <= len(_T_95):
        return _T_95[dof - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * dof) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * dof**2)
