"""What the ledger holds, as values: experiments, their trials, the scores of a trial, pairs of trials, spending."""

from __future__ import annotations

import json
import math
import statistics
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

BASELINE, REFERENCE = 0, -1  # experiment numbers with a fixed meaning; ideas count from 1

SCORED_S = "scored_s"  # fact of a trial: how long scoring took
MEMORY, MACHINE = "memory", "machine"  # causes of a failed trial: it ran out; the device or a process of ours failed
VERDICTS = ("keep", "discard", "crash", "timeout", "invalid", "interrupted")


def name_of(n: int) -> str:
    """An experiment's, for people. Those below the reference are models that nobody proposed."""
    return {REFERENCE: "reference", BASELINE: "baseline"}.get(n, f"#{n}" if n > 0 else "variant")


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

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens


@dataclass(frozen=True)
class Evaluation:
    """A score, and what else its rows tell."""

    score: Score
    bpb_error: float | None  # standard error over rows, as if they were drawn independently; None for a single row
    legacy_bytes: int  # as karpathy/autoresearch counts them: of each target decoded alone, never fewer than there are

    @property
    def legacy_bpb(self) -> float:
        return self.score.nats / math.log(2) / self.legacy_bytes


@dataclass(frozen=True)
class Point:
    """One point of a training curve. `dev_bpb` only at the fixed fractions where dev is scored."""

    step: int
    elapsed_s: float
    train_nats: float | None = None
    dev_bpb: float | None = None


class Curve(Sequence[Point]):
    """Points as the ledger stores them, packed, and made when they are looked at: a study has thousands of curves, and
    looks at a few."""

    def __init__(self, text: str):
        self._packed = zlib.compress(text.encode(), level=1)

    def _points(self) -> tuple[Point, ...]:
        return tuple(Point(*values) for values in json.loads(zlib.decompress(self._packed)))

    def __getitem__(self, which: Any) -> Any:
        return self._points()[which]

    def __iter__(self) -> Iterator[Point]:
        return iter(self._points())

    def __len__(self) -> int:
        return len(self._points())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._points() == tuple(other)

    def __repr__(self) -> str:
        return repr(self._points())


@dataclass(frozen=True)
class Trial:
    """One training run of an experiment with one seed."""

    id: int
    experiment: int
    seed: int
    purpose: str  # "screen" and, on fresh seeds, "repeat" decide, on val; others measure: see the modules named so
    status: str  # "running", "ok", or a verdict: crash, timeout, invalid, interrupted
    budget_s: float | None  # None in fixed-step mode
    started: str  # UTC, ISO 8601
    reason: str = ""
    steps: int = 0
    tokens: int = 0
    train_s: float = 0.0  # by the supervisor's clock
    total_s: float = 0.0  # start to weights on disk; scoring comes after it
    params: int = 0
    peak_memory_bytes: int = 0
    utilisation: float | None = None  # of this machine's measured matmul ceiling
    scores: tuple[Score, ...] = ()
    curve: Sequence[Point] = ()
    log_tail: str = ""
    weights: str = ""  # path relative to the study's folder; "" when there are none
    facts: dict[str, Any] = field(default_factory=dict)  # device, backend, precision, digests

    @property
    def scored_s(self) -> float:
        return float(self.facts.get(SCORED_S) or 0.0)

    @property
    def whole_s(self) -> float:
        """Start to scored."""
        return self.total_s + self.scored_s

    def bpb(self, split: str = "val") -> float | None:
        return next((s.bpb for s in self.scores if s.split == split), None)

    @cached_property
    def dev_bpb(self) -> tuple[float, ...]:
        """The measurements of dev on its curve, in order; kept, since every screening asks them of all trials."""
        return tuple(p.dev_bpb for p in self.curve if p.dev_bpb is not None)


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

    def on_val(self) -> dict[int, float]:
        """{seed: val_bpb}, screening and fresh seeds alike."""
        return {t.seed: b for t in self.trials if t.purpose in ("screen", "repeat") and (b := t.bpb()) is not None}

    def scores(self, purpose: str, split: str = "val", *, backend: str | None = None,
               budget_s: float | None = None) -> dict[int, float]:
        """{seed: bits per byte} of finished trials of a purpose; on one backend, with one budget, where named."""
        return {t.seed: b for t in self.trials if t.purpose == purpose and t.status == "ok"
                and backend in (None, t.facts.get("backend")) and budget_s in (None, t.budget_s)
                and (b := t.bpb(split)) is not None}

    @property
    def counts(self) -> bool:
        """Whether its score was earned: what an audit threw out may have one too, or what crashed on a later seed."""
        return self.verdict in ("keep", "discard")

    @property
    def is_spoilt(self) -> bool:
        """By the machine, which says nothing of the idea: interrupted, or a device or a process of ours failed."""
        return self.verdict == "interrupted" or \
            (self.verdict == "crash" and any(t.facts.get("cause") == MACHINE for t in self.trials))

    def gain_bpb(self, pairs: Iterable[Pair]) -> float | None:
        """Over its incumbent, by the ledger's pairs of it, each of two trials on one seed: the mean over fresh seeds.
        Where there are none, on the screening seed, which chose who goes on. Positive is better; None without a score
        that counts."""
        if self.verdict and not self.counts:
            return None
        fresh, gains = {t.id for t in self.trials if t.purpose == "repeat"}, {p.trial: -p.delta_bpb for p in pairs}
        counted = [gain for trial, gain in gains.items() if trial in fresh] or list(gains.values())
        return statistics.fmean(counted) if counted else None

    def screened(self) -> Trial | None:
        """On the seed that ideas are screened on; where it was run again there, the last."""
        screens = self.screens()
        return next((t for t in reversed(screens) if t.seed == screens[0].seed), None)

    def bpb(self) -> float | None:
        """val_bpb of that trial: the one score that every other experiment has too."""
        trial = self.screened()
        return trial.bpb() if trial else None


def last_kept(experiments: Iterable[Experiment]) -> Experiment | None:
    """The champion: the keep that no other one stands on."""
    kept = [e for e in experiments if e.verdict == "keep"]
    parents = {e.parent for e in kept}
    return next((e for e in reversed(kept) if e.sha not in parents), None)


@dataclass(frozen=True)
class Spend:
    """One request to a paid service, or one run of an agent. None: nobody said."""

    researcher: str
    model: str
    status: str  # "ok", or what went wrong
    request_id: str = ""
    attempt: int = 1  # of the same request
    latency_s: float = 0.0
    waited_s: float = 0.0  # before it, because of the one before
    input_tokens: int | None = None  # neither written to the cache nor read from it
    output_tokens: int | None = None
    cache_write_5m_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    cache_read_tokens: int | None = None
    usd: float | None = None
    priced: str = ""  # date of the price table, or "reported": by the agent itself; "": nobody knows a price

    def tokens(self) -> int:
        return sum(n or 0 for n in (self.input_tokens, self.output_tokens, self.cache_write_5m_tokens,
                                    self.cache_write_1h_tokens, self.cache_read_tokens))


@dataclass(frozen=True)
class Spent:
    """What a study has cost so far."""

    usd: float = 0.0  # of what has a price
    tokens: int = 0  # of everything, from the cache or not
