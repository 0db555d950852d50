"""What every benchmark of whole studies starts from: a new clone of this one, and what it was run with.

    fresh     a new clone
    ar        a command in one, by its own code
    settle    results of other settings are not mixed with those that are there
    save      a result, whole or not at all
    digest    of a text
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = "settings.json"


def fresh(folder: Path) -> Path:
    folder = folder.resolve()
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


def ar(clone: Path, cache: Path, *arguments: str) -> str:
    """Standard output of a command in the clone, by its own code. Raises CalledProcessError."""
    clone, cache = clone.resolve(), cache.resolve()  # it runs in the clone: both would mean another place there
    environment = os.environ | {"AUTORESEARCH_CACHE": str(cache), "PYTHONPATH": str(clone)}
    command = [sys.executable, "-m", "autoresearch", *arguments]
    return subprocess.run(command, cwd=clone, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def settle(folder: Path, settings: dict[str, Any]) -> None:
    """Keep beside results what they are made with; exit where those that are there were made with something else.
    Settings that had no value before, such as those of an arm that is new, are added."""
    path = folder / SETTINGS
    now = json.loads(json.dumps(settings))  # as they will be read
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if differ := [key for key in now if key in before and before[key] != now[key]]:
        said = "; ".join(f"{key} was {before[key]!r} and is {now[key]!r} now" for key in differ)
        sys.exit(f"{folder} has results of other settings: {said}\n"
                 "  Name another --folder, or ask for what they were made with.")
    if before | now != before:
        folder.mkdir(parents=True, exist_ok=True)
        save(path, before | now)


def save(path: Path, value: Any) -> None:
    """As JSON. A kill leaves the file as it was."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def digest(text: Path) -> str:
    """Its sha256; exits where there is no such file."""
    if not text.is_file():
        sys.exit(f"there is no file {text}\n  Name the text to train on: --text FILE")
    with text.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
