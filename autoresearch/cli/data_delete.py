"""`ar data delete`: a prepared text out of the cache."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from autoresearch.errors import UserError

if TYPE_CHECKING:
    from autoresearch.data.shelf import Entry

EPILOG = """\b
Examples:
  ar data delete novel
  ar data delete novel --yes
"""


@click.command("delete", epilog=EPILOG)
@click.argument("name")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Delete it although studies of this clone use it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(name: str, is_sure: bool, force: bool, as_json: bool) -> None:
    """Delete a prepared text from the cache.

    Asks first. A text that a study of this clone is on is refused: that study could no longer go on, be verified or
    sampled until the same files are prepared again. The files it was prepared from stay.
    """
    from autoresearch import words
    from autoresearch.cli import data
    from autoresearch.data import shelf

    entry = shelf.entry(name)
    tags, freed = data.users(entry, data.studies()), entry.disk_bytes()
    if tags and not force:
        raise UserError(f"{name} is in use by {_named(tags)}, which could no longer go on, be verified or sampled",
                        f"Delete a study that you no longer need: ar delete {tags[0]}\n"
                        f"Or the text all the same: ar data delete {name} --force")
    if not is_sure and not click.confirm(_question(entry, tags, words.size(freed)), default=False, err=True):
        raise UserError(f"{name} was not deleted")
    shelf.delete(name, progress=lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps({"name": name, "freed_bytes": freed, "studies": tags}))
        return
    click.echo(f"deleted {name}, {words.size(freed)}")
    if entry.is_current:
        click.echo("note: it was the current text; choose another: ar data use NAME", err=True)


def _question(entry: Entry, tags: list[str], freed: str) -> str:
    needed = f" {_named(tags)} can't go on without it." if tags else ""
    where = f"{entry.root} ({freed})" if not entry.root.is_symlink() else f"the link {entry.root}, not what it leads to"
    return f"This deletes {where}.{needed} Delete {entry.name}?"


def _named(tags: list[str]) -> str:
    return f"{'study' if len(tags) == 1 else 'studies'} {', '.join(tags)}"
