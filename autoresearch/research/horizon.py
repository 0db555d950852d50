"""Time to target: how long the champion needs for the score that the baseline ends with.

    Race     who runs, and for which score
    run      the champion with shorter and shorter budgets, until it certainly falls short
    target   where the gain over the baseline's final score vanishes, with an interval

Each horizon is a run of its own whose schedule ends there. Where a longer run passes that score on its way says
nothing: its learning rate has not decayed yet, and a run that was to end there would have scored better.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

from autoresearch.records import BASELINE, Experiment
from autoresearch.research import verify
from autoresearch.research.lab import Candidate, Lab
from autoresearch.research.paired import Gain, gain
from autoresearch.research.until import Until

PURPOSE = "horizon"
STEP = 2**-0.5  # of one horizon to the next
SHORTEST = 1 / 16  # of the budget


@dataclass(frozen=True)
class Target:
    """Seconds of training. `seconds` is None where the whole budget does not reach the target; a `low_s` of 0 and a
    `high_s` of infinity are ends that no horizon showed."""

    seconds: float | None
    low_s: float
    high_s: float
    budget_s: float
    seeds: int
    horizons: tuple[tuple[float, Gain], ...]  # (budget, over the baseline's final score), longest first


@dataclass(frozen=True)
class Race:
    """A model against the score that another one ends with, on the seeds that both were trained with."""

    candidate: Candidate
    goal: dict[int, float]  # {seed: bits per byte} of the other, at the whole budget
    whole: dict[int, float]  # its own there
    purpose: str = PURPOSE
    split: str = "confirm"
    rows: int | None = None  # of the split that is scored


def run(lab: Lab, race: Race, until: Until) -> None:
    """The candidate at shorter and shorter horizons. What was run before is not run again."""
    n = race.candidate.n
    for budget_s in horizons(lab.budget_s):
        shorter = replace(lab, budget_s=budget_s)
        for seed in sorted(race.goal.keys() & race.whole.keys()):
            if seed in lab.ledger.experiment(n).scores(race.purpose, race.split, budget_s=budget_s):
                continue
            if until.asked:
                return
            shorter.extra(race.candidate, seed, race.purpose, (race.split,), race.rows)
        found = result(lab.ledger.experiment(n), race, lab.budget_s)
        if found is None or found.horizons[-1][1].is_loss:
            return


def horizons(budget_s: float) -> list[float]:
    """Below the budget, longest first."""
    return list(itertools.takewhile(lambda s: s > 0.99 * SHORTEST * budget_s,
                                    (budget_s * STEP**k for k in itertools.count(1))))


def target(experiments: list[Experiment], champion: int, budget_s: float) -> Target | None:
    """Of a verified champion. None until it was run at another horizon."""
    found = {e.n: e for e in experiments if e.n in (BASELINE, champion)}
    goal, whole = (found[n].scores(verify.PURPOSE, "confirm") for n in (BASELINE, champion))
    runs = {s: found[champion].scores(PURPOSE, "confirm", budget_s=s) for s in horizons(budget_s)}
    return between(goal, {budget_s: whole} | runs)


def result(experiment: Experiment, race: Race, budget_s: float) -> Target | None:
    runs = {s: experiment.scores(race.purpose, race.split, budget_s=s) for s in horizons(budget_s)}
    return between(race.goal, {budget_s: race.whole} | runs)


def between(goal: dict[int, float], runs: dict[float, dict[int, float]]) -> Target | None:
    """From the scores to reach and those of each horizon, the whole budget first."""
    budget_s = next(iter(runs))
    points = tuple((s, g) for s, scores in runs.items() if (g := gain("the baseline", goal, scores)))
    if len(points) < 2 or points[0][0] != budget_s:
        return None
    seconds = crossing([(s, g.mean_bpb) for s, g in points])
    slow = crossing([(s, g.low_bpb) for s, g in points])
    fast = crossing([(s, g.high_bpb) for s, g in points])
    return Target(seconds, 0.0 if fast is None else fast, math.inf if slow is None else slow, budget_s,
                  min(g.seeds for _, g in points), points)


def crossing(points: list[tuple[float, float]]) -> float | None:
    """Where a gain that shrinks with the time, longest first, reaches zero: between two points in a straight line over
    the logarithm of time. None where it is below zero from the start; 0 where it never gets there."""
    (before_s, before), *shorter = points
    if before < 0:
        return None
    for s, g in shorter:
        if g < 0:
            share = 0.0 if math.isinf(g) else 1.0 if math.isinf(before) else before / (before - g)
            return math.exp(math.log(before_s) + share * (math.log(s) - math.log(before_s)))
        before_s, before = s, g
    return 0.0


def sentence(t: Target) -> str:
    if t.seconds is None:
        return f"The champion does not reach the baseline's score in {t.budget_s:g} s."
    runs = f"{t.seeds} seeds, runs of {', '.join(f'{s:.3g}' for s, _ in t.horizons)} s"
    if t.seconds == 0.0:
        return f"The champion reaches the baseline's score of {t.budget_s:g} s in less than the shortest run ({runs})."
    low = f"{t.low_s:.3g}" if t.low_s else f"less than {t.horizons[-1][0]:.3g}"
    high = f"{t.high_s:.3g} s" if math.isfinite(t.high_s) else f"more than {t.budget_s:g} s"
    return (f"The champion reaches the baseline's score of {t.budget_s:g} s in {t.seconds:.3g} s (95% interval {low} "
            f"to {high}), {t.budget_s / t.seconds:.2g} times as fast ({runs}).")
