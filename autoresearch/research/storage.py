"""Disk space of a study: which weights stay, how much all of it may take, and whether another trial fits.

The weights of these experiments stay: the champion, the baseline, the last three that were kept before the champion,
and those that are not decided yet. Where that is more than the study may take, the oldest kept go first, then the
baseline. Logs, scores and commits always stay: a seed and a commit are enough to train the same weights again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autoresearch import words
from autoresearch.errors import UserError
from autoresearch.harness.checkpoint import WEIGHTS
from autoresearch.harness.runner import RECORDS
from autoresearch.harness.watch import folder_bytes
from autoresearch.records import BASELINE, Experiment

KEPT_BEFORE = 3  # experiments kept before the champion whose weights stay
BUDGET_BYTES = 20 * 10**9  # of a study, unless it was given another
FACT = "disk_bytes"
COPIES = 3  # of weights at once: what a trial writes, what it is checked and stamped from, an older one
SPARE_BYTES = 10**9  # for records, compiled code, logs, git and the ledger


@dataclass(frozen=True)
class Storage:
    """The folder of a study's trials, and what it may take."""

    trials: Path
    budget_bytes: int = BUDGET_BYTES

    def make_room(self, experiments: list[Experiment], champion: int | None, needed_bytes: int) -> None:
        """Deletes weights by the rule above. Raises UserError where another trial does not fit all the same."""
        keepers = list(_by_worth(experiments, champion))
        self._delete_all_but(experiments, keepers[:2 + KEPT_BEFORE])
        used = folder_bytes(self.trials)
        while used + needed_bytes > self.budget_bytes and len(keepers) > 1:
            keepers = keepers[:min(len(keepers) - 1, 1 + KEPT_BEFORE)]
            self._delete_all_but(experiments, keepers)
            used = folder_bytes(self.trials)
        if used + needed_bytes > self.budget_bytes:
            raise UserError(f"the study takes {words.size(used)} of the {words.size(self.budget_bytes)} of disk space "
                            f"that it may; the next trial needs {words.size(needed_bytes)}",
                            f"Give it more with --disk, or delete logs in {self.trials}. The same command continues.")
        free = shutil.disk_usage(self.trials).free
        if free < needed_bytes:
            raise UserError(f"{words.size(free)} of disk space are free at {self.trials}; the next trial needs "
                            f"{words.size(needed_bytes)}", "Free some. Nothing is lost: the same command continues.")

    def _delete_all_but(self, experiments: list[Experiment], keepers: list[int]) -> None:
        """Of what was kept: the loop deletes the weights of ideas that were not, when they are decided."""
        for trial in (t for e in experiments if e.verdict == "keep" and e.n not in keepers for t in e.trials):
            for name in (WEIGHTS, RECORDS):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self.trials}/{trial.id}/{name}")  # a study has thousands of them, and a Path is slow


def needed_bytes(params: int) -> int:
    """Of one more trial."""
    return COPIES * 4 * params + SPARE_BYTES


def _by_worth(experiments: list[Experiment], champion: int | None) -> Iterator[int]:
    """Numbers of the experiments whose weights are worth keeping: champion, baseline, then the newest first."""
    if champion is not None:
        yield champion
    if champion != BASELINE:
        yield BASELINE
    yield from (e.n for e in reversed(experiments) if e.verdict == "keep" and e.n not in (champion, BASELINE))
