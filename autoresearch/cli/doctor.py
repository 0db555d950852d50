"""`ar doctor`: whether this machine can run a night."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

import backends

if TYPE_CHECKING:
    from autoresearch.doctor import Finding

EPILOG = """\b
Examples:
  ar doctor
  ar doctor --backend cuda
  ar doctor --json | jq '.[] | select(.state != "ok")'
"""
COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}


@click.command("doctor", epilog=EPILOG)
@click.option("--backend", type=click.Choice(backends.NAMES), default=None,
              help="What to look at. Default: the best that this machine has.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list, one object for each finding.")
def command(backend: str | None, as_json: bool) -> int:
    """Look at everything a night needs, and say how to mend what is missing.

    Each line is ok, a warning or a failure, with the remedy below it: Python, framework, device, precision, compiler,
    sandbox, sleep, load, disk, text, tokenizer, git, key and clock. Takes some seconds. Exit code 1 if there is a
    failure.
    """
    from autoresearch import doctor, paths
    from autoresearch.cli.machine import candidate_files
    from autoresearch.errors import UserError

    try:
        clone = paths.clone()
    except UserError:
        clone = None
    files = candidate_files(clone / paths.CANDIDATE) if clone else {}
    findings = []
    for finding in doctor.examine(doctor.Patient(clone, files, backend)):
        findings.append(finding)
        if not as_json:
            click.echo(line(finding))
    if as_json:
        click.echo(json.dumps([asdict(f) for f in findings], indent=2))
    return 1 if any(f.state == doctor.FAILURE for f in findings) else 0


def line(f: Finding) -> str:
    from autoresearch.cli.style import style

    remedy = "" if f.state == "ok" or not f.remedy else "\n" + " " * 24 + ("\n" + " " * 24).join(f.remedy.splitlines())
    return f"{style(f'{f.state:<9}', COLOURS[f.state])} {f.name:<13} {' '.join(f.said.split())}{remedy}"
