"""Where a study's hours went, and how the machine did meanwhile; from when trials began and what they measured.

    spent       parts of the time, the largest questions first: training of what kind, and everything around it
    conditions  what the machine did beside each trial
    Measured    one trial's throughput, memory and the machine's own speed, at its hour
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime

from autoresearch.harness.conditions import Conditions
from autoresearch.records import BASELINE, Trial, name_of
from autoresearch.report.story import Story

PAUSE_S = 600.0  # from the end of one trial to the next, beyond a trial's budget: the study was not running
KINDS = {"baseline": "training the baseline", "screen": "first trials of ideas", "repeat": "confirming on fresh seeds",
         "verify": "verifying on the confirm split", "other": "other training", "lost": "trials without a score"}
STARTING, AROUND = "starting and compiling", "everything else: scoring, auditing, proposing, waiting, killed trials"


@dataclass(frozen=True)
class Part:
    name: str
    seconds: float
    trials: int | None = None  # where it is trials


@dataclass(frozen=True)
class Spent:
    parts: list[Part]
    paused_s: float  # in between, when the study was not running

    @property
    def total_s(self) -> float:
        return sum(p.seconds for p in self.parts)


@dataclass(frozen=True)
class Measured:
    hour: float
    n: int
    trial: Trial

    @property
    def name(self) -> str:
        return name_of(self.n)

    @property
    def tokens_per_s(self) -> float:
        return self.trial.tokens / self.trial.train_s if self.trial.train_s else 0.0

    @property
    def ceiling_flops(self) -> float:
        """Of the matmul that each trial times before it trains: the same work all night."""
        return float(self.trial.facts.get("ceiling_flops") or 0.0)

    def machine(self, name: str) -> float | None:
        """What was seen of the machine while it trained, where it could be seen."""
        seen = self.trial.facts.get("machine")
        found = seen.get(name) if isinstance(seen, dict) else None
        return float(found) if isinstance(found, int | float) else None


def spent(story: Story) -> Spent:
    """A trial that was killed with its study has no time of its own: it is in what is left until the next."""
    trials = _in_order(story)
    seconds, counts = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0)
    starting = around = paused = 0.0
    for trial, following in itertools.zip_longest(trials, trials[1:]):
        kind = _kind(trial)
        counts[kind] += 1
        seconds[kind] += trial.total_s if kind == "lost" else trial.train_s
        starting += 0.0 if kind == "lost" else max(0.0, trial.total_s - trial.train_s)
        if following is not None:
            gap = max(0.0, _moment(following) - _moment(trial) - trial.total_s)
            longest = PAUSE_S + (trial.budget_s or 0.0)
            paused += gap if gap > longest else 0.0
            around += gap if gap <= longest else 0.0
    parts = [Part(name, seconds[kind], counts[kind]) for kind, name in KINDS.items() if counts[kind]]
    return Spent([*parts, Part(STARTING, starting), Part(AROUND, around)], paused)


def measured(story: Story) -> list[Measured]:
    """Of every trial with a score, by the hour of the study at which it began."""
    trials = [t for t in _in_order(story) if t.status == "ok"]
    first = _moment(trials[0]) if trials else 0.0
    return [Measured((_moment(t) - first) / 3600, t.experiment, t) for t in trials]


def conditions(story: Story) -> list[Conditions]:
    """Under which each trial with a score ran, where that was seen."""
    return [Conditions.from_json(t.facts["machine"]) for t in _in_order(story)
            if t.status == "ok" and isinstance(t.facts.get("machine"), dict)]


def _in_order(story: Story) -> list[Trial]:
    trials = [t for e in story.experiments for t in e.trials if t.status != "running"]
    return sorted(trials, key=lambda t: t.id)


def _kind(trial: Trial) -> str:
    if trial.status != "ok":
        return "lost"
    if trial.purpose == "screen" and trial.experiment == BASELINE:
        return "baseline"
    return trial.purpose if trial.purpose in KINDS else "other"


def _moment(trial: Trial) -> float:
    return datetime.fromisoformat(trial.started).timestamp()
