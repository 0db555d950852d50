"""MLX on Apple Silicon, or on a Linux processor, where it is the witness that keeps the torch code honest.

Axes: A micro-batches whose gradients are accumulated, B rows, T tokens, V vocabulary, N numbers of a schedule.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from backends import host
from backends.base import Backend, Device, fastest_s, micro_batches, resolve_precision
from backends.gpt import mlx_model, mlx_optim, params, schedule
from backends.recipe import Optim, Recipe
from backends.spec import GPTSpec

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16}
Arrays = dict[str, mx.array]
Step = Callable[[Arrays, Arrays, mx.array, mx.array], tuple[mx.array, Arrays, Arrays]]


@dataclass
class MLXState:
    recipe: Recipe
    spec: GPTSpec
    weights: Arrays
    moments: Arrays
    roles: dict[str, str]
    dtype: mx.Dtype
    steps: int
    seed: int
    train_step: Step


class MLXBackend(Backend):
    name = "mlx"

    def __init__(self) -> None:
        self._steps: dict[tuple[str, int], Step] = {}
        if mx.metal.is_available():  # else it may take half as much again, and the Mac would swap
            mx.set_memory_limit(self.device().memory_bytes)

    def device(self) -> Device:
        info = mx.device_info()
        if platform.system() != "Darwin":
            return Device(str(info["device_name"]), host.memory_bytes(), ("float32", "bfloat16"))
        # What Metal keeps resident at full speed; the rest of the unified memory belongs to the system.
        # bf16 halves the traffic on every chip. M1 and M2 have no faster bf16 products, so whether it
        # wins there is for the probe to measure.
        return Device(str(info["device_name"]), int(info["max_recommended_working_set_size"]), ("bfloat16", "float32"))

    def init(self, recipe: Recipe, vocab: int, weights: dict[str, np.ndarray], seed: int = 0) -> MLXState:
        spec = GPTSpec.of(recipe, vocab)
        roles = params.roles(spec)
        dtype = DTYPES[resolve_precision(recipe.runtime.precision, self.device())]
        ours = {k: mx.array(np.asarray(v, np.float32)) for k, v in weights.items()}
        moments = mlx_optim.init(ours, roles, recipe.optim)
        mx.eval(ours, moments)
        key = (recipe.digest(), vocab)  # a second run of one recipe reuses the compiled step
        if key not in self._steps:
            step = whole_step(spec, roles, recipe.optim, dtype)
            self._steps[key] = mx.compile(step) if recipe.runtime.compile else step
        return MLXState(recipe, spec, ours, moments, roles, dtype, 0, seed, self._steps[key])

    def step(self, state: MLXState, tokens_BT1: np.ndarray, progress: float) -> mx.array:
        state.steps += 1
        hyper = schedule.hyper(state.recipe, progress, state.steps, state.seed)
        numbers = mx.array(list(hyper.values()), dtype=mx.float32)
        tokens = _tokens(micro_batches(state.recipe, tokens_BT1, schedule.row_parts(state.recipe, progress)))
        loss, state.weights, state.moments = state.train_step(state.weights, state.moments, numbers, tokens)
        mx.async_eval(loss, state.weights, state.moments)  # start now: an unevaluated graph grows with every step
        return loss

    def logits(self, state: MLXState, tokens_BT: np.ndarray) -> np.ndarray:
        return np.array(mlx_model.logits(self._scored(state), _tokens(tokens_BT), state.spec))

    def loss(self, state: MLXState, tokens_BT1: np.ndarray) -> float:
        nats, weights, tokens, rows = 0.0, self._scored(state), _tokens(tokens_BT1), state.recipe.micro_rows
        for part in (tokens[i : i + rows] for i in range(0, len(tokens), rows)):  # what training has memory for
            logits_BTV = mlx_model.logits(weights, part[:, :-1], state.spec)
            nats += float(mlx_model.cross_entropy(logits_BTV, part[:, 1:])) * len(part)
        return nats / len(tokens_BT1)

    def gradients(self, state: MLXState, tokens_BT1: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        def objective(w: Arrays, tokens: mx.array) -> mx.array:
            return mlx_model.loss(cast(w, state.dtype), tokens, state.spec)

        tokens_ABT1 = _tokens(micro_batches(state.recipe, tokens_BT1))
        nats, grads = 0.0, {k: mx.zeros_like(w) for k, w in state.weights.items()}
        for tokens in tokens_ABT1:
            loss, more = mx.value_and_grad(objective)(state.weights, tokens)
            grads = {k: g + grads[k] for k, g in more.items()}
            mx.eval(loss, grads)  # now: one lazy graph of all would keep the activations of all
            nats += float(loss)
        count = len(tokens_ABT1)
        return nats / count, {k: np.array(g / count) for k, g in grads.items()}

    def sync(self) -> None:
        mx.synchronize()

    def weights(self, state: MLXState) -> dict[str, np.ndarray]:
        return {k: np.array(v.astype(mx.float32))
                for k, v in mlx_optim.eval_weights(state.weights, state.moments).items()}

    def peak_memory_bytes(self) -> int:
        return mx.get_peak_memory()

    def matmul_flops(self, precision: str, seconds: float, shape: tuple[int, int, int] | None = None) -> float:
        m, k, n = shape or (4096 if mx.default_device() == mx.gpu else 512,) * 3
        best = _product_s(DTYPES[precision], (m, k), (k, n), seconds)
        mx.clear_cache()  # what these took is not the model's peak
        mx.reset_peak_memory()
        return 2 * m * k * n / best

    def _scored(self, state: MLXState) -> Arrays:
        return cast(mlx_optim.eval_weights(state.weights, state.moments), state.dtype)


def _product_s(dtype: mx.Dtype, left: tuple[int, int], right: tuple[int, int], seconds: float) -> float:
    a, b = (mx.random.normal(size).astype(dtype) for size in (left, right))
    return fastest_s(lambda: mx.eval(a @ b), seconds)


def _tokens(tokens: np.ndarray) -> mx.array:
    return mx.array(np.ascontiguousarray(tokens, dtype=np.int32))


def cast(weights: Arrays, dtype: mx.Dtype) -> Arrays:
    return {k: v.astype(dtype) for k, v in weights.items()}


def whole_step(spec: GPTSpec, roles: dict[str, str], optim: Optim, dtype: mx.Dtype) -> Step:
    """(weights, moments, numbers_N, tokens_ABT1) -> (loss, weights, moments): gradients of every
    micro-batch, one update.

    Everything that changes is an argument: `mx.compile` treats arrays that a function closes over as
    constants, and a step that closed over its weights would train the initial ones for ever.
    """
    names = list(schedule.hyper(Recipe(), 0.0, 1))

    def objective(weights: Arrays, tokens_BT1: mx.array, salt: mx.array | None) -> mx.array:
        return mlx_model.loss(cast(weights, dtype), tokens_BT1, spec, salt)

    def step(weights: Arrays, moments: Arrays, numbers_N: mx.array,
             tokens_ABT1: mx.array) -> tuple[mx.array, Arrays, Arrays]:
        h = {name: numbers_N[i] for i, name in enumerate(names)}
        salt = h["salt"] if spec.dropout else None
        loss, grads = mx.value_and_grad(objective)(weights, tokens_ABT1[0], salt)
        for i in range(1, len(tokens_ABT1)):
            # A lazy graph may run every forward pass first; the dependency keeps one micro-batch in memory.
            tokens_BT1 = mx.depends(tokens_ABT1[i], [loss, *grads.values()])
            extra, more = mx.value_and_grad(objective)(weights, tokens_BT1, None if salt is None else salt + i)
            loss, grads = loss + extra, {k: g + more[k] for k, g in grads.items()}
        count = len(tokens_ABT1)
        weights, moments = mlx_optim.update(
            weights, {k: g / count for k, g in grads.items()}, moments, h, roles, optim, dtype)
        return loss / count, weights, moments

    return step
