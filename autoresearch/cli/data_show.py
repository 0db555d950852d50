"""`ar data show`: one prepared text in full."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from autoresearch.data.prepared import Prepared
    from autoresearch.data.shelf import Entry

SAMPLE_CHARS, SAMPLE_LINES = 400, 6

EPILOG = """\b
Examples:
  ar data show
  ar data show novel --samples 10
"""


@click.command("show", epilog=EPILOG)
@click.argument("name", required=False)
@click.option("--samples", type=click.IntRange(0, 1000), default=3, show_default=True, metavar="N",
              help="How many documents of the train split to show the beginning of.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(name: str | None, samples: int, as_json: bool) -> None:
    """One prepared text in full, with some of its documents.

    Without a name, the current one: where it comes from and under which licence, its splits and tokenizers, digests,
    how much of what is scored stands in train too, and which studies of this clone use it.
    """
    from autoresearch.cli import data
    from autoresearch.data import prepared, shelf

    entry = shelf.entry(name)
    if entry.found is None or entry.problem:
        prepared.load(entry.root)  # says what is wrong, and what to do about it
    assert entry.found is not None
    texts = [beginning(document) for document in shelf.samples(entry.found, samples)] if samples else []
    used = data.studies()
    if as_json:
        click.echo(json.dumps(data.summary(entry, used) | {"samples": texts}, indent=2))
    else:
        click.echo("\n".join([*page(entry, entry.found, data.users(entry, used)), *_quoted(texts)]))


def page(entry: Entry, found: Prepared, tags: list[str]) -> list[str]:
    from autoresearch import words
    from autoresearch.cli import prepare
    from autoresearch.harness.text import line

    facts = found.manifest
    source = facts.corpus
    rows = [("source", source.source), ("revision", source.revision), ("licence", source.licence or "not recorded"),
            ("sha256", source.sha256), ("prepared", f"{facts.created} by {facts.tool}"),
            ("disk", words.size(entry.disk_bytes())), ("current", "yes" if entry.is_current else "no"),
            ("studies", ", ".join(tags) or "none of this clone"),
            ("in train", "; ".join(f"{o.found:,} of {o.judged:,} rows of {split}, exactly or nearly"
                                   for split, o in facts.overlap.items() if o.judged)),
            *(("note", note) for note in source.notes)]
    lines = [f"{key:<10}{line(value)}" for key, value in rows if value]
    digests = [f"{name:<10}digest {t.digest}" for name, t in facts.tokenizers.items()]
    return [*lines, "", prepare.table(found), "", *digests]


def beginning(document: bytes) -> str:
    """The first lines of a document, fit for a terminal."""
    from autoresearch.harness.text import clean

    text = clean(document[:8 * SAMPLE_CHARS].decode("utf-8", "replace"), 8 * SAMPLE_CHARS).strip()
    shown = "\n".join(text[:SAMPLE_CHARS].splitlines()[:SAMPLE_LINES]).rstrip()
    return shown if shown == text else shown + " …"


def _quoted(texts: list[str]) -> list[str]:
    return [line for text in texts for line in ("", *(f"| {line}" for line in text.splitlines()))]
