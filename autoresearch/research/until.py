"""When a study's work should stop."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass
class Until:
    """A number of experiments, a moment, or a wish (`asked`); whichever comes first."""

    experiments: int | None = None
    deadline: float | None = None  # time.time()
    asked: bool = False

    def reached(self, done: int, next_takes_s: float) -> bool:
        late = self.deadline is not None and time.time() + next_takes_s > self.deadline
        return self.asked or late or (self.experiments is not None and done >= self.experiments)

    def seconds_left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - time.time())
