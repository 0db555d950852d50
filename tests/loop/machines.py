"""A machine of one's choice in place of the measuring process: speed by a formula, memory by the estimate."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoresearch import costs
from autoresearch.costs import Costs
from autoresearch.harness.measuring import Faithful, Timed
from autoresearch.harness.supervise import TrialFailed
from autoresearch.records import MEMORY
from backends.base import Device
from backends.recipe import Recipe

SPEED = Costs((2e-4, 1 / 2e11, 1e-10, 2e-9), 0.7)  # of a small CPU
GOOD = Faithful("bfloat16", 8, 0.0, 0.999, "head.weight", 0.001, 1.0, 0, 1.6)


class Machine(contextlib.AbstractContextManager["Machine"]):
    """Called and used as `Measuring` is."""

    idle_bytes, start_s = 1 << 20, 0.5

    def __init__(self, device: Device, speed: Costs = SPEED, faithful: Faithful = GOOD, compiled: float = 2.0,
                 really_bytes: int | None = None, products: float = 3.0, compiling_s: float = 0.0):
        self.device, self.speed, self.faithful = device, speed, faithful
        self.compiled, self.compiling_s = compiled, compiling_s
        self.really_bytes = device.memory_bytes if really_bytes is None else really_bytes
        self.products = products  # FLOP/s of low precision over float32's
        self.begun: list[Recipe] = []
        self.starts = 0
        self._peak = 0

    def __call__(self, candidate: object, backend: str, compiled: Path | None = None) -> Machine:
        self.starts += 1
        return copy.copy(self)

    def __exit__(self, *exc: object) -> None:
        pass

    def begin(self, recipe: Recipe, vocab: int, timeout_s: float) -> float:
        needs = costs.estimated_bytes(recipe, vocab)
        self.begun.append(recipe)
        if needs > self.really_bytes:
            raise TrialFailed("crash", "out of memory: a test's machine is full", MEMORY)
        if recipe.runtime.compile and self.compiling_s > timeout_s:
            raise TrialFailed("timeout", "no answer within a test's patience")
        self._recipe, self._vocab, self._peak = recipe, vocab, max(self._peak, needs)
        return 1.0

    def time(self, seconds: float, timeout_s: float, least: int = 3) -> Timed:
        step_s = self.step_s(self._recipe, self._vocab)
        self._peak += 1 << 17  # no run leaves a process quite as it was
        return Timed([step_s] * least, self._peak + self.idle_bytes)

    def step_s(self, recipe: Recipe, vocab: int) -> float:
        """By the formula in float32; a low precision is as much faster as `faithful` says."""
        asked = self.device.precisions[0] if recipe.runtime.precision == "auto" else recipe.runtime.precision
        faster = (1.0 if asked == "float32" else self.faithful.speed_ratio) * (
            self.compiled if recipe.runtime.compile else 1.0)
        return self.speed.step_s(recipe, vocab) / faster

    def ceiling(self, precision: str, seconds: float, timeout_s: float,
                shapes: tuple[Any, ...] = (None,)) -> list[float]:
        return [2e11 * (1 if precision == "float32" else self.products)] * len(shapes)

    def compare(self, recipe: Recipe, vocab: int, precision: str, seconds: float, timeout_s: float) -> Faithful:
        return replace(self.faithful, precision=precision)
