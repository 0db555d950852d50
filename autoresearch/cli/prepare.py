"""ar prepare: text into the cache, split and tokenized."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoresearch.errors import UsageError

if TYPE_CHECKING:
    from autoresearch.data.corpus import Corpus
    from autoresearch.data.prepare import Result

MAX_NOTES = 8

EPILOG = """\b
Examples:
  ar prepare                                  Python's own source, no network needed
  ar prepare --text novel.txt letters/        your own files and folders
  ar prepare --text novel.txt --name novel --tokenizer byte --tokenizer bpe-512
"""


@click.command("prepare", epilog=EPILOG)
@click.argument("paths", nargs=-1, metavar="[stdlib | PATH...]")
@click.option("--text", "texts", multiple=True, metavar="PATH",
              help="A text file, or a folder of them; more may follow it.")
@click.option("--stdlib", "wants_stdlib", is_flag=True,
              help="The source of this Python's standard library (the default).")
@click.option("--name", help="What to call the prepared text. Default: after its first file.")
@click.option("--max-bytes", type=click.IntRange(min=1), metavar="N", help="Take no more than N bytes of text.")
@click.option("--tokenizer", "tokenizers", multiple=True, metavar="NAME",
              help="byte, or bpe-<vocabulary size>; repeat for several. Default: byte, and BPE as the text allows.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def command(paths: tuple[str, ...], texts: tuple[str, ...], wants_stdlib: bool, name: str | None,
            max_bytes: int | None, tokenizers: tuple[str, ...], as_json: bool) -> None:
    """Prepare text to train on and to be scored on.

    It is split into train, dev, val, confirm and holdout, tokenized, and kept in the cache
    (~/.cache/autoresearch, or AUTORESEARCH_CACHE) with a manifest. Training uses the text prepared last.
    The same text again changes nothing; other text never replaces it.
    """
    from autoresearch.data.prepare import prepare

    corpus = _corpus((*texts, *paths), bool(texts), wants_stdlib, max_bytes)
    click.echo(f"{corpus.source}: {len(corpus.documents):,} documents, {corpus.bytes:,} bytes", err=True)
    result = prepare(corpus, name, tokenizers, progress=lambda line: click.echo(line, err=True))
    for note in result.notes[:MAX_NOTES]:
        click.echo(f"note: {note}", err=True)
    if len(result.notes) > MAX_NOTES:
        click.echo(f"note: and {len(result.notes) - MAX_NOTES} more, which --json lists", err=True)
    click.echo(json.dumps(summary(result), indent=2) if as_json else table(result))


def _corpus(paths: tuple[str, ...], are_texts: bool, wants_stdlib: bool, max_bytes: int | None) -> Corpus:
    from autoresearch.data import corpus

    if not are_texts and paths == (corpus.STDLIB,):
        paths, wants_stdlib = (), True
    if paths and wants_stdlib:
        raise UsageError("both the standard library and paths are given",
                         "Choose one: ar prepare, or ar prepare --text PATH")
    if not paths:
        return corpus.stdlib(max_bytes)
    if "" in paths:
        raise UsageError("a path is empty", "Is a shell variable unset? Usage: ar prepare --text PATH")
    if not are_texts and not Path(paths[0]).exists():
        raise UsageError(f"{paths[0]!r} is neither a file nor {corpus.STDLIB}",
                         "ar prepare --text PATH takes files and folders.")
    return corpus.text([Path(path).expanduser() for path in paths], max_bytes)


def summary(result: Result) -> dict[str, object]:
    """The result as plain data; see `ar prepare --help`."""
    prepared, facts = result.prepared, result.prepared.manifest
    return {
        "name": prepared.name, "path": str(prepared.root), "digest": prepared.digest, "new": result.is_new,
        "source": facts.corpus.source, "bytes": facts.corpus.bytes, "sha256": facts.corpus.sha256,
        "policy": facts.policy,
        "splits": {name: {"documents": s.documents, "bytes": s.bytes, "chars": s.chars, "rows": s.rows}
                   for name, s in facts.splits.items()},
        "tokenizers": {name: {"vocab": t.vocab, "digest": t.digest, "tokens": t.tokens}
                       for name, t in facts.tokenizers.items()},
        "notes": list(result.notes),
    }


def table(result: Result) -> str:
    """The splits with their sizes, and the tokenizers with how well they compress the train split."""
    facts = result.prepared.manifest
    lines = [f"{'split':<10}{'documents':>11}{'bytes':>15}{'characters':>15}{'rows':>9}"]
    lines += [f"{name:<10}{s.documents:>11,}{s.bytes:>15,}{s.chars:>15,}{s.rows:>9,}"
              for name, s in facts.splits.items()]
    lines += ["", f"{'tokenizer':<10}{'vocabulary':>11}{'train tokens':>15}{'bytes/token':>15}"]
    train_bytes = facts.splits["train"].bytes
    lines += [f"{name:<10}{t.vocab:>11,}{t.tokens['train']:>15,}{train_bytes / t.tokens['train']:>15.2f}"
              for name, t in facts.tokenizers.items()]
    by = {"hash": "whole documents, by hash", "span": "spans of the text"}[facts.policy]
    return "\n".join([*lines, "", f"{result.prepared.name} (digest {result.prepared.digest}, split by {by})",
                      str(result.prepared.root)])
