"""What commands that train have in common: which backend, which candidate, and a size from the probe."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import backends
from autoresearch import paths, settle
from autoresearch.data.prepared import Prepared
from autoresearch.errors import UsageError, UserError
from autoresearch.harness import sandbox
from autoresearch.harness.supervise import TrialFailed
from autoresearch.machine import has_nvidia
from autoresearch.probe import Plan, probe
from autoresearch.research import fair, futility
from autoresearch.research.person import typed
from autoresearch.research.study import Study
from backends.recipe import PRESETS, Recipe, RecipeError, load, preset_file


class Finite(click.FloatRange):
    """A number on the command line. FloatRange alone lets `nan` through, and `inf` where there is no maximum."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number: write digits, such as 1 or 0.5.", param, ctx)
        return number


class Seconds(Finite):
    """A length of time on the command line."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of seconds: write seconds, such as 300.", param, ctx)
        return super().convert(value, param, ctx)


backend_option = click.option("--backend", type=click.Choice(backends.NAMES), default=None,
                              help="What to train on. Default: the best that this machine has.")


def _switch(context: click.Context, parameter: click.Parameter, off: bool) -> None:
    """Decides for this process and those it starts, and says what that means where it is off."""
    if off:
        os.environ[sandbox.SWITCH] = "off"
    if context.params.get("about"):  # of `ar eval`, which then runs nothing
        return
    if not sandbox.require():
        click.echo("warning: no sandbox: candidates' code can read, change and send whatever you can", err=True)


sandbox_option = click.option("--no-sandbox", is_flag=True, expose_value=False, callback=_switch,
                              help="Let candidates' code reach all that you can.")


def _allow(context: click.Context, parameter: click.Parameter, on: bool) -> None:
    """For this process and those it starts."""
    if on:
        os.environ[{"busy_ok": fair.BUSY_OK, "on_battery": fair.ON_BATTERY,
                    "no_futility": futility.OFF}[str(parameter.name)]] = "1"


def fair_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """For commands whose trials are compared with others'."""
    battery = click.option("--on-battery", is_flag=True, expose_value=False, callback=_allow,
                           help="Train on battery power too, instead of waiting until the machine is plugged in.")
    busy = click.option("--busy-ok", is_flag=True, expose_value=False, callback=_allow,
                        help="Score trials whatever else the machine does, instead of running them again when it is "
                             "quiet. Scores are then noisier.")
    return battery(busy(command))


futility_option = click.option("--no-futility", is_flag=True, expose_value=False, callback=_allow,
                               help="Run every trial to its end, also those that can hardly catch up any more.")


def choose_backend(name: str | None) -> str:
    """The backend asked for, or the best one here. UserError where it isn't installed."""
    try:
        found = name or backends.detect(has_nvidia())
    except RuntimeError as e:
        raise UserError(str(e)) from None
    if found not in backends.installed():
        raise UserError(f"the {found} backend is not installed here: there is {_usable()}",
                        "Install it: pip install -e '.[mlx]', or '.[torch]' for cpu and cuda")
    return found


def _usable() -> str:
    """The backends that can train here, and why one that is installed can't."""
    names = backends.installed()
    if "cuda" not in names or has_nvidia():
        return ", ".join(names)
    return f"{', '.join(n for n in names if n != 'cuda')} (and cuda, which lacks an NVIDIA card: no nvidia-smi here)"


def disturbed(doing: str) -> list[str]:
    """Warnings for whatever uses the machine while a study of this clone trains on it."""
    try:
        clone = paths.clone()
    except UserError:
        return []
    return [f"study {tag} is running: {doing} now takes time from its trial" for tag in Study.in_use(clone)]


def candidate_files(folder: Path) -> dict[str, bytes]:
    """The files of a candidate's folder by relative path, as a commit of it would hold them."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*"))
            if p.is_file() and "__pycache__" not in p.parts}


def current_recipe(path: Path) -> Recipe:
    try:
        return load(path)
    except RecipeError as e:
        raise UserError("the recipe can't be run: " + "\n  ".join(e.problems),
                        f"Mend {path}; what each key may be stands in backends/recipe.py") from None


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`path`, `preset` and `changes`, for `asked_recipe`."""
    file = click.option("--recipe", "path", type=click.Path(path_type=Path), default=None,
                        help="A recipe file. Default: backends/gpt/recipe.toml of this clone.")
    preset = click.option("--preset", type=click.Choice(PRESETS), default=None,
                          help="A recipe to start from, of backends/presets, instead of --recipe.")
    changes = click.option("--set", "changes", multiple=True, metavar="KEY=VALUE",
                           help="Change a key of the recipe for this run, such as model.depth=6; repeat for several.")
    return file(preset(changes(command)))


def asked_recipe(path: Path | None, preset: str | None, changes: tuple[str, ...]) -> Recipe:
    """A file's, a preset's or this clone's, with KEY=VALUE as a person types them. Raises UsageError and UserError."""
    if path and preset:
        raise UsageError("--recipe and --preset both name a recipe", "Give one of them.")
    file = preset_file(preset) if preset else path or paths.clone() / paths.CANDIDATE / "recipe.toml"
    recipe = current_recipe(file)
    try:
        return recipe.replace(typed(changes))
    except RecipeError as e:
        raise UsageError("the recipe can't be run: " + "\n  ".join(e.problems),
                         "What each key may be stands in backends/recipe.py") from None


def settled(files: dict[str, bytes], backend: str, recipe: Recipe, vocab: int) -> Recipe:
    """The recipe with what its precision `auto` means here, measured the first time for recipes of its kind."""
    if recipe.runtime.precision != "auto":
        return recipe
    try:
        found = settle.settled(files, backend, recipe, vocab)
    except TrialFailed:
        return recipe  # what is wrong with it, the trial says better
    for verdict in found.verdicts:
        click.echo(verdict.reason, err=True)
    return recipe.replace({"runtime.precision": found.precision})


def sized(prepared: Prepared, backend: str, budget_s: float, recipe: Recipe | None = None, fresh: bool = False,
          patient: bool = False) -> Plan:
    """The probe's plan for the candidate in the clone, with its own recipe where none is given. `patient`: once the
    compiler has ended, however long it takes."""
    folder = paths.clone() / paths.CANDIDATE
    takes = "a minute, and what compiling takes" if patient else "less than a minute"
    click.echo(f"measuring this machine ({takes}; nothing where it was measured before)", err=True)
    recipe = recipe or current_recipe(folder / "recipe.toml")
    return probe(candidate_files(folder), recipe, backend, prepared, budget_s, fresh, patient)
