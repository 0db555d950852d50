"""`ar replay`: a kept change on another backend."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import click

from autoresearch import paths
from autoresearch.cli.machine import Seconds, backend_option, choose_backend, fair_options, sandbox_option
from autoresearch.cli.studying import interruptible, lab_of, open_study
from autoresearch.cli.terminal import TerminalView
from autoresearch.cli.verify import amount
from autoresearch.errors import UserError
from autoresearch.records import BASELINE
from autoresearch.research import replay, stack
from autoresearch.research.paired import plain
from autoresearch.research.stack import Change
from autoresearch.research.study import Study
from autoresearch.research.until import Until
from autoresearch.words import one_line


@click.command("replay")
@click.argument("n", type=click.IntRange(1), required=False)
@click.option("--tag", default=None, help="Which study. Default: the last one.")
@backend_option
@click.option("--seeds", type=click.IntRange(1, 100), default=replay.SEEDS, show_default=True,
              help="Fresh seeds for each of the two.")
@click.option("--budget", "budget_s", type=Seconds(0.5, 86400), default=None,
              help="Seconds of training per trial. Default: the study's.")
@click.option("--json", "as_json", is_flag=True, help="JSON objects.")
@fair_options
@sandbox_option
def command(n: int | None, tag: str | None, backend: str | None, seeds: int, budget_s: float | None,
            as_json: bool) -> None:
    """Measure a kept change against what it changed, on another backend.

    Without N, the class of every kept change, from its diff: `recipe` runs everywhere; `shared` is code that all
    frameworks run, or was written for each; `local` is code of one framework, to be ported to the other.

    \b
    Example:
      ar replay
      ar replay 12 --backend mlx
    """
    view, until = TerminalView(), Until()
    if n is None:
        with Study.open(paths.clone(), tag, readonly=True) as study:
            changes = _kept(study)
            if not changes:
                click.echo(f"study {study.tag} has kept no change yet, so there is none to replay", err=True)
            for kept in changes.values():
                facts = {"n": kept.n, "class": kept.scope, "files": kept.names, "hypothesis": kept.hypothesis}
                click.echo(json.dumps(facts) if as_json else classed(kept))
        return
    study, found = open_study(tag)
    with study, study.lock():
        study.reconcile(sync=False)
        change = _kept(study).get(n)
        if change is None:
            raise UserError(f"#{n} is not among the kept changes of {study.tag}", "`ar replay` lists them.")
        used = choose_backend(backend)
        replay.check(change, used)
        lab = lab_of(study, found, view, until)
        there = replace(lab, runner=replace(lab.runner, backend=used), budget_s=budget_s or lab.budget_s)
        with interruptible(until, view):
            view.note(f"{2 * seeds} trials, {2 * seeds * there.budget_s / 60:.0f} minutes of training, on {used}")
            replay.run(there, change, seeds, until)
        experiments = study.ledger.experiments()
        away, home = replay.result(experiments, change, used, there.budget_s), replay.home(experiments, change)
    if away is None:
        raise UserError("it did not finish, so there is nothing to say yet", "Run the same command again.")
    if as_json:
        click.echo(json.dumps(plain({"n": n, "class": change.scope, "backend": used, "gain": asdict(away),
                                     "home": asdict(home) if home else None})))
        return
    click.echo(classed(change))
    if home:
        click.echo(f"where it was kept ({lab.runner.backend}): {amount(home)}, {home.seeds} seeds")
    click.echo(f"on {used}: {amount(away)}, {away.seeds} seeds")


def classed(change: Change) -> str:
    port = "" if change.scope != stack.LOCAL else f"\n      {replay.ported(change)}"
    return f"#{change.n:<4} {change.scope:<7} {', '.join(change.names)}: {one_line(change.hypothesis)}{port}"


def _kept(study: Study) -> dict[int, Change]:
    changes = stack.stack(study.workspace, study.ledger.experiments())
    return {c.n: c for c in changes if c.n > BASELINE}
