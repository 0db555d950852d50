"""Verification: champion, baseline and the fixed reference on fresh seeds and text that selected nothing.

    verify      run what is missing
    summarise   what the trials say: gains with intervals, and one sentence
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from autoresearch.paths import CANDIDATE
from autoresearch.records import BASELINE, REFERENCE, Experiment
from autoresearch.research import gate
from autoresearch.research.lab import Candidate, Lab
from autoresearch.research.until import Until
from backends.recipe import load

FIRST_SEED = 1001  # never used for screening
# Two-sided 95% points of Student's t by degrees of freedom; beyond the table the normal's.
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True)
class Arm:
    label: str
    n: int
    bpb: tuple[float, ...]  # one for each seed, on the confirm split

    @property
    def mean(self) -> float:
        return statistics.fmean(self.bpb)


@dataclass(frozen=True)
class Gain:
    """Of the champion over another arm, in bits per byte; the interval is of paired differences."""

    over: str
    mean_bpb: float
    low_bpb: float
    high_bpb: float
    percent: float
    seeds: int


@dataclass(frozen=True)
class Summary:
    arms: list[Arm]
    gains: list[Gain]
    sentence: str


def verify(lab: Lab, reference: Path | None, seeds: int, until: Until) -> None:
    """Trials that are missing, seed by seed over all arms so that a stop leaves whole pairs."""
    experiments = {e.n: e for e in lab.ledger.experiments()}
    champion = lab.ledger.incumbent()
    if champion is None:
        return
    arms = [_candidate(lab, experiments[n]) for n in dict.fromkeys((BASELINE, champion.n))]
    if reference is not None and (arm := _reference(lab, reference)):
        arms.insert(0, arm)
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for arm in arms:
            done = [t for t in lab.ledger.experiment(arm.n).trials if t.purpose == "verify" and t.seed == seed]
            if not until.asked and not any(t.status == "ok" for t in done):
                trial = lab.verify(arm, seed)
                (lab.folder(trial.id) / "recorded.npz").unlink(missing_ok=True)
                if arm.n != champion.n:
                    lab.discard_files(trial)


def summarise(experiments: list[Experiment]) -> Summary | None:
    """None until the champion and the baseline, or the reference, share a verified seed."""
    kept = [e for e in experiments if e.verdict == "keep"]
    if not kept:
        return None
    champion = max((e for e in kept if _scores(e)), key=lambda e: e.n, default=None)
    if champion is None or champion.n != max(e.n for e in kept):
        return None
    labels = {REFERENCE: "the reference", BASELINE: "the baseline"}
    others = [e for e in experiments if e.n in labels and e.n != champion.n and _scores(e)]
    gains = [g for e in others if (g := _gain(labels[e.n], _scores(e), _scores(champion)))]
    arms = [Arm(labels.get(e.n, f"#{e.n}, the champion"), e.n, tuple(_scores(e).values())) for e in [*others, champion]]
    if not gains:
        return None
    return Summary(arms, gains, " ".join(_sentence(g) for g in gains))


def _candidate(lab: Lab, experiment: Experiment) -> Candidate:
    workspace = lab.study.workspace
    files = workspace.candidate_files(experiment.sha)
    tokenizers = lab.runner.prepared.tokenizers()
    return Candidate(experiment.n, files, gate.check([], files, CANDIDATE, tokenizers))


def _reference(lab: Lab, path: Path) -> Candidate | None:
    """The fixed recipe, run by the code that the study began with. None where its tokenizer isn't prepared."""
    recipe = load(path)
    if recipe.data.tokenizer not in lab.runner.prepared.tokenizers():
        lab.view.note(f"no comparison with the reference recipe: its tokenizer {recipe.data.tokenizer} is not prepared "
                      "for this text")
        return None
    base = lab.ledger.fact("base")
    if all(e.n != REFERENCE for e in lab.ledger.experiments()):
        lab.ledger.propose(n=REFERENCE, parent=base, researcher="reference", hypothesis="The fixed reference recipe",
                           evidence="", changes={}, recipe=recipe.flat())
        lab.ledger.commit(REFERENCE, base)
        lab.ledger.finish(REFERENCE)
    return Candidate(REFERENCE, lab.study.workspace.candidate_files(base), recipe)


def _scores(experiment: Experiment) -> dict[int, float]:
    """{seed: bits per byte on confirm}."""
    return {t.seed: b for t in experiment.trials if t.purpose == "verify" and (b := t.bpb("confirm")) is not None}


def _gain(over: str, theirs: dict[int, float], champions: dict[int, float]) -> Gain | None:
    seeds = sorted(theirs.keys() & champions.keys())
    if not seeds:
        return None
    differences = [theirs[s] - champions[s] for s in seeds]
    mean = statistics.fmean(differences)
    half = math.inf
    if len(seeds) > 1:
        half = T_95.get(len(seeds) - 1, 1.96) * statistics.stdev(differences) / math.sqrt(len(seeds))
    percent = 100 * mean / statistics.fmean(theirs[s] for s in seeds)
    return Gain(over, mean, mean - half, mean + half, percent, len(seeds))


def _sentence(g: Gain) -> str:
    amount = f"{abs(g.mean_bpb):.4f} bits per byte ({abs(g.percent):.1f}%)"
    where = f"on the confirm split, {g.seeds} fresh seed{'s' if g.seeds > 1 else ''}"
    if g.seeds < 2:
        side = "below" if g.mean_bpb > 0 else "above"
        return f"Measured {amount} {side} {g.over} {where}: too few seeds for an interval."
    if g.low_bpb > 0:
        return f"The champion is {amount} below {g.over} {where}, 95% interval {g.low_bpb:.4f} to {g.high_bpb:.4f}."
    if g.high_bpb < 0:
        return f"The champion is {amount} above {g.over} {where}: it is worse."
    return (f"No certain difference from {g.over} {where}: {g.mean_bpb:+.4f} bits per byte, "
            f"95% interval {g.low_bpb:+.4f} to {g.high_bpb:+.4f}.")
