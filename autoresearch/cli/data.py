"""`ar data`: what is prepared. Its own verbs are in data_show, data_use, data_verify and data_delete."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import click

from autoresearch.cli.shell import Verbs

if TYPE_CHECKING:
    from autoresearch.data.shelf import Entry

VERBS = {
    "show": "One prepared text in full, with some of its documents.",
    "use": "Make a prepared text the current one.",
    "verify": "Check every byte of what is prepared.",
    "delete": "Delete a prepared text from the cache.",
}

EPILOG = """\b
Examples:
  ar data
  ar data --json | jq '.[] | select(.current).name'
  ar data show novel
  ar data verify
"""


@click.command("data", cls=Verbs, verbs=VERBS, prefix="data_", invoke_without_command=True, epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="A JSON list, one object for each text.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """What is prepared: list it, look into it, check it, choose it, delete it.

    Without a command: every text in the cache, the current one, which training takes, marked by an asterisk.
    """
    if ctx.invoked_subcommand is not None:
        return
    from autoresearch.data import prepared, shelf

    found, used = shelf.entries(), studies()
    if as_json:
        click.echo(json.dumps([summary(e, used) for e in found], indent=2))
    elif found:
        click.echo(table(found, used))
    else:
        click.echo(f"nothing is prepared in {prepared.folder()}; ar prepare --text PATH", err=True)


def studies() -> dict[tuple[str, str], list[str]]:
    """Tags of this clone's studies by the name and digest of the text they are on. Outside a clone none are known."""
    from autoresearch import paths
    from autoresearch.errors import UserError
    from autoresearch.research.ledger import Ledger
    from autoresearch.research.study import Study

    used: dict[tuple[str, str], list[str]] = {}
    try:
        folder = paths.clone()
    except UserError:
        return used
    for tag in Study.tags(folder):
        with contextlib.suppress(UserError), \
                Ledger.open(folder / "studies" / tag / "ledger.sqlite", readonly=True) as ledger:
            text = str(ledger.fact("data_name")), str(ledger.fact("data_digest"))
            used.setdefault(text, []).append(tag)
    return used


def users(entry: Entry, used: dict[tuple[str, str], list[str]]) -> list[str]:
    """Tags of the studies that need this set; by its name alone where its content can't be told any more."""
    if entry.found is not None:
        return used.get((entry.name, entry.found.digest), [])
    return [tag for (name, _), tags in used.items() if name == entry.name for tag in tags]


def summary(entry: Entry, used: dict[tuple[str, str], list[str]]) -> dict[str, Any]:
    """A set as plain data; `problem` says why it can't be used."""
    from autoresearch.cli import prepare

    about: dict[str, Any] = {"name": entry.name, "path": str(entry.root)}
    if entry.found is not None:
        about = prepare.summary(entry.found) | {
            "created": entry.found.manifest.created, "tool": entry.found.manifest.tool}
    return about | {"current": entry.is_current, "disk_bytes": entry.disk_bytes(), "studies": users(entry, used),
                    "problem": entry.problem or None}


def table(found: list[Entry], used: dict[tuple[str, str], list[str]]) -> str:
    from autoresearch import words
    from autoresearch.cli.style import fit, width
    from autoresearch.harness.text import line

    rows = [("", "name", "text", "disk", "digest", "tokenizers", "studies", "source")]
    for entry in found:
        mark, name, disk = "*" if entry.is_current else "", entry.name, words.size(entry.disk_bytes())
        tags = ", ".join(users(entry, used)) or "-"
        if entry.found is None or entry.problem:
            rows.append((mark, name, "-", disk, "-", "-", tags, f"can't be used: {entry.problem}"))
            continue
        facts = entry.found.manifest
        licence = f" ({facts.corpus.licence})" if facts.corpus.licence else ""
        rows.append((mark, name, words.size(facts.corpus.bytes), disk, entry.found.digest,
                     ", ".join(facts.tokenizers), tags, line(facts.corpus.source + licence)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(fit("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip(), width())
                     for row in rows)
