"""Ablation: does every kept change still earn its place beside the others?

    run         the champion without each of its changes, on fresh seeds paired with the champion's
    findings    what the trials say
    prune       drops what no longer earns its place, as an experiment judged like any other

A change that could be left out is tested as a simplification is (decide.allowance): leaving it out must not lose more
than half a seed spread, beyond chance, and looks stop as soon as the outcome is clear. Everything is computed from the
journal, so the same call after a kill goes on where it was.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from autoresearch.paths import CANDIDATE
from autoresearch.records import BASELINE, MACHINE, Experiment, Trial
from autoresearch.research import decide, gate, verify
from autoresearch.research.decide import Fresh
from autoresearch.research.judge import noise_of
from autoresearch.research.lab import Lab
from autoresearch.research.ledger import Ledger
from autoresearch.research.stack import Change, Entangled, Files, stack, without
from autoresearch.research.until import Until
from autoresearch.research.variants import is_variant, record, variant
from autoresearch.research.workspace import Workspace

PURPOSE = RESEARCHER = "ablate"
FIRST_SEED = 2001  # verification's stay untouched: what is dropped here is chosen by these
EARNS, UNSURE, IDLE, OPEN = "earns", "unsure", "idle", ""
REPLACED, ENTANGLED, FAILED = "replaced", "entangled", "failed"
MEANS = {
    EARNS: "earns its place", UNSURE: "not certain", IDLE: "no longer earns its place",
    REPLACED: "nothing of it is left", ENTANGLED: "can't be left out alone", FAILED: "does not run without it",
    OPEN: "not measured yet",
}


@dataclass(frozen=True)
class Finding:
    """What one kept change is worth beside all others: what leaving it out costs, in bits per byte."""

    n: int
    hypothesis: str
    verdict: str  # a key of MEANS
    why: str = ""
    mean_bpb: float | None = None
    low_bpb: float | None = None
    high_bpb: float | None = None
    seeds: int = 0


def changes(workspace: Workspace, experiments: list[Experiment]) -> list[Change]:
    """The champion's, without the baseline's sizing and what an earlier ablation dropped."""
    return [c for c in stack(workspace, experiments) if c.n > BASELINE and c.researcher != RESEARCHER]


def run(lab: Lab, until: Until) -> None:
    """All trials that are missing, one change after the other."""
    champion = lab.ledger.incumbent()
    assert champion is not None
    whole = verify.candidate(lab, champion)
    found = changes(lab.study.workspace, lab.ledger.experiments())
    for i, change in enumerate(found, 1):
        try:
            files = left_out(whole.files, change)
        except Entangled:
            continue
        arm = variant(lab, RESEARCHER, name_of(change), champion, files, change.kind)
        for seed in range(FIRST_SEED, FIRST_SEED + decide.CAREFUL.seeds):
            if _finding(lab.ledger, change, champion).verdict != OPEN:
                break
            for candidate in (whole, arm):
                if seed in lab.ledger.experiment(candidate.n).scores(PURPOSE):
                    continue
                if until.asked:
                    return
                lab.extra(candidate, seed, PURPOSE, rows=lab.ledger.fact("val_rows"),
                          part=f"ablation, change {i} of {len(found)}, seed {seed - FIRST_SEED + 1} of at most "
                               f"{decide.CAREFUL.seeds}")


def findings(ledger: Ledger, workspace: Workspace) -> list[Finding]:
    """Of every kept change of the champion, oldest first."""
    experiments, champion = ledger.experiments(), ledger.incumbent()
    if champion is None:
        return []
    whole = workspace.candidate_files(champion.sha)
    found = []
    for change in changes(workspace, experiments):
        try:
            left_out(whole, change)
            found.append(_finding(ledger, change, champion))
        except Entangled as e:
            verdict = REPLACED if isinstance(e, Gone) else ENTANGLED
            found.append(Finding(change.n, change.hypothesis, verdict, str(e)))
    return found


class Gone(Entangled):
    """Nothing of the change is left to take out."""


def left_out(whole: Files, change: Change) -> Files:
    """Raises Entangled, and Gone."""
    files = without(whole, change)
    if files == whole:
        raise Gone("later changes turned the same things further, or dropped it")
    return files


def name_of(change: Change) -> str:
    return f"Without #{change.n}"


def arm_of(experiments: list[Experiment], change: Change, champion: Experiment) -> Experiment | None:
    """The champion without a change, once it was trained."""
    return next((e for e in experiments if is_variant(e, RESEARCHER, name_of(change), champion.sha)), None)


def prune(lab: Lab, idle: list[int]) -> int | None:
    """The number of an experiment that is the champion without these changes, to be judged; None where they stand in
    each other's way. One that is not decided yet, or was decided before, is found again; one that only the machine
    kept from a verdict is tried anew."""
    champion = lab.ledger.incumbent()
    assert champion is not None
    dropped = [c for c in changes(lab.study.workspace, lab.ledger.experiments()) if c.n in idle]
    named = " and ".join(f"#{c.n}" for c in dropped)
    hypothesis = f"Without {named}, which no longer earn{'s' if len(dropped) == 1 else ''} a place"
    wanted = (RESEARCHER, hypothesis, champion.sha)
    for e in lab.ledger.experiments():
        if e.n > BASELINE and e.sha and e.verdict != "interrupted" \
                and (e.researcher, e.hypothesis, e.parent) == wanted:
            return e.n
    files = lab.study.workspace.candidate_files(champion.sha)
    try:
        for change in reversed(dropped):
            files = without(files, change)
    except Entangled:
        return None
    recipe = gate.check([], files, CANDIDATE, lab.runner.prepared.tokenizers())
    n = max(e.n for e in lab.ledger.experiments()) + 1
    record(lab, n, RESEARCHER, hypothesis, _evidence(lab, idle), champion, files, recipe)
    return n


def fewer(experiment: Experiment) -> str:
    """Why what `prune` made may be kept at an equal score, in words; "" of every other experiment."""
    return "kept changes dropped" if experiment.researcher == RESEARCHER else ""


def _evidence(lab: Lab, idle: list[int]) -> str:
    told = [f"#{f.n} {f.mean_bpb:+.4f} ({f.low_bpb:+.4f} to {f.high_bpb:+.4f})"
            for f in findings(lab.ledger, lab.study.workspace) if f.n in idle and f.seeds]
    return f"What each is worth beside the others, in bits per byte: {', '.join(told)}"


def _finding(ledger: Ledger, change: Change, champion: Experiment) -> Finding:
    """What the journal says of one change; the verdict is OPEN while more seeds are wanted."""
    unknown = Finding(change.n, change.hypothesis, OPEN)
    arm = arm_of(ledger.experiments(), change, champion)
    if arm is None:
        return unknown
    if failed := failure(arm.trials):
        return Finding(change.n, change.hypothesis, FAILED, f"{failed.status}: {failed.reason}")
    ours, theirs = ledger.experiment(champion.n).scores(PURPOSE), arm.scores(PURPOSE)
    gains = [theirs[s] - ours[s] for s in sorted(ours.keys() & theirs.keys())]
    if not gains:
        return unknown
    spread = ledger.fact("spread_bpb")
    most = int(decide.most_seeds(noise_of(ledger, arm.n, change.kind), spread))
    noise = noise_of(ledger, arm.n, change.kind, gains)
    shifted = Fresh.of([decide.allowance(spread, 0) - g for g in gains])
    verdict = int(decide.look(shifted, most, shifted.total / shifted.n, noise, 0))
    _, low, high = (float(x) for x in decide.claim(Fresh.of(gains), most, noise))
    if verdict == decide.KEEP:
        said = IDLE
    elif low > 0:
        said = EARNS
    else:  # that leaving it out is free may be out of reach early, and that it costs something still unproved
        said = OPEN if len(gains) < most else UNSURE
    return Finding(change.n, change.hypothesis, said, "", statistics.fmean(gains), low, high, len(gains))


def failure(trials: Iterable[Trial]) -> Trial | None:
    """Of a seed that was not trained again successfully. What the machine failed is not its own."""
    own = [t for t in trials if t.facts.get("cause") != MACHINE]
    good = {t.seed for t in own if t.status == "ok"}
    return next((t for t in own if t.status in ("crash", "timeout", "invalid") and t.seed not in good), None)
