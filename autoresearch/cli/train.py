"""`ar train`: one trial of the recipe in this clone, with a progress bar and the block of numbers upstream prints."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import click

from autoresearch import paths
from autoresearch.cli.machine import backend_option, candidate_files, choose_backend, current_recipe
from autoresearch.cli.terminal import Bar, quoted
from autoresearch.data import prepared
from autoresearch.errors import UserError
from autoresearch.harness.runner import Outcome, Runner, TrialFailed
from autoresearch.records import Score
from backends.recipe import Recipe
from backends.spec import GPTSpec


@click.command("train")
@click.option("--budget", "budget_s", type=click.FloatRange(0.5, 86400), default=300.0, show_default=True,
              help="Seconds of training.")
@click.option("--steps", type=click.IntRange(1), default=None,
              help="Train this many steps instead, however long they take.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=1, show_default=True,
              help="Initial weights and data order.")
@backend_option
@click.option("--data", "name", default=None, help="A prepared text. Default: the current one.")
@click.option("--recipe", "path", type=click.Path(path_type=Path), default=None,
              help="A recipe file. Default: backends/gpt/recipe.toml of this clone.")
@click.option("--out", type=click.Path(path_type=Path), default=None,
              help="Keep the weights and the log in this new folder.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the block.")
def command(budget_s: float, steps: int | None, seed: int, backend: str | None, name: str | None,
            path: Path | None, out: Path | None, as_json: bool) -> None:
    """Train the current recipe once and score it.

    \b
    Example:
      ar train --budget 60 --seed 2
      ar train --recipe backends/reference.toml --budget 300
    """
    folder = paths.clone() / paths.CANDIDATE
    recipe = current_recipe(path or folder / "recipe.toml")
    found = prepared.find(name) if name else prepared.current()
    if recipe.data.tokenizer not in found.tokenizers():
        raise UserError(f"the recipe wants the tokenizer {recipe.data.tokenizer}; {found.name} has "
                        f"{', '.join(found.tokenizers())}", "Set data.tokenizer in the recipe to one of these.")
    if out is not None and out.exists():
        raise UserError(f"{out} exists already", "Name a folder that does not, so that nothing is overwritten.")
    runner = Runner(found, choose_backend(backend), paths.cache() / "compiled")
    scratch = Path(tempfile.mkdtemp(prefix="autoresearch-"))
    try:
        budget = None if steps else budget_s
        outcome, score = _run(runner, candidate_files(folder), recipe, seed, scratch, budget, steps)
        if out is not None:
            shutil.rmtree(scratch / "tree", ignore_errors=True)
            shutil.move(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    click.echo(json.dumps(_record(outcome, score, recipe, seed)) if as_json else block(outcome, score, recipe))


def _run(runner: Runner, files: dict[str, bytes], recipe: Recipe, seed: int, folder: Path, budget_s: float | None,
         steps: int | None) -> tuple[Outcome, Score]:
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
            raise UserError(f"{outcome.status}: {outcome.reason}", quoted(outcome.log_tail))
        bar.say("scoring")
        return outcome, runner.score(files, recipe, folder, outcome.weights, "val", None)
    except TrialFailed as e:
        raise UserError(f"{e.status} while scoring: {e.reason}") from None
    finally:
        bar.close()


def block(o: Outcome, score: Score, recipe: Recipe) -> str:
    """The lines of upstream's summary under their names, and a few more."""
    rows = {
        "val_bpb": f"{score.bpb:.6f}", "val_bpc": f"{score.bpc:.6f}", "training_seconds": f"{o.train_s:.1f}",
        "total_seconds": f"{o.total_s:.1f}", "peak_vram_mb": f"{o.peak_memory_bytes / 2**20:.1f}",
        "mfu_percent": "" if o.utilisation is None else f"{100 * o.utilisation:.2f}",
        "total_tokens_M": f"{o.tokens / 1e6:.3f}", "tokens_per_second": f"{o.tokens_per_s:.0f}",
        "num_steps": str(o.steps), "num_params_M": f"{o.params / 1e6:.2f}", "depth": str(recipe.model.depth),
        "precision": o.facts.get("precision", ""), "device": o.facts.get("device", ""),
    }
    return "---\n" + "\n".join(f"{name + ':':<18}{value}" for name, value in rows.items())


def _record(o: Outcome, score: Score, recipe: Recipe, seed: int) -> dict[str, Any]:
    return {
        "val_bpb": score.bpb, "val_bpc": score.bpc, "val_bytes": score.bytes, "val_tokens": score.tokens, "seed": seed,
        "steps": o.steps, "tokens": o.tokens, "train_s": o.train_s, "total_s": o.total_s, "params": o.params,
        "peak_memory_bytes": o.peak_memory_bytes, "utilisation": o.utilisation, "tokens_per_s": o.tokens_per_s,
        "device": o.facts.get("device"), "precision": o.facts.get("precision"), "warmup_s": o.facts.get("warmup_s"),
        "recipe": recipe.flat(), "curve": [[p.step, p.elapsed_s, p.train_nats, p.dev_bpb] for p in o.curve],
    }
