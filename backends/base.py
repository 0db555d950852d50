"""The Backend contract: what the harness needs of a device, and nothing a candidate may change."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.recipe import Recipe

State = Any  # weights, moments, steps and `roles` of parameters of one run; the rest is opaque outside its backend


@dataclass(frozen=True)
class Device:
    name: str  # as the maker calls it
    memory_bytes: int  # what a process may use at most
    precisions: tuple[str, ...]  # the first is what precision = "auto" means
    compiles: bool = True  # whether a step can be compiled on it; where not, compile = true is as false


class Backend(ABC):
    name: str  # "mlx", "cuda" or "cpu"

    @abstractmethod
    def device(self) -> Device: ...

    @abstractmethod
    def init(self, recipe: Recipe, vocab: int, weights: dict[str, np.ndarray], seed: int = 0) -> State:
        """A fresh run from float32 weights named and shaped by the parameter table; `seed` decides its dropout."""

    @abstractmethod
    def step(self, state: State, tokens_BT1: np.ndarray, progress: float) -> Any:
        """One optimizer step in place on int32 (B, T+1) tokens; progress in [0, 1] of the budget.
        Returns the mean training loss in nats per token, a device scalar that `float()` waits for."""

    @abstractmethod
    def logits(self, state: State, tokens_BT: np.ndarray) -> np.ndarray:
        """float32 (B, T, V) of the weights that `weights` returns."""

    @abstractmethod
    def loss(self, state: State, tokens_BT1: np.ndarray) -> float:
        """Mean cross-entropy in nats per token of `logits`, without updating."""

    @abstractmethod
    def gradients(self, state: State, tokens_BT1: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """Loss and float32 gradients as the next step would compute them, in the run's precision; without dropout."""

    @abstractmethod
    def sync(self) -> None:
        """Block until queued work is done."""

    @abstractmethod
    def weights(self, state: State) -> dict[str, np.ndarray]:
        """A float32 copy of the weights to score and save: an average, if the candidate keeps one."""

    @abstractmethod
    def peak_memory_bytes(self) -> int: ...

    def diagnostics(self, state: State, tokens_BT1: np.ndarray) -> dict[str, float]:
        """Untimed facts about a state: root-mean-square of weights and gradients per role."""
        of_role: dict[str, list[str]] = {}
        for name, role in state.roles.items():
            of_role.setdefault(role, []).append(name)
        return {f"{what}_rms.{role}": float(np.sqrt(np.mean(np.concatenate([a[n].ravel() for n in names]) ** 2)))
                for what, a in (("weight", self.weights(state)), ("grad", self.gradients(state, tokens_BT1)[1]))
                for role, names in of_role.items()}

    @abstractmethod
    def matmul_flops(self, precision: str, seconds: float, shape: tuple[int, int, int] | None = None) -> float:
        """FLOP/s of a matrix product (m, k) x (k, n) on this device. Without a shape, of a large square one: the
        ceiling of utilisation."""


def resolve_precision(requested: str, device: Device) -> str:
    """The precision that runs. Raises ValueError where the device can't do the one asked for."""
    if requested == "auto":
        return device.precisions[0]
    if requested not in device.precisions:
        raise ValueError(f"runtime.precision = {requested!r}: {device.name} offers {', '.join(device.precisions)}")
    return requested


def fastest_s(work: Callable[[], object], seconds: float) -> float:
    """What the fastest call takes: of those that begin within `seconds`, one at least. A call before them, which may
    load or compile what they need, does not count."""
    work()
    best, end = math.inf, time.perf_counter() + seconds
    while best == math.inf or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def micro_batches(recipe: Recipe, tokens_BT1: np.ndarray, parts: int = 1) -> np.ndarray:
    """(B, T+1) -> (micro-batches, rows, T / parts + 1): each row cut in `parts`, and micro_rows whole rows at a time;
    one micro-batch where micro_rows does not divide B."""
    rows = recipe.micro_rows if len(tokens_BT1) % recipe.micro_rows == 0 else len(tokens_BT1)
    if parts > 1:
        T = (tokens_BT1.shape[1] - 1) // parts
        tokens_BT1 = np.stack([tokens_BT1[:, i * T : (i + 1) * T + 1] for i in range(parts)], axis=1).reshape(-1, T + 1)
    return tokens_BT1.reshape(-1, rows * parts, tokens_BT1.shape[1])
