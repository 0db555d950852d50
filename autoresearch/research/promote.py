"""Promotion: baseline, champion, and the champion without each of its changes, at a larger size.

    plan     what will be trained, and for how long
    run      all trials that are missing
    found    each change's gain small and large, and whether gains add up

Sizes come from one dial (research/dial.py) turned by the same factor for every model, so that a change of depth or
batch stays that change. Trials are journalled; the same call goes on where it was.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

from autoresearch.errors import UserError
from autoresearch.records import BASELINE, Experiment
from autoresearch.research import ablate, dial, gate, horizon, verify
from autoresearch.research.horizon import Race, Target
from autoresearch.research.lab import Candidate, Lab, turns
from autoresearch.research.paired import Gain, gain
from autoresearch.research.stack import Change, Entangled, Files
from autoresearch.research.until import Until
from autoresearch.research.variants import variant
from backends.recipe import Recipe, RecipeError, edit, parse
from backends.spec import GPTSpec

PURPOSE = RESEARCHER = "promote"
SEEDS = 3
Draft = tuple[str, Experiment, Files, str]  # name, whom it changes, its files, the kind of change
TRANSFERS, HARMS, UNSHOWN = "transfers", "harms", "not shown"


@dataclass(frozen=True)
class Size:
    """One turn of the dial."""

    depth: int  # of the champion
    factor: float
    recipe: Recipe  # the champion's
    params: int
    budget_s: float


@dataclass(frozen=True)
class Row:
    """One change beside all others: what leaving it out costs, small and large."""

    n: int
    hypothesis: str
    small: Gain | None  # by `ar ablate`
    large: Gain | None

    @property
    def verdict(self) -> str:
        if self.large is None:
            return ""
        return TRANSFERS if self.large.is_real else HARMS if self.large.is_loss else UNSHOWN


@dataclass(frozen=True)
class Promotion:
    size: Size
    rows: list[Row]
    small: Gain | None  # of the champion over the baseline
    large: Gain | None
    target: Target | None  # how long the champion needs for the baseline's score there

    def additivity(self) -> tuple[float | None, float | None]:
        """Sum of the changes' gains over the stack's, small and large; 1 where they add up. None where one lacks."""
        return (_share([row.small for row in self.rows], self.small),
                _share([row.large for row in self.rows], self.large))


def plan(lab: Lab, depth: int, budget_s: float | None) -> Size:
    """`budget_s`: None for as many tokens for each weight as at the study's size. UserError where it does not fit."""
    champion = lab.ledger.incumbent()
    assert champion is not None
    small = Recipe().replace(champion.recipe)
    factor, vocab = depth / small.model.depth, _vocab(lab, small)
    with _possible(depth):
        large = _sized(lab, small, factor)
    return Size(depth, factor, large, GPTSpec.of(large, vocab).params(),
                budget_s or dial.seconds(small, large, vocab, lab.budget_s))


def drafts(lab: Lab, size: Size, leave_out: bool) -> list[Draft]:
    """The baseline, the champion, and where asked for the champion without each change that can be left out. Writes
    nothing."""
    champion, baseline = lab.ledger.incumbent(), lab.ledger.experiment(BASELINE)
    assert champion is not None
    workspace = lab.study.workspace
    whole = workspace.candidate_files(champion.sha)
    with _possible(size.depth):
        start = workspace.candidate_files(baseline.sha)
        found = [_draft(lab, size, _name(None, size, "The baseline"), baseline, start),
                 _draft(lab, size, _name(None, size, "The champion"), champion, whole)]
    for change in ablate.changes(workspace, lab.ledger.experiments()) if leave_out else []:
        try:
            found.append(_draft(lab, size, _name(change, size), champion, ablate.left_out(whole, change), change.kind))
        except (Entangled, RecipeError):
            continue
    return found


def arms(lab: Lab, planned: list[Draft]) -> list[Candidate]:
    """What is to be trained, journalled and committed."""
    return [variant(lab, RESEARCHER, *draft) for draft in planned]


def run(lab: Lab, size: Size, candidates: list[Candidate], seeds: int, until: Until) -> None:
    """In a lab with the size's budget."""
    for i, candidate, part in turns(f"promotion to depth {size.depth}", seeds, candidates):
        seed = verify.FIRST_SEED + i
        trials = [t for t in lab.ledger.experiment(candidate.n).trials if t.budget_s == size.budget_s]
        if seed in _scores(lab, candidate, size) or ablate.failure(trials):
            continue
        if until.asked:
            return
        lab.extra(candidate, seed, PURPOSE, rows=lab.ledger.fact("val_rows"), part=part)


def race(lab: Lab, candidates: list[Candidate], size: Size) -> Race:
    """The champion for the baseline's score, both at that size."""
    goal, whole = (_scores(lab, c, size) for c in candidates[:2])
    return Race(candidates[1], goal, whole, PURPOSE, "val", lab.ledger.fact("val_rows"))


def found(lab: Lab, size: Size, candidates: list[Candidate]) -> Promotion:
    experiments, champion = lab.ledger.experiments(), lab.ledger.incumbent()
    assert champion is not None
    large = {c.name: _scores(lab, c, size) for c in candidates}
    base, stack = (large[c.name] for c in candidates[:2])
    rows = []
    for change in ablate.changes(lab.study.workspace, experiments):
        arm = ablate.arm_of(experiments, change, champion)
        small = gain("the rest", arm.scores(ablate.PURPOSE), champion.scores(ablate.PURPOSE)) if arm else None
        if not _is_gone(lab, champion, change):
            rows.append(Row(change.n, change.hypothesis, small,
                            gain("the rest", large.get(_name(change, size), {}), stack)))
    verified = gain("the baseline", lab.ledger.experiment(BASELINE).scores(verify.PURPOSE),
                    champion.scores(verify.PURPOSE))
    reached = horizon.result(lab.ledger.experiment(candidates[1].n), race(lab, candidates, size), size.budget_s)
    return Promotion(size, rows, verified, gain("the baseline", base, stack), reached)


def _scores(lab: Lab, candidate: Candidate, size: Size) -> dict[int, float]:
    return lab.ledger.experiment(candidate.n).scores(PURPOSE, budget_s=size.budget_s)


def _is_gone(lab: Lab, champion: Experiment, change: Change) -> bool:
    """Nothing of it is left in the champion, so it has no gain to add up."""
    try:
        ablate.left_out(lab.study.workspace.candidate_files(champion.sha), change)
    except ablate.Gone:
        return True
    except Entangled:
        pass
    return False


def _draft(lab: Lab, size: Size, name: str, parent: Experiment, files: Files, kind: str = "") -> Draft:
    text = files[gate.RECIPE].decode()
    recipe = parse(text)
    large = _sized(lab, recipe, size.factor).flat()
    before = recipe.flat()
    changed = edit(text, {k: v for k, v in large.items() if v != before.get(k)})
    return name, parent, files | {gate.RECIPE: changed.encode()}, kind


@contextlib.contextmanager
def _possible(depth: int) -> Iterator[None]:
    """The baseline may have another depth than the champion, so it can be beyond its range where that one is not."""
    try:
        yield
    except RecipeError as e:
        raise UserError(f"at depth {depth} of the champion a recipe can't be run: {e}", "Choose a smaller --depth.") \
            from None


def _sized(lab: Lab, recipe: Recipe, factor: float) -> Recipe:
    vocab = _vocab(lab, recipe)
    memory = (lab.ledger.fact("device") or {}).get("memory_bytes")
    return dial.fitted(dial.scaled(recipe, factor, vocab), vocab, memory)


def _vocab(lab: Lab, recipe: Recipe) -> int:
    return int(lab.runner.prepared.tokenizer(recipe.data.tokenizer).vocab)


def _name(change: Change | None, size: Size, whole: str = "") -> str:
    return f"{ablate.name_of(change) if change else whole} at depth {size.depth}"


def _share(parts: list[Gain | None], whole: Gain | None) -> float | None:
    known = [g.mean_bpb for g in parts if g is not None]
    if whole is None or whole.mean_bpb <= 0 or not known or len(known) < len(parts):
        return None
    return math.fsum(known) / whole.mean_bpb
