"""How many validation rows a study scores.

The first trial scores as many as time allows. They must also be so many that it hardly matters which rows they are:
what that chance adds to a score stays below a third of what the seed adds, else the study scores more rows, to the
split's last if need be.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from autoresearch.data.yardstick import sampling_error_bpb

SHARE = 1 / 3  # of the seed spread, that the choice of rows may add to a score


def choice_error_bpb(nats_SR: np.ndarray, bytes_R: np.ndarray) -> float:
    """What a score owes to which rows were drawn, as runs that differ in their seed alone show it. Hard and easy rows
    are so for all of them, so only differences between runs count: their standard error, for one of the two."""
    errors = [sampling_error_bpb(a - b, bytes_R) or 0.0 for a, b in itertools.combinations(nats_SR, 2)]
    return float(np.sqrt(np.mean(np.square(errors)) / 2))


def rows_wanted(nats_SR: np.ndarray, bytes_R: np.ndarray, spread_bpb: float, most: int) -> int:
    """Rows that keep the error of their choice under its share of the spread; not fewer than there are, not more than
    `most`. The error falls with the square root of their number."""
    times = (choice_error_bpb(nats_SR, bytes_R) / (SHARE * spread_bpb)) ** 2
    return min(most, max(len(bytes_R), math.ceil(times * len(bytes_R))))
