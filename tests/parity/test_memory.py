"""What training takes: the estimate is an upper one, and micro-batches and checkpointing take less."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from torch.profiler import ProfilerActivity, profile

import backends
from backends.base import Backend
from backends.gpt import params
from backends.recipe import Recipe
from backends.spec import GPTSpec
from tests.parity import compare

Work = Callable[[Backend, Any, np.ndarray], object]
SMALL = {"model.depth": 6, "model.width": 32, "model.head_dim": 16, "model.seq_len": 64, "batch.tokens_per_step": 1024,
         "runtime.compile": False, "runtime.precision": "float32"}
# Little but weights: what they, their gradients and their moments take.
WEIGHTS = {"model.depth": 1, "model.width": 256, "model.head_dim": 64, "batch.tokens_per_step": 256,
           "batch.micro_rows": 1, "optim.matrix_rule": "adamw", "optim.matrix_lr": 1e-3}


def one_step(backend: Backend, state: Any, batch: np.ndarray) -> None:
    float(backend.step(state, batch, 0.5))
    backend.sync()


def peak_bytes(changes: dict[str, Any], name: str = "mlx", work: Work = one_step) -> tuple[int, int]:
    """(measured, estimated) memory of a step, or of other work, after a first step."""
    recipe = Recipe().replace(SMALL | changes)
    spec, backend, rng = GPTSpec.of(recipe, compare.VOCAB), backends.load(name), np.random.default_rng(0)
    state = backend.init(recipe, compare.VOCAB, params.initial(recipe, spec, rng))
    batch = rng.integers(0, compare.VOCAB, (recipe.rows_per_step, recipe.model.seq_len + 1), dtype=np.int32)
    one_step(backend, state, batch)
    estimated = spec.training_bytes(recipe.micro_rows, 4)
    if name == "mlx":  # which counts its own arrays on every device
        mx.clear_cache()
        mx.reset_peak_memory()
        work(backend, state, batch)
        return backend.peak_memory_bytes(), estimated
    held = sum(x.nbytes for x in (*state.weights.values(), *state.moments.values()))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work(backend, state, batch)
    assert seen.profiler is not None and seen.profiler.kineto_results is not None
    events = sorted(seen.profiler.kineto_results.events(), key=lambda e: e.start_ns())
    return held + max(itertools.accumulate(e.nbytes() for e in events if e.name() == "[memory]")), estimated


@pytest.mark.parametrize(("name", "compiled", "share"), [
    ("mlx", False, 0.5), pytest.param("mlx", True, 0.5, marks=pytest.mark.slow),
    ("cpu", False, 0.25),  # 0.14; autograd, which checkpointing needs there, takes 0.44 of torch.func by itself
])
def test_checkpointing_takes_less_memory(name: str, compiled: bool, share: float) -> None:
    kept, _ = peak_bytes({"runtime.compile": compiled}, name)
    recomputed, _ = peak_bytes({"runtime.compile": compiled, "runtime.checkpoint": True}, name)
    assert recomputed < share * kept


def named(changes: dict[str, Any]) -> str:
    return ", ".join(f"{k.partition('.')[2]} {v}" for k, v in changes.items()) or "default"


@pytest.mark.parametrize("changes", [
    {}, {"runtime.checkpoint": True}, {"model.activation": "swiglu"}, {"model.dropout": 0.2},
    {"model.norm": "layer", "model.norm_gain": True, "model.biases": True}, {"model.value_embeds": "none"},
    {"model.activation": "gelu"}, {"model.positions": "learned", "model.tied_embeddings": True},
    {"batch.micro_rows": 4}, {"batch.micro_rows": 2, "runtime.precision": "bfloat16"},
], ids=named)
def test_the_memory_estimate_is_an_upper_one_and_not_twice_too_high(changes: dict[str, Any]) -> None:
    measured, estimated = peak_bytes(changes)
    assert measured < estimated < 2 * measured


@pytest.mark.parametrize("changes", [
    {}, {"optim.clip_norm": 1.0}, {"runtime.precision": "bfloat16"}, {"runtime.precision": "float16"},
    {"runtime.precision": "float16", "optim.clip_norm": 1.0},
], ids=named)
def test_it_is_one_of_weights_gradients_and_moments_in_torch(changes: dict[str, Any], has_float16: None) -> None:
    """With micro-batches, whose gradients are added up, and with the copies by which float16 takes an update back."""
    measured, estimated = peak_bytes(WEIGHTS | changes, "cpu")
    assert measured < estimated < 2 * measured


@pytest.mark.parametrize("name", ["cpu", "mlx"])
@pytest.mark.parametrize("changes", [{}, WEIGHTS], ids=["activations", "weights"])
def test_gradients_take_no_more_memory_than_a_step(name: str, changes: dict[str, Any]) -> None:
    """Not that of all micro-batches together."""
    def gradients(backend: Backend, state: Any, batch: np.ndarray) -> None:
        backend.gradients(state, batch)

    changes = changes | {"batch.micro_rows": 1}
    assert peak_bytes(changes, name, gradients)[0] < 1.1 * peak_bytes(changes, name)[0]
