"""`ar data use`: choose what training takes."""

from __future__ import annotations

import json

import click


@click.command("use")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(name: str, as_json: bool) -> None:
    """Make a prepared text the current one.

    Commands that are told no --data take it. A study stays on the text that it began with.

    \b
    Example:
      ar data use novel
    """
    from autoresearch.data import prepared

    found = prepared.find(name)
    prepared.select(name)
    done = {"name": found.name, "digest": found.digest, "path": str(found.root)}
    click.echo(json.dumps(done) if as_json else f"{found.name} (digest {found.digest}) is the current text")
