"""ar status: where a study stands."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from autoresearch.report.story import Attempt, Story

EPILOG = """\b
Examples:
  ar status
  ar status --tag mar8 --json | jq .champion.val_bpb
"""


@click.command("status", epilog=EPILOG)
@click.option("--tag", help="Which study. Default: the one used last.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(tag: str | None, as_json: bool) -> None:
    """Where the study stands: baseline, champion, counts by verdict.

    The champion's val_bpb is the score that it was selected by. A gain measured on fresh seeds and on text that
    selected nothing is shown once `ar verify` has run.
    """
    from autoresearch import paths
    from autoresearch.report.story import tell
    from autoresearch.research.study import Study

    with Study.open(paths.clone(), tag, readonly=True) as study:
        story, pid = tell(study), study.owner()
    click.echo(json.dumps(summary(story, pid), indent=2) if as_json else page(story, pid))


def summary(story: Story, pid: int | None) -> dict[str, Any]:
    """The status as plain data. Attempts without a score yet are null."""
    facts = story.facts
    return {
        "tag": story.tag, "state": state(story, pid), "pid": pid,
        "text": {"name": facts.get("data_name"), "digest": facts.get("data_digest")},
        "backend": facts.get("backend"), "device": facts.get("device"), "budget_s": facts.get("budget_s"),
        "baseline": _attempt(story.baseline), "champion": _attempt(story.champion, hypothesis=True),
        "gain_bpb": story.gain_bpb, "gain_percent": story.gain_percent, "seed": story.seed,
        "spread_bpb": story.spread_bpb, "experiments": len(story.judged), "counts": story.counts,
        "confirm_reads": story.confirm_reads, "holdout_reads": story.holdout_reads, "verified": _verified(story),
        "next": advice(story, pid),
    }


def state(story: Story, pid: int | None) -> str:
    if pid is not None:
        return "running"
    return "idle" if story.champion else "baseline pending"


def advice(story: Story, pid: int | None) -> str:
    """The command to type next."""
    if pid is not None:
        return f"ar log --tag {story.tag}"
    if story.champion is None or not story.judged:
        return f"ar loop --tag {story.tag}"
    if story.kept and story.summary is None:
        return f"ar verify --tag {story.tag}"
    return f"ar report --tag {story.tag}"


def page(story: Story, pid: int | None) -> str:
    """For people: one fact a line."""
    from autoresearch import words
    from autoresearch.cli.style import VERDICT_COLOURS, style

    facts = story.facts
    budget = facts.get("budget_s")
    now = state(story, pid)
    rows = [("study", style(story.tag, bold=True)),
            ("state", f"running, process {pid}" if pid is not None else now),
            ("text", f"{facts.get('data_name')} (digest {facts.get('data_digest')})"),
            ("device", f"{words.device(facts)}, {facts.get('backend')}"),
            ("budget", f"{budget:g} s a trial" if budget else "a fixed number of steps")]
    if story.baseline and story.baseline.bpb is not None:
        scores = [b for t in story.baseline.experiment.screens() if (b := t.bpb()) is not None]
        mean = statistics.fmean(scores)
        spread = f"; {len(scores)} seeds have a mean of {mean:.4f} and spread by {story.spread_bpb:.4f}" \
            if story.spread_bpb else ""
        rows.append(("baseline", f"val_bpb {story.baseline.bpb:.4f} on seed {story.seed}{spread}"))
    if story.champion and story.champion.n > 0 and story.champion.bpb is not None:
        rows.append(("champion", f"val_bpb {story.champion.bpb:.4f}, {words.lower(story.gain_percent or 0.0)} than the "
                                 "baseline (same seed; the split it was chosen by)"))
        rows.append(("", f"#{story.champion.n} {words.one_line(story.champion.experiment.hypothesis)}"))
    elif story.champion:
        rows.append(("champion", "the baseline: nothing has beaten it yet"))
    counts = ", ".join(style(f"{n} {verdict}", VERDICT_COLOURS.get(verdict)) for verdict, n in story.counts.items())
    rows.append(("experiments", f"{len(story.judged)}" + (f": {counts}" if counts else "")))
    if story.summary:
        rows.append(("verified", story.summary.sentence))
    rows.append(("next", advice(story, pid)))
    return "\n".join(f"{name:<13}{text}" for name, text in rows)


def _attempt(a: Attempt | None, hypothesis: bool = False) -> dict[str, Any] | None:
    if a is None:
        return None
    found: dict[str, Any] = {"n": a.n, "sha": a.experiment.sha, "val_bpb": a.bpb}
    return found | ({"hypothesis": a.experiment.hypothesis} if hypothesis else {})


def _verified(story: Story) -> dict[str, Any] | None:
    from dataclasses import asdict

    from autoresearch.research.paired import plain

    if story.summary is None:
        return None
    return {"sentence": story.summary.sentence, "arms": [asdict(a) | {"mean": a.mean} for a in story.summary.arms],
            "gains": plain([asdict(g) for g in story.summary.gains])}
