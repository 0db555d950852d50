"""`ar train`: one trial of the recipe in this clone, with a progress bar and the block of numbers upstream prints."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from autoresearch import paths, scratch, sizes
from autoresearch.cli.machine import (
    Seconds,
    asked_recipe,
    backend_option,
    candidate_files,
    choose_backend,
    recipe_options,
    sandbox_option,
    settled,
)
from autoresearch.cli.terminal import Bar, quoted
from autoresearch.data import prepared
from autoresearch.errors import UserError
from autoresearch.harness import caches
from autoresearch.harness.checkpoint import WEIGHTS
from autoresearch.harness.runner import Runner
from autoresearch.harness.supervise import Outcome, TrialFailed
from autoresearch.records import MEMORY, Evaluation
from autoresearch.research import fair
from backends.recipe import Recipe
from backends.spec import GPTSpec


@click.command("train")
@click.option("--budget", "budget_s", type=Seconds(0.5, 86400), default=300.0, show_default=True,
              help="Seconds of training.")
@click.option("--steps", type=click.IntRange(1), default=None,
              help="Train this many steps instead, however long they take.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=1, show_default=True,
              help="Initial weights and data order.")
@backend_option
@click.option("--data", "name", default=None, help="A prepared text. Default: the current one.")
@recipe_options
@click.option("--out", type=click.Path(path_type=Path), default=None,
              help="Keep the checkpoint and the log in this new folder.  [default: checkpoints/<now> in this clone]")
@click.option("--legacy-bpb", "legacy", is_flag=True,
              help="Add the number by karpathy/autoresearch's count of bytes; see ar eval --help.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the block.")
@sandbox_option
def command(budget_s: float, steps: int | None, seed: int, backend: str | None, name: str | None,
            path: Path | None, preset: str | None, changes: tuple[str, ...], out: Path | None, legacy: bool,
            as_json: bool) -> None:
    """Train the current recipe once and score it.

    The weights stay, with their recipe and code in the same file: `ar eval` scores them again at any time.

    \b
    Example:
      ar train --budget 60 --seed 2
      ar train --preset gpt2 --budget 60 --set model.dropout=0.1 --set data.tokenizer=byte
      ar train --recipe backends/reference.toml --budget 300
    """
    recipe = asked_recipe(path, preset, changes)
    found = prepared.find(name) if name else prepared.current()
    if recipe.data.tokenizer not in found.tokenizers():
        raise UserError(f"the recipe wants the tokenizer {recipe.data.tokenizer}; {found.name} has "
                        f"{', '.join(found.tokenizers())}", "Set data.tokenizer in the recipe to one of these.")
    runner = Runner(found, choose_backend(backend), caches.home())
    files = candidate_files(paths.clone() / paths.CANDIDATE)
    with _place(out) as kept:
        recipe = settled(files, runner.backend, recipe, found.manifest.tokenizers[recipe.data.tokenizer].vocab)
        outcome = _train(runner, files, recipe, seed, kept, None if steps else budget_s, steps)
    found_score = _score(runner, files, recipe, kept)  # whatever happens now, the run is not lost
    if as_json:
        click.echo(json.dumps(_record(outcome, found_score, recipe, seed) | {"checkpoint": str(kept)}))
    else:
        click.echo(block(outcome, found_score, recipe, legacy, kept))


@contextlib.contextmanager
def _place(out: Path | None) -> Iterator[Path]:
    """The new folder of a run, gone again where the run fails. UserError, before anything is trained, where there is
    one already or none can be made."""
    wanted = Path(os.path.abspath(out.expanduser())) if out else _default_place()
    if wanted.parent.exists() and not wanted.parent.is_dir():
        raise UserError(f"{wanted.parent} is a file, so there can be no {wanted}", "Name a folder in a folder.")
    wanted.parent.mkdir(parents=True, exist_ok=True)
    if out is None and not (ignore := wanted.parent / ".gitignore").exists():
        ignore.write_text("*\n")
    try:
        wanted.mkdir()
    except FileExistsError:
        raise UserError(f"{wanted} exists already",
                        "Name a folder that does not, so that nothing is overwritten.") from None
    try:
        yield wanted
    except BaseException:
        shutil.rmtree(wanted, ignore_errors=True)
        raise
    shutil.rmtree(wanted / "tree", ignore_errors=True)


def _default_place() -> Path:
    folder, now = paths.clone() / "checkpoints", time.strftime("%b%d-%H%M%S").lower()
    return next(p for i in itertools.count(1) if not (p := folder / (now if i == 1 else f"{now}-{i}")).exists())


def _train(runner: Runner, files: dict[str, bytes], recipe: Recipe, seed: int, folder: Path, budget_s: float | None,
           steps: int | None) -> Outcome:
    """One trial with its bar. Raises UserError with the end of the log where it fails."""
    spec = GPTSpec.of(recipe, runner.prepared.manifest.tokenizers[recipe.data.tokenizer].vocab)
    bar = Bar(f"{runner.backend}, seed {seed}", budget_s, recipe.batch.tokens_per_step, spec.flops_per_token())

    def listen(message: dict[str, Any]) -> None:
        if message["event"] == "step":
            bar.at(message["point"], steps, message["peak_memory_bytes"])
        else:
            bar.ceiling_flops = message.get("ceiling_flops")
            bar.say({"loaded": "warming up", "ready": "training"}.get(message["event"], ""))

    try:
        outcome = runner.train(files, recipe, seed, folder, budget_s, steps, listen)
        if outcome.status != "ok" or outcome.weights is None:
            change = sizes.halved(recipe) if outcome.cause == MEMORY else {}
            words = [f"Smaller forward passes, the same tokens a step: --set {k}={v}" for k, v in change.items()]
            raise UserError(f"{outcome.status}: {outcome.reason}", "\n".join([*words, quoted(outcome.log_tail)]))
    finally:
        bar.close()
    if why := fair.verdict(outcome.conditions, [], runner.backend, fair.Terms()):
        click.echo(f"note: this score may not compare with others: {why}", err=True)
    return outcome


def _score(runner: Runner, files: dict[str, bytes], recipe: Recipe, kept: Path) -> Evaluation:
    bar = Bar(runner.backend, None)
    bar.say("scoring")
    try:
        with scratch.folder() as folder:
            return runner.evaluate(files, recipe, folder, kept / WEIGHTS, "val")
    except TrialFailed as e:
        raise UserError(f"{e.status} while scoring: {e.reason}",
                        f"The weights are in {kept}. To score them again: ar eval {shlex.quote(str(kept))}") from None
    finally:
        bar.close()


def block(o: Outcome, found: Evaluation, recipe: Recipe, legacy: bool, kept: Path) -> str:
    """The lines of upstream's summary under their names, and a few more."""
    score = found.score
    rows = {"val_bpb": f"{score.bpb:.6f}", "val_bpc": f"{score.bpc:.6f}"}
    if legacy:
        rows["legacy_val_bpb"] = f"{found.legacy_bpb:.6f}"
    rows |= {
        "training_seconds": f"{o.train_s:.1f}",
        "total_seconds": f"{o.total_s:.1f}", "peak_vram_mb": f"{o.peak_memory_bytes / 2**20:.1f}",
        "mfu_percent": "" if o.utilisation is None else f"{100 * o.utilisation:.2f}",
        "total_tokens_M": f"{o.tokens / 1e6:.3f}", "tokens_per_second": f"{o.tokens_per_s:.0f}",
        "num_steps": str(o.steps), "num_params_M": f"{o.params / 1e6:.2f}", "depth": str(recipe.model.depth),
        "precision": o.facts.get("precision", ""), "device": o.facts.get("device", ""), "checkpoint": str(kept),
    }
    return "---\n" + "\n".join(f"{name + ': ':<18}{value}" for name, value in rows.items())


def _record(o: Outcome, found: Evaluation, recipe: Recipe, seed: int) -> dict[str, Any]:
    score = found.score
    return {
        "val_bpb": score.bpb, "val_bpb_error": found.bpb_error, "val_bpc": score.bpc,
        "legacy_val_bpb": found.legacy_bpb, "val_bytes": score.bytes, "val_tokens": score.tokens, "seed": seed,
        "steps": o.steps, "tokens": o.tokens, "train_s": o.train_s, "total_s": o.total_s, "params": o.params,
        "peak_memory_bytes": o.peak_memory_bytes, "utilisation": o.utilisation, "tokens_per_s": o.tokens_per_s,
        "device": o.facts.get("device"), "precision": o.facts.get("precision"), "warmup_s": o.facts.get("warmup_s"),
        "recipe": recipe.flat(), "curve": [[p.step, p.elapsed_s, p.train_nats, p.dev_bpb] for p in o.curve],
    }
