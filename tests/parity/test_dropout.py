"""Dropout: the same elements in every framework, a fair share of them, others each time, and none in scoring."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

import backends
from backends.gpt import mlx_model, schedule, torch_model
from backends.recipe import Recipe
from backends.spec import GPTSpec
from tests.parity import compare

SHAPE = (4, 64, 128)


def mask(share: float, salt: float, place: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """What torch leaves of ones on the processor, which must be what MLX leaves, and torch on a card."""
    spec = GPTSpec.of(Recipe().replace({"model.dropout": share}), 97)
    ours, *others = (torch_model.dropout(torch.ones(shape, device=name), spec, torch.tensor(salt, device=name),
                                         place).cpu().numpy() for name in ("cpu", *compare.CARDS))
    for theirs in (np.array(mlx_model.dropout(mx.ones(shape), spec, mx.array(salt), place)), *others):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        np.testing.assert_array_equal(ours > 0, theirs > 0)
    return ours


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9])
def test_a_share_is_zeroed_and_the_rest_makes_up_for_it(share: float) -> None:
    for place, step in itertools.product((0, 1, 8), (1, 2, 1000)):
        left = mask(share, schedule.salt(3, step), place)
        assert set(np.unique(left)) == {np.float32(0), left.max()} and left.max() == pytest.approx(1 / (1 - share))
        spread = (share * (1 - share) / left.size) ** 0.5
        assert abs((left == 0).mean() - share) < 5 * spread


def test_masks_have_nothing_to_do_with_each_other() -> None:
    """Neither those of other steps, micro-batches and places, nor neighbours in one mask."""
    salt = schedule.salt(0, 1)
    masks = [mask(0.5, s, place) > 0 for s in (salt, salt + 1, schedule.salt(0, 2), schedule.salt(1, 1))
             for place in (0, 1, 2)]
    bits = [m.ravel() for m in masks]
    for shift in (1, 2, 128, 4096):  # channels, positions and rows
        bits.append(np.roll(bits[0], shift))
    pairs = np.corrcoef(np.stack(bits))[np.triu_indices(len(bits), 1)] * bits[0].size ** 0.5
    assert np.abs(pairs).max() < 5 and np.sqrt(np.mean(pairs**2)) < 1.2  # standard deviations: 1 by chance


@pytest.fixture(params=compare.BACKENDS)
def backend(request: pytest.FixtureRequest) -> backends.base.Backend:
    return backends.load(request.param)


def losses(backend: Any, seed: int, share: float = 0.3, steps: int = 4, compiled: bool = False) -> list[float]:
    p = compare.problem("one block")
    recipe = p.recipe.replace({"model.dropout": share, "runtime.compile": compiled})
    state = backend.init(recipe, compare.VOCAB, dict(p.weights), seed)
    return compare.curve_of(backend, state, dataclasses.replace(p, recipe=recipe), steps)


def test_the_seed_decides_the_masks(backend: Any) -> None:
    assert losses(backend, 1) == losses(backend, 1) != losses(backend, 2)
    assert losses(backend, 1, share=0.0) == losses(backend, 2, share=0.0)


def test_scoring_drops_nothing(backend: Any) -> None:
    p = compare.problem("defaults")
    batch, seen = p.batches[0], []
    for share in (0.0, 0.5):
        state = backend.init(p.recipe.replace({"model.dropout": share}), compare.VOCAB, dict(p.weights))
        seen.append((backend.logits(state, batch[:, :-1]), backend.loss(state, batch)))
        assert (abs(float(backend.step(state, batch, 0.5)) - seen[-1][1]) > 1e-3) == (share > 0)
    np.testing.assert_array_equal(seen[0][0], seen[1][0])
    assert seen[0][1] == seen[1][1]


@pytest.mark.parametrize("name", compare.SLOW_ON_CPU)
def test_a_compiled_step_draws_new_masks_each_time(name: str) -> None:
    """The salt is an argument of the compiled step: one mask for ever would be a constant of its graph."""
    backend = backends.load(name)
    assert losses(backend, 1, compiled=True) == pytest.approx(losses(backend, 1), abs=1e-4)


@pytest.mark.parametrize("name", compare.SLOW_ON_CPU)
def test_dropout_works_in_bfloat16(name: str) -> None:
    p = compare.problem("gpt2 with dropout")
    curves = []
    for precision in ("float32", "bfloat16"):
        recipe = p.recipe.replace({"runtime.precision": precision})
        backend = backends.load(name)
        state = backend.init(recipe, compare.VOCAB, dict(p.weights))
        curves.append(compare.curve_of(backend, state, dataclasses.replace(p, recipe=recipe), 5))
    assert curves[0] == pytest.approx(curves[1], abs=0.02)
