"""bfloat16 arithmetic over float32 master weights trains like float32."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import backends
from tests.parity import compare

LIMIT_NATS = 0.01  # the loss falls by 3 nats on the way; measured 0.0019


def curve(name: str, precision: str) -> np.ndarray:
    p = compare.problem("defaults", trained=False)
    p = dataclasses.replace(p, recipe=p.recipe.replace({"runtime.precision": precision}))
    backend = backends.load(name)
    return np.array(compare.curve_of(backend, backend.init(p.recipe, compare.VOCAB, dict(p.weights)), p, 30))


@pytest.mark.parametrize("name", compare.WITH_BFLOAT16)
def test_bfloat16_tracks_float32(name: str) -> None:
    exact, rounded = curve(name, "float32"), curve(name, "bfloat16")
    assert 0 < np.abs(exact - rounded).max() < LIMIT_NATS  # not equal, or bfloat16 was never used


@pytest.mark.parametrize("name", compare.WITH_BFLOAT16)
def test_small_updates_are_not_lost_in_bfloat16(name: str) -> None:
    """Master weights are float32: bfloat16 itself can't add 1e-4 to 1."""
    p = compare.problem("defaults")
    recipe = p.recipe.replace({"runtime.precision": "bfloat16", "optim.scalar_lr": 1e-2})
    backend = backends.load(name)
    state = backend.init(recipe, compare.VOCAB, dict(p.weights) | {"resid_lambdas": np.ones(2, np.float32)})
    backend.step(state, p.batches[0], 0.5)
    moved = np.abs(backend.weights(state)["resid_lambdas"] - 1)
    assert np.all((moved > 1e-5) & (moved < 1e-3))


@pytest.mark.parametrize("name", compare.WITH_BFLOAT16)
def test_logits_are_float32_in_bfloat16_too(name: str) -> None:
    p = compare.problem("defaults")
    backend = backends.load(name)
    state = backend.init(p.recipe.replace({"runtime.precision": "bfloat16"}), compare.VOCAB, dict(p.weights))
    assert backend.logits(state, p.long_BT).dtype == np.float32
