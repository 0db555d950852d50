"""`ar bench`: how fast each backend and precision of this machine trains."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import click

import backends
from autoresearch import bench, bench_pages, paths
from autoresearch.bench import Entry
from autoresearch.cli.machine import Finite, asked_recipe, candidate_files, recipe_options, sandbox_option
from autoresearch.errors import UsageError, UserError
from autoresearch.harness import caches
from autoresearch.harness.supervise import TrialFailed
from backends.recipe import Recipe, RecipeError

PRECISIONS = ("float32", "bfloat16", "float16")


@click.command("bench")
@click.option("--backend", "names", type=click.Choice(backends.NAMES), multiple=True,
              help="Only this backend; repeat for several. Default: all.")
@click.option("--precision", "precisions", type=click.Choice(PRECISIONS), multiple=True,
              help="Only this precision; repeat for several. Default: all that a device has.")
@click.option("--size", "sizes", multiple=True, metavar="DEPTHxWIDTH",
              help="A model size, such as 4x256; repeat for several. Default: the recipe's.")
@recipe_options
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True,
              help="How often each is timed, in turn.")
@click.option("--seconds", type=Finite(0.01, 600), default=2.0, show_default=True,
              help="Steps of each round; at least three steps.")
@click.option("--cold", is_flag=True, help="Compile everything anew, to time that.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON object.")
@click.option("--out", type=click.Path(path_type=Path), default=None,
              help="Also write them to this new file, with this machine's description.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), default=None, metavar="PNG",
              help="Also draw them to this new file.")
@sandbox_option
def command(names: tuple[str, ...], precisions: tuple[str, ...], sizes: tuple[str, ...], path: Path | None,
            preset: str | None, changes: tuple[str, ...], rounds: int, seconds: float, cold: bool, as_json: bool,
            out: Path | None, picture: Path | None) -> None:
    """Measure how fast each backend and precision of this machine trains.

    Steps on random tokens, each backend and precision in a process of its own, those of one size timed in turn.
    Tokens a second are medians over rounds. What this machine can't do gets a line that says why.

    \b
    Example:
      ar bench
      ar bench --backend cpu --size 4x256 --size 6x384 --rounds 7 --out mine.json
    """
    for file in (out, picture):
        _free(file)
    recipe = asked_recipe(path, preset, changes)
    candidate = candidate_files(paths.clone() / paths.CANDIDATE)
    compiled = None if cold else caches.of(candidate)
    recipes = [_sized(recipe, size) for size in sizes] or [recipe]
    ways, absent = _ways(candidate, names, precisions)
    entries = [Entry(backend, precision, r.replace({"runtime.precision": precision}))
               for r in recipes for backend, precision in ways]
    rows = bench.run(candidate, entries, rounds, seconds, compiled, _say)
    found = bench.record(candidate, rows, rounds, seconds, cold) | {"absent": absent}
    if out:
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if picture:
        bench_pages.plot(rows, picture)
    lines = [bench_pages.table(rows)] if rows else []
    click.echo(json.dumps(found) if as_json else "\n".join([*lines, *(f"{b}: {why}" for b, why in absent.items())]))
    if not any(row.round_s for row in rows):
        raise UserError("nothing could be measured", "The reasons stand above.")


def _ways(candidate: dict[str, bytes], names: tuple[str, ...],
          precisions: tuple[str, ...]) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """(backend, precision) pairs that this machine has, and why others are absent."""
    ways: list[tuple[str, str]] = []
    absent: dict[str, str] = {}
    for name in dict.fromkeys(names or backends.NAMES):
        if name not in backends.installed():
            absent[name] = f"not installed; pip install -e '.[{'mlx' if name == 'mlx' else 'torch'}]'"
            continue
        _say(f"{name}: looking for its device")
        try:
            device = bench.look(candidate, name)
        except TrialFailed as e:
            absent[name] = bench.brief(e)
            continue
        has = [p for p in device.precisions if not precisions or p in precisions]
        ways += [(name, p) for p in has]
        for precision in (p for p in dict.fromkeys(precisions) if p not in has):
            absent[f"{name} {precision}"] = f"{device.name} offers {', '.join(device.precisions)}"
    return ways, absent


def _sized(recipe: Recipe, size: str) -> Recipe:
    found = re.fullmatch(r"\s*(\d+)\s*[xX×]\s*(\d+)\s*", size)
    if not found:
        raise UsageError(f"--size {size!r} is not a size", "Write it as DEPTHxWIDTH, such as 4x256.")
    try:
        return bench.sized(recipe, int(found[1]), int(found[2]))
    except RecipeError as e:
        raise UsageError(f"--size {size}: {'; '.join(e.problems)}",
                         "Widths are multiples of the head's 64 channels.") from None


def _free(file: Path | None) -> None:
    if file is not None and (file.exists() or not (Path(os.path.abspath(file)).parent).is_dir()):
        raise UserError(f"{file} exists already" if file.exists() else f"there is no folder {file.parent}",
                        "Name a new file in a folder that there is, so that nothing is overwritten.")


def _say(text: str) -> None:
    click.echo(text, err=True)
