"""studies/leaderboard.md: the champions of a clone's studies, under equal terms together, since only those compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoresearch import words
from autoresearch.errors import UserError
from autoresearch.report import compare
from autoresearch.report.files import put
from autoresearch.report.story import Story, tell
from autoresearch.research.study import Study

FILE = "leaderboard.md"
INTRO = """# Leaderboard

The champions of the studies in this clone; `ar report` writes this page. Only studies on the same text and device with
the same budget and trainer stand in one table. Scores are bits per byte, lower is better; the number that counts is on
the confirm split, on fresh seeds, while the score on the validation split selected what it measures, on as many rows as
its study chose."""


def write(clone: Path) -> Path:
    stories = []
    for tag in Study.tags(clone):
        try:
            with Study.open(clone, tag, readonly=True) as study:
                stories.append(tell(study))
        except UserError:  # a damaged one says so when it is opened by name
            continue
    return put(clone / "studies" / FILE, (board(stories) + "\n").encode("utf-8", "replace"))


def board(stories: list[Story]) -> str:
    groups: dict[tuple[Any, ...], list[Story]] = {}
    for story in stories:
        if story.champion is not None:
            groups.setdefault(compare.terms(story.facts), []).append(story)
    parts = sorted(_table(sorted(found, key=_rank)) for found in groups.values())
    return "\n\n".join([INTRO, *parts] if parts else [INTRO, "No study has a champion yet."])


def _title(story: Story) -> str:
    facts = story.facts
    budget = f"{facts['budget_s']:g} s a trial" if facts.get("budget_s") else "a fixed number of steps"
    text = f"{facts.get('data_name')} (digest {str(facts.get('data_digest'))[:12]})"
    trainer = f"trainer {str(facts.get('frozen_digest'))[:12]}"
    terms = text, f"{words.device(facts)}, {facts.get('backend')}", trainer, budget
    return f"## {' · '.join(words.escape(term) for term in terms)}"


def _rank(story: Story) -> tuple[float, float]:
    """Verified ones first, then by score."""
    confirmed = _confirmed(story)
    selected = story.champion.bpb if story.champion else None
    return confirmed if confirmed is not None else 1e9, selected if selected is not None else 1e9


def _confirmed(story: Story) -> float | None:
    arms = story.summary.arms if story.summary else []
    return next((arm.mean for arm in arms if story.champion and arm.n == story.champion.n), None)


def _table(stories: list[Story]) -> str:
    rows = ["| study | champion | confirm | gain over the baseline | validation | kept of tried | commit |",
            "|---|---|--:|---|--:|--:|---|", *(_row(story) for story in stories)]
    return _title(stories[0]) + "\n\n" + "\n".join(rows)


def _row(story: Story) -> str:
    champion = story.champion
    assert champion is not None
    confirmed, gain = _confirmed(story), _gain(story)
    name = f"#{champion.n} {words.escape(champion.experiment.hypothesis, 100)}" if champion.n else "the baseline"
    score = f"{confirmed:.4f}" if confirmed is not None else "not verified"
    bpb = f"{champion.bpb:.4f}" if champion.bpb is not None else ""
    cells = [words.escape(story.tag), name, score, gain, bpb, f"{len(story.kept)} of {len(story.judged)}",
             f"`{champion.experiment.sha[:10]}`"]
    return f"| {' | '.join(cells)} |"


def _gain(story: Story) -> str:
    gains: list[Any] = story.summary.gains if story.summary else []
    found = next((g for g in gains if g.over.endswith("baseline")), None)
    if found is None:
        return ""
    interval = f" ({found.low_bpb:.4f} to {found.high_bpb:.4f})" if found.seeds > 1 else " (one seed)"
    return f"{found.mean_bpb:.4f}{interval}".replace("-", "−")
