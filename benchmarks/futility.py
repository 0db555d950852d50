"""Stopping hopeless trials early: how often a winner would be stopped, and what it saves. The table of decisions.md.

    python -m benchmarks.futility                        recorded curves, then simulated studies made of them
    python -m benchmarks.futility --ledger studies/mar8/ledger.sqlite ...      other studies, run with --no-futility

Recorded: every candidate that `applies` lets be judged, in the order of its study, each with what the study knew by
then. A false stop is one of a candidate that scored better than its incumbent in the end; whether it truly was better,
one trial doesn't say.

Simulated: 30 candidates a study. How far behind or ahead each ends is drawn: 10% gain, by a gamma variate of shape 2
and a mean of one seed spread; the others lose what recorded losers lost. How a curve comes to its end is the whole
curve of a recorded candidate, the same share of what its incumbent gained, times 1 or 1.5: the second asks what happens
where candidates catch up half as much again as they have so far. The rule is the functions of
autoresearch/research/futility.py themselves.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autoresearch.research import futility
from autoresearch.research.futility import LOOKS, applies, caught_up, margin

CURVES = Path(__file__).with_name("futility_curves.json")
CANDIDATES, HELPFUL = 30, 0.1
SPREADS_BPB = (0.007, 0.02)
WARM_UP_FRAC, SCORING_FRAC = 0.15, 0.15  # of the budget: what a trial takes beside its training


@dataclass(frozen=True)
class Candidate:
    """Against its incumbent's trial on the same seed."""

    mine: list[float]
    theirs: list[float]
    delta_bpb: float  # positive is worse

    @property
    def left_bpb(self) -> list[float]:
        return [t - self.theirs[-1] for t in self.theirs[:len(LOOKS)]]

    @property
    def caught_up(self) -> list[float]:
        return caught_up(self.mine, self.theirs, self.delta_bpb)


@dataclass
class Tally:
    judged: int = 0
    winners: int = 0
    stopped: int = 0
    false_stops: int = 0
    cost: float = 0.0  # in budgets
    full_cost: float = 0.0
    at: list[int] = field(default_factory=lambda: [0] * len(LOOKS))

    def add(self, look: int | None, wins: bool) -> None:
        whole = 1 + WARM_UP_FRAC + SCORING_FRAC
        self.judged += 1
        self.winners += wins
        self.full_cost += whole
        self.cost += whole if look is None else LOOKS[look] + WARM_UP_FRAC
        if look is not None:
            self.stopped += 1
            self.false_stops += wins
            self.at[look] += 1


def stopped_at(behind_bpb: list[float], left_bpb: list[float], past: list[list[float]]) -> int | None:
    """The first look that ends a trial."""
    return next((k for k in range(len(LOOKS))
                 if behind_bpb[k] > margin(k, left_bpb[k], [c[k] for c in past])), None)


def replay(candidates: list[Candidate]) -> Tally:
    tally, past = Tally(), []
    for c in candidates:
        tally.add(stopped_at([m - t for m, t in zip(c.mine, c.theirs, strict=True)], c.left_bpb, past), c.delta_bpb < 0)
        past.append(c.caught_up)  # it was recorded to its end
    return tally


def simulate(recorded: list[Candidate], studies: int, spread_bpb: float, patience: float, seed: int) -> Tally:
    rng, tally = np.random.default_rng(seed), Tally()
    losers = [c.delta_bpb for c in recorded if c.delta_bpb > 0]
    for _ in range(studies):
        past: list[list[float]] = []
        left_bpb = recorded[rng.integers(len(recorded))].left_bpb
        for _ in range(CANDIDATES):
            wins = bool(rng.random() < HELPFUL)
            delta = -rng.gamma(2, spread_bpb / 2) if wins else losers[rng.integers(len(losers))]
            shape = [patience * x for x in recorded[rng.integers(len(recorded))].caught_up]
            look = stopped_at([delta + x * left for x, left in zip(shape, left_bpb, strict=True)], left_bpb, past)
            tally.add(look, wins)
            if look is None:
                past.append(shape)
    return tally


def upper(k: int, n: int, level: float = 0.95) -> float:
    """One-sided bound of a share of which k of n were seen (Clopper and Pearson 1934)."""
    if k >= n:
        return 1.0
    low, high = k / n, 1.0
    for _ in range(60):
        p = (low + high) / 2
        tail = sum(math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p)
                            + (n - i) * math.log1p(-p)) for i in range(k + 1))
        low, high = (p, high) if tail > 1 - level else (low, p)
    return high


def of_study(study: dict[str, Any]) -> list[Candidate]:
    trials = {t["id"]: t for t in study["trials"]}
    return [Candidate(a["dev_bpb"], b["dev_bpb"], a["val_bpb"] - b["val_bpb"])
            for a, b in ((trials[x], trials[y]) for x, y in study["pairs"])
            if applies(a["changes"], ["" if a["changes"] else "backends/gpt/model.py"])]


def from_ledger(path: Path) -> dict[str, Any]:
    """Trials that ran to their end, as the file of recorded curves has them."""
    from autoresearch.research.ledger import Ledger

    with Ledger.open(path, readonly=True) as ledger:
        experiments, pairs = ledger.experiments(), ledger.pairs()
        trials = [{"id": t.id, "experiment": e.n, "seed": t.seed, "changes": sorted(e.changes), "val_bpb": t.bpb(),
                   "dev_bpb": futility.curve(t.curve)} for e in experiments for t in e.trials
                  if t.purpose in ("screen", "repeat") and t.bpb() and len(futility.curve(t.curve)) > len(LOOKS)]
        known = {t["id"] for t in trials}
        return {"study": path.parent.name, "budget_s": ledger.fact("budget_s"), "trials": trials,
                "pairs": [[p.trial, p.incumbent_trial] for p in pairs if {p.trial, p.incumbent_trial} <= known]}


HEADING = ("| curves | judged | better in the end | stopped | at {} | better ones stopped | their share, at most | "
           "trials per hour |\n|---|--:|--:|--:|---|--:|--:|--:|").format(", ".join(f"{x:.0%}" for x in LOOKS))


def row(name: str, t: Tally) -> str:
    return (f"| {name} | {t.judged:,} | {t.winners:,} | {t.stopped / max(1, t.judged):.0%} | "
            f"{', '.join(f'{n:,}' for n in t.at)} | {t.false_stops:,} ({t.false_stops / max(1, t.winners):.1%}) | "
            f"{upper(t.false_stops, t.winners) if t.winners else 1:.1%} | {t.full_cost / max(t.cost, 1e-9):.2f}x |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ledger", type=Path, action="append", help="instead of the recorded curves")
    parser.add_argument("--studies", type=int, default=400, help="simulated ones for each row")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    studies = [from_ledger(p) for p in options.ledger] if options.ledger else json.loads(CURVES.read_text())
    found = {s["study"]: of_study(s) for s in studies}
    print(HEADING)
    total = Tally()
    for name, candidates in found.items():
        tally = replay(candidates)
        print(row(name, tally))
        total = Tally(*(a + b if not isinstance(a, list) else [x + y for x, y in zip(a, b, strict=True)]
                        for a, b in zip(vars(total).values(), vars(tally).values(), strict=True)))
    print(row("all of them", total))
    recorded = [c for candidates in found.values() for c in candidates]
    for spread in SPREADS_BPB:
        for patience in (1.0, 1.5):
            name = f"simulated, spread {spread}" + (f", catching up {patience:g} times" if patience > 1 else "")
            print(row(name, simulate(recorded, options.studies, spread, patience, options.seed)), flush=True)
    print(f"\n{options.studies:,} simulated studies of {CANDIDATES} candidates a row, seed {options.seed}; a trial "
          f"takes {WARM_UP_FRAC + SCORING_FRAC:.0%} of its budget beside its training; stopped ones are not scored.")


if __name__ == "__main__":
    main()
