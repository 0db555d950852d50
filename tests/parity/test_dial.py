"""The dial's coordinate check: at three widths, a few steps move a model's outputs by about as much."""

from __future__ import annotations

import numpy as np
import pytest

import backends
from autoresearch.research import dial
from backends.gpt import params
from backends.recipe import Recipe, parse
from backends.spec import GPTSpec
from tests.harness.tiny import RECIPE

VOCAB, STEPS = 64, 10
SMALL = parse(RECIPE).replace({"model.depth": 2, "model.seq_len": 32, "batch.tokens_per_step": 256})


def moved(recipe: Recipe) -> float:
    """Root mean square of what a few steps change about the logits, in nats."""
    backend, rng = backends.load("mlx"), np.random.default_rng(1)
    weights = params.initial(recipe, GPTSpec.of(recipe, VOCAB), np.random.default_rng(0))
    state = backend.init(recipe, VOCAB, weights)
    rows = rng.integers(0, VOCAB, (4, 32)).astype(np.int32)
    before = backend.logits(state, rows)
    for _ in range(STEPS):
        tokens = np.repeat(rng.integers(0, VOCAB, (recipe.rows_per_step, 1)), 33, axis=1).astype(np.int32)
        backend.step(state, tokens, 0.2)
    return float(np.sqrt(np.mean((backend.logits(state, rows) - before) ** 2)))


@pytest.mark.slow
def test_steps_move_outputs_alike_at_three_widths() -> None:
    """Larger batches have larger steps on purpose, by their root: that is taken out."""
    sizes = [dial.scaled(SMALL, factor, VOCAB) for factor in (1, 2, 4)]
    assert [r.model.width for r in sizes] == [32, 64, 128]
    found = [moved(r) / (r.batch.tokens_per_step / SMALL.batch.tokens_per_step) ** 0.5 for r in sizes]
    assert max(found) / min(found) < 2.0, found


@pytest.mark.slow
def test_a_rate_that_grows_with_the_width_would_be_noticed() -> None:
    """The check can fail: a head's rate that grew with the width instead of falling moves outputs twice as much."""
    large = dial.scaled(SMALL, 4, VOCAB)
    wrong = large.replace({"optim.unembedding_lr": 8 * large.optim.unembedding_lr})
    assert moved(wrong) / moved(large) > 2.0
