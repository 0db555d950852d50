"""float16 with a dynamic loss scale trains like float32; without one it does not, and that is found out.

No card is needed: the CPU has float16 arithmetic, slow and exact. It just never offers it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import backends
from autoresearch import precision
from autoresearch.harness import child_precision
from autoresearch.harness.measuring import Faithful
from backends import torch_scaling
from backends.base import Backend
from backends.recipe import Recipe
from tests.parity import compare

LIMIT_NATS = 0.01  # over 30 steps, as for bfloat16
REAL = Recipe().replace({  # small, but with the batch of a real recipe: the mean over its tokens is what rounds to zero
    "model.depth": 2, "model.width": 64, "model.head_dim": 32, "model.seq_len": 128, "batch.tokens_per_step": 2048,
    "runtime.compile": False})
VOCAB = 1024


@pytest.fixture(params=["cpu", *compare.CARDS])
def card(request: pytest.FixtureRequest, has_float16: None) -> Backend:
    """The cpu backend as on a card that has float16, and such a card."""
    return backends.load(request.param)


def begun(card: Backend, precision: str, **changes: Any) -> tuple[compare.Problem, Any]:
    p = compare.problem("defaults")
    recipe = p.recipe.replace({"runtime.precision": precision} | changes)
    return dataclasses.replace(p, recipe=recipe), card.init(recipe, compare.VOCAB, dict(p.weights))


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_float16_with_a_loss_scale_tracks_float32(card: Backend, compiled: bool) -> None:
    curves = []
    for name in ("float32", "float16"):
        p, state = begun(card, name, **{"runtime.compile": compiled})
        curves.append(np.array(compare.curve_of(card, state, p, 30)))
    assert 0 < np.abs(curves[0] - curves[1]).max() < LIMIT_NATS


def test_a_step_that_overflows_changes_nothing_but_the_scale(card: Backend) -> None:
    p, state = begun(card, "float16")
    before = {k: v.clone() for k, v in (state.weights | state.moments).items()}
    state.moments[torch_scaling.SCALE].fill_(2.0**40)
    before[torch_scaling.SCALE].fill_(2.0**39)
    loss = float(card.step(state, p.batches[0], 0.5))
    assert loss == pytest.approx(card.loss(state, p.batches[0]), abs=0.02)  # what the step says is not scaled
    for name, value in (state.weights | state.moments).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_the_scale_doubles_when_it_has_held_for_long(card: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_scaling, "STEADY", 3)
    p, state = begun(card, "float16")
    scales = []
    for i in range(7):
        card.step(state, p.batches[i], 0.5)
        scales.append(float(state.moments[torch_scaling.SCALE] / torch_scaling.START))
    assert scales == [1, 1, 2, 2, 2, 4, 4]


def test_other_precisions_carry_no_scale(card: Backend) -> None:
    for name in ("float32", "bfloat16"):
        assert torch_scaling.SCALE not in begun(card, name)[1].moments


@pytest.mark.parametrize("name", compare.BACKENDS)
def test_gradients_are_those_of_the_step(name: str) -> None:
    p = compare.problem("gradient accumulation")
    backend, oracle = backends.load(name), compare.oracle("defaults", 1)  # the same numbers in one batch
    loss, grads = backend.gradients(backend.init(p.recipe, compare.VOCAB, dict(p.weights)), p.batches[0])
    assert loss == pytest.approx(oracle.loss, abs=1e-5)
    for k, g in oracle.grads.items():
        assert grads[k].dtype == np.float32
        np.testing.assert_allclose(grads[k], g, rtol=1e-3, atol=1e-4 * np.abs(g).max())


# Precision safety


def compared(card: Backend, low: str, seconds: float = 0.5) -> Faithful:
    return Faithful(low, **child_precision.compare(card, REAL, VOCAB, low, seconds))


def unscaled(monkeypatch: pytest.MonkeyPatch, divisor: float) -> None:
    """As a trainer with float16 and no scale, which divides its loss by the number of its micro-batches."""
    monkeypatch.setattr(torch_scaling, "START", 1 / divisor)
    monkeypatch.setattr(torch_scaling, "STEADY", 10**9)


def test_float16_without_a_scale_and_a_divided_loss_is_refused(card: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GTX 1660 Ti met: nothing overflowed, nearly every gradient was zero, and the loss stayed behind."""
    unscaled(monkeypatch, 256)
    found = compared(card, "float16")
    assert found.not_finite == 0, "counting what is not finite catches nothing"
    assert found.flushed_frac > 0.3 and found.worst_cosine < 0.5 and found.gap_nats > 0.2
    verdict = precision.judge(dataclasses.replace(found, speed_ratio=2.0), products_ratio=4.0, compiled=True)
    assert not verdict.allowed and "of gradients are rounded to zero" in verdict.reason


@pytest.mark.parametrize("low", ["float16", "bfloat16"])
def test_what_the_trainer_does_is_faithful(card: Backend, low: str) -> None:
    found = compared(card, low)
    assert precision.unfaithful(found) == ""
    assert found.flushed_frac < 1e-3 and found.steps >= child_precision.LEAST_STEPS and found.fell_nats > 0.1
    quick, slow = (precision.judge(dataclasses.replace(found, speed_ratio=r), 1.0, True) for r in (1.5, 0.9))
    assert quick.allowed and not slow.allowed and "gains nothing" in slow.reason


def test_gradients_that_are_all_no_numbers_are_called_not_finite(card: Backend,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 too, whose gradients are those at the weights that the low precision has ruined."""
    real = card.gradients
    monkeypatch.setattr(card, "gradients", lambda state, tokens: (
        np.nan, {name: np.full_like(g, np.nan) for name, g in real(state, tokens)[1].items()}))
    found = compared(card, "float16", seconds=0.0)
    assert found.not_finite > 10_000 and "numbers that are not finite" in precision.unfaithful(found)


def test_a_diverging_low_precision_is_refused_by_each_sign_of_it() -> None:
    good = Faithful("float16", 8, 0.0, 0.999, "head.weight", 0.001, 1.0, 0, 2.0)
    assert precision.judge(good, 1.0, False).allowed
    faults: list[tuple[dict[str, Any], str]] = [
        ({"not_finite": 3}, "3 numbers that are not finite"), ({"flushed_frac": 0.93}, "93% of gradients"),
        ({"worst_cosine": 0.2}, "head.weight points elsewhere"), ({"gap_nats": 0.3}, "0.3 nats")]
    for change, said in faults:
        verdict = precision.judge(dataclasses.replace(good, **change), 1.0, False)
        assert not verdict.allowed and said in verdict.reason


def test_faster_products_count_only_where_the_step_is_compiled_and_not_far_slower() -> None:
    good = Faithful("bfloat16", 8, 0.0, 0.999, "head.weight", 0.001, 1.0, 0, 0.9)
    assert precision.judge(good, 4.0, compiled=True).allowed
    assert not precision.judge(good, 4.0, compiled=False).allowed
    assert not precision.judge(dataclasses.replace(good, speed_ratio=0.01), 4.0, compiled=True).allowed
