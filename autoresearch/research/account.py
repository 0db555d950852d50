"""The account: what proposing has cost, request by request, joined to the experiment that it was for.

    Account   the table in the ledger
    Arm       what one researcher's experiments cost and earned
    arms      all of them
    course    the same over time: what had been spent, and trained, by each experiment, and what it had gained
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from autoresearch.records import Experiment, Spend, Spent
from autoresearch.research.ledger_file import LedgerFile

_FIELDS = [f.name for f in fields(Spend)]
_TOKENS = [name for name in _FIELDS if name.endswith("_tokens")]


@dataclass(frozen=True)
class Entry:
    experiment: int
    at: str  # UTC, ISO 8601
    spend: Spend


@dataclass(frozen=True)
class Account:
    """The ledger's table of spending."""

    file: LedgerFile

    def record(self, experiment: int, spend: Spend) -> None:
        """On disk when it returns: money is spent when a request ends, whatever becomes of the proposal."""
        marks = ", ".join("?" * (2 + len(_FIELDS)))
        with self.file.transaction() as db:
            db.execute(f"INSERT INTO spending (experiment, at, {', '.join(_FIELDS)}) VALUES ({marks})",
                       (experiment, datetime.now(UTC).isoformat(timespec="seconds"), *astuple(spend)))

    def entries(self) -> list[Entry]:
        found = self.file.rows(f"SELECT experiment, at, {', '.join(_FIELDS)} FROM spending ORDER BY id")
        return [Entry(n, at, Spend(*values)) for n, at, *values in found]

    def spent(self) -> Spent:
        counts = " + ".join(f"coalesce({name}, 0)" for name in _TOKENS)
        [(usd, tokens)] = self.file.rows(f"SELECT coalesce(sum(usd), 0), coalesce(sum({counts}), 0) FROM spending")
        return Spent(float(usd), int(tokens))


@dataclass(frozen=True)
class Arm:
    """What one researcher's experiments cost and earned."""

    researcher: str
    experiments: int = 0
    kept: int = 0
    gain_bpb: float = 0.0  # of what was kept, each against its incumbent
    trained_tokens: int = 0
    trained_s: float = 0.0  # start to scored, all trials
    requests: int = 0
    failed: int = 0
    latency_s: float = 0.0
    waited_s: float = 0.0
    tokens: int = 0
    unpriced_tokens: int = 0
    usd: float = 0.0

    @property
    def gain_per_usd(self) -> float | None:
        return self.gain_bpb / self.usd if self.usd > 0 and not self.unpriced_tokens else None

    @property
    def gain_per_mtok(self) -> float | None:
        return 1e6 * self.gain_bpb / self.tokens if self.tokens else None

    @property
    def gain_per_hour(self) -> float | None:
        """Of training, proposing and waiting together."""
        hours = (self.trained_s + self.latency_s + self.waited_s) / 3600
        return self.gain_bpb / hours if hours > 0 else None


def arms(judged: Iterable[tuple[Experiment, float | None]], entries: Iterable[Entry]) -> list[Arm]:
    """`judged` are decided experiments with their gain in bits per byte, positive is better. Whoever was asked and
    had no proposal pays for the asking all the same."""
    sums: dict[str, dict[str, Any]] = {}

    def add(researcher: str, **values: float) -> None:
        row = sums.setdefault(researcher, {})
        for name, value in values.items():
            row[name] = row.get(name, 0) + value

    for e, gain in judged:
        kept = e.verdict == "keep"
        add(e.researcher, experiments=1, kept=int(kept), gain_bpb=(gain or 0.0) if kept else 0.0,
            trained_tokens=sum(t.tokens for t in e.trials), trained_s=sum(t.whole_s for t in e.trials))
    for entry in entries:
        s = entry.spend
        add(s.researcher, requests=1, failed=int(s.status != "ok"), latency_s=s.latency_s, waited_s=s.waited_s,
            tokens=s.tokens(), unpriced_tokens=s.tokens() if s.usd is None else 0, usd=s.usd or 0.0)
    return [Arm(name, **values) for name, values in sums.items()]


@dataclass(frozen=True)
class Moment:
    """After experiment `n`: the gains so far, and what had been spent and trained to get there."""

    n: int
    baseline_less_gains_bpb: float  # each on its own seeds: nobody has measured the difference
    usd: float
    tokens: int
    trained_tokens: int


def course(judged: Iterable[tuple[Experiment, float | None]], entries: Iterable[Entry], start_bpb: float,
           ) -> list[Moment]:
    """From the baseline's score downwards, gain by gain."""
    spends = list(entries)
    bpb, trained, found = start_bpb, 0, [Moment(0, start_bpb, 0.0, 0, 0)]
    for e, gain in sorted(judged, key=lambda pair: pair[0].n):
        bpb -= (gain or 0.0) if e.verdict == "keep" else 0.0
        trained += sum(t.tokens for t in e.trials)
        so_far = [s.spend for s in spends if s.experiment <= e.n]
        found.append(Moment(e.n, bpb, sum(s.usd or 0.0 for s in so_far), sum(s.tokens() for s in so_far), trained))
    return found
