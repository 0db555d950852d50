"""`ar verify`: the number that counts."""

from __future__ import annotations

import click

from autoresearch import paths
from autoresearch.cli.studying import interruptible, lab_of, open_study
from autoresearch.cli.terminal import TerminalView
from autoresearch.errors import UserError
from autoresearch.research import verify
from autoresearch.research.until import Until


@click.command("verify")
@click.option("--tag", default=None, help="Which study. Default: the last one.")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Fresh seeds for each model.")
@click.option("--reference/--no-reference", "with_reference", default=True,
              help="Compare with the fixed reference recipe too.")
def command(tag: str | None, seeds: int, with_reference: bool) -> None:
    """Score the champion again, on everything it was not selected on.

    Trains champion, baseline and the fixed reference on fresh seeds and scores them on the whole confirm split.

    \b
    Example:
      ar verify --seeds 5
    """
    view, until = TerminalView(), Until()
    study, found = open_study(tag)
    with study, study.lock():
        study.reconcile(sync=False)
        if study.ledger.incumbent() is None:
            raise UserError(f"study {study.tag} has no baseline yet", "Run it first: ar loop")
        with interruptible(until, view):
            reference = paths.clone() / "backends" / "reference.toml" if with_reference else None
            verify.verify(lab_of(study, found, view), reference, seeds, until)
        summary = verify.summarise(study.ledger.experiments())
    if summary is None:
        raise UserError("verification did not finish, so there is nothing to say yet", "Run the same command again.")
    for arm in summary.arms:
        click.echo(f"{arm.label:<20} {arm.mean:.4f}  ({', '.join(f'{b:.4f}' for b in arm.bpb)})")
    click.echo(summary.sentence)
