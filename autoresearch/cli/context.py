"""`ar context`: what a researcher is told."""

from __future__ import annotations

import click

from autoresearch.errors import UserError

EPILOG = """\b
Examples:
  ar context | less
  ar context > brief.md
"""


@click.command("context", epilog=EPILOG)
@click.option("--tag", help="Which study. Default: the one used last.")
def command(tag: str | None) -> None:
    """Print what whoever proposes is told: brief, recipe, code, what was tried, how it went.

    The same text that `--researcher claude` and `--researcher command` send, of bounded length however long the study
    is. It reads the study and changes nothing.
    """
    from autoresearch import paths
    from autoresearch.harness import caches
    from autoresearch.harness.runner import Runner
    from autoresearch.records import BASELINE
    from autoresearch.research.brief import brief
    from autoresearch.research.lab import Lab
    from autoresearch.research.loop import Loop
    from autoresearch.research.researchers.playbook import Playbook
    from autoresearch.research.study import Study
    from autoresearch.research.until import Until
    from autoresearch.research.view import View

    with Study.open(paths.clone(), tag, readonly=True) as study:
        ledger = study.ledger
        if not any(e.n == BASELINE and e.state == "done" for e in ledger.experiments()):
            raise UserError(f"study {study.tag} has no baseline yet",
                            f"Make it first: ar loop --tag {study.tag} --experiments 0")
        runner = Runner(study.text(), ledger.fact("backend"), caches.home(), ledger.fact("shards"))
        lab = Lab(study, ledger, runner, ledger.fact("budget_s"), View())
        context = Loop(lab, Playbook(), ledger.fact("device") or {}, Until()).context()
    click.echo(brief(context).text())
