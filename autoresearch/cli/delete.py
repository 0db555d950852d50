"""`ar delete`: a study, with all that it has made in this clone."""

from __future__ import annotations

import click

from autoresearch import paths, words
from autoresearch.errors import UserError


@click.command("delete")
@click.argument("tag")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask.")
def command(tag: str, is_sure: bool) -> None:
    """Delete a study: its folder, its branch and its experiments.

    Asks for its tag again first. A study that some process works on is refused. What was adopted or exported stays, and
    so does the text that it was on: `ar data delete`.

    \b
    Example:
      ar delete mar8
    """
    from autoresearch.harness.watch import folder_bytes
    from autoresearch.research.study import Study

    clone = paths.clone()
    tags = Study.tags(clone)
    if tag not in tags:
        raise UserError(f"there is no study {tag!r}", f"There is {', '.join(tags) or 'none'}.")
    root = clone / "studies" / tag
    freed = words.size(folder_bytes(root))
    if not is_sure:
        click.echo(f"This deletes {root} ({freed}) and the branch autoresearch/{tag} with all experiments.", err=True)
        if click.prompt("Type its tag to delete it", default="", show_default=False, err=True).strip() != tag:
            raise UserError(f"study {tag} was not deleted")
    Study.delete(clone, tag)
    click.echo(f"deleted study {tag}, {freed}")
