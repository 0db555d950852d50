"""What the ledger holds, as values: experiments, their trials, the scores of a trial, and pairs of trials."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

BASELINE, REFERENCE = 0, -1  # experiment numbers with a fixed meaning; ideas count from 1

VERDICTS = ("keep", "discard", "crash", "timeout", "invalid", "interrupted")


@dataclass(frozen=True)
class Score:
    """Sums over the scored rows of one split. `nats` is the total surprise of all target tokens."""

    split: str  # val, confirm or holdout
    nats: float
    tokens: int
    bytes: int
    chars: int
    rows: int

    @property
    def bpb(self) -> float:
        return self.nats / math.log(2) / self.bytes

    @property
    def bpc(self) -> float:
        return self.nats / math.log(2) / self.chars


@dataclass(frozen=True)
class Point:
    """One point of a training curve. `dev_bpb` only at the fixed fractions where dev is scored."""

    step: int
    elapsed_s: float
    train_nats: float | None = None
    dev_bpb: float | None = None


@dataclass(frozen=True)
class Trial:
    """One training run of an experiment with one seed."""

    id: int
    experiment: int
    seed: int
    purpose: str  # "screen": scored on val to decide; "verify": fresh seed, scored on confirm
    status: str  # "running", "ok", or a verdict: crash, timeout, invalid, interrupted
    budget_s: float | None  # None in fixed-step mode
    started: str  # UTC, ISO 8601
    reason: str = ""
    steps: int = 0
    tokens: int = 0
    train_s: float = 0.0  # by the supervisor's clock
    total_s: float = 0.0  # start to scored
    params: int = 0
    peak_memory_bytes: int = 0
    utilisation: float | None = None  # of this machine's measured matmul ceiling
    scores: tuple[Score, ...] = ()
    curve: tuple[Point, ...] = ()
    log_tail: str = ""
    weights: str = ""  # path relative to the study's folder; "" when there are none
    facts: dict[str, Any] = field(default_factory=dict)  # device, backend, precision, digests

    def bpb(self, split: str = "val") -> float | None:
        return next((s.bpb for s in self.scores if s.split == split), None)


@dataclass(frozen=True)
class Pair:
    """A trial against the incumbent's trial of the same seed. Negative is better."""

    experiment: int
    trial: int
    incumbent_trial: int
    delta_bpb: float


@dataclass(frozen=True)
class Experiment:
    """One candidate with its hypothesis."""

    n: int
    parent: str  # commit it changes
    sha: str  # commit it is; "" until committed
    researcher: str
    hypothesis: str
    evidence: str
    changes: dict[str, Any]  # {"table.key": value} of a recipe change; {} for a code edit
    recipe: dict[str, Any]  # flat effective recipe
    state: str  # proposed, committed, decided, done
    verdict: str  # one of VERDICTS; "" until decided and for the reference
    reason: str
    created: str  # UTC, ISO 8601
    trials: tuple[Trial, ...] = ()

    def screens(self) -> list[Trial]:
        return [t for t in self.trials if t.purpose == "screen" and t.status == "ok"]

    def bpb(self) -> float | None:
        """Mean val_bpb over its scored trials."""
        scores = [b for t in self.screens() if (b := t.bpb()) is not None]
        return sum(scores) / len(scores) if scores else None
