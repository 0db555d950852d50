"""What the picture of a study shows, as numbers: every attempt, the best so far, and how far seeds lie apart.

    Progress     the study on the screening seed
    progress     of a story; None before the baseline is scored

Drawn twice: as PNG for a README (picture.py) and as SVG in pages (charts.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from autoresearch.report.story import Attempt, Story

FAILED = ("crash", "timeout", "invalid", "interrupted")


@dataclass(frozen=True)
class Progress:
    steps: list[Attempt]  # the baseline and what was kept, with their scores
    dropped: list[Attempt]  # with a score inside the limits
    beyond: list[Attempt]  # with a score too high to show
    stopped: list[Attempt]  # dropped before their end, so without one
    failed: list[Attempt]  # without one too
    seeds: dict[int, tuple[float, float]]  # n of a step with several -> lowest and highest
    spread_bpb: float
    low: float
    high: float
    last: int  # experiment number at the right end

    @property
    def staircase(self) -> list[tuple[float, float]]:
        """(experiment, best score so far), to the right end."""
        best = [(float(a.n), a.bpb) for a in self.steps if a.bpb is not None]
        return [*best, (self.last + 0.6, best[-1][1])]


def progress(story: Story) -> Progress | None:
    if story.baseline is None or story.baseline.bpb is None:
        return None
    steps = [a for a in [story.baseline, *story.kept] if a.bpb is not None]
    seeds = {a.n: (min(found), max(found)) for a in steps if len(found := list(a.experiment.on_val().values())) > 1}
    low, high = _limits(story, steps)
    dropped = [a for a in story.judged if a.verdict == "discard" and a.bpb is not None]
    return Progress(
        steps=steps, dropped=[a for a in dropped if a.bpb is not None and a.bpb <= high],
        beyond=[a for a in dropped if a.bpb is not None and a.bpb > high],
        stopped=[a for a in story.judged if a.verdict == "discard" and a.bpb is None],
        failed=[a for a in story.judged if a.verdict in FAILED], seeds=seeds, spread_bpb=story.spread_bpb or 0.0,
        low=min([low, *(lowest for lowest, _ in seeds.values())]), high=high,
        last=max((a.n for a in story.ideas), default=4))


def _limits(story: Story, steps: list[Attempt]) -> tuple[float, float]:
    """Of the picture: all of the staircase, and the attempts that are not far above the baseline."""
    scores = [a.bpb for a in steps if a.bpb is not None]
    start, end = scores[0], min(scores)
    span = max(start - end, 4 * (story.spread_bpb or 0.0), 0.004 * start)
    tried = sorted(a.bpb for a in story.judged if a.experiment.counts and a.bpb is not None)
    usual = tried[int(0.85 * (len(tried) - 1))] if tried else start
    high = min(max(start, usual), start + 0.8 * span)
    return end - (story.spread_bpb or 0.0) - 0.12 * span, high + 0.16 * span
