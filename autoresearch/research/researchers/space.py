"""The space a numeric optimizer searches: recipe keys as axes measured in the playbook's strides.

    Axis       one key: value <-> place; a stride is about as far as one experiment should go
    axes       which keys: those the playbook thinks most of, and every one that was ever kept
    Scored     an experiment as a point with a value; negative is better than the baseline
    evidence   every experiment of the ledger that says something about the axes, whoever proposed it
    importance which axes the best experiments agree on

An axis runs REACH strides either way from the baseline, which was sized to the machine: the schema's own ranges span
what any machine could want, and most of that is out of memory or diverges here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoresearch.records import BASELINE, Experiment
from autoresearch.research.researchers.base import Context
from autoresearch.research.researchers.moves import LOG, MOVES, SCHEMA, Move, schema_moves
from autoresearch.research.researchers.reading import Attempt
from autoresearch.research.researchers.runnable import FOLLOWERS

REACH = 4.0
LEAST_PRIOR = 3.0  # of the playbook's moves; leaves 17 keys
NOT_LEARNED = "runtime."  # speed is measured by the probe and tried by the playbook; there is nothing to interpolate
FAILED = math.inf  # the value of an experiment without a score that had its chance
NO_SCORE = ("crash", "timeout", "discard")  # a discard without one was stopped early, as hopeless


@dataclass(frozen=True)
class Axis:
    """One recipe key. Places are in strides from the baseline's value."""

    key: str
    move: Move
    origin: float  # the baseline, on the move's own scale
    low: float
    high: float
    places: Mapping[Any, float]  # value -> place, for keys without a scale

    def at(self, value: Any) -> float:
        place = self.places.get(value, 0.0) if self.places else (_to(self.move, value) - self.origin) / self.move.stride
        return min(max(place, self.low), self.high)

    def value(self, place: float) -> Any:
        if self.places:
            return min(self.places, key=lambda v: abs(self.places[v] - place))
        on_scale, key = self.origin + place * self.move.stride, SCHEMA[self.key]
        number = self.move.scale.back(on_scale)
        if self.move.start and number < self.move.start / 4:
            number = 0.0  # as good as off
        assert key.low is not None and key.high is not None
        rounded = round(number) if key.type is int else float(f"{number:.3g}")
        return key.type(min(max(rounded, key.low), key.high))


def axes(context: Context, past: Sequence[Attempt]) -> list[Axis]:
    """`past` are the attempts of the context."""
    start = baseline(context).recipe
    kept = {k for a in past if a.experiment.verdict == "keep" for k in a.diff}
    found = []
    for move in single_moves():
        key = move.keys[0]
        if move.prior >= LEAST_PRIOR or key in kept:
            axis = _axis(context, move, start[key])
            if axis.high > axis.low:
                found.append(axis)
    return found


def baseline(context: Context) -> Experiment:
    return next((e for e in context.experiments if e.n == BASELINE), context.incumbent)


def single_moves() -> list[Move]:
    """The moves along one key alone, whatever else has to follow; one for each key, in the schema's order."""
    alone = {m.keys[0]: m for m in (*schema_moves(), *MOVES) if not any((m.powers or (1.0,) * len(m.keys))[1:])}
    return [alone[key] for key in SCHEMA if key in alone and not key.startswith(NOT_LEARNED)]


def _axis(context: Context, move: Move, start: Any) -> Axis:
    key = SCHEMA[move.keys[0]]
    if move.options:
        on_scale = move.options(context)
        here = on_scale.get(start, min(on_scale.values(), default=0.0))
        places = {v: (place - here) / move.stride for v, place in on_scale.items()}
        return Axis(key.name, move, here, min(places.values(), default=0.0), max(places.values(), default=0.0), places)
    assert key.low is not None and key.high is not None
    origin = _to(move, start)
    least = _to(move, key.low) if key.low > 0 or move.scale is not LOG or move.start else -math.inf
    low, high = (min(max((bound - origin) / move.stride, -REACH), REACH) for bound in (least, _to(move, key.high)))
    if move.start:  # off is never out of reach, nor is the way back
        low = (_to(move, 0.0) - origin) / move.stride
        high = max(high, (_to(move, move.start) - origin) / move.stride)
    return Axis(key.name, move, origin, low, high, {})


def _to(move: Move, value: float) -> float:
    """A value on the move's scale; off is an octave below what counts as off."""
    return move.scale.to(move.start / 8 if move.start and value < move.start / 8 else value)


@dataclass(frozen=True)
class Scored:
    """What experiment `n` says about the axes: where it was, and how many bits per byte above the baseline."""

    n: int
    places_A: np.ndarray
    value: float


def evidence(context: Context, past: Sequence[Attempt], along: Sequence[Axis]) -> list[Scored]:
    """In the ledger's order. Values add up paired differences along the chain of what each changed, so that seeds
    cancel. A change of code, or of a key that is no axis, moves the level for all that build on it and says nothing
    about the axes; a failure of such a change neither."""
    names = {axis.key for axis in along}
    values = {BASELINE: 0.0}
    found = [_scored(BASELINE, baseline(context).recipe, along, 0.0)]
    for a in past:
        base = values.get(a.parent.n, 0.0)
        if _elsewhere(a, names):
            values[a.experiment.n] = base
        elif a.delta is not None:
            values[a.experiment.n] = base + a.delta
            found.append(_scored(a.experiment.n, a.experiment.recipe, along, base + a.delta))
        elif a.experiment.verdict in NO_SCORE and not a.experiment.is_spoilt:
            found.append(_scored(a.experiment.n, a.experiment.recipe, along, FAILED))
    return found


def _elsewhere(a: Attempt, names: set[str]) -> bool:
    """Whether it changed code, or a key that is no axis."""
    return any(t.facts.get("kind") == "code" for t in a.experiment.trials) or bool(a.diff.keys() - names - FOLLOWERS)


def _scored(n: int, flat: Mapping[str, Any], along: Sequence[Axis], value: float) -> Scored:
    return Scored(n, np.array([axis.at(flat[axis.key]) for axis in along]), value)


def importance(along: Sequence[Axis], points: Sequence[Scored]) -> dict[str, float]:
    """{key: how far the best quarter lies from the rest along it, in standard deviations}, the largest first. With
    few points it is mostly luck: nothing below eight."""
    ranked = sorted((p for p in points if p.value != FAILED), key=lambda p: p.value)
    if len(ranked) < 8:
        return {}
    places_NA = np.stack([p.places_A for p in ranked])
    best = len(ranked) // 4
    apart_A = places_NA[:best].mean(0) - places_NA[best:].mean(0)
    shift_A = apart_A / np.maximum(places_NA.std(0), 1e-9) * (places_NA.std(0) > 0)
    found = {axis.key: float(shift) for axis, shift in zip(along, shift_A, strict=True)}
    return dict(sorted(found.items(), key=lambda item: -abs(item[1])))
