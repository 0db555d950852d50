"""A new clone of this one, and `ar` run in it by its own code: what every benchmark of whole studies starts from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def fresh(folder: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


def ar(clone: Path, cache: Path, *arguments: str) -> str:
    """Standard output of a command in the clone, by its own code. Raises CalledProcessError."""
    environment = os.environ | {"AUTORESEARCH_CACHE": str(cache), "PYTHONPATH": str(clone)}
    command = [sys.executable, "-m", "autoresearch", *arguments]
    return subprocess.run(command, cwd=clone, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
