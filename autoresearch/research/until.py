"""When a study's work should stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


class Paused(Exception):
    """A stop was asked for between two trials; the same command goes on from there later."""


@dataclass
class Until:
    """A number of experiments, a moment, or a wish (`asked`); whichever comes first. `reserve` are the seconds before
    the deadline that experiments leave to what comes after them."""

    experiments: int | None = None
    deadline: float | None = None  # time.time()
    asked: bool = False
    reserve: Callable[[], float] = field(default=lambda: 0.0, compare=False)

    def over(self, next_takes_s: float) -> bool:
        """Whether a stop was asked for, or the next trial would end after the deadline."""
        return self.asked or (self.deadline is not None and time.time() + next_takes_s > self.deadline)

    def late(self, next_takes_s: float) -> bool:
        """The same for trials of experiments."""
        return self.over(next_takes_s if self.deadline is None else next_takes_s + self.reserve())

    def reached(self, done: int, next_takes_s: float) -> bool:
        return self.late(next_takes_s) or (self.experiments is not None and done >= self.experiments)

    def seconds_left(self) -> float | None:
        """Until experiments end."""
        return None if self.deadline is None else max(0.0, self.deadline - self.reserve() - time.time())
