"""`ar cost`: what proposing has cost, and what it brought."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from autoresearch.records import Spend
    from autoresearch.research.account import Arm, Entry, Moment

EPILOG = """\b
Examples:
  ar cost
  ar cost --json | jq '.researchers[] | {researcher, usd, gain_per_usd}'
"""


@click.command("cost", epilog=EPILOG)
@click.option("--tag", help="Which study. Default: the one used last.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, every request included.")
def command(tag: str | None, as_json: bool) -> None:
    """What proposing has cost, and what it brought: by researcher and over time.

    Gains are in bits per byte against the incumbent of their time, as measured when they were kept. Tokens of models
    without a known price are counted and not priced.
    """
    from autoresearch import paths
    from autoresearch.report.story import tell
    from autoresearch.research.account import arms, course
    from autoresearch.research.study import Study

    with Study.open(paths.clone(), tag, readonly=True) as study:
        story, entries = tell(study), study.ledger.account.entries()
    judged = [(a.experiment, a.gain_bpb) for a in story.judged]
    found = sorted(arms(judged, entries), key=lambda arm: -arm.usd)
    start = story.baseline.bpb if story.baseline else None
    over_time = course(judged, entries, start) if start is not None else []
    click.echo(json.dumps(data(found, over_time, entries)) if as_json else page(found, over_time, entries))


def data(arms: list[Arm], over_time: list[Moment], entries: list[Entry]) -> dict[str, Any]:
    return {
        "researchers": [asdict(a) | {"gain_per_usd": a.gain_per_usd, "gain_per_mtok": a.gain_per_mtok,
                                     "gain_per_hour": a.gain_per_hour} for a in arms],
        "over_time": [asdict(m) for m in over_time],
        "requests": [{"experiment": e.experiment, "at": e.at} | asdict(e.spend) for e in entries]}


def page(arms: list[Arm], over_time: list[Moment], entries: list[Entry]) -> str:
    from autoresearch.cli.style import fit, style, width

    columns = width()
    heading = (f"{'researcher':<12}{'tried':>6}{'kept':>6}{'gain':>9}{'usd':>9}{'tokens':>12}{'gain/usd':>10}"
               f"{'gain/Mtok':>11}{'gain/hour':>11}{'requests':>10}{'failed':>8}")
    lines = [style(fit(heading, columns), bold=True), *(fit(_line(a), columns) for a in arms)]
    if not arms:
        return "nothing has been proposed yet"
    if models := sorted({e.spend.model for e in entries}):
        lines += ["", *(_model(model, [e.spend for e in entries if e.spend.model == model]) for model in models)]
    fell = [m for before, m in itertools.pairwise(over_time)
            if m.baseline_less_gains_bpb != before.baseline_less_gains_bpb]
    if entries and fell:
        lines += ["", style("the baseline's val_bpb less the gains kept, and what had been spent by then", bold=True)]
        lines += [f"  #{m.n:<5}{m.baseline_less_gains_bpb:.4f}  ${m.usd:.2f}, {m.tokens:,} tokens of models, "
                  f"{m.trained_tokens:,} tokens trained on" for m in fell]
    return "\n".join(lines)


def _line(a: Arm) -> str:
    usd = f"{a.usd:.2f}{'+' if a.unpriced_tokens else ''}" if a.requests else "-"
    return (f"{a.researcher[:11]:<12}{a.experiments:>6}{a.kept:>6}{a.gain_bpb:>9.4f}{usd:>9}"
            f"{a.tokens or '-':>12{',' if a.tokens else ''}}{_rate(a.gain_per_usd):>10}{_rate(a.gain_per_mtok):>11}"
            f"{_rate(a.gain_per_hour):>11}{a.requests or '-':>10}{a.failed or '-':>8}")


def _model(model: str, spends: list[Spend]) -> str:
    def total(name: str) -> int:
        return sum(getattr(s, name) or 0 for s in spends)

    priced = sorted({s.priced for s in spends if s.usd is not None})
    usd = f"${sum(s.usd or 0.0 for s in spends):.4f} ({', '.join(priced)})" if priced else "no price known"
    waited = sum(s.waited_s for s in spends)
    return (f"{model}: {total('input_tokens'):,} in, {total('cache_write_5m_tokens'):,} and "
            f"{total('cache_write_1h_tokens'):,} written to the cache (5 minutes, 1 hour), "
            f"{total('cache_read_tokens'):,} read from it, {total('output_tokens'):,} out; {usd}; "
            f"{sum(s.latency_s for s in spends):.0f} s answering" + (f", {waited:.0f} s waited" if waited else ""))


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
