"""`ar compare`: two studies or two experiments side by side."""

from __future__ import annotations

import json
import textwrap
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import click

from autoresearch.cli.style import fit, style, width
from autoresearch.errors import UsageError, UserError

if TYPE_CHECKING:
    from autoresearch.report.compare import Comparison
    from autoresearch.report.story import Attempt, Story

NAME_COLUMNS, MAX_COLUMNS, MAX_LINES = 28, 120, 4
EPILOG = """\b
Examples:
  ar compare mar8 mar9          two studies, by their champions
  ar compare 3 7                two experiments of the study used last
  ar compare mar8:3 mar9:12     experiments of two studies
  ar compare mar8 mar8:3        a study's champion and another of its experiments
"""


@click.command("compare", epilog=EPILOG)
@click.argument("a")
@click.argument("b")
@click.option("--tag", help="Whose experiments bare numbers are. Default: the study used last.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(a: str, b: str, tag: str | None, as_json: bool) -> None:
    """Two studies or two experiments side by side.

    Where text, device, budget or trainer differ it says so: such scores don't compare. Differences are of the same
    seeds, with a 95% interval where there are several; scores on `val` selected what they measure.
    """
    from autoresearch.report import compare

    (story, m), (other, n) = found(a, tag), found(b, tag)
    if m is None and n is None:
        compared = compare.studies(story, other)
    else:
        compared = compare.experiments(story, m or champion(story), other, n or champion(other))
    click.echo(json.dumps(record(compared), indent=2) if as_json else page(compared))


def found(what: str, tag: str | None) -> tuple[Story, Attempt | None]:
    """A study, or one of its experiments. A number is an experiment's unless a study has it for a tag."""
    from autoresearch import paths
    from autoresearch.report.story import tell
    from autoresearch.research.study import Study

    name, colon, number = what.rpartition(":")
    if not colon and number.isdigit() and number not in Study.tags(paths.clone()):
        name = tag or ""
    elif not colon:
        name, number = what, ""
    if colon and not (name and number.isdigit()):
        raise UsageError(f"{what!r} is neither a study nor an experiment", "Write TAG, TAG:N or N.")
    with Study.open(paths.clone(), name or None, readonly=True) as study:
        story = tell(study)
        if not number:
            return story, None
        study.ledger.experiment(int(number))  # says so where there is none
    return story, story.attempt(int(number))


def champion(story: Story) -> Attempt:
    if story.champion is None:
        raise UserError(f"study {story.tag} has no champion yet", f"Let it go on: ar loop --tag {story.tag}")
    return story.champion


def record(c: Comparison) -> dict[str, Any]:
    sides = {key: {"name": side.name, "verified": side.verified, "unscored": side.unscored} | side.facts
             for key, side in (("a", c.a), ("b", c.b))}
    return {**sides, "unlike": c.unlike,
            "recipe": {key: [x, y] for key, x, y in c.turned}, "gain": _gain(c)}


def page(c: Comparison) -> str:
    """Three columns, in which long values go on below; a dash where nothing is known."""
    from autoresearch import words

    room = max(8, (min(width() or MAX_COLUMNS, MAX_COLUMNS) - NAME_COLUMNS - 2) // 2)

    def row(name: str, x: str, y: str) -> str:
        cells = zip_longest([name], wrapped(x, room), wrapped(y, room), fillvalue="")
        return "\n".join(f"{fit(head, NAME_COLUMNS - 2):<{NAME_COLUMNS}}{left:<{room}}  {right}".rstrip()
                         for head, left, right in cells)

    lines = [style(row("", c.a.name, c.b.name), bold=True)]
    lines += [row(name, c.a.facts.get(name) or "-", c.b.facts.get(name) or "-") for name in c.a.facts]
    if c.turned:
        lines += ["", style("what their recipes have different", bold=True)]
        lines += [row(key, words.value(x), words.value(y)) for key, x, y in c.turned]
    verified = [f"{side.name}: {side.verified}" for side in (c.a, c.b) if side.verified]
    return "\n".join([*lines, "", *verified, sentence(c)])


def wrapped(text: str, columns: int) -> list[str]:
    """At most so many columns, and a few lines."""
    lines = textwrap.wrap(text, columns, max_lines=MAX_LINES, placeholder=" …")
    return [fit(line, columns) for line in lines] or [""]  # letters may be two columns wide


def sentence(c: Comparison) -> str:
    unscored = [f"{side.name} has no score: {side.unscored}." for side in (c.a, c.b) if side.unscored]
    if unscored:
        return "\n".join([*unscored, "So there is nothing to compare."])
    if c.unlike:
        return f"Their scores don't compare: {', '.join(c.unlike)} differ{'s' if len(c.unlike) == 1 else ''}."
    if c.gain is None:
        return "They have no seed in common, so there is nothing to compare."
    side = "below" if c.gain.mean_bpb > 0 else "above"
    seeds = f"{c.gain.seeds} seed{'' if c.gain.seeds == 1 else 's'}"
    interval = f", 95% interval of the difference {-c.gain.high_bpb:+.4f} to {-c.gain.low_bpb:+.4f}" \
        if c.gain.seeds > 1 else "; one seed has no interval"
    return (f"{c.b.name} is {abs(c.gain.mean_bpb):.4f} bits per byte ({abs(c.gain.percent):.1f}%) {side} {c.a.name} "
            f"on val, {seeds}{interval}.")


def _gain(c: Comparison) -> dict[str, Any] | None:
    if c.gain is None:
        return None
    several = c.gain.seeds > 1
    return {"mean_bpb": c.gain.mean_bpb, "low_bpb": c.gain.low_bpb if several else None,
            "high_bpb": c.gain.high_bpb if several else None, "percent": c.gain.percent, "seeds": c.gain.seeds}
