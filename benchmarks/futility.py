"""Stopping hopeless trials early: how often a winner would be stopped, and what it saves. The table of decisions.md.

    python -m benchmarks.futility                        recorded curves, then simulated studies made of them
    python -m benchmarks.futility --ledger studies/mar8/ledger.sqlite --ledger ...
                                                         other studies, run with --no-futility

Recorded: every screening trial of a change that `applies` lets be judged, in the order of its study, each with what the
study would have known by then: trials that the rule stopped have no end to learn from. Repeats on fresh seeds are never
judged, and what came after a false stop is replayed as it was. Code edits are judged where the study's repository says
which files they changed. A false stop is one of a candidate that scored better than its incumbent in the end; whether
it truly was better, one trial doesn't say.

Simulated: 30 candidates a study. How far behind or ahead each ends is drawn: 10% gain, by a gamma variate of shape 2
and a mean of one seed spread; the others lose what recorded losers lost. How a curve comes to its end is the whole
curve of a recorded candidate, the same share of what its incumbent gained, times 1 or 1.5: the second asks what happens
where candidates catch up half as much again as they have so far. The rule is the functions of
autoresearch/research/futility.py themselves; what stands behind its `EXPECTED` is printed last.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autoresearch.records import Experiment
from autoresearch.research.futility import EXPECTED, LOOKS, applies, caught_up, curve, margin
from autoresearch.research.git import GitError, git

CURVES = Path(__file__).with_name("futility_curves.json")
CANDIDATES, HELPFUL = 30, 0.1
SPREADS_BPB = (0.007, 0.02)
WARM_UP_FRAC, SCORING_FRAC = 0.15, 0.15  # of the budget: what a trial takes beside its training


@dataclass(frozen=True)
class Candidate:
    """Against its incumbent's trial on the same seed."""

    experiment: int
    mine: list[float]
    theirs: list[float]
    delta_bpb: float  # positive is worse
    is_judged: bool  # by the rule
    is_past: bool  # others are judged by how far it caught up

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

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.judged + other.judged, self.winners + other.winners, self.stopped + other.stopped,
                     self.false_stops + other.false_stops, self.cost + other.cost, self.full_cost + other.full_cost,
                     [a + b for a, b in zip(self.at, other.at, strict=True)])


def stopped_at(behind_bpb: list[float], left_bpb: list[float], past: list[list[float]]) -> int | None:
    """The first look that ends a trial."""
    return next((k for k in range(len(LOOKS))
                 if behind_bpb[k] > margin(k, left_bpb[k], [c[k] for c in past])), None)


def replay(candidates: Sequence[Candidate]) -> Tally:
    """Of one study. The repeats of an experiment that is stopped would never have been run."""
    tally, past, gone = Tally(), list[list[float]](), set[int]()
    for c in candidates:
        if c.is_judged:
            look = stopped_at([m - t for m, t in zip(c.mine, c.theirs, strict=True)], c.left_bpb, past)
            tally.add(look, c.delta_bpb < 0)
            if look is not None:
                gone.add(c.experiment)
        if c.is_past and c.experiment not in gone:
            past.append(c.caught_up)
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


# Studies


def of_study(study: dict[str, Any]) -> list[Candidate]:
    """Its pairs, in their order."""
    trials = {t["id"]: t for t in study["trials"]}
    return [Candidate(mine["experiment"], mine["dev_bpb"], theirs["dev_bpb"], mine["val_bpb"] - theirs["val_bpb"],
                      is_judged=is_screening(mine, study) and applies(mine["changes"], mine.get("files") or []),
                      is_past=bool(mine["changes"]) and applies(mine["changes"], []))
            for mine, theirs in ((trials[x], trials[y]) for x, y in study["pairs"])]


def is_screening(trial: dict[str, Any], study: dict[str, Any]) -> bool:
    """By its purpose, or, where that was not recorded, as the first trial of its experiment."""
    if "purpose" in trial:
        return bool(trial["purpose"] == "screen")
    return bool(trial["id"] == min(t["id"] for t in study["trials"] if t["experiment"] == trial["experiment"]))


def from_ledger(path: Path) -> dict[str, Any]:
    """Trials that ran to their end, as the file of recorded curves has them, with their purposes and changed files."""
    from autoresearch.research.ledger import Ledger

    with Ledger.open(path, readonly=True) as ledger:
        experiments, pairs = ledger.experiments(), ledger.pairs()
        files = {e.n: changed_files(path, e) for e in experiments}
        trials = [{"id": t.id, "experiment": e.n, "seed": t.seed, "purpose": t.purpose, "changes": sorted(e.changes),
                   "files": files[e.n], "val_bpb": t.bpb(), "dev_bpb": curve(t)}
                  for e in experiments for t in e.trials
                  if t.purpose in ("screen", "repeat") and t.bpb() and len(curve(t)) > len(LOOKS)]
        known = {t["id"] for t in trials}
        return {"study": path.absolute().parent.name, "budget_s": ledger.fact("budget_s"), "trials": trials,
                "pairs": [[p.trial, p.incumbent_trial] for p in pairs if {p.trial, p.incumbent_trial} <= known]}


def changed_files(ledger: Path, e: Experiment) -> list[str]:
    """By the repository that the ledger lies in; none where that does not have the experiment's commits."""
    if not e.parent or not e.sha:
        return []
    try:
        said = git(ledger.parent, "diff-tree", "-r", "-z", "--name-only", "--no-renames", e.parent, e.sha)
    except GitError:
        return []
    return [os.fsdecode(name) for name in said.split(b"\0") if name]


def named(studies: Sequence[dict[str, Any]], paths: Sequence[Path]) -> list[str]:
    """Each by its name, and by its place too where several have the same."""
    names = [str(study["study"]) for study in studies]
    several = {name for name, count in Counter(names).items() if count > 1}
    return [f"{name} ({path.parent})" if name in several else name for name, path in zip(names, paths, strict=True)]


# What came out


HEADING = ("| curves | judged | better in the end | stopped | at {} | better ones stopped | their share, at most | "
           "trials per hour |\n|---|--:|--:|--:|---|--:|--:|--:|").format(", ".join(f"{x:.0%}" for x in LOOKS))


def row(name: str, t: Tally) -> str:
    return (f"| {name} | {t.judged:,} | {t.winners:,} | {t.stopped / max(1, t.judged):.0%} | "
            f"{', '.join(f'{n:,}' for n in t.at)} | {t.false_stops:,} ({t.false_stops / max(1, t.winners):.1%}) | "
            f"{upper(t.false_stops, t.winners) if t.winners else 1:.1%} | {t.full_cost / max(t.cost, 1e-9):.2f}x |")


def measured(candidates: Sequence[Candidate]) -> str:
    """What stands behind EXPECTED, a line for each look."""
    past = [c.caught_up for c in candidates if c.is_past]
    if not past:
        return "how far candidates catch up is not known: none changed the recipe"
    rms = np.sqrt(np.mean(np.square(past), axis=0))
    return "\n".join(f"caught up after {look:.0%}: root mean square {found:.3f} of what the incumbent still gained, "
                     f"over {len(past):,} trials; EXPECTED {expected:g}"
                     for look, found, expected in zip(LOOKS, rms, EXPECTED, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ledger", type=Path, action="append", help="instead of the recorded curves; may be repeated")
    parser.add_argument("--studies", type=int, default=400, help="simulated ones for each row")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    paths = list(dict.fromkeys(options.ledger or []))
    studies = [from_ledger(path) for path in paths] if paths else json.loads(CURVES.read_text())
    names = named(studies, paths or [CURVES] * len(studies))
    found = [of_study(study) for study in studies]
    print(HEADING)
    tallies = [replay(candidates) for candidates in found]
    for name, tally in zip(names, tallies, strict=True):
        print(row(name, tally))
    print(row("all of them", sum(tallies, Tally())))
    everyone = [c for candidates in found for c in candidates]
    recorded = [c for c in everyone if c.is_judged]
    if not any(c.delta_bpb > 0 for c in recorded):
        raise SystemExit(f"nothing to simulate: of {len(everyone):,} recorded trials that were compared with an "
                         f"incumbent's, the rule judges {len(recorded):,}, and none of these lost.\nIt judges "
                         "screening trials, here those that ran to their end: give ledgers of more studies, run with "
                         "--no-futility.")
    for spread in SPREADS_BPB:
        for patience in (1.0, 1.5):
            name = f"simulated, spread {spread}" + (f", catching up {patience:g} times" if patience > 1 else "")
            print(row(name, simulate(recorded, options.studies, spread, patience, options.seed)), flush=True)
    print(f"\n{options.studies:,} simulated studies of {CANDIDATES} candidates a row, seed {options.seed}; a trial "
          f"takes {WARM_UP_FRAC + SCORING_FRAC:.0%} of its budget beside its training; stopped ones are not scored.\n")
    print(measured(everyone))


if __name__ == "__main__":
    main()
