"""`ar ablate`: what every kept change is worth beside the others."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from autoresearch.cli.machine import fair_options, sandbox_option
from autoresearch.cli.studying import interruptible, lab_of, loop_of, open_study
from autoresearch.cli.terminal import TerminalView
from autoresearch.errors import UserError
from autoresearch.research import ablate, decide
from autoresearch.research.ablate import Finding
from autoresearch.research.lab import Lab
from autoresearch.research.researchers.playbook import Playbook
from autoresearch.research.until import Until
from autoresearch.words import one_line


@click.command("ablate")
@click.option("--tag", default=None, help="Which study. Default: the last one.")
@click.option("--prune", is_flag=True, help="Drop what no longer earns its place, as an experiment that is judged.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each change.")
@fair_options
@sandbox_option
def command(tag: str | None, prune: bool, as_json: bool) -> None:
    """Measure what every kept change is worth beside the others.

    Trains the champion without each of its changes, on fresh seeds paired with the champion's, until it is clear
    whether leaving it out costs more than half a seed spread. What costs nothing no longer earns its place. The same
    command goes on after an interruption.

    --prune makes the champion without all of these an experiment of the study. It is kept, on the study's branch, if
    on yet other seeds it is no worse.

    \b
    Example:
      ar ablate
      ar ablate --prune
    """
    view, until = TerminalView(), Until()
    study, found = open_study(tag)
    with study, study.lock():
        study.reconcile(sync=False)
        known = ablate.changes(study.workspace, study.ledger.experiments())
        if not known:
            raise UserError(f"study {study.tag} has kept no change, so there is none to leave out",
                            f"Go on with it: ar loop --tag {study.tag}")
        lab = lab_of(study, found, view, until)
        said = ""
        with interruptible(until, view):
            trials = decide.CAREFUL.seeds * (len(known) + 1)
            view.note(f"{len(known)} kept changes: at most {trials} trials, {trials * lab.budget_s / 60:.0f} minutes "
                      "of training; fewer where the outcome is clear early")
            try:
                ablate.run(lab, until)
            finally:  # also of what was measured before a stop; pruning may make another champion
                findings = ablate.findings(study.ledger, study.workspace)
            if prune and not until.asked:
                said = _prune(lab, [f.n for f in findings if f.verdict == ablate.IDLE], until)
    for line in [json.dumps(asdict(f)) for f in findings] if as_json else table(findings):
        click.echo(line)
    if said:
        click.echo(said, err=as_json)


def table(findings: list[Finding]) -> list[str]:
    lines = [f"{'#':>4}  {'worth, bits per byte':<31} {'seeds':>5}  verdict"]
    for f in findings:
        worth = "" if f.mean_bpb is None else f"{f.mean_bpb:+.4f} ({f.low_bpb:+.4f} to {f.high_bpb:+.4f})"
        verdict = ablate.MEANS[f.verdict] + (f": {f.why}" if f.why else "")
        lines.append(f"{f.n:>4}  {worth:<31} {f.seeds or '':>5}  {verdict}")
        lines.append(f"{'':<6}{one_line(f.hypothesis)}")
    return lines


def _prune(lab: Lab, idle: list[int], until: Until) -> str:
    if not idle:
        return "Every change earns its place, or may: nothing to drop."
    n = ablate.prune(lab, idle)
    if n is None:
        return "They can't be dropped together: their changes stand in each other's way."
    experiment = lab.ledger.experiment(n)
    if not experiment.verdict:
        lab.view.proposed(n, experiment.hypothesis, experiment.changes)
        loop = loop_of(lab, Playbook(), until, "careful")  # the only one that knows an equal score
        experiment = loop.judge(experiment) or experiment
    return f"#{n}: {experiment.verdict or 'not decided yet'}: {experiment.reason}"
