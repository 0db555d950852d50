"""What this machine is, found without loading a framework: for results that name where they come from.

    describe   facts, as they go into a file of results
    digest     equal for equal machines with equal software
    cxx        the C++ compiler, if there is one
    has_nvidia whether there is an NVIDIA card
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from typing import Any

from backends import host

PASSING = ("load_1m",)  # says something of the moment, not of the machine


def describe() -> dict[str, Any]:
    """Facts that decide how fast a training step is. Nothing that names a person, a host or a place."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}", "processor": host.processor(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_bytes": host.memory_bytes(),
        "python": platform.python_version(), **{name: _version(name) for name in ("torch", "mlx", "numpy")},
        "load_1m": round(os.getloadavg()[0], 2)}
    if cards := _nvidia():
        found["gpu"], found["driver"] = cards
    return {k: v for k, v in found.items() if v not in ("", None)}


def digest() -> str:
    facts = {k: v for k, v in describe().items() if k not in PASSING}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def cxx() -> str | None:
    """The compiler that frameworks run for a CPU's compiled step."""
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))


def has_nvidia() -> bool:
    """Whether there is a card with its driver, as far as can be told without a framework."""
    return shutil.which("nvidia-smi") is not None


def _nvidia() -> tuple[list[str], str] | None:
    """Names of the cards, and the driver's version."""
    lines = host.said("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").splitlines()
    rows = [line.split(", ") for line in lines if line.count(", ") == 1]
    return ([name for name, _ in rows], rows[0][1]) if rows else None


def _version(name: str) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return ""
