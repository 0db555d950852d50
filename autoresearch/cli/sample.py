"""ar sample: text by the champion, as it is written."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING

import click

from autoresearch.cli.machine import Finite, disturbed, sandbox_option
from autoresearch.cli.prepare import say_notes
from autoresearch.errors import UserError

if TYPE_CHECKING:
    from autoresearch.models import Model
    from autoresearch.sample import Options

EPILOG = """\b
Examples:
  ar sample                                     the champion goes on from a line of the dev split
  ar sample --prompt "Once upon a time" --tokens 400
  ar sample baseline --seed 7                   another experiment, or a number such as 12
  ar sample exports/mar8                        what `ar export` wrote
"""


@click.command("sample", epilog=EPILOG)
@click.argument("checkpoint", default="champion")
@click.option("--tag", help="The study of an experiment. Default: the one used last.")
@click.option("--prompt", help="What the text begins with. Default: a line of the dev split, picked by the seed.")
@click.option("--tokens", type=click.IntRange(min=1), default=200, show_default=True, help="How many tokens to write.")
@click.option("--temperature", type=Finite(min=0), default=0.8, show_default=True,
              help="Below 1 safer, above 1 wilder; 0 always takes the likeliest token.")
@click.option("--top-k", type=click.IntRange(min=0), default=50, show_default=True,
              help="Draw among the K likeliest tokens; 0: among all.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True,
              help="The same seed writes the same text.")
@click.option("--trust-code", is_flag=True, help="Run the code of a checkpoint from another machine.")
@sandbox_option
def command(checkpoint: str, tag: str | None, prompt: str | None, tokens: int, temperature: float, top_k: int,
            seed: int, trust_code: bool) -> None:
    """Write text with the champion.

    CHECKPOINT is what `ar eval` takes: an experiment (champion, baseline, or a number such as 12), what `ar train`
    wrote, or the folder that `ar export` wrote. The model runs in a process of its own; its text goes to stdout as it
    comes, after the prompt.
    """
    from autoresearch import models
    from autoresearch.sample import Options

    model = models.find(checkpoint, tag)
    models.check_code(model, trust_code)
    say_notes(disturbed("writing"))
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    with contextlib.closing(pieces(model, prompt, Options(tokens, temperature, top_k, seed))) as written:
        for i, piece in enumerate(written):
            _write(decoder.decode(piece), bold=i == 0)
    _write(decoder.decode(b"", final=True) + "\n")


def sample_text(tag: str, tokens: int) -> str:
    """A prompt and what the champion of a study writes after it, as one printable text."""
    from autoresearch import models
    from autoresearch.harness.text import clean
    from autoresearch.sample import Options

    written = b"".join(pieces(models.find("champion", tag), None, Options(tokens=tokens)))
    return clean(written.decode("utf-8", "replace"), 1 << 20)


def pieces(model: Model, prompt: str | None, options: Options) -> Generator[bytes, None, None]:
    """The prompt, then the bytes of each token."""
    from autoresearch import sample
    from autoresearch.cli.eval import backend_of

    begin = _beginning(model, options.seed) if prompt is None else prompt.encode("utf-8", "surrogateescape")
    click.echo(f"{model.label}, temperature {options.temperature:g}, seed {options.seed}", err=True)
    yield begin
    with contextlib.closing(sample.generate(model, begin, options, backend_of(model, None))) as written:
        yield from written


def _beginning(model: Model, seed: int) -> bytes:
    """A line of the text that it was trained on; nothing where a model from elsewhere brings only its tokenizer."""
    from autoresearch.models import VOCABULARY
    from autoresearch.sample import default_prompt

    try:
        return default_prompt(model.prepared(), seed)
    except UserError:
        if not model.weights.with_name(VOCABULARY).is_file():
            raise
        return b""


def _write(text: str, bold: bool = False) -> None:
    """To stdout at once, less what could steer a terminal: a model may write any byte."""
    from autoresearch.cli.style import style
    from autoresearch.harness.text import CONTROLS

    click.echo(style(CONTROLS.sub("", text), bold=bold), nl=False)
