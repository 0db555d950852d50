"""The budget: when training may go on. Every second since `start` counts, waiting for data and recompiling included."""

from __future__ import annotations

import statistics
import time
from collections import deque


class Budget:
    """Either `seconds` of wall clock or a number of `steps` (for comparisons by step)."""

    def __init__(self, seconds: float | None, steps: int | None):
        self.seconds, self.steps = seconds, steps
        self._recent_s: deque[float] = deque(maxlen=9)
        self._start = self._last = 0.0

    def start(self) -> None:
        self._start = self._last = time.perf_counter()

    def elapsed_s(self) -> float:
        return time.perf_counter() - self._start

    def lap(self) -> None:
        """One step is over."""
        now = time.perf_counter()
        self._recent_s.append(now - self._last)
        self._last = now

    def step_s(self) -> float:
        """What the next step is expected to take."""
        return statistics.median(self._recent_s) if self._recent_s else 0.0

    def progress(self, step: int) -> float:
        """Share of the budget spent, in [0, 1]; what the schedules follow."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        assert self.seconds is not None
        return min(1.0, self.elapsed_s() / self.seconds)

    def is_closing(self, reserve_s: float = 0.0) -> bool:
        """Whether a step that has only been queued would leave no time for the next one."""
        return self.seconds is not None and self.elapsed_s() + 2 * self.step_s() + reserve_s > self.seconds

    def allows(self, step: int, reserve_s: float = 0.0) -> bool:
        """Whether one more step fits, and `reserve_s` after it: a step that would overrun is not begun."""
        if self.steps is not None:
            return step < self.steps
        assert self.seconds is not None
        return self.elapsed_s() + self.step_s() + reserve_s <= self.seconds
