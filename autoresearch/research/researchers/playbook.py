"""The playbook: a keyless researcher that reasons from the ledger the way an experienced person would.

    Line      where the search along one move stands: on while it helps, half a step back when it
              overshoots, the other way when it fails, never again into a crash
    settle    the nearest runnable recipe to a wished-for change
    Playbook  scores every idea (moves, then combined near-misses), takes the best new one, else widens

It keeps no state: the same ledger gives the same proposal, so a study can stop and go on anywhere.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import chain, combinations
from typing import Any

from autoresearch.research.researchers.base import Context, Proposal, Researcher
from autoresearch.research.researchers.moves import DOWN, MOVES, UP, Move, schema_moves
from autoresearch.research.researchers.reading import Attempt, attempts, cite, signals
from backends.recipe import Recipe, RecipeError

FOLLOWERS = {"batch.micro_rows", "model.value_gate_channels", "model.kv_heads"}  # keys that settle() adapts
KEPT_BOOST, PER_ROUND = 1.25, 0.3  # what a kept step adds to a line's score, what each halving of its stride leaves
FORGET_AFTER = 3  # keeps since, after which a failed direction is worth another look


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
        """Learn from one attempt. Interrupted ones say nothing."""
        if attempt.experiment.verdict == "interrupted":
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
        flat = context.recipe.flat()
        seen = {fingerprint(e.recipe) for e in context.experiments} | {fingerprint(flat)}
        moves = (*MOVES, *schema_moves())
        scripted = [*scripted_ideas(context, moves, now, past), *near_misses(context, past)]
        # The sort is stable: the table's order breaks ties.
        for idea in chain(sorted(scripted, key=lambda i: -i.score), widen(context, moves)):
            if recipe := settle(context, flat | idea.wishes, seen):
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


def near_misses(context: Context, past: list[Attempt], most: int = 12) -> Iterator[Idea]:
    """Pairs of changes that each missed by less than the noise: together they may clear it."""
    close = sorted((a for a in past if a.experiment.verdict == "discard" and a.diff
                    and a.gain is not None and a.gain <= context.spread_bpb), key=lambda a: (a.gain, a.experiment.n))
    for a, b in combinations(close[:most], 2):
        if not a.diff.keys() & b.diff.keys():
            promise = 3.0 if a.gain + b.gain < 0 else 1.2  # type: ignore[operator]
            brief, cites = (f"{x} and {y}" for x, y in zip(a.cite(), b.cite(), strict=True))
            yield Idea(promise, a.diff | b.diff, "combine", "near-misses may add up", brief, cites,
                       f"both within the seed noise of {context.spread_bpb:.4f}")


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


def settle(context: Context, wish: dict[str, Any], seen: Set[frozenset[Any]] = frozenset()) -> Recipe | None:
    """The nearest runnable recipe to a flat one: keys that depend on others follow. None if it can't run or is seen."""
    f = dict(wish)
    heads = max(1, round(f["model.width"] / f["model.head_dim"]))
    f["model.width"] = heads * f["model.head_dim"]
    f["model.value_gate_channels"] = min(f["model.value_gate_channels"], f["model.width"])
    f["model.kv_heads"] = 0 if f["model.kv_heads"] and heads % f["model.kv_heads"] else f["model.kv_heads"]
    rows = max(1, round(f["batch.tokens_per_step"] / f["model.seq_len"]))
    f["batch.tokens_per_step"] = rows * f["model.seq_len"]
    f["batch.micro_rows"] = math.gcd(rows, f["batch.micro_rows"]) % rows if f["batch.micro_rows"] < rows else 0
    # The one of the two that was just changed stays, the other gives way.
    changed = f["schedule.warmup_frac"] != context.recipe.schedule.warmup_frac
    yields, stays = [f"schedule.{k}_frac" for k in (("warmdown", "warmup") if changed else ("warmup", "warmdown"))]
    f[yields] = min(f[yields], round(1 - f[stays], 3))
    while fingerprint(f) not in seen:
        try:
            recipe = context.recipe.replace(f)
        except RecipeError:
            return None
        # A memory model that denies what has just run is wrong about this machine; don't let it stop the night.
        if context.fits(recipe) or not context.fits(context.recipe):
            return recipe
        micro = (f["batch.micro_rows"] or rows) // 2  # accumulate gradients over smaller parts of the step
        if micro < 1:
            return None
        f["batch.micro_rows"] = math.gcd(rows, micro)
    return None


def fingerprint(flat: dict[str, Any]) -> frozenset[Any]:
    """Equal for the recipes whose digests are equal, without building a thousand of them."""
    return frozenset((DEFAULTS | flat).items())


def word(idea: Idea, old: dict[str, Any], new: dict[str, Any]) -> Proposal:
    changes = {k: v for k, v in new.items() if old.get(k) != v}
    shown = [k for k in changes if k not in FOLLOWERS] or list(changes)
    what = ", ".join(f"{k.partition('.')[2]} {old[k]} -> {changes[k]}" for k in shown[:2])
    what += f" and {len(shown) - 2} more" if len(shown) > 2 else ""
    title = what if len(shown) == 1 else f"{idea.label}: {what}"
    evidence = f"{idea.cites}; {idea.hint}" if idea.hint else idea.cites
    return Proposal(f"{title}, {idea.why} (after {idea.brief})", evidence, changes)


DEFAULTS = Recipe().flat()
