"""ar prepare: text into the cache, split and tokenized."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from autoresearch.cli.sources import Wanted, chosen, source_options

if TYPE_CHECKING:
    from autoresearch.data.prepared import Prepared

MAX_NOTES = 8

EPILOG = """\b
Examples:
  ar prepare                                  TinyStories; offline, Python's own source
  ar prepare --text novel.txt letters/        your own files and folders
  ar prepare --text novel.txt --max-bytes 1MB --name short --tokenizer byte --tokenizer bpe-512
  ar prepare --text posts.jsonl.gz --field body
  ar prepare --text shards/ --column content  parquet files, mixed with others or not
  cat *.txt | ar prepare --text - --name all
  ar prepare climbmix --shards 8              web text, as karpathy/autoresearch uses it
  ar prepare stdlib                           Python's own source, no network needed
"""


@click.command("prepare", epilog=EPILOG)
@source_options
@click.option("--name", help="What to call the prepared text. Default: after its source.")
@click.option("--tokenizer", "tokenizers", multiple=True, metavar="NAME",
              help="byte, char, bpe-<vocabulary size> or gpt2; repeat for several. Default: byte, and BPE as the text "
                   "allows.")
@click.option("--holdout-chars", type=click.IntRange(min=1), metavar="N",
              help="Make the last N characters the holdout, exactly. Default: it is taken from all of the text.")
@click.option("--encode-shards", type=click.IntRange(min=1), metavar="N",
              help="Tokenize N shards of the train text, of about 128 MB each. Default: 2.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def command(name: str | None, tokenizers: tuple[str, ...], holdout_chars: int | None, encode_shards: int | None,
            as_json: bool, **typed: Any) -> None:
    """Prepare text to train on and to be scored on.

    Without arguments: TinyStories, stories for children that even a very small model learns to write, 673 MB to
    download once; where the Hugging Face hub can't be reached, what was prepared before,
    or else the source of Python's standard library.

    The text is split into train, dev, val, confirm and holdout, tokenized, and kept in the cache
    (~/.cache/autoresearch, or AUTORESEARCH_CACHE) with a manifest. Training uses the text prepared last.
    The same text again changes nothing; other text never replaces it.
    """
    from autoresearch.cli.transfer import Transfer
    from autoresearch.data.prepare import FIRST_SHARDS, Result, known, prepare
    from autoresearch.data.prepared import current

    with Transfer() as transfer:
        corpus = chosen(Wanted(**typed), lambda corpus: known(corpus, name, holdout_chars or 0) is not None, transfer)
        result = Result(current(), False, kept_instead(current().name)) if corpus is None else prepare(
            corpus, name, tokenizers, transfer.say, holdout_chars or 0, encode_shards or FIRST_SHARDS)
    say_notes(result.notes, ", which --json lists")
    if as_json:
        said = {"new": result.is_new, "notes": list(result.notes), "skipped": result.skipped}
        click.echo(json.dumps(summary(result.prepared) | said, indent=2))
    else:
        click.echo(table(result.prepared))


def kept_instead(name: str) -> tuple[str, ...]:
    """What was typed for a text that can't be had, while another one stays the current one."""
    context = click.get_current_context()
    ignored = [option.opts[0] for option in context.command.params
               if isinstance(option, click.Option) and option.name != "as_json"
               and context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE]
    was = f", so {', '.join(ignored)} {'was' if len(ignored) == 1 else 'were'} ignored" if ignored else ""
    return (f"nothing was prepared{was}; {name} is as it was. To prepare another text: ar prepare stdlib, or "
            "ar prepare --text PATH, with the same options",)


def say_notes(notes: Sequence[str], where: str = "") -> None:
    """What a person should know, on stderr; of many the first."""
    for note in notes[:MAX_NOTES]:
        click.echo(f"note: {note}", err=True)
    if len(notes) > MAX_NOTES:
        click.echo(f"note: and {len(notes) - MAX_NOTES} more{where}", err=True)


def summary(prepared: Prepared) -> dict[str, object]:
    """A set as plain data."""
    facts = prepared.manifest
    return {
        "name": prepared.name, "path": str(prepared.root), "digest": prepared.digest,
        "source": facts.corpus.source, "bytes": facts.corpus.bytes, "sha256": facts.corpus.sha256,
        "revision": facts.corpus.revision, "licence": facts.corpus.licence,
        "policy": facts.policy, "holdout_chars": facts.holdout_chars, "shards": len(facts.shards),
        "splits": {name: {"documents": s.documents, "bytes": s.bytes, "chars": s.chars, "rows": s.rows}
                   for name, s in facts.splits.items()},
        "overlap": {name: {"judged": o.judged, "found": o.found} for name, o in facts.overlap.items()},
        "tokenizers": {name: {"vocab": t.vocab, "digest": t.digest, "tokens": t.tokens, "shards": len(t.shards)}
                       for name, t in facts.tokenizers.items()},
        "notes": list(facts.corpus.notes),
    }


def table(prepared: Prepared) -> str:
    """The splits with their sizes, and the tokenizers with how well they compress the train split."""
    facts = prepared.manifest
    pieces = "pieces" if facts.policy == "span" else "documents"  # of a document each split has several
    lines = [f"{'split':<10}{pieces:>11}{'bytes':>15}{'characters':>15}{'rows':>9}"]
    lines += [f"{name:<10}{s.documents:>11,}{s.bytes:>15,}{s.chars:>15,}{f'{s.rows:,}' if s.rows else '-':>9}"
              for name, s in facts.splits.items()]
    lines += ["", f"{'tokenizer':<10}{'vocabulary':>11}{'train tokens':>15}{'bytes/token':>15}"]
    for name, t in facts.tokenizers.items():
        encoded_bytes = facts.shards[len(t.shards) - 1]
        some = "" if len(t.shards) == len(facts.shards) else f"   {len(t.shards)} of {len(facts.shards)} shards"
        lines += [f"{name:<10}{t.vocab:>11,}{t.tokens['train']:>15,}{encoded_bytes / t.tokens['train']:>15.2f}{some}"]
    by = {"hash": "whole documents, by hash", "span": "pieces of the text",
          "pinned": "whole documents; the source names those that are scored"}[facts.policy]
    tail = f", the last {facts.holdout_chars:,} characters held out" if facts.holdout_chars else ""
    documents = f"{facts.corpus.documents:,} document{'' if facts.corpus.documents == 1 else 's'}"
    return "\n".join([*lines, "", f"{prepared.name} (digest {prepared.digest}, {documents}, split by {by}{tail})",
                      str(prepared.root)])
