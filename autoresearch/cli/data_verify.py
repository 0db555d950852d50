"""`ar data verify`: every byte of what is prepared."""

from __future__ import annotations

import json

import click

EPILOG = """\b
Examples:
  ar data verify
  ar data verify novel --json
"""


@click.command("verify", epilog=EPILOG)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="A JSON list, one object for each text.")
def command(name: str | None, as_json: bool) -> int:
    """Check every byte of what is prepared.

    Reads every file of a prepared text, or of all of them, and compares it with the sha256 that was written when it
    was prepared. Exit code 1 if anything differs.
    """
    from autoresearch import words
    from autoresearch.data import prepared, shelf

    chosen = [shelf.entry(name)] if name is not None else shelf.entries()
    if not chosen:
        prepared.current()  # says that there is none
    results = []
    for entry in chosen:
        click.echo(f"reading {entry.name}, {words.size(entry.disk_bytes())}", err=True)
        faults = entry.faults()
        results.append({"name": entry.name, "whole": not faults, "faults": faults})
        if not as_json:
            files = len(entry.found.manifest.files) if entry.found else 0
            click.echo("\n".join(f"{entry.name}: {line}" for line in faults or [f"whole, {files} files"]))
    if as_json:
        click.echo(json.dumps(results, indent=2))
    bad = [entry for entry, result in zip(chosen, results, strict=True) if not result["whole"]]
    for entry in bad:
        click.echo(f"error: {entry.name} can't be used as it is\n  {entry.remedy}", err=True)
    return 1 if bad else 0
