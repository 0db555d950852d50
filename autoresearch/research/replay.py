"""Replay: a kept change against what it changed, on another backend or with another budget.

    run      both on the same fresh seeds
    result   the gain there
    home     the gain where it was kept
"""

from __future__ import annotations

from autoresearch.errors import UserError
from autoresearch.records import BASELINE, MACHINE, Experiment
from autoresearch.research import verify
from autoresearch.research.lab import Lab, turns
from autoresearch.research.paired import Gain, gain
from autoresearch.research.stack import FRAMEWORKS, Change
from autoresearch.research.until import Until

PURPOSE = "replay"
SEEDS = 3
OVER = "what it changed"


def run(lab: Lab, change: Change, seeds: int, until: Until) -> None:
    """In a lab of the other backend and budget. UserError where there is nothing of the change to run."""
    check(change, lab.runner.backend)
    arms = [verify.candidate(lab, e) for e in _pair(lab.ledger.experiments(), change)]
    for i, arm, part in turns("replay", seeds, arms):
        seed = verify.FIRST_SEED + i
        experiment = lab.ledger.experiment(arm.n)
        if seed in experiment.scores(PURPOSE, backend=lab.runner.backend, budget_s=lab.budget_s):
            continue
        if until.asked:
            return
        trial = lab.extra(arm, seed, PURPOSE, rows=lab.ledger.fact("val_rows"), part=part)
        if trial.status == "interrupted" or trial.facts.get("cause") == MACHINE:
            raise UserError(f"{arm.label} could not be trained on seed {seed}: {trial.reason}",
                            "That says nothing of the change; run the same command again.")
        if trial.status != "ok":
            raise UserError(f"{arm.label} does not run on {lab.runner.backend}: {trial.status}: {trial.reason}",
                            f"The end of its log:\n{trial.log_tail}")


def result(experiments: list[Experiment], change: Change, backend: str, budget_s: float) -> Gain | None:
    theirs, ours = (e.scores(PURPOSE, backend=backend, budget_s=budget_s) for e in _pair(experiments, change))
    return gain(OVER, theirs, ours)


def home(experiments: list[Experiment], change: Change) -> Gain | None:
    """By the study's own pairs; the seed that screened it chose it, so it counts only where there is no other."""
    theirs, ours = (e.on_val() for e in _pair(experiments, change))
    screened = {t.seed for t in _pair(experiments, change)[1].screens()}
    fresh = {seed: b for seed, b in ours.items() if seed not in screened}
    return gain(OVER, theirs, fresh) or gain(OVER, theirs, ours)


def check(change: Change, backend: str) -> None:
    if change.n == BASELINE:
        raise UserError("#0 is the baseline: it changed nothing that was scored",
                        "Name a change that was kept after it.")
    if not change.runs_on(backend):
        raise UserError(f"#{change.n} is code of one framework, {', '.join(change.names)}: there is nothing of it on "
                        f"{backend}", ported(change))


def ported(change: Change) -> str:
    """What is to be done about a local change."""
    mine = change.frameworks[0]
    other = next(f for f in FRAMEWORKS if f != mine)
    return (f"To be ported to {other}: write the same into its files (`git show {change.sha[:12]}`), then let "
            "`pytest tests/parity` compare the two.")


def _pair(experiments: list[Experiment], change: Change) -> tuple[Experiment, Experiment]:
    """(what it changed, the change)."""
    return (next(e for e in experiments if e.sha == change.parent and e.n >= BASELINE),
            next(e for e in experiments if e.n == change.n))
