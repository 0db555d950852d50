"""PyTorch's header for what it compiles for a processor, itself compiled once for all trials.

    made    the folder that holds it

Before PyTorch loads anything that it has compiled for a CPU, even from its cache, it precompiles a header of its own:
six seconds and 150 MB on two cores. It keeps that beside a process's temporary files, which a candidate has anew in
every trial, and what candidates write is never shared. So a process of ours, which runs no candidate's code, has it
made, and trials may read it (`launch.candidate`). Where that fails, each trial makes its own.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from autoresearch import machine, scratch
from autoresearch.harness import caches, launch
from autoresearch.harness.assemble import PACKAGE

ENDS_WITH_US = f"""import sys
sys.path.insert(0, {str(PACKAGE)!r})
from autoresearch.harness.parent import end_group_with_us, end_with_parent
end_with_parent()
end_group_with_us()
"""
PROGRAM = "import torch\ntorch.compile(lambda x: x.sin() + 1, fullgraph=True)(torch.ones(64, 64))"
WITHIN_S = 120.0
KINDS = (".h", ".gch")


def made(below: Path) -> Path | None:
    """The folder below the home of compile caches, made where it isn't there; None where nothing can be compiled."""
    compiler = machine.cxx()
    if compiler is None:
        return None
    with contextlib.suppress(OSError):  # a full disk, a cache that can't be written to: trials do without
        kept = below / f"headers-{_key(compiler)}"
        if not kept.is_dir():
            _make(kept)
        os.utime(kept)  # used now: the caches that were used longest ago go first
        return kept
    return None


@functools.cache
def _key(compiler: str) -> str:
    """PyTorch compares what it would make too, so one that does not fit costs time and nothing else."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    facts = (machine.digest(), sys.prefix, compiler, version, os.environ.get("ATEN_CPU_CAPABILITY", ""))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


@functools.cache  # where it fails, it is not tried again before every trial
def _make(kept: Path) -> None:
    """A folder at `kept`, or none."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with scratch.folder() as own, tempfile.TemporaryDirectory(dir=kept.parent, prefix=caches.UNFINISHED) as name:
        process = launch.register(subprocess.Popen(
            [sys.executable, "-I", "-c", ENDS_WITH_US + PROGRAM], cwd=own, env=launch.environment(own),
            start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(WITHIN_S)
        finally:
            launch.end(process)
        if process.returncode == 0:
            whole = Path(name) / "whole"
            whole.mkdir()
            for file in (own / launch.HEADERS).glob("*"):
                if file.suffix in KINDS:
                    shutil.copyfile(file, whole / file.name)
            whole.replace(kept)
