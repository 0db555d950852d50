"""Verification: champion, baseline and the fixed reference on fresh seeds, and on text that selected nothing.

    verify      run what is missing
    alone       whether there is nothing to compare
    seconds     how long that takes
    summarise   what the trials say: gains with intervals, the screening seed's beside them, and one sentence

Every trial is scored on the whole of val, which selected the champion, and of confirm, which didn't. What the study
shows on val and what fresh seeds give there differ by selection bias, by one seed's luck and by rows, since a study
scores a prefix of them: how much is whose can't be told. The holdout is read once for a pair of champion and baseline,
by the first verification of five seeds or more.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autoresearch.paths import CANDIDATE
from autoresearch.records import BASELINE, REFERENCE, Experiment, last_kept
from autoresearch.research import gate
from autoresearch.research.lab import SCORED_ROWS, Candidate, Lab, turns
from autoresearch.research.paired import Gain, gain, half_width
from autoresearch.research.until import Until
from backends.recipe import Recipe, load

PURPOSE = "verify"
FIRST_SEED = 1001  # never used for deciding
SEEDS = 5
SPLITS = ("val", "confirm")
OF_THE_MACHINE = ("runtime.precision", "runtime.compile")
LOOKS = "holdout_looks"  # fact: [{"champion": its number, "seeds": how many, "at": when}], written before looking


@dataclass(frozen=True)
class Arm:
    label: str
    n: int
    bpb: tuple[float, ...]  # one for each seed, on the confirm split
    means: dict[str, float] = field(default_factory=dict)  # by split, over its seeds

    @property
    def mean(self) -> float:
        return statistics.fmean(self.bpb)


@dataclass(frozen=True)
class Summary:
    arms: list[Arm]
    gains: list[Gain]  # of the champion on confirm, over the reference and the baseline
    sentence: str  # the headline, and what the reference adds to it
    splits: dict[str, Gain] = field(default_factory=dict)  # of the champion over the baseline
    claimed_bpb: float | None = None  # the same gain on val, on the seed that ideas are screened on
    looks: int = 0  # at the holdout, of this study; the last one is this champion's if it has a gain there

    @property
    def optimism_bpb(self) -> float | None:
        """By how much the screening seed's gain exceeds that of fresh seeds: more reasons than selecting."""
        return None if self.claimed_bpb is None or "val" not in self.splits \
            else self.claimed_bpb - self.splits["val"].mean_bpb


def verify(lab: Lab, reference: Path | None, seeds: int, until: Until) -> None:
    """Trials that are missing, seed by seed over all arms so that a stop leaves whole pairs. None where the baseline
    would be compared with nothing."""
    champion = lab.ledger.incumbent()
    if champion is None:
        return
    experiments = {e.n: e for e in lab.ledger.experiments()}
    arms = [candidate(lab, experiments[n]) for n in dict.fromkeys((BASELINE, champion.n))]
    if reference is not None and (arm := _reference(lab, reference)):
        arms.insert(0, arm)
    if len(arms) < 2:
        return
    if champion.n != BASELINE:
        arms[-1] = replace(arms[-1], name=f"champion {arms[-1].label}")
    looked = _look(lab, champion.n, seeds)
    for i, arm, part in turns("verification", seeds, arms):
        splits = SPLITS if arm.n == REFERENCE or i >= looked else (*SPLITS, "holdout")
        if _is_done(lab.ledger.experiment(arm.n), FIRST_SEED + i, splits):
            continue
        if until.over(_trial_s(lab)):
            _say_what_is_missing(lab, arms, seeds, "verification stops here")
            return
        # The champion's first weights stay: a model to hand on, whose own scores selected nothing.
        lab.extra(arm, FIRST_SEED + i, PURPOSE, splits, keep=arm.n == champion.n and i == 0, part=part)
    _say_what_is_missing(lab, arms, seeds, "verification lacks runs")


def alone(lab: Lab, reference: Path | None) -> bool:
    """Whether there is only the baseline, and nothing to compare it with."""
    champion = lab.ledger.incumbent()
    return reference is None and champion is not None and champion.n == BASELINE


def seconds(lab: Lab, reference: Path | None, seeds: int) -> float:
    """How long `verify` takes, for a champion that is not verified yet."""
    experiments = {e.n: e for e in lab.ledger.experiments()}
    if BASELINE not in experiments or not experiments[BASELINE].screens():
        return 0.0
    missing = seeds  # of a champion that is still to be found
    arms = {BASELINE: (*SPLITS, "holdout") if seeds >= SEEDS else SPLITS}
    if reference is not None and not _fixed(lab, reference)[1]:
        arms[REFERENCE] = SPLITS
    for n, splits in arms.items():
        missing += sum(n not in experiments or not _is_done(experiments[n], FIRST_SEED + i, splits)
                       for i in range(seeds))
    return missing * _trial_s(lab)


def summarise(experiments: list[Experiment], looks: Sequence[dict[str, Any]] = ()) -> Summary | None:
    """None until the champion and the baseline, or the reference, share a verified seed. `looks`: the fact LOOKS."""
    champion = last_kept(experiments)
    if champion is None or not _scores(champion):
        return None
    labels = {REFERENCE: "the reference", BASELINE: "the baseline"}
    others = [e for e in experiments if e.n in labels and e.n != champion.n and _scores(e)]
    gains = [g for e in others if (g := gain(labels[e.n], _scores(e), _scores(champion)))]
    if not gains:
        return None
    arms = [_arm(labels.get(e.n, f"#{e.n}, the champion"), e) for e in [*others, champion]]
    base = next((e for e in others if e.n == BASELINE), None)
    splits = {split: g for split in (*SPLITS, "holdout")
              if base and (g := gain(labels[BASELINE], _scores(base, split), _scores(champion, split)))}
    told = " ".join(sentence(g) for g in sorted(gains, key=lambda g: g.over != labels[BASELINE]))
    return Summary(arms, gains, told, splits, _claimed(base, champion) if base else None, len(looks))


def candidate(lab: Lab, experiment: Experiment) -> Candidate:
    """An experiment's, to be trained again."""
    workspace = lab.study.workspace
    files = workspace.candidate_files(experiment.sha)
    tokenizers = lab.runner.prepared.tokenizers()
    return Candidate(experiment.n, files, gate.check([], files, CANDIDATE, tokenizers))


def sentence(g: Gain) -> str:
    amount = f"{abs(g.mean_bpb):.4f} bits per byte ({abs(g.percent):.1f}%)"
    where = f"on the confirm split, {g.seeds} fresh seed{'s' if g.seeds > 1 else ''}"
    side = "below" if g.mean_bpb > 0 else "above"
    if g.seeds < 2:
        return f"Measured {amount} {side} {g.over} {where}: too few seeds for an interval."
    if g.is_real:
        return f"The champion is {amount} below {g.over} {where}, 95% interval {g.low_bpb:.4f} to {g.high_bpb:.4f}."
    if g.is_loss:
        return f"The champion is {amount} above {g.over} {where}: it is worse."
    return (f"No certain difference from {g.over} {where}: {amount} {side} was measured, 95% "
            f"interval from {g.high_bpb:.4f} below to {-g.low_bpb:.4f} above.")


def interval(bpb: list[float]) -> str:
    """Of a mean over seeds, in words that follow it."""
    half = half_width(bpb)
    return "" if math.isinf(half) else f", 95% interval {statistics.fmean(bpb) - half:.4f} to " \
        f"{statistics.fmean(bpb) + half:.4f}"


def optimism(summary: Summary) -> str:
    """What the study shows for its champion against what fresh seeds give on the same split, in words; or ""."""
    if summary.claimed_bpb is None or "val" not in summary.splits:
        return ""
    return (f"On val the screening seed showed a gain of {summary.claimed_bpb:.4f} over the baseline, fresh seeds "
            f"{summary.splits['val'].mean_bpb:.4f}: the difference is selection bias, one seed's luck and other rows.")


def holdout(summary: Summary) -> str:
    """What the one look at the holdout says, and how many there were; or ""."""
    g = summary.splits.get("holdout")
    if g is None:
        return ""
    interval = f", 95% interval {g.low_bpb:.4f} to {g.high_bpb:.4f}" if g.seeds > 1 else ""
    told = f"On the holdout, read once for this pair: {g.mean_bpb:+.4f} bits per byte{interval}, {g.seeds} seeds."
    return told if summary.looks < 2 else \
        f"{told} It is look {summary.looks} of this study at the holdout: each one is worth less than the one before."


def _fixed(lab: Lab, path: Path) -> tuple[Recipe, str]:
    """The reference recipe, in the precision that was found faithful here and compiled where the baseline is: these are
    the machine's, not a recipe's. And why it can't be run for this study, or nothing."""
    baseline = lab.ledger.experiment(BASELINE).recipe
    recipe = load(path).replace({key: baseline[key] for key in OF_THE_MACHINE})
    if recipe.data.tokenizer not in lab.runner.prepared.tokenizers():
        return recipe, (f"no comparison with the reference recipe: its tokenizer {recipe.data.tokenizer} is not "
                        "prepared for this text")
    known = _known_reference(lab)
    if known and Recipe().replace(known.recipe) != recipe:  # a mean over trials of two recipes is nobody's
        return recipe, (f"no new trials of the reference recipe: {path.name} has changed since this study was first "
                        "compared with it")
    return recipe, ""


def _known_reference(lab: Lab) -> Experiment | None:
    return next((e for e in lab.ledger.experiments() if e.n == REFERENCE), None)


def _reference(lab: Lab, path: Path) -> Candidate | None:
    """The fixed recipe, run by the code that the study began with. None where it can't be run."""
    recipe, why = _fixed(lab, path)
    if why:
        lab.view.note(why)
        return None
    base = lab.ledger.fact("base")
    if _known_reference(lab) is None:
        lab.ledger.propose(n=REFERENCE, parent=base, researcher="reference", hypothesis="The fixed reference recipe",
                           evidence="", changes={}, recipe=recipe.flat())
        lab.ledger.commit(REFERENCE, base)
        lab.ledger.finish(REFERENCE)
    return Candidate(REFERENCE, lab.study.workspace.candidate_files(base), recipe)


def _look(lab: Lab, champion: int, seeds: int) -> int:
    """Of how many seeds this pair's one look at the holdout consists. Where it had none, this is it, if it is not
    wasted on too few."""
    looks = lab.ledger.fact(LOOKS, [])
    for look in looks:
        if look["champion"] == champion:
            if look["seeds"] < seeds:
                lab.view.note(f"the holdout is not read again for this champion: it was on {look['at']}, with "
                              f"{look['seeds']} seeds")
            return int(look["seeds"])
    if champion == BASELINE or seeds < SEEDS:
        return 0
    now = datetime.now(UTC).isoformat(timespec="seconds")
    lab.ledger.set_fact(LOOKS, [*looks, {"champion": champion, "seeds": seeds, "at": now}])
    return seeds


def _say_what_is_missing(lab: Lab, arms: Sequence[Candidate], seeds: int, what: str) -> None:
    """A seed counts where every model has a score on it. One that failed there is named, with why; or nothing."""
    experiments = {arm.label: lab.ledger.experiment(arm.n) for arm in arms}
    wanted = range(FIRST_SEED, FIRST_SEED + seeds)
    whole = sum(all(_is_done(e, seed, SPLITS) for e in experiments.values()) for seed in wanted)
    if whole == seeds:
        return
    failed = {(label, t.seed): t.reason for label, e in experiments.items() for t in e.trials
              if t.purpose == PURPOSE and t.status not in ("ok", "running") and t.seed in wanted
              and not _is_done(e, t.seed, SPLITS)}
    why = "".join(f"; {label} has no score on seed {seed}: {reason}" for (label, seed), reason in failed.items())
    lab.view.note(f"{what}: {whole} of {seeds} seeds are whole{why}; `ar verify` goes on with the rest")


def _trial_s(lab: Lab) -> float:
    """Of one verified trial. Before there is one, from the baseline's: what these took to score, for all that is to be
    scored; starting the scorer is counted with every row, so that this is rather too long."""
    verified = [t.whole_s for e in lab.ledger.experiments() for t in e.trials if t.purpose == PURPOSE and t.scores]
    if verified:
        return 1.1 * max(verified)
    baseline = lab.ledger.experiment(BASELINE).screens()
    splits = lab.runner.prepared.manifest.splits
    whole = sum(splits[name].rows for name in (*SPLITS, "holdout"))
    return 1.1 * max((t.total_s + whole / t.facts.get(SCORED_ROWS, whole) * t.scored_s for t in baseline), default=0.0)


def _is_done(experiment: Experiment, seed: int, splits: tuple[str, ...]) -> bool:
    return all(seed in _scores(experiment, split) for split in splits)


def _scores(experiment: Experiment, split: str = "confirm") -> dict[int, float]:
    return experiment.scores(PURPOSE, split)


def _arm(label: str, experiment: Experiment) -> Arm:
    found = {split: _scores(experiment, split).values() for split in (*SPLITS, "holdout")}
    return Arm(label, experiment.n, tuple(found["confirm"]),
               {split: statistics.fmean(bpb) for split, bpb in found.items() if bpb})


def _claimed(baseline: Experiment, champion: Experiment) -> float | None:
    """On the first seed that both were screened on, as `ar status` shows it."""
    theirs, ours = ({t.seed: b for t in e.screens() if (b := t.bpb()) is not None} for e in (baseline, champion))
    return next((theirs[seed] - ours[seed] for seed in theirs if seed in ours), None)
