"""Is a low precision faithful to float32? Asked of the recipe's real model, rows and objective, in seconds.

Counting what is not finite catches nothing: float16 without a loss scale rounds nearly all of a small gradient to zero,
trains, and never makes a NaN. So the gradients of one batch are compared value by value, after a few steps of both, and
so are the losses of those steps.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from autoresearch.harness.child import initial_state
from backends.base import Backend
from backends.recipe import Recipe

LEAST_STEPS, MOST_STEPS = 5, 24
UNDECIDED = 3  # the first steps differ least, and warm up kernels
TELLING = 1e-3  # of the largest gradient norm: below that a float32 gradient is part rounding itself
PROGRESS = 0.25  # full learning rates


def made_up(recipe: Recipe, vocab: int, rng: np.random.Generator) -> np.ndarray:
    """(B, T+1) tokens that can be learnt: rare and common ones, mostly followed by the same one."""
    shape = (recipe.rows_per_step, recipe.model.seq_len + 1)
    drawn = np.minimum(rng.zipf(1.2, shape) - 1, vocab - 1).astype(np.int32)
    follows = rng.random(shape) < 0.7
    for t in range(1, shape[1]):
        drawn[:, t] = np.where(follows[:, t], (7 * drawn[:, t - 1] + 3) % vocab, drawn[:, t])
    return drawn


def compare(backend: Backend, recipe: Recipe, vocab: int, precision: str, seconds: float) -> dict[str, Any]:
    """Both precisions from one start on the same text for a few steps, for about so many seconds; then the gradients
    of one more batch at the same weights. Not compiled: that takes longer than all of this.

    The start is one float32 step from the initial weights. There many gradients are zero but for rounding, of which
    Adam's first step takes the sign, so that in some runs the losses part by a nat for a while."""
    plain = {"runtime.compile": False, "schedule.seq_parts": 1, "model.dropout": 0.0}
    recipes = {p: recipe.replace(plain | {"runtime.precision": p}) for p in (precision, "float32")}
    rng, end = np.random.default_rng(1), time.perf_counter() + seconds
    state = initial_state(backend, recipes["float32"], vocab)
    backend.step(state, made_up(recipe, vocab, rng), PROGRESS)
    start = backend.weights(state)
    del state
    states = {p: backend.init(r, vocab, start) for p, r in recipes.items()}
    losses: dict[str, list[float]] = {p: [] for p in states}
    times: dict[str, list[float]] = {p: [] for p in states}
    for i in range(MOST_STEPS):
        if i >= LEAST_STEPS and time.perf_counter() > end:
            break
        tokens = made_up(recipe, vocab, rng)
        for p, state in states.items():  # in turn: what disturbs one disturbs the other
            began = time.perf_counter()
            losses[p].append(float(backend.step(state, tokens, PROGRESS)))
            backend.sync()
            times[p].append(time.perf_counter() - began)
    del states["float32"], state  # two at a time, where memory is short
    exact = backend.init(recipes["float32"], vocab, backend.weights(states[precision]))
    tokens = made_up(recipe, vocab, rng)
    found = _gradients(backend.gradients(exact, tokens)[1], backend.gradients(states[precision], tokens)[1])
    low, high = (np.array(losses[p]) for p in (precision, "float32"))
    return found | {
        "steps": len(low), "gap_nats": _finite(np.abs(low - high)[1:].max()), "fell_nats": _finite(high[0] - high[-1]),
        "not_finite": found["not_finite"] + int((~np.isfinite(low)).sum()),
        "speed_ratio": float(np.median(times["float32"][UNDECIDED:]) / np.median(times[precision][UNDECIDED:]))}


def _gradients(exact: dict[str, np.ndarray], low: dict[str, np.ndarray]) -> dict[str, Any]:
    """What became of each gradient. A tensor counts for the cosine where float32 has more than rounding to say, and
    each one does where none has."""
    norms = {name: _finite(float(np.linalg.norm(g)), 0.0) for name, g in exact.items()}
    telling = [name for name, norm in norms.items() if norm >= TELLING * max(norms.values())]
    there = sum(int(np.count_nonzero(g)) for g in exact.values())
    lost = sum(int(np.count_nonzero((low[name] == 0) & (g != 0))) for name, g in exact.items())
    cosines = {name: _cosine(exact[name], low[name]) for name in telling}
    worst = min(cosines, key=lambda name: cosines[name])
    return {"flushed_frac": lost / max(1, there), "worst_cosine": cosines[worst], "worst_tensor": worst,
            "not_finite": sum(int((~np.isfinite(g)).sum()) for g in low.values())}


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    size = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return _finite(float((a * b).sum()) / size, -1.0) if size else 0.0


def _finite(value: float, otherwise: float = 1e9) -> float:
    return float(value) if np.isfinite(value) else otherwise
