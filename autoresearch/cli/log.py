"""ar log: the experiments of a study, or one of them in full."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoresearch.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoresearch.records import Point
    from autoresearch.report.story import Attempt, Story
    from autoresearch.research.study import Study

BARS = "▁▂▃▄▅▆▇█"
CURVE_COLUMNS = 48

EPILOG = """\b
Examples:
  ar log                    every experiment, oldest first
  ar log 12                 one of them: hypothesis, diff, curve, verdict
  ar log --json | jq -c 'select(.verdict == "keep") | [.n, .val_bpb]'
  ar log --optuna mar8.db && optuna-dashboard sqlite:///mar8.db
"""


@click.command("log", epilog=EPILOG)
@click.argument("n", type=click.IntRange(min=0), required=False)
@click.option("--tag", help="Which study. Default: the one used last.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each experiment.")
@click.option("--optuna", "optuna_file", type=click.Path(path_type=Path), metavar="FILE",
              help="Write a new SQLite file that optuna-dashboard opens.")
def command(n: int | None, tag: str | None, as_json: bool, optuna_file: Path | None) -> None:
    """The experiments of a study, or one of them in full.

    0 is the baseline. `delta` is bits per byte against the incumbent of its time on the same seeds: the mean of fresh
    ones where there are any, else the screening seed's; below 0 is better.
    """
    from autoresearch import paths
    from autoresearch.report.story import tell
    from autoresearch.research.study import Study

    with Study.open(paths.clone(), tag, readonly=True) as study:
        if optuna_file:
            from autoresearch.research.optuna_export import export

            click.echo(f"{export(study.ledger.experiments(), optuna_file, study.tag)} experiments in {optuna_file}")
            return
        story = tell(study)
        attempts = story.attempts
        if n is not None:
            study.ledger.experiment(n)  # says what there is to do where there is none
            attempts = [story.attempt(n)]
        if as_json:
            for attempt in attempts:
                click.echo(json.dumps(record(attempt) | (details(attempt, study) if n is not None else {})))
        elif n is not None:
            click.echo(one(story, attempts[0], study))
        else:
            click.echo(table(story, attempts))


def record(a: Attempt) -> dict[str, Any]:
    """One experiment as plain data; null is what was not measured."""
    e, t = a.experiment, a.trial
    return {
        "n": a.n, "verdict": a.verdict, "state": e.state, "val_bpb": a.bpb,
        "delta_bpb": None if a.gain_bpb is None else -a.gain_bpb, "val_bpc": _bpc(a), "seed": t.seed if t else None,
        "steps": t.steps if t else None, "tokens_per_s": a.tokens_per_s, "train_s": t.train_s if t else None,
        "total_s": t.total_s if t else None, "params": t.params if t else None,
        "peak_memory_bytes": t.peak_memory_bytes if t else None, "utilisation": t.utilisation if t else None,
        "hypothesis": e.hypothesis, "evidence": e.evidence, "changes": e.changes, "researcher": e.researcher,
        "reason": e.reason, "sha": e.sha, "parent": e.parent, "created": e.created,
    }


def details(a: Attempt, study: Study) -> dict[str, Any]:
    from autoresearch.report.detail import diff, paired

    t = a.trial
    return {"diff": diff(a, study), "pairs": paired(a, study), "log_tail": t.log_tail if t else "", "curve": [
        {"step": p.step, "elapsed_s": p.elapsed_s, "train_nats": p.train_nats, "dev_bpb": p.dev_bpb}
        for p in (t.curve if t else ())]}


def table(story: Story, attempts: list[Attempt]) -> str:
    from autoresearch.cli.style import VERDICT_COLOURS, fit, style, width

    columns = width()
    heading = f"{'n':>4}  {'verdict':<11}  {'val_bpb':>7}  {'delta':>8}  {'steps':>7}  {'tok/s':>8}  {'memory':>8}  "
    lines = [style(fit(heading + "hypothesis", columns), bold=True)]
    for a in attempts:
        facts, hypothesis = _row(a, story)
        room = None if columns is None else max(0, columns - len(facts))
        line = fit(facts, columns) if room == 0 else facts + fit(hypothesis, room)
        lines.append(style(line.rstrip(), VERDICT_COLOURS.get(a.verdict) if a.n else None))
    if not attempts:
        lines.append("(none yet)")
    if not story.is_running and any(not a.verdict for a in attempts if a.n):
        lines.append(left_undecided(story.tag))
    return "\n".join(lines)


def left_undecided(tag: str) -> str:
    """What became of an experiment without a verdict where nothing runs."""
    return f"undecided: stopped before it was; `ar loop --tag {tag}` goes on with it from its last whole trial"


def one(story: Story, a: Attempt, study: Study) -> str:
    """One experiment in full."""
    from autoresearch import words
    from autoresearch.cli.style import VERDICT_COLOURS, style
    from autoresearch.harness.text import clean
    from autoresearch.report.story import UNDER_WAY

    e = a.experiment
    verdict = e.verdict or (f"{UNDER_WAY} ({e.state})" if story.is_running else left_undecided(story.tag))
    parts = [style(f"#{a.n} {words.one_line(e.hypothesis)}", bold=True),
             f"{'verdict':<12}{style(verdict, VERDICT_COLOURS.get(e.verdict), bold=True)}"
             + (f": {words.one_line(e.reason, 2000)}" if e.reason else "")]
    parts += [f"{name:<12}{text}" for name, text in _facts(a) if text]
    parts += ["", *pairs(a, study)] if a.pairs else []
    if a.trial and a.trial.curve:
        parts += ["", *curve(a.trial.curve)]
    parts += ["", *_diff_lines(a, study)]
    if a.trial and a.trial.log_tail and e.verdict not in ("keep", "discard", ""):
        parts += ["", style("the end of its log", bold=True), *("| " + x for x in clean(a.trial.log_tail).splitlines())]
    return "\n".join(parts)


def pairs(a: Attempt, study: Study) -> list[str]:
    from autoresearch import words
    from autoresearch.report.detail import paired

    lines = [f"{'':<12}{'seed':<11}{'val_bpb':>8}  {'incumbent':>9}  {'delta':>8}"]
    for name, p in zip(["pairs"] + [""] * len(a.pairs), paired(a, study), strict=False):
        seed = f"{p['seed']}, {'fresh' if p['fresh'] else 'screen'}"
        lines.append(f"{name:<12}{seed:<11}{p['val_bpb'] or 0:>8.4f}  {p['incumbent_bpb'] or 0:>9.4f}  "
                     f"{words.signed(p['delta_bpb']):>8}")
    return lines


def curve(points: Sequence[Point]) -> list[str]:
    """Training loss as one line of bars, its ends in numbers, and the dev scores."""
    train = [p for p in points if p.train_nats is not None]
    lines = []
    if train:
        losses = [p.train_nats or 0.0 for p in _evenly(train, CURVE_COLUMNS)]
        low, high = min(losses), max(losses)
        scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
        bars = "".join(BARS[round((x - low) * scale)] for x in losses)
        lines.append(f"{'train loss':<12}{bars}  {losses[0]:.3f} to {losses[-1]:.3f} nats per token, "
                     f"{train[-1].step:,} steps in {train[-1].elapsed_s:.0f} s")
    dev = [p for p in points if p.dev_bpb is not None]
    if dev:
        lines.append(f"{'dev bpb':<12}" + "  ".join(f"{p.dev_bpb:.3f} at {p.elapsed_s:.0f} s" for p in dev))
    return lines


def _facts(a: Attempt) -> list[tuple[str, str]]:
    from autoresearch import words

    e, t = a.experiment, a.trial
    before = a.parent.recipe if a.parent else None
    facts = [("evidence", words.one_line(e.evidence, 2000)), ("change", "; ".join(words.changes(e.changes, before))),
             ("proposed by", f"{words.one_line(e.researcher)}, {e.created}"), ("commit", e.sha[:12])]
    if a.bpb is not None:
        own = {t.id for t in e.trials if t.purpose == "repeat"}  # not what it ran later as the incumbent
        fresh = sum(p.trial in own for p in a.pairs)
        where = f"on {fresh} fresh seed{'s' if fresh > 1 else ''}" if fresh and a.n else "on the same seed"
        against = "" if a.gain_bpb is None else f", {words.signed(-a.gain_bpb)} against its incumbent {where}"
        facts.append(("val_bpb", f"{a.bpb:.4f}{against}"))
    screens = e.screens()
    if len(screens) > 1:
        facts.append(("seeds", ", ".join(f"{s.seed}: {s.bpb() or 0:.4f}" for s in screens)))
    checks = [f"{b:.4f} (seed {s.seed})" for s in e.trials if (b := s.bpb("confirm")) is not None]
    facts.append(("confirm_bpb", ", ".join(checks)))
    if t and t.steps:
        used = f", {100 * t.utilisation:.0f}% of this machine's matmul ceiling" if t.utilisation else ""
        facts.append(("training", f"{t.steps:,} steps, {t.tokens:,} tokens in {t.train_s:.1f} s "
                      f"({a.tokens_per_s or 0:,.0f} a second{used})"))
    if t and t.params:
        facts.append(("model", f"{t.params / 1e6:.2f}M parameters, {words.gib(t.peak_memory_bytes)} peak memory"))
    if t and "machine" in t.facts:
        from autoresearch.harness.conditions import Conditions

        facts.append(("machine", Conditions.from_json(t.facts["machine"]).words()))
    return facts


def _diff_lines(a: Attempt, study: Study) -> list[str]:
    from autoresearch.cli.style import style
    from autoresearch.report.detail import diff

    try:
        text = diff(a, study)
    except UserError as e:
        return [f"(its diff can't be shown: {e.message})"]
    colours = {"+": "green", "-": "red", "@": "cyan"}
    lines = [style(line, colours.get(line[:1]), bold=line.startswith(("diff ", "+++ ", "--- ")))
             for line in text.splitlines()]
    return lines or ["(no change to the files)"]


def _row(a: Attempt, story: Story) -> tuple[str, str]:
    from autoresearch import words

    t = a.trial
    bpb = f"{a.bpb:.4f}" if a.bpb is not None else "-"
    delta = f"{-a.gain_bpb:+.4f}" if a.gain_bpb is not None else ""
    steps = f"{t.steps:,}" if t and t.steps else ""
    speed = f"{a.tokens_per_s:,.0f}" if a.tokens_per_s else ""
    memory = words.gib(t.peak_memory_bytes) if t and t.peak_memory_bytes else ""
    mark = "*" if story.champion and a.n == story.champion.n else " "
    return (f"{a.n:>4}  {story.standing(a) + mark:<11}  {bpb:>7}  {delta:>8}  {steps:>7}  {speed:>8}  {memory:>8}  ",
            words.one_line(a.experiment.hypothesis))


def _evenly(points: list[Point], count: int) -> list[Point]:
    if len(points) <= count:
        return points
    return [points[round(i * (len(points) - 1) / (count - 1))] for i in range(count)]


def _bpc(a: Attempt) -> float | None:
    return next((s.bpc for s in a.trial.scores if s.split == "val"), None) if a.trial else None
