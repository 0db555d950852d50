"""The playbook: a keyless researcher that reasons from the ledger the way an experienced person would.

    Line      where the search along one move stands: on while it helps, half a step back when it
              overshoots, the other way when it fails, never again into a crash
    Playbook  scores every idea (bundles, moves, then combined near-misses), takes the best new one, else
              widens; on a plateau it also combines first, or branches from an earlier incumbent

It keeps no state: the same ledger gives the same proposal, so a study can stop and go on anywhere.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations, islice
from typing import Any

from autoresearch.records import BASELINE
from autoresearch.research.researchers import bundles
from autoresearch.research.researchers.base import Context, Proposal, Researcher
from autoresearch.research.researchers.moves import DOWN, MOVES, UP, Move, schema_moves
from autoresearch.research.researchers.reading import Attempt, attempts, cite, signals, stale
from autoresearch.research.researchers.runnable import FOLLOWERS, in_words, seen, settle

KEPT_BOOST, PER_ROUND = 1.25, 0.3  # what a kept step adds to a line's score, what each halving of its stride leaves
FORGET_AFTER = 3  # keeps since, after which a failed direction is worth another look
PLATEAU = 12  # experiments in a row without a keep
BRANCHES = 20  # tries at a branch that can run and has not


@dataclass
class Line:
    """A pattern search along one move, replayed from its attempts."""

    sign: int
    stride: float
    score: float
    failed: set[int] = field(default_factory=set)
    blocked: set[int] = field(default_factory=set)  # crashed, ran out of memory or overran: never again
    rounds: int = 0  # how often both directions failed and the stride was halved
    last: Attempt | None = None

    def take(self, attempt: Attempt, sign: int, grow: float) -> None:
        """Learn from one attempt."""
        if attempt.experiment.is_spoilt:
            return
        if self.last and attempt.keeps - self.last.keeps >= FORGET_AFTER:
            self.failed.clear()
        self.last = attempt
        if attempt.experiment.verdict == "keep":
            self.sign, self.failed, self.stride = sign, {-sign}, self.stride * grow
        elif attempt.experiment.verdict in ("crash", "timeout", "invalid") and not attempt.diverged:
            self.blocked.add(sign)
        else:
            self.failed.add(sign)
        if {UP, DOWN} <= self.failed | self.blocked:
            self.failed, self.stride, self.rounds = set(), self.stride / 2, self.rounds + 1


@dataclass(frozen=True)
class Idea:
    score: float
    wishes: dict[str, Any]
    label: str
    why: str
    brief: str  # the results it answers, in a word or two for the hypothesis
    cites: str  # and in full, for the evidence
    hint: str = ""


class Playbook(Researcher):
    name = "playbook"

    def propose(self, context: Context) -> Proposal:
        now, past = signals(context), attempts(context)
        flat, ran = context.recipe.flat(), seen(context)
        moves = (*MOVES, *schema_moves())
        close = list(near_misses(context, past))
        scripted = [*bundled_ideas(context, past), *scripted_ideas(context, moves, now, past), *close]
        # The sort is stable: the table's order breaks ties.
        ordered = sorted(scripted, key=lambda i: -i.score)
        for idea in chain(off_the_plateau(context, moves, past, close), ordered, widen(context, moves)):
            if recipe := settle(context, flat | idea.wishes, ran):
                return word(idea, flat, recipe.flat())
        raise AssertionError("widen() never ends")


def scripted_ideas(context: Context, moves: Sequence[Move], now: dict[str, str], past: list[Attempt]) -> Iterator[Idea]:
    """The next step of every line that still has one, and twice as far in case that was run already."""
    owned, flat = assign(moves, past), context.recipe.flat()
    keeps = sum(a.experiment.verdict == "keep" for a in past)
    for move in (m for m in moves if m.when(context)):
        fired = {name: move.signals[name] for name in now if name in move.signals}
        line = Line(move.first, move.stride, move.prior * math.prod(factor for _, factor in fired.values()))
        line.sign = max(fired.values(), key=lambda v: v[1])[0] if fired else move.first
        for a in owned.get(move.label, []):
            if sign := move.direction(context, a.parent.recipe, a.experiment.recipe):
                line.take(a, sign, move.grow)
        if line.last and keeps - line.last.keeps >= FORGET_AFTER:
            line.failed.clear()
        if line.stride < move.stride * move.finest:
            continue
        kept = line.last is not None and line.last.experiment.verdict == "keep"
        line.score *= (KEPT_BOOST if kept else 1.0) * PER_ROUND**line.rounds
        preferred = line.sign
        for sign in (preferred, -preferred):
            if sign in line.failed | line.blocked:
                continue
            for stride in (line.stride, 2 * line.stride):
                if wishes := move.turn(context, flat, sign, stride):
                    score = line.score * (1.0 if sign == preferred else move.back) / move.leap(context, flat, wishes)
                    hint = "; ".join(now[name] for name, (way, _) in fired.items() if way == sign)
                    yield Idea(score * line.stride / stride, wishes, move.label, move.up if sign == UP else move.down,
                               *(line.last.cite() if line.last else cite(context.incumbent)), hint)


def bundled_ideas(context: Context, past: Sequence[Attempt]) -> Iterator[Idea]:
    """What a recipe that began elsewhere lacks of the preset, each once, and again when enough else has changed."""
    start = next(e.recipe for e in context.experiments if e.n == BASELINE)
    keeps = sum(a.experiment.verdict == "keep" for a in past)
    lately = [a for a in past if keeps - a.keeps < FORGET_AFTER]
    for bundle, wished in bundles.wishes(context.recipe.flat(), start):
        if not bundles.was_tried(wished, lately):
            yield Idea(bundle.prior, wished, bundle.label, bundle.why, *cite(context.incumbent))


def near_misses(context: Context, past: list[Attempt], most: int = 12) -> Iterator[Idea]:
    """Pairs of changes that each missed by less than the noise: together they may clear it."""
    close = sorted((a for a in past if a.experiment.verdict == "discard" and a.diff
                    and a.delta is not None and a.delta <= context.spread_bpb), key=lambda a: (a.delta, a.experiment.n))
    for a, b in combinations(close[:most], 2):
        if not a.diff.keys() & b.diff.keys():
            promise = 3.0 if a.delta + b.delta < 0 else 1.2  # type: ignore[operator]
            brief, cites = (f"{x} and {y}" for x, y in zip(a.cite(), b.cite(), strict=True))
            yield Idea(promise, a.diff | b.diff, "combine", "near-misses may add up", brief, cites,
                       f"both within the seed noise of {context.spread_bpb:.4f}")


def off_the_plateau(context: Context, moves: Sequence[Move], past: list[Attempt],
                    close: Sequence[Idea]) -> Iterator[Idea]:
    """Where nothing was kept for long: near-misses combined, then a branch, then the script again, in turn."""
    tried = stale(past)
    said = f"nothing kept in {tried} experiments"
    if tried >= PLATEAU and tried % 3 == 0:
        yield from (replace(idea, hint=f"{said}; {idea.hint}") for idea in close)
    if tried >= PLATEAU and tried % 3 == 1:
        yield from (replace(idea, hint=said) for idea in islice(branches(context, moves, past), BRANCHES))


def branches(context: Context, moves: Sequence[Move], past: list[Attempt]) -> Iterator[Idea]:
    """Another way on from the recipe of one of the last few incumbents before this one, endlessly. What has changed
    of the code stays: the branch is one of numbers."""
    chain_of_keeps = [a.parent for a in past if a.experiment.verdict == "keep"]
    rng, usable = random.Random(len(context.experiments)), [m for m in moves if m.when(context)]
    flat = context.recipe.flat()
    while chain_of_keeps:
        start = rng.choice(chain_of_keeps[-3:])
        move, sign = rng.choice(usable), rng.choice((UP, DOWN))
        before = flat | start.recipe
        if turned := move.turn(context, before, sign, move.stride):
            wishes = {k: v for k, v in (before | turned).items() if flat.get(k) != v}
            why = move.up if sign == UP else move.down
            yield Idea(0.0, wishes, "branch", f"on from the recipe of #{start.n}: {why}", *cite(start))


def widen(context: Context, moves: Sequence[Move]) -> Iterator[Idea]:
    """Endless plausible perturbations of one to three lines at once, seeded by the length of the ledger."""
    rng = random.Random(len(context.experiments))
    usable, flat = [m for m in moves if m.when(context)], context.recipe.flat()
    while True:
        chosen = rng.sample(usable, rng.choice((1, 2, 2, 3)))
        wishes: dict[str, Any] = {}
        for move in chosen:
            wishes = move.turn(context, flat, rng.choice((UP, DOWN)), move.stride * rng.uniform(0.1, 1.5)) | wishes
        yield Idea(0.0, wishes, "widen", "looking around the incumbent", *cite(context.incumbent),
                   f"the scripted moves are spent after {len(context.experiments)} experiments")


def assign(moves: Sequence[Move], past: list[Attempt]) -> dict[str, list[Attempt]]:
    """Which move each attempt was: the narrowest that covers all it changed. Others belong to none."""
    owned: dict[str, list[Attempt]] = {}
    for a in past:
        changed = a.diff.keys() - FOLLOWERS
        fitting = [m for m in moves if m.keys[0] in changed and changed <= set(m.keys)]
        if fitting:
            owned.setdefault(min(fitting, key=lambda m: len(m.keys)).label, []).append(a)
    return owned


def word(idea: Idea, old: dict[str, Any], new: dict[str, Any]) -> Proposal:
    changes = {k: v for k, v in new.items() if old.get(k) != v}
    what = in_words(old, changes)
    title = what if len(changes.keys() - FOLLOWERS) < 2 else f"{idea.label}: {what}"
    evidence = f"{idea.cites}; {idea.hint}" if idea.hint else idea.cites
    return Proposal(f"{title}, {idea.why} (after {idea.brief})", evidence, changes)
