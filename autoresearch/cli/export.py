"""`ar export`: a trained model as a folder to hand on."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from autoresearch.models import Model

EPILOG = """\b
Examples:
  ar export                                      the champion of the last study
  ar export --out my-model && ar sample my-model
  hf upload me/my-model my-model                 the Hugging Face Hub takes it as it is
"""


@click.command("export", epilog=EPILOG)
@click.argument("checkpoint", default="champion")
@click.option("--tag", default=None, help="The study of an experiment. Default: the one used last.")
@click.option("--out", type=click.Path(path_type=Path), default=None,
              help="The new folder.  [default: exports/<name> in this clone]")
def command(checkpoint: str, tag: str | None, out: Path | None) -> None:
    """Write a trained model as a folder: weights, tokenizer, recipe, code and a model card.

    CHECKPOINT is what `ar eval` takes. Of a study, the weights are those of the first verified seed where there are
    any: their own scores selected nothing. The card in README.md says what it was trained on and with what, its scores
    and how sure they are. `ar sample` and `ar eval` take the folder; generate.py in it needs nothing else of ours.
    """
    from autoresearch import export

    model = export.chosen(checkpoint, tag)
    folder = Path(os.path.abspath(out.expanduser())) if out else _default_place(model)
    export.write(model, folder)
    click.echo(str(folder))


def _default_place(model: Model) -> Path:
    from autoresearch import paths

    root, name = paths.clone() / "exports", model.study or model.weights.parent.name
    root.mkdir(exist_ok=True)
    if not (ignore := root / ".gitignore").exists():
        ignore.write_text("*\n")
    return next(p for i in itertools.count(1) if not (p := root / (name if i == 1 else f"{name}-{i}")).exists())
