"""What commands that train have in common: which backend, which candidate, and a size from the probe."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

import backends
from autoresearch import paths
from autoresearch.data.prepared import Prepared
from autoresearch.errors import UserError
from autoresearch.probe import Plan, probe
from backends.recipe import Recipe, RecipeError, load

backend_option = click.option("--backend", type=click.Choice(backends.NAMES), default=None,
                              help="What to train on. Default: the best that this machine has.")


def choose_backend(name: str | None) -> str:
    """The backend asked for, or the best one here. UserError where it isn't installed."""
    try:
        found = name or backends.detect(has_nvidia=shutil.which("nvidia-smi") is not None)
    except RuntimeError as e:
        raise UserError(str(e)) from None
    if found not in backends.installed():
        raise UserError(f"the {found} backend is not installed here: there is {', '.join(backends.installed())}",
                        "Install it: pip install -e '.[mlx]', or '.[torch]' for cpu and cuda")
    return found


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


def sized(prepared: Prepared, backend: str, budget_s: float) -> Plan:
    """The probe's plan for the candidate in the clone."""
    folder = paths.clone() / paths.CANDIDATE
    click.echo("measuring this machine (less than a minute)", err=True)
    return probe(candidate_files(folder), current_recipe(folder / "recipe.toml"), backend, prepared, budget_s,
                 paths.cache() / "compiled")
