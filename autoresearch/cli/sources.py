"""Which text: the options that name a corpus, and the corpus they mean.

    source_options   what `ar prepare` takes to say it
    chosen           the corpus; a published one is downloaded when it is first read
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from autoresearch.errors import UsageError

if TYPE_CHECKING:
    from autoresearch.cli.transfer import Transfer
    from autoresearch.data.corpus import Corpus
    from autoresearch.data.published import Wishes

NAMES = ("auto", "tinystories", "climbmix", "stdlib")


class Size(click.ParamType):
    """Bytes: 5000000, 5MB, 1.5GB."""

    name = "size"
    units: ClassVar[dict[str, int]] = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9][0-9_]*(?:\.[0-9]+)?) ?([KMGT]?)B?", value.strip(), re.IGNORECASE)
        size = int(float(match[1]) * self.units[match[2].upper()]) if match else 0
        if size < 1:
            self.fail(f"{value!r} is no number of bytes: for example 5000000, 5MB or 1.5GB", param, ctx)
        return size


@dataclass(frozen=True)
class Wanted:
    """What a person typed, as yet unchecked."""

    paths: tuple[str, ...]
    texts: tuple[str, ...]
    field: str | None
    column: str | None
    shards: int | None
    revision: str | None
    max_bytes: int | None


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    options: tuple[Any, ...] = (
        click.argument("paths", nargs=-1, metavar=f"[{' | '.join(NAMES)} | PATH...]"),
        click.option("--text", "texts", multiple=True, metavar="PATH",
                     help="A file of text, JSON lines or parquet, .gz or .zst of one, a folder of them, or - for "
                          "standard input; more may follow it."),
        click.option("--field", metavar="NAME", help="What holds the text in an object of JSON lines. Default: text."),
        click.option("--column", metavar="NAME", help="What holds the text in a row of parquet. Default: text."),
        click.option("--shards", type=click.IntRange(1, 6542), metavar="N",
                     help="Of climbmix: how many shards to train on, 92 MB to download for each. Default: 4."),
        click.option("--revision", metavar="COMMIT",
                     help="Of tinystories and climbmix: another commit than the usual one; main is the newest."),
        click.option("--max-bytes", type=Size(), metavar="N", help="Take no more text than this: 5000000, 5MB, 1.5GB."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def chosen(wanted: Wanted, is_prepared: Callable[[Corpus], bool], transfer: Transfer) -> Corpus | None:
    """The corpus a person means; None: the current one stays, since the default can't be had. Raises UsageError for
    options that can't be meant."""
    source = _source(wanted)
    _check(wanted, source)
    if source is None:
        from autoresearch.data import corpus
        from autoresearch.data.readers import Fields

        paths = [Path(path).expanduser() for path in (*wanted.texts, *wanted.paths)]
        if corpus.STDIN in paths and sys.stdin and sys.stdin.isatty():
            click.echo("reading text from the terminal; Ctrl-D ends it", err=True)
        found = corpus.text(paths, wanted.max_bytes, Fields(wanted.field, wanted.column))
        own = [path for path in paths if path != corpus.STDIN]
        return _located(found, [*own, *(file for path in own for file in corpus.walk(path, {}) if file.is_symlink())])
    return _named(source, wanted, is_prepared, transfer)


def _source(wanted: Wanted) -> str | None:
    """One of NAMES; None: a person's own files."""
    if wanted.texts:
        return None
    if not wanted.paths:
        return "auto"
    return wanted.paths[0] if len(wanted.paths) == 1 and wanted.paths[0] in NAMES else None


def _check(wanted: Wanted, source: str | None) -> None:
    paths = (*wanted.texts, *wanted.paths)
    if "" in paths:
        raise UsageError("a path is empty", "Is a shell variable unset? Usage: ar prepare --text PATH")
    if not wanted.texts and source is None and paths[0] in NAMES:
        raise UsageError(f"{paths[0]} stands alone: {' '.join(paths[1:])} can't be prepared with it",
                         f"Prepare one after the other; a file of that name is ./{paths[0]}.")
    if not wanted.texts and source is None and paths[0] != "-" and not Path(paths[0]).expanduser().exists():
        raise UsageError(f"{paths[0]!r} is neither a file nor one of {', '.join(NAMES)}",
                         "ar prepare --text PATH takes files and folders.")
    if wanted.shards is not None and source != "climbmix":
        raise UsageError("--shards belongs to climbmix", "For example: ar prepare climbmix --shards 8")
    if wanted.revision is not None and source not in ("tinystories", "climbmix"):
        raise UsageError("--revision belongs to tinystories and climbmix",
                         "For example: ar prepare climbmix --revision main")
    if (wanted.field or wanted.column) and source is not None:
        raise UsageError("--field and --column belong to files of your own",
                         "For example: ar prepare --text posts.jsonl --field body")


def _named(source: str, wanted: Wanted, is_prepared: Callable[[Corpus], bool],
           transfer: Transfer) -> Corpus | None:
    from autoresearch.data import hub, published

    if source == "stdlib":
        return _stdlib(wanted.max_bytes)
    wishes = published.Wishes(wanted.max_bytes, wanted.revision, transfer.say, transfer.report)
    if source == "climbmix":
        return _located(published.climbmix(wishes, wanted.shards or published.SHARDS), [hub.folder()])
    stories = _located(published.tinystories(wishes), [hub.folder()])
    # What is prepared needs no network, not even to hear that there is none.
    return stories if source == "tinystories" or is_prepared(stories) else _auto(wishes)


def _auto(wishes: Wishes) -> Corpus | None:
    from autoresearch.data import corpus, hub, prepared, published

    try:
        return _located(published.reachable_tinystories(wishes), [hub.folder()])
    except hub.Unreachable as e:
        if prepared.current_name() and prepared.current().manifest.corpus.kind != corpus.STDLIB:
            wishes.say(f"{e.message}: the text prepared before stays the current one")
            return None
        wishes.say(f"{e.message}: Python's standard library takes the place of TinyStories")
        return _stdlib(wishes.max_bytes)


def _stdlib(max_bytes: int | None) -> Corpus:
    from autoresearch.data import corpus

    found = corpus.stdlib(max_bytes)
    found.note("candidates can read this text, which is their interpreter's own library: use it to try things out, and "
               "text of your own for a score that has to hold")
    return found


def _located(found: Corpus, paths: Sequence[Path]) -> Corpus:
    """With where it lies, whatever links led there; a note of what no sandbox can keep from candidates."""
    from autoresearch.data.prepare import Located
    from autoresearch.harness import sandbox

    real = dict.fromkeys(Path(os.path.realpath(path)) for path in paths)
    outer = [path for path in real if not any(folder in real for folder in path.parents)]
    for path in filter(sandbox.is_toolchain, outer):
        found.note(f"candidates can read {path}, among what they run with: move the text elsewhere and prepare it from "
                   "there for a score that has to hold")
    return Located(**vars(found), paths=tuple(map(str, outer)))
