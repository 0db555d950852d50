"""Stopping a screening trial that can't win any more, judged by dev losses at the same share of the budget.

    applies   to which changes: not where the middle of a run says little about its end
    margin    how far behind a trial may be and still catch up
    Hope      of one running trial: what it would have to do

How far candidates catch up was measured on recorded curves, in units of what the incumbent itself still gained: its
dev loss there less its last. Every trial of the study that came to its end adds to that. benchmarks/futility.py
measures how often a winner would be stopped; docs/decisions.md has the rule and the figures.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from autoresearch.harness.jobs import DEV_FRACTIONS
from autoresearch.paths import CANDIDATE
from autoresearch.records import BASELINE, Experiment, Pair, Point, Trial
from autoresearch.research import decide

OFF = "AUTORESEARCH_NO_FUTILITY"
LOOKS = DEV_FRACTIONS[:4]  # the last leaves nothing to save
EXPECTED = (0.15, 0.2, 0.22, 0.4)  # catching up, root mean square at each look, in units of what the incumbent gained
EXPECTED_DOF = 10.0  # how many trials that is worth
Z = 2.33  # so many of them: one in a hundred catches up further

# Where schedules, context, text or regularisation differ, curves cross as a rule. Rows of dev are other bytes in other
# tokenizers and contexts.
CROSSING = ("schedule.", "extra.", "data.", "model.seq_len", "model.dropout", "model.short_window_frac")
CROSSING_FILES = ("schedule.py",)


def applies(changes: Sequence[str], files: Sequence[str]) -> bool:
    """By recipe keys and files that were changed."""
    crossing = any(key.startswith(CROSSING) for key in changes) \
        or any(path.endswith(tuple(f"/{name}" for name in CROSSING_FILES)) for path in files)
    return not crossing and (bool(changes) or any(path.startswith(f"{CANDIDATE}/") for path in files))


def margin(look: int, left_bpb: float, past: Sequence[float]) -> float:
    """How far behind may be made up for by the end. `left_bpb`: what the incumbent gained after this look; `past`: how
    far others caught up after it, in units of what their own incumbents gained."""
    dof = EXPECTED_DOF + len(past)
    scale = np.sqrt((EXPECTED_DOF * EXPECTED[look] ** 2 + float(np.sum(np.square(past)))) / dof)
    return float(decide.as_t(Z, dof) * scale * max(0.0, left_bpb))


def curve(trial: Trial) -> Sequence[float]:
    """Dev losses at the fixed shares of the budget."""
    return trial.dev_bpb[:len(DEV_FRACTIONS)]


def caught_up(mine: Sequence[float], theirs: Sequence[float], delta_bpb: float) -> list[float]:
    """After each look, in units of what the incumbent gained; `delta_bpb` is how far it was behind in the end."""
    return [(mine[k] - theirs[k] - delta_bpb) / max(1e-3, theirs[k] - theirs[-1]) for k in range(len(LOOKS))]


@dataclass
class Hope:
    theirs: Sequence[float] = ()  # the incumbent's curve on that seed; empty: nothing is judged
    past: list[list[float]] = field(default_factory=list)  # of each earlier candidate, how far it caught up
    _looks: int = 0

    @classmethod
    def of(cls, experiments: Sequence[Experiment], pairs: Sequence[Pair], incumbent: Experiment | None, n: int,
           files: Sequence[str], seed: int) -> Hope:
        """Of a screening trial of experiment `n`."""
        mine = next(e for e in experiments if e.n == n)
        if n <= BASELINE or incumbent is None or not applies(list(mine.changes), files):
            return cls()
        trials = {t.id: t for e in experiments for t in e.trials}
        theirs = max((t for t in incumbent.trials if t.seed == seed and t.status == "ok" and t.bpb() is not None),
                     key=lambda t: t.id, default=None)
        if theirs is None or not _whole(theirs):
            return cls()
        changes = {e.n: list(e.changes) for e in experiments}
        past = [caught_up(curve(trials[p.trial]), curve(trials[p.incumbent_trial]), p.delta_bpb)
                for p in pairs if _whole(trials[p.trial]) and _whole(trials[p.incumbent_trial])
                and changes[p.experiment] and applies(changes[p.experiment], [])]
        return cls(curve(theirs), past)

    def restart(self) -> None:
        """The trial begins anew: its next dev loss is the first."""
        self._looks = 0

    def lost(self, point: Point) -> str:
        """Why the trial should go on no further, or nothing."""
        if point.dev_bpb is None or self._looks >= len(LOOKS) or not self.theirs:
            return ""
        look, self._looks = self._looks, self._looks + 1
        behind = point.dev_bpb - self.theirs[look]
        allowed = margin(look, self.theirs[look] - self.theirs[-1], [c[look] for c in self.past])
        if behind <= allowed:
            return ""
        return (f"stopped at {LOOKS[look]:.0%} of its budget: {behind:.4f} bits per byte behind the incumbent on dev, "
                f"and no more than {allowed:.4f} is likely to be made up for")


def wanted() -> bool:
    return os.environ.get(OFF, "").lower() in ("", "0", "off", "no", "false")


def _whole(trial: Trial) -> bool:
    return len(curve(trial)) == len(DEV_FRACTIONS)
