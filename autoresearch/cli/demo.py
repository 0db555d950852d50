"""`ar demo`: the main job in minutes, on text that every machine has."""

from __future__ import annotations

import os
import time

import click

from autoresearch.cli.loop import night
from autoresearch.cli.machine import backend_option, sandbox_option
from autoresearch.cli.studying import DEMO, Wanted
from autoresearch.data import corpus, prepare, prepared
from autoresearch.paths import clone
from autoresearch.research import fair
from autoresearch.research.study import Study
from autoresearch.research.until import Until

BUDGET_S, EXPERIMENTS = 8.0, 8
LIMIT_S = 360.0  # for ideas: confirming many of them must not make minutes an hour
MAX_BYTES = 4_000_000


@click.command("demo")
@backend_option
@click.option("--experiments", type=click.IntRange(1), default=EXPERIMENTS, show_default=True,
              help="How many ideas to try in one go.")
@sandbox_option
def command(backend: str | None, experiments: int) -> None:
    """A short study on offline text, from nothing to a report in minutes.

    Prepares the source of Python's standard library, sizes a model to this machine, tries ideas for eight seconds each,
    and writes a report with a picture and samples. No trial begins later than six minutes after the start,
    but for the final check. Repeating it continues the same study.

    \b
    Example:
      ar demo
    """
    from autoresearch.cli.sample import sample_text

    os.environ |= {fair.BUSY_OK: "1", fair.ON_BATTERY: "1"}  # it shows how a study goes, and keeps nobody waiting
    deadline = time.time() + LIMIT_S
    found = _text()
    wanted = Wanted(DEMO, BUDGET_S, backend, found.name)
    said = night(wanted, Until(_left(experiments), deadline), verify_seeds=3, with_reference=False, reserve=False)
    click.echo("A sample of the champion:\n")
    click.echo(sample_text(DEMO, tokens=160))
    click.echo("\n" + said)


def _text() -> prepared.Prepared:
    """The demo's own set; whatever text was current stays so."""
    if DEMO in prepared.names():
        return prepared.find(DEMO)
    click.echo("preparing the source of Python's standard library", err=True)
    before = prepared.current_name() or DEMO
    found = prepare.prepare(corpus.stdlib(MAX_BYTES), DEMO, ("bpe-1024", "bpe-2048", "bpe-4096")).prepared
    prepared.select(before)
    return found


def _left(experiments: int) -> int:
    """What an interrupted round still lacks; a whole new round where none was interrupted."""
    if DEMO not in Study.tags(clone()):
        return experiments
    with Study.open(clone(), DEMO, readonly=True) as study:
        done = sum(1 for e in study.ledger.experiments() if e.n > 0 and e.verdict)
    return experiments - done % experiments
