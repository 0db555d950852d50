"""PyTorch on a CPU or a CUDA card: one code, two devices."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backends.base import Backend, Device, micro_batches, resolve_precision
from backends.gpt import params, schedule, torch_model, torch_optim
from backends.recipe import Recipe
from backends.spec import GPTSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class TorchState:
    recipe: Recipe
    spec: GPTSpec
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    roles: dict[str, str]
    dtype: torch.dtype
    steps: int
    train_step: Callable[..., Tensor]


class TorchBackend(Backend):
    def __init__(self, name: str):
        if name == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("the cuda backend needs an NVIDIA card that this torch build can use; "
                               "`--backend cpu` trains on the processor")
        self.name = name
        self._device = torch.device(name)
        self._steps: dict[tuple[str, int], Callable[..., Tensor]] = {}
        if name == "cpu":
            _keep_freed_memory()

    def device(self) -> Device:
        if self.name == "cuda":
            card = torch.cuda.get_device_properties(0)
            # bf16 arithmetic came with compute capability 8.0; older cards only emulate it.
            precisions = ("bfloat16", "float32") if card.major >= 8 else ("float32",)
            return Device(card.name, card.total_memory, precisions)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Device(_cpu_name(), memory, ("bfloat16", "float32") if _cpu_has_bf16() else ("float32", "bfloat16"))

    def init(self, recipe: Recipe, vocab: int, weights: dict[str, np.ndarray]) -> TorchState:
        spec = GPTSpec.of(recipe, vocab)
        roles = params.roles(spec)
        dtype = DTYPES[resolve_precision(recipe.runtime.precision, self.device())]
        ours = {k: torch.tensor(v, dtype=torch.float32, device=self._device) for k, v in weights.items()}
        key = (recipe.digest(), vocab)  # a second run of one recipe reuses the compiled step
        if key not in self._steps:
            step = whole_step(spec, roles, recipe.optim.muon_steps, dtype)
            if recipe.runtime.compile:
                # Without isolation all recipes of a process share one allowance of eight compilations.
                # (The argument is documented, but torch's type overloads lack it.)
                step = torch.compile(step, dynamic=False, fullgraph=True, isolate_recompiles=True)  # type: ignore[call-overload]
            self._steps[key] = step
        return TorchState(recipe, spec, ours, torch_optim.init(ours, roles), roles, dtype, 0, self._steps[key])

    def step(self, state: TorchState, tokens_BT1: np.ndarray, progress: float) -> Tensor:
        state.steps += 1
        hyper = schedule.hyper(state.recipe, progress, state.steps)
        numbers = torch.tensor(list(hyper.values()), dtype=torch.float32).to(self._device, non_blocking=True)
        tokens = self._tokens(micro_batches(state.recipe, tokens_BT1))
        return state.train_step(state.weights, state.moments, numbers, tokens)

    def logits(self, state: TorchState, tokens_BT: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return torch_model.logits(self._scored(state), self._tokens(tokens_BT), state.spec).cpu().numpy()

    def loss(self, state: TorchState, tokens_BT1: np.ndarray) -> float:
        tokens = self._tokens(tokens_BT1)
        with torch.no_grad():
            logits_BTV = torch_model.logits(self._scored(state), tokens[:, :-1], state.spec)
            return torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), tokens[:, 1:].flatten()).item()

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

    def diagnostics(self, state: TorchState, tokens_BT1: np.ndarray) -> dict[str, float]:
        def objective(w: dict[str, Tensor]) -> Tensor:
            return torch_model.loss(cast(w, state.dtype), self._tokens(tokens_BT1), state.spec)

        grads = torch.func.grad(objective)(state.weights)
        return {f"{what}_rms.{role}": float(torch.cat([t[n].flatten() for n in names]).square().mean().sqrt())
                for what, t in (("weight", state.weights), ("grad", grads))
                for role in dict.fromkeys(state.roles.values())
                for names in [[n for n in t if state.roles[n] == role]]}

    def matmul_flops(self, precision: str, seconds: float) -> float:
        n = 8192 if self.name == "cuda" else 1024
        a = torch.randn(n, n, device=self._device).to(DTYPES[precision])
        best, end = float("inf"), time.perf_counter() + seconds
        a @ a
        while time.perf_counter() < end:
            self.sync()
            start = time.perf_counter()
            a @ a
            self.sync()
            best = min(best, time.perf_counter() - start)
        return 2 * n**3 / best if best < float("inf") else 0.0

    def _tokens(self, tokens: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64)).to(self._device, non_blocking=True)

    def _scored(self, state: TorchState) -> dict[str, Tensor]:
        return cast(torch_optim.eval_weights(state.weights, state.moments), state.dtype)


def cast(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {k: v.to(dtype) for k, v in weights.items()}


def whole_step(spec: GPTSpec, roles: dict[str, str], muon_steps: int, dtype: torch.dtype) -> Callable[..., Tensor]:
    """(weights, moments, numbers_K, tokens_MBT1) -> loss: gradients of every micro-batch, one update.

    A function of tensors alone, so one graph holds all of it and sees every update of its inputs.
    """
    names = list(schedule.hyper(Recipe(), 0.0, 1))

    def objective(weights: dict[str, Tensor], tokens_BT1: Tensor) -> Tensor:
        return torch_model.loss(cast(weights, dtype), tokens_BT1, spec)

    def step(weights: dict[str, Tensor], moments: dict[str, Tensor], numbers_K: Tensor, tokens_MBT1: Tensor) -> Tensor:
        grads, loss = torch.func.grad_and_value(objective)(weights, tokens_MBT1[0])
        for tokens_BT1 in tokens_MBT1[1:]:
            more, extra = torch.func.grad_and_value(objective)(weights, tokens_BT1)
            grads, loss = {k: g + more[k] for k, g in grads.items()}, loss + extra
        count = len(tokens_MBT1)
        with torch.no_grad():
            h = dict(zip(names, numbers_K.unbind(), strict=True))
            torch_optim.update(weights, {k: g / count for k, g in grads.items()}, moments, h, roles, muon_steps, dtype)
        return loss / count

    return step


def _keep_freed_memory() -> None:
    """glibc returns every large freed tensor to the kernel and faults it in again; up to 2x slower."""
    if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def _cpu_has_bf16() -> bool:
    """Hardware bf16 products. Elsewhere bf16 is emulated and slower than float32, up to 400 times."""
    if platform.system() != "Linux":
        return False
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
        text = f.read()
    return "amx_bf16" in text or "avx512_bf16" in text


def _cpu_name() -> str:
    if platform.system() == "Linux":
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
            for line in f:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()

