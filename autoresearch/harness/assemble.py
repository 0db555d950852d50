"""The tree a trial runs: the frozen package and the candidate's files, and nothing else.

Frozen files are read once, from the package that supervises; their digest names the trainer in every result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]
CHILD_SIDE = ("__init__", "trial", "logits_server", "measure", "child", "child_precision", "parent", "channel",
              "clock", "jobs", "confine", "landlock", "seccomp", "forbidden")


@cache
def frozen_files() -> dict[str, bytes]:
    """Path in the tree -> content, of everything a trial imports that no candidate may change."""
    paths = [*sorted((PACKAGE / "backends").glob("*.py")), PACKAGE / "autoresearch/__init__.py",
             *(PACKAGE / f"autoresearch/harness/{name}.py" for name in CHILD_SIDE)]
    return {str(p.relative_to(PACKAGE)): p.read_bytes() for p in paths}


def program_digest() -> str:
    """Of everything that feeds, trains, scores and replays, as it is on disk now."""
    trusted = (p for folder in ("data", "harness") for p in (PACKAGE / "autoresearch" / folder).glob("*.py"))
    return digest({str(p.relative_to(PACKAGE)): p.read_bytes() for p in [*trusted, *PACKAGE.glob("backends/*.py")]})


def digest(files: dict[str, bytes]) -> str:
    """16 hex digits of names and contents."""
    whole = hashlib.sha256()
    for name, content in sorted(files.items()):
        whole.update(f"{name}\0{len(content)}\0".encode() + content)
    return whole.hexdigest()[:16]


def code_digest(candidate: dict[str, bytes]) -> str:
    """Of the candidate's code without its recipe: what a compile cache may be shared by."""
    return digest({k: v for k, v in candidate.items() if k != "recipe.toml"} | frozen_files())


def outside(names: Iterable[str]) -> list[str]:
    """Those that can't be files below the candidate's folder."""
    return [name for name in names if name.startswith("/") or "\0" in name or set(name.split("/")) & {"", ".", ".."}]


def assemble(tree: Path, candidate: dict[str, bytes]) -> None:
    """Write the tree. `candidate` maps paths below backends/gpt/ to contents."""
    if wrong := outside(candidate):
        raise ValueError(f"{wrong[0]!r} lies outside the candidate's folder")
    files = frozen_files() | {f"backends/gpt/{name}": content for name, content in candidate.items()}
    for name, content in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
