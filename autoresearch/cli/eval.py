"""`ar eval`: the score of any checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoresearch.cli.machine import choose_backend, disturbed, sandbox_option
from autoresearch.cli.prepare import say_notes
from autoresearch.cli.terminal import Bar
from autoresearch.errors import UsageError
from autoresearch.machine import has_nvidia
from backends import NAMES, installed

if TYPE_CHECKING:
    from autoresearch.data.prepared import Prepared
    from autoresearch.models import Model
    from autoresearch.records import Evaluation

LEGACY = "karpathy/autoresearch's count of bytes"

EPILOG = """\b
Examples:
  ar eval                                     the champion of the last study, on val
  ar eval '#12' --split confirm               an experiment of it
  ar eval checkpoints/nov21-073000            what `ar train` wrote
  ar eval baseline --text letter.txt --json   on a file of your own
"""


@click.command("eval", epilog=EPILOG)
@click.argument("checkpoint", default="champion")
@click.option("--split", type=click.Choice(["val", "confirm", "holdout"]), default=None,
              help="Which split of the text.  [default: val]")
@click.option("--text", type=click.Path(path_type=Path), default=None, metavar="FILE",
              help="Score a file of your own, in rows as the splits are.")
@click.option("--rows", type=click.IntRange(1), default=None, metavar="N",
              help="Score only the first N rows of the fixed order. Default: all.")
@click.option("--tag", default=None, help="The study of an experiment. Default: the one used last.")
@click.option("--data", "name", default=None, help="Another prepared text, if it has the same tokenizer.")
@click.option("--backend", type=click.Choice(NAMES), default=None,
              help="What to run it on. Default: what it was trained on.")
@click.option("--legacy-bpb", "legacy", is_flag=True, help=f"Add the number by {LEGACY}.")
@click.option("--about", is_flag=True, help="Show what the checkpoint says of itself, and run nothing.")
@click.option("--trust-code", is_flag=True, help="Run the code of a checkpoint from another machine.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@sandbox_option
def command(checkpoint: str, split: str | None, text: Path | None, rows: int | None, tag: str | None,
            name: str | None, backend: str | None, legacy: bool, about: bool, trust_code: bool, as_json: bool) -> None:
    """Score a trained model: on a split of its text, or on a file of your own.

    CHECKPOINT is an experiment of a study (champion, baseline, or a number such as 12), or a file that `ar train`
    wrote, or its folder, or the folder that `ar export` wrote. Bits per byte divide by the raw bytes of the text, so
    they compare across tokenizers. The error after ± is the standard error over rows.

    --legacy-bpb divides by the bytes that karpathy/autoresearch counts: those of each token decoded alone, where a
    piece of a character becomes U+FFFD and counts 3. So it is never above ours, and equal on ASCII. Special tokens
    count in neither: there they are masked, here they are never predicted. Its rows of 2,048 tokens, packed from
    several documents, are not imitated.

    A look at confirm or holdout is recorded in the study that the model belongs to.
    """
    from autoresearch import evaluate, models

    if text and (split or name):
        raise UsageError(f"--text and {'--split' if split else '--data'} name two different texts", "Choose one.")
    model = models.find(checkpoint, tag)
    if about:
        click.echo(json.dumps(asdict(model.about), indent=2) if as_json else described(model))
        return
    models.check_code(model, trust_code)
    prepared = model.prepared(name)
    own_rows, notes = evaluate.rows_of(text) if text else (None, ())
    where, used = split or "val", backend_of(model, backend)
    say_notes(notes)
    say_notes(warnings_of(model, where if text is None else "text", used))
    bar = Bar(model.label, None)
    bar.say("scoring")
    try:
        found = evaluate.evaluate(model, prepared, used, where, rows, own_rows)
    finally:
        bar.close()
    if as_json:
        click.echo(json.dumps(summary(model, prepared, used, found, text), indent=2))
    else:
        click.echo(table(model, prepared, found, text, legacy))


def backend_of(model: Model, asked: str | None) -> str:
    """The one asked for, or the one it was trained on, or the best that is here."""
    trained = model.about.backend
    can = trained in installed() and (trained != "cuda" or has_nvidia())
    return choose_backend(asked or (trained if can else None))


def warnings_of(model: Model, split: str, backend: str) -> list[str]:
    """What a person should know of this score before it is there."""
    from autoresearch import evaluate, paths
    from autoresearch.harness import assemble
    from autoresearch.research.study import Study

    found = []
    if backend != model.about.backend:
        found.append(f"it was trained on {model.about.backend} and is scored on {backend}, whose model is another file")
    if model.about.frozen_digest != assemble.digest(assemble.frozen_files()):
        found.append(f"it was trained by another version of the trainer ({model.about.tool})")
    if model.study is None and split in evaluate.COUNTED:
        found.append(f"{split} is for one last look, and this model belongs to no study that could record it")
    if model.study is not None and split in evaluate.COUNTED:
        with Study.open(paths.clone(), model.study, readonly=True) as study:
            before = study.ledger.reads(split)
        found.append(f"this look at {split} is recorded in study {model.study}; there {_were(before)} before")
    return found + disturbed("scoring")


def _were(looks: int) -> str:
    return "was none" if looks == 0 else "was 1" if looks == 1 else f"were {looks}"


def summary(model: Model, prepared: Prepared, backend: str, found: Evaluation, text: Path | None) -> dict[str, Any]:
    score = found.score
    return {
        "checkpoint": model.label, "study": model.study, "split": None if text else score.split,
        "text": str(text) if text else None, "data": None if text else prepared.name,
        "bpb": score.bpb, "bpb_error": found.bpb_error, "bpc": score.bpc, "nats_per_token": score.nats_per_token,
        "legacy_bpb": found.legacy_bpb, "nats": score.nats, "bytes": score.bytes, "legacy_bytes": found.legacy_bytes,
        "chars": score.chars, "tokens": score.tokens, "rows": score.rows,
        "tokenizer": model.recipe().data.tokenizer, "backend": backend, "seed": model.about.seed,
        "weights": str(model.weights),
    }


def table(model: Model, prepared: Prepared, found: Evaluation, text: Path | None, legacy: bool) -> str:
    score = found.score
    name = "text" if text else score.split
    error = "" if found.bpb_error is None else f" ± {found.bpb_error:.4f}"
    rows = {f"{name}_bpb": f"{score.bpb:.6f}{error}", f"{name}_bpc": f"{score.bpc:.6f}",
            "nats_per_token": f"{score.nats_per_token:.6f}"}
    if legacy:
        rows["legacy_bpb"] = f"{found.legacy_bpb:.6f}  by {LEGACY}, {found.legacy_bytes:,}"
    rows |= {"bytes": f"{score.bytes:,}", "characters": f"{score.chars:,}", "tokens": f"{score.tokens:,}",
             "rows": f"{score.rows:,}", "seed": str(model.about.seed)}
    what = str(text) if text else f"{score.split} of {prepared.name}"
    return f"{model.label} on {what}\n" + "\n".join(f"{key + ': ':<18}{value}" for key, value in rows.items())


def described(model: Model) -> str:
    """The record, for people: one fact a line."""
    from autoresearch.harness.text import clean
    from backends.recipe import Recipe

    about = model.about
    standard = Recipe().flat()
    changed = [f"  {key} = {value}" for key, value in about.recipe.items() if value != standard.get(key)]
    budget = "" if about.budget_s is None else f" in {about.budget_s:g} s"
    rows = {"written": f"{about.created} by {about.tool}{'' if model.is_ours else ', on another machine'}",
            "trained": f"{about.steps:,} steps, {about.tokens:,} tokens{budget}, seed {about.seed}",
            "on": f"{about.backend}, {about.device}, {about.precision}",
            "text": f"{about.data_name} (digest {about.data_digest})",
            "tokenizer": f"{about.recipe.get('data.tokenizer')}, {about.vocab:,} ids (digest {about.tokenizer_digest})",
            "code": ", ".join(about.code), "weights": str(model.weights)}
    lines = [f"{key + ':':<12}{value}" for key, value in rows.items()]
    text = "\n".join([*lines, "recipe, where it is not the default:", *changed])
    return clean(text, len(text))  # it may come from a stranger
