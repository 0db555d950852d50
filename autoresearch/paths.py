"""Where things live: the clone one works in, its studies, and the cache of prepared text."""

from __future__ import annotations

import os
from pathlib import Path

from autoresearch.errors import UserError

CANDIDATE = "backends/gpt"  # the only folder a researcher may change, relative to the clone


def clone() -> Path:
    """The repository to work in: the nearest folder upwards that holds a candidate, else the
    clone this package was installed from. Raises UserError where neither is one."""
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[1]):
        if (folder / CANDIDATE / "recipe.toml").is_file():
            return folder
    raise UserError(f"{Path.cwd()} is not inside a clone of autoresearch",
                    "Change into the folder you cloned, the one with program.md, and try again.")


def studies() -> Path:
    return clone() / "studies"


def cache() -> Path:
    """AUTORESEARCH_CACHE, else XDG_CACHE_HOME/autoresearch, else ~/.cache/autoresearch."""
    if explicit := os.environ.get("AUTORESEARCH_CACHE"):
        return Path(explicit).expanduser().absolute()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser().absolute() / "autoresearch"
    return Path.home() / ".cache" / "autoresearch"
