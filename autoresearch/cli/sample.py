"""ar sample: text by the champion, as it is written."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING

import click

from autoresearch.errors import UserError

if TYPE_CHECKING:
    from autoresearch.sample import Options

EPILOG = """\b
Examples:
  ar sample                                     goes on from a line of the dev split
  ar sample --prompt "Once upon a time" --tokens 400
  ar sample --experiment 0 --seed 7             the baseline instead of the champion
"""


@click.command("sample", epilog=EPILOG)
@click.option("--tag", help="Which study. Default: the one used last.")
@click.option("--prompt", help="What the text begins with. Default: a line of the dev split, picked by the seed.")
@click.option("--tokens", type=click.IntRange(min=1), default=200, show_default=True, help="How many tokens to write.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.8, show_default=True,
              help="Below 1 safer, above 1 wilder; 0 always takes the likeliest token.")
@click.option("--top-k", type=click.IntRange(min=0), default=50, show_default=True,
              help="Draw among the K likeliest tokens; 0: among all.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True,
              help="The same seed writes the same text.")
@click.option("--experiment", type=click.IntRange(min=0), metavar="N", help="Another experiment; 0 is the baseline.")
def command(tag: str | None, prompt: str | None, tokens: int, temperature: float, top_k: int, seed: int,
            experiment: int | None) -> None:
    """Write text with the champion.

    The model runs in a process of its own; its text goes to stdout as it comes, after the prompt.
    """
    from autoresearch.sample import Options

    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    with contextlib.closing(pieces(tag, prompt, Options(tokens, temperature, top_k, seed), experiment)) as written:
        for i, piece in enumerate(written):
            _write(decoder.decode(piece), bold=i == 0)
    _write(decoder.decode(b"", final=True) + "\n")


def sample_text(tag: str | None, prompt: str | None = None, tokens: int = 200, seed: int = 1) -> str:
    """The prompt and what the champion writes after it, as one printable text."""
    from autoresearch.harness.text import clean
    from autoresearch.sample import Options

    written = b"".join(pieces(tag, prompt, Options(tokens=tokens, seed=seed), None))
    return clean(written.decode("utf-8", "replace"), 1 << 20)


def pieces(tag: str | None, prompt: str | None, options: Options,
           experiment: int | None) -> Generator[bytes, None, None]:
    """The prompt, then the bytes of each token."""
    from autoresearch import paths, sample
    from autoresearch.research.study import Study

    with Study.open(paths.clone(), tag, readonly=True) as study:
        chosen = study.ledger.incumbent() if experiment is None else study.ledger.experiment(experiment)
        if chosen is None:
            raise UserError(f"study {study.tag!r} has no trained model yet: its baseline is not done",
                            f"Finish it with: ar loop --tag {study.tag}")
        sample.weights_of(study, chosen)
        found = sample.prepared_of(study)
        given = None if prompt is None else prompt.encode("utf-8", "surrogateescape")
        begin = sample.default_prompt(found, options.seed) if given is None else given
        who = f"experiment {chosen.n}" if chosen.n else "the baseline"
        click.echo(f"{who} of {study.tag}, temperature {options.temperature:g}, seed {options.seed}", err=True)
        yield begin
        with contextlib.closing(sample.generate(study, found, chosen, begin, options)) as written:
            yield from written


def _write(text: str, bold: bool = False) -> None:
    """To stdout at once, less what could steer a terminal: a model may write any byte."""
    from autoresearch.cli.style import style
    from autoresearch.harness.text import CONTROLS

    click.echo(style(CONTROLS.sub("", text), bold=bold), nl=False)
