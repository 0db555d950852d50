"""A compiled step is the eager step, sees every update of weights and moments, and is compiled once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

import backends
from autoresearch.harness import trial
from autoresearch.harness.child import initial_state
from autoresearch.harness.jobs import TrialJob
from backends.base import Backend
from backends.gpt import mlx_model, schedule, torch_model
from backends.recipe import Recipe
from backends.spec import GPTSpec
from tests.parity import compare

STEPS = 20
LIMIT = 2e-3  # relative distance of a weight's whole change after 20 updates; measured 3e-4 (cpu) and 0 (mlx)


def small_problem(compiled: bool, rows: int = 0) -> compare.Problem:
    """One block, since compiling takes long; `rows` other than 0 gives batches of another shape."""
    p = compare.problem("one block")
    return dataclasses.replace(p, recipe=p.recipe.replace({"runtime.compile": compiled}),
                               batches=tuple(b[: rows or len(b)] for b in p.batches))


def train(backend: Backend, p: compare.Problem, change: Callable[[Any], None] = lambda state: None,
          steps: int = STEPS) -> dict[str, np.ndarray]:
    """How far each weight has moved. The learning rates differ at every step: warm-up, then warm-down."""
    state = backend.init(p.recipe, compare.VOCAB, dict(p.weights))
    change(state)
    compare.curve_of(backend, state, p, steps)
    return {k: v - p.weights[k] for k, v in backend.weights(state).items()}


def distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    return max(float(np.linalg.norm(a[k] - b[k]) / np.linalg.norm(a[k])) for k in a)


@pytest.fixture(scope="module", params=compare.BACKENDS)
def warm(request: pytest.FixtureRequest) -> Backend:
    """A backend that has compiled the problem's step, as after the harness's warm-up."""
    backend = backends.load(request.param)
    train(backend, small_problem(True), steps=1)
    return backend


@contextmanager
def compiling_forbidden(backend: Backend) -> Iterator[None]:
    """RuntimeError where a step is compiled again."""
    def traced(*args: Any) -> None:
        raise RuntimeError("recompiled")  # MLX runs the Python function only when it traces it

    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        if backend.name == "mlx":
            patch.setattr(mlx_model, "loss", traced)
        else:
            stack.enter_context(torch.compiler.set_stance("fail_on_recompile"))
        yield


def test_compiled_equals_eager_after_20_updates(warm: Backend) -> None:
    assert distance(train(warm, small_problem(False)), train(warm, small_problem(True))) < LIMIT


def test_a_step_that_trains_its_initial_weights_is_told_apart(warm: Backend) -> None:
    """What a compiled step does that closed over the weights it first saw."""
    def close_over_weights(state: Any) -> None:
        first, step = {k: v + 0 for k, v in state.weights.items()}, state.train_step

        def stale(weights: dict, moments: dict, numbers: Any, tokens: Any) -> Any:
            return step({k: v + 0 for k, v in first.items()}, moments, numbers, tokens)

        state.train_step = stale

    eager = train(warm, small_problem(False))
    moved = train(warm, small_problem(True), close_over_weights)
    assert not distance(eager, moved) < LIMIT


def test_nothing_recompiles_after_the_warm_up(warm: Backend) -> None:
    """Twenty learning rates, and a second run of the recipe from its initial weights."""
    with compiling_forbidden(warm):
        train(warm, small_problem(True))


def test_a_recompilation_would_be_noticed(warm: Backend) -> None:
    with compiling_forbidden(warm), pytest.raises(RuntimeError, match="recompile"):
        train(warm, small_problem(True, rows=3), steps=1)


@pytest.mark.parametrize(("T", "changes"), [
    pytest.param(100, {"window_pattern": "L"}, id="one part"),  # all below 128 tokens
    pytest.param(600, {"window_pattern": "L"}, id="whole rows"),
    pytest.param(600, {"window_pattern": "S", "short_window_frac": 0.25}, id="windows"),
    pytest.param(600, {"kv_heads": 1}, id="shared keys"),
])
def test_compiled_attention_is_pytorchs(T: int, changes: dict[str, Any]) -> None:
    """Values and gradients. Compiled for a CPU it is two products and a softmax, in parts of the queries."""
    spec = GPTSpec.of(Recipe().replace({f"model.{k}": v for k, v in changes.items()} | {
        "model.seq_len": T, "model.width": 32, "model.head_dim": 16, "batch.tokens_per_step": T}), compare.VOCAB)
    generator = torch.Generator().manual_seed(T)
    q, k, v, gradient = (torch.randn(2, T, heads, 16, generator=generator)
                         for heads in (2, spec.kv_heads, spec.kv_heads, 2))
    mask = torch_model.window_mask(T, spec.windows[0], q)

    def pulled(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y, pull, *_ = torch.func.vjp(lambda q, k, v: torch_model.causal_attention(q, k, v, mask, spec), q, k, v)
        return y, *pull(gradient.flatten(2))

    compiled = torch.compile(  # traced only
        pulled, backend="aot_eager", fullgraph=True, isolate_recompiles=True)(q, k, v)  # type: ignore[call-overload]
    for a, b in zip(pulled(q, k, v), compiled, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_compiled_softcap_is_the_one_that_scores() -> None:
    """By another formula, from nearly nothing to far beyond the cap, with a gradient that is finite there."""
    logits = torch.cat([torch.linspace(-2000, 2000, 4001), torch.linspace(-1e-3, 1e-3, 101)])
    both = torch.func.vmap(torch.func.grad_and_value(lambda x: torch_model.squash(x, 15.0)))
    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)(logits)  # only traced
    for eager, other in zip(both(logits), compiled, strict=True):
        assert other.isfinite().all() and torch.allclose(eager, other, rtol=1e-5, atol=3e-6)


@pytest.mark.slow
def test_one_process_can_compile_more_than_eight_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe tries many sizes; torch by default allows one function eight compilations."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **kwargs: real(f, backend="eager", **kwargs))  # only traced
    backend, p = backends.load("cpu"), small_problem(True)
    for rows in range(1, 10):
        recipe = p.recipe.replace({"batch.tokens_per_step": rows * p.recipe.model.seq_len})
        state = backend.init(recipe, compare.VOCAB, dict(p.weights))
        assert np.isfinite(float(backend.step(state, np.repeat(p.batches[0][:1], rows, axis=0), 0.5)))


def test_compiled_mlx_keeps_its_weights_out_of_the_graph() -> None:
    """mx.compile takes closed-over arrays as constants: new inputs must give new outputs."""
    backend, p = backends.load("mlx"), small_problem(True)
    state = backend.init(p.recipe, compare.VOCAB, dict(p.weights))
    first = float(backend.step(state, p.batches[0], 0.5))
    state.weights = {k: mx.zeros_like(v) for k, v in state.weights.items()}
    assert float(backend.step(state, p.batches[0], 0.5)) == pytest.approx(np.log(compare.VOCAB), abs=1e-5) != first


def in_stages(backend: Backend, compiled: bool) -> tuple[compare.Problem, Any]:
    p = compare.problem("short rows first")
    p = dataclasses.replace(p, recipe=p.recipe.replace({"runtime.compile": compiled, "model.depth": 1}))
    return p, initial_state(backend, p.recipe, compare.VOCAB)


@pytest.mark.parametrize("frac", [0.001, 0.03, 0.3, 1.0])
@pytest.mark.parametrize("parts", [1, 2, 4, 8, 16])
def test_the_warm_up_of_a_trial_meets_every_stage_of_the_short_rows(parts: int, frac: float) -> None:
    """However short it is: what it misses is compiled within the budget."""
    recipe = Recipe().replace({"schedule.seq_parts": parts, "schedule.seq_warmup_frac": frac})
    met = [schedule.row_parts(recipe, progress) for progress in trial.stages(recipe)]
    assert sorted(met) == [n for n in (1, 2, 4, 8, 16) if n <= parts]


@pytest.mark.parametrize("name", compare.SLOW_ON_CPU)
def test_every_stage_of_the_short_rows_is_compiled_once(name: str) -> None:
    backend = backends.load(name)
    p, state = in_stages(backend, True)
    trial.warm_up(backend, p.recipe, TrialJob(
        name, {}, compare.VOCAB, seed=1, budget_s=None, steps=STEPS, dev_rows=3, folder="", control=0, ring=0, filled=0,
        free=0))
    with compiling_forbidden(backend):
        compiled = compare.curve_of(backend, state, p, STEPS)
    _, eager = in_stages(backend, False)
    assert compiled == pytest.approx(compare.curve_of(backend, eager, p, STEPS), abs=1e-4)


@pytest.mark.parametrize("name", compare.SLOW_ON_CPU)
def test_checkpointing_compiles_to_the_same_curve(name: str) -> None:
    backend, p = backends.load(name), compare.problem("checkpointing")
    curves = []
    for compiled in (False, True):
        recipe = p.recipe.replace({"runtime.compile": compiled})
        state = backend.init(recipe, compare.VOCAB, dict(p.weights))
        curves.append(compare.curve_of(backend, state, dataclasses.replace(p, recipe=recipe), 8))
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)
