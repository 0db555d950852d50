"""PyTorch on a CPU or a CUDA card: one code, two devices.

Axes: A micro-batches whose gradients are accumulated, B rows, T tokens, V vocabulary, N numbers of a schedule.
"""

from __future__ import annotations

import ctypes
import platform
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch._inductor.config as inductor
from torch import Tensor

from backends import host, torch_scaling
from backends.base import Backend, Device, fastest_s, micro_batches, resolve_precision
from backends.cards import Abilities, Card, abilities
from backends.gpt import params, schedule, torch_model, torch_optim
from backends.recipe import Recipe
from backends.spec import GPTSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class TorchState:
    recipe: Recipe
    spec: GPTSpec
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    roles: dict[str, str]
    dtype: torch.dtype
    steps: int
    seed: int
    train_step: Callable[..., Tensor]


class Pending:
    """A loss on its way from a card: float() waits for its own step, not for what was queued after it."""

    def __init__(self, loss: Tensor):
        self._host = torch.empty((), dtype=torch.float32, pin_memory=True)
        self._host.copy_(loss, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record()

    def __float__(self) -> float:
        self._copied.synchronize()
        return float(self._host)


class TorchBackend(Backend):
    def __init__(self, name: str):
        if name == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("the cuda backend needs an NVIDIA card that this torch build can use; "
                               "`--backend cpu` trains on the processor")
        if name == "cuda" and (problem := _card_abilities().problem):
            raise RuntimeError(problem)
        self.name = name
        self._device = torch.device(name)
        self._steps: dict[tuple[str, int], Callable[..., Tensor]] = {}
        if name == "cpu":
            _keep_freed_memory()
        else:
            inductor.compile_threads = 1  # its pool of processes needs /dev/shm, which a sandboxed trial lacks

    def device(self) -> Device:
        if self.name == "cuda":
            card, able = torch.cuda.get_device_properties(0), _card_abilities()
            return Device(card.name, card.total_memory, able.precisions, able.compiles)
        precisions = ("bfloat16", "float32") if _cpu_has_bf16() else ("float32", "bfloat16")
        return Device(host.processor(), host.memory_bytes(), precisions)

    def init(self, recipe: Recipe, vocab: int, weights: dict[str, np.ndarray], seed: int = 0) -> TorchState:
        spec = GPTSpec.of(recipe, vocab)
        roles = params.roles(spec)
        dtype = DTYPES[resolve_precision(recipe.runtime.precision, self.device())]
        ours = {k: torch.tensor(v, dtype=torch.float32, device=self._device) for k, v in weights.items()}
        key = (recipe.digest(), vocab)  # a second run of one recipe reuses the compiled step
        if key not in self._steps:
            compiled = recipe.runtime.compile and self.device().compiles
            self._steps[key] = whole_step(spec, roles, recipe, dtype, compiled)
        moments = torch_optim.init(ours, roles, recipe.optim)
        if dtype is torch.float16:
            moments |= torch_scaling.init(self._device)
        return TorchState(recipe, spec, ours, moments, roles, dtype, 0, seed, self._steps[key])

    def step(self, state: TorchState, tokens_BT1: np.ndarray, progress: float) -> Tensor | Pending:
        state.steps += 1
        hyper = schedule.hyper(state.recipe, progress, state.steps, state.seed)
        numbers = self._sent(torch.tensor(list(hyper.values()), dtype=torch.float32))
        tokens = self._tokens(micro_batches(state.recipe, tokens_BT1, schedule.row_parts(state.recipe, progress)))
        loss = state.train_step(state.weights, state.moments, numbers, tokens)
        return Pending(loss) if self.name == "cuda" else loss

    def logits(self, state: TorchState, tokens_BT: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return torch_model.logits(self._scored(state), self._tokens(tokens_BT), state.spec).cpu().numpy()

    def loss(self, state: TorchState, tokens_BT1: np.ndarray) -> float:
        nats = 0.0
        with torch.no_grad():
            weights = self._scored(state)
            for part in self._tokens(tokens_BT1).split(state.recipe.micro_rows):  # what training has memory for
                logits_BTV = torch_model.logits(weights, part[:, :-1], state.spec)
                mean = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), part[:, 1:].flatten())
                nats += mean.item() * len(part)
        return nats / len(tokens_BT1)

    def gradients(self, state: TorchState, tokens_BT1: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        scale = state.moments.get(torch_scaling.SCALE, torch.ones((), device=self._device))

        def objective(w: dict[str, Tensor], tokens: Tensor) -> Tensor:
            return scale * torch_model.loss(cast(w, state.dtype), tokens, state.spec)

        differentiate = gradients(objective, not state.spec.checkpoint)
        tokens_ABT1 = self._tokens(micro_batches(state.recipe, tokens_BT1))
        nats, grads = 0.0, {k: torch.zeros_like(w) for k, w in state.weights.items()}
        for tokens in tokens_ABT1:
            more, loss = differentiate(state.weights, tokens)
            accumulate(grads, more)
            nats += float(loss / scale)
        count = len(tokens_ABT1)
        return nats / count, {k: (g / scale / count).cpu().numpy() for k, g in grads.items()}

    def sync(self) -> None:
        if self.name == "cuda":
            torch.cuda.synchronize()

    def weights(self, state: TorchState) -> dict[str, np.ndarray]:
        return {k: v.detach().to("cpu", torch.float32, copy=True).numpy()  # training goes on in place
                for k, v in torch_optim.eval_weights(state.weights, state.moments).items()}

    def peak_memory_bytes(self) -> int:
        if self.name == "cuda":
            return torch.cuda.max_memory_allocated()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if platform.system() == "Darwin" else peak * 1024

    def matmul_flops(self, precision: str, seconds: float, shape: tuple[int, int, int] | None = None) -> float:
        m, k, n = shape or (8192 if self.name == "cuda" else 1024,) * 3
        best = self._product_s(DTYPES[precision], (m, k), (k, n), seconds)
        if self.name == "cuda":  # what these took is not the model's peak
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return 2 * m * k * n / best

    def _product_s(self, dtype: torch.dtype, left: tuple[int, int], right: tuple[int, int], seconds: float) -> float:
        a, b = (torch.randn(*size, device=self._device).to(dtype) for size in (left, right))

        def product() -> None:
            a @ b
            self.sync()

        return fastest_s(product, seconds)

    def _tokens(self, tokens: np.ndarray) -> Tensor:
        kind = np.int32 if self.name == "cuda" else np.int64  # half the bytes travel
        return self._sent(torch.from_numpy(np.array(tokens, dtype=kind, order="C"))).long()

    def _sent(self, x: Tensor) -> Tensor:
        """On the device. From pinned memory a card copies while the host goes on; from other memory the host waits."""
        return x.pin_memory().to(self._device, non_blocking=True) if self.name == "cuda" else x

    def _scored(self, state: TorchState) -> dict[str, Tensor]:
        return cast(torch_optim.eval_weights(state.weights, state.moments), state.dtype)


def cast(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {k: v.to(dtype) for k, v in weights.items()}


def gradients(objective: Callable[..., Tensor], plain: bool) -> Callable[..., tuple[dict[str, Tensor], Tensor]]:
    """(weights, ...) -> (gradients, loss) of a loss of weights; `plain`: it is neither compiled nor recomputed."""
    if plain:
        return torch.func.grad_and_value(objective)

    def by_autograd(weights: dict[str, Tensor], *given: Tensor | None) -> tuple[dict[str, Tensor], Tensor]:
        with torch.enable_grad():  # torch.func has no place for the hooks that checkpointing needs
            leaves = {k: w.detach().requires_grad_() for k, w in weights.items()}
            loss = objective(leaves, *given)
            return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)), loss.detach()

    return by_autograd


def accumulate(grads: dict[str, Tensor], more: dict[str, Tensor]) -> None:
    """Adds `more`, and empties it: each tensor is freed at once, so there are never three sets. Not in place, since a
    gradient may be one number expanded to its shape."""
    for k in grads:
        grads[k] = grads[k] + more.pop(k)


def whole_step(spec: GPTSpec, roles: dict[str, str], recipe: Recipe, dtype: torch.dtype,
               compiled: bool) -> Callable[..., Tensor]:
    """(weights, moments, numbers_N, tokens_ABT1) -> loss: gradients of every micro-batch, one update.

    A function of tensors alone, so one graph holds all of it and sees every update of its inputs. With
    checkpointing there are two: a graph of its own lets the compiler keep the loss's recomputation, which it
    would recognise as work already done in a graph that held both passes. So there are with micro-batches, or
    one graph would hold a copy for each.
    """
    names = list(schedule.hyper(Recipe(), 0.0, 1))

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        # Without isolation all recipes of a process share one allowance of eight compilations.
        # (The argument is documented, but torch's type overloads lack it.)
        return torch.compile(function, dynamic=False, fullgraph=True, isolate_recompiles=True)  # type: ignore[call-overload]

    def objective(weights: dict[str, Tensor], tokens_BT1: Tensor, salt: Tensor | None, scale: Tensor | None) -> Tensor:
        loss = torch_model.loss(cast(weights, dtype), tokens_BT1, spec, salt)
        return loss if scale is None else loss * scale

    optim, in_parts = recipe.optim, compiled and (spec.checkpoint or recipe.micro_rows < recipe.rows_per_step)
    update = compile_(torch_optim.update) if in_parts else torch_optim.update
    differentiate = gradients(compile_(objective) if in_parts else objective, not (in_parts or spec.checkpoint))

    def step(weights: dict[str, Tensor], moments: dict[str, Tensor], numbers_N: Tensor, tokens_ABT1: Tensor) -> Tensor:
        h = dict(zip(names, numbers_N.unbind(), strict=True))
        salt = h["salt"] if spec.dropout else None
        scale = moments.get(torch_scaling.SCALE)
        grads, loss = differentiate(weights, tokens_ABT1[0], salt, scale)
        for i, tokens_BT1 in enumerate(tokens_ABT1[1:], start=1):
            more, extra = differentiate(weights, tokens_BT1, None if salt is None else salt + i, scale)
            accumulate(grads, more)
            loss = loss + extra
        count = len(tokens_ABT1)
        for k in grads:
            grads[k] = grads[k] / count
        with torch.no_grad():
            if scale is None:
                update(weights, grads, moments, h, roles, optim, dtype)
                return loss / count
            loss = loss / scale  # the scale changes with the update
            torch_scaling.guarded(lambda unscaled: update(weights, unscaled, moments, h, roles, optim, dtype),
                                  weights, grads, moments)
        return loss / count

    return compile_(step) if compiled and not in_parts else step


def _keep_freed_memory() -> None:
    """glibc returns every large freed tensor to the kernel and faults it in again; up to 2x slower."""
    if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def _card_abilities() -> Abilities:
    card = torch.cuda.get_device_properties(0)
    return abilities(Card(card.name, (card.major, card.minor), tuple(torch.cuda.get_arch_list())))


def _cpu_has_bf16() -> bool:
    """Hardware bf16 products. Elsewhere bf16 is emulated and slower than float32, up to 400 times."""
    if platform.system() != "Linux":
        return False
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
        text = f.read()
    return "amx_bf16" in text or "avx512_bf16" in text
