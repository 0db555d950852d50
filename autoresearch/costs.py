"""What a training step costs in seconds and bytes, from a few that were measured.

    Measured   one measured run
    Costs      the fitted model
    fit        Measured runs -> Costs

Seconds are a combination, with weights that are not negative, of four counts that follow from the recipe: operations
that are started, floating-point operations of matrix products, numbers of activations that are read and written, and
weights that are updated. Bytes are the estimate that `GPTSpec.training_bytes` makes from the recipe, times a factor.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from backends.recipe import Recipe
from backends.spec import GPTSpec

TERMS = ("started operations", "products", "activations", "updates")


@dataclass(frozen=True)
class Measured:
    recipe: Recipe
    vocab: int
    step_s: float
    memory_bytes: int  # above what the process takes before it trains


@dataclass(frozen=True)
class Costs:
    weights: tuple[float, ...]  # seconds per count, in the order of TERMS
    memory_factor: float

    def step_s(self, recipe: Recipe, vocab: int) -> float:
        return float(np.dot(self.weights, counts(recipe, vocab)))

    def faster(self, times: float) -> Costs:
        return replace(self, weights=tuple(w / times for w in self.weights))

    def memory_bytes(self, recipe: Recipe, vocab: int) -> int:
        return int(self.memory_factor * estimated_bytes(recipe, vocab))


def counts(recipe: Recipe, vocab: int) -> tuple[float, ...]:
    spec, tokens = GPTSpec.of(recipe, vocab), recipe.batch.tokens_per_step
    passes = recipe.rows_per_step // recipe.micro_rows
    per_token = spec.depth * spec.block_activations() + 4 * vocab
    return (passes * (spec.depth + 1.0), tokens * spec.flops_per_token() + update_flops(recipe, spec),
            float(tokens * per_token), float(spec.params()))


def update_flops(recipe: Recipe, spec: GPTSpec) -> float:
    """Of the products that make Muon's updates orthogonal."""
    if recipe.optim.matrix_rule != "muon":
        return 0.0
    C, KV, M = spec.width, spec.kv_width, spec.mlp_width
    shapes = [(C, C), (C, C), (KV, C), (KV, C), *[(M, C)] * spec.mlp_matrices]
    small_large = [(min(s), max(s)) for s in shapes]
    each = sum(4.0 * small * small * large + 2.0 * small**3 for small, large in small_large)
    return spec.depth * recipe.optim.muon_steps * each


def estimated_bytes(recipe: Recipe, vocab: int) -> int:
    return GPTSpec.of(recipe, vocab).training_bytes(recipe.micro_rows, 4)


def fit(runs: Sequence[Measured]) -> Costs:
    """The weights that make relative errors smallest; the factor that covers every run."""
    rows = np.array([np.array(counts(m.recipe, m.vocab)) / m.step_s for m in runs])
    factor = max((m.memory_bytes / estimated_bytes(m.recipe, m.vocab) for m in runs), default=1.0)
    return Costs(tuple(not_negative(rows, np.ones(len(runs)))), max(0.05, factor))


def not_negative(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The x >= 0 that brings |a x - b| to its minimum: with few columns, the best of all subsets. All columns come
    first: where their x is nowhere negative, none can be better."""
    best, least = np.zeros(a.shape[1]), float("inf")
    for size in range(min(a.shape), 0, -1):
        for chosen in itertools.combinations(range(a.shape[1]), size):
            columns = a[:, chosen]
            scale = np.linalg.norm(columns, axis=0)
            x = np.linalg.lstsq(columns / scale, b, rcond=None)[0] / scale
            left = float(np.linalg.norm(columns @ x - b))
            if np.all(x >= 0) and left < least - 1e-12:
                best, least = np.zeros(a.shape[1]), left
                best[list(chosen)] = x
        if size == a.shape[1] and least < float("inf"):
            break
    return best


def errors(costs: Costs, runs: Sequence[Measured]) -> list[float]:
    """Predicted over measured seconds, less 1, of each run."""
    return [costs.step_s(m.recipe, m.vocab) / m.step_s - 1 for m in runs]
