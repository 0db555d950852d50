"""ar report: a study's page and picture."""

from __future__ import annotations

import click

EPILOG = """\b
Examples:
  ar report
  ar report --tag mar8 --no-samples
"""


@click.command("report", epilog=EPILOG)
@click.option("--tag", help="Which study. Default: the one used last.")
@click.option("--samples/--no-samples", default=True, show_default=True,
              help="Let baseline and champion write something, which takes a few seconds.")
def command(tag: str | None, samples: bool) -> None:
    """Write the study's report: a page to open, and its picture.

    They go to studies/TAG/report: report.html, one file that needs nothing else, and progress.png and
    progress-dark.png for a README. studies/leaderboard.md, on all studies of the clone, is brought up to date too.
    """
    from autoresearch import paths
    from autoresearch.errors import UserError
    from autoresearch.report import write_report
    from autoresearch.research.study import Study

    with Study.open(paths.clone(), tag, readonly=True) as study:
        try:
            prepared = study.text()
        except UserError as e:
            click.echo(f"no samples: {e}", err=True)
            prepared = None
        if samples and prepared:
            click.echo("writing samples", err=True)
        click.echo(str(write_report(study, prepared, samples)))
