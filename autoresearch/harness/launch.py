"""Starting and ending processes: candidates in an isolated tree and a bare environment, trusted helpers beside us."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from autoresearch.harness.assemble import PACKAGE

# What a child needs to find its interpreter, compiler and device. No keys, tokens or HOME.
PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CC", "CXX", "CUDA_HOME",
             "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SDKROOT", "DEVELOPER_DIR")
BOOT = """
import importlib, sys
tree, module, job = sys.argv[1:]
# The finder of an editable install would lend the tree whatever it lacks from the person's own checkout.
sys.meta_path[:] = [f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__editable__")]
sys.path.insert(0, tree)
importlib.import_module(module).main(job)
"""


def environment(folder: Path, compile_cache: Path) -> dict[str, str]:
    scratch = folder / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    compile_cache.mkdir(parents=True, exist_ok=True)
    return {k: os.environ[k] for k in PASSED_ON if k in os.environ} | {
        "TMPDIR": str(scratch), "HOME": str(scratch),
        "TORCHINDUCTOR_CACHE_DIR": str(compile_cache / "inductor"), "TRITON_CACHE_DIR": str(compile_cache / "triton"),
        # Threads that spin while they wait make two trials, or one busy neighbour, 2.8x slower.
        "OMP_WAIT_POLICY": "passive",
    }


def candidate(module: str, job: str, tree: Path, folder: Path, compile_cache: Path,
              descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start a child-side module in a session of its own; what it prints goes to folder/log.txt."""
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-B", "-u", "-c", BOOT, str(tree), f"autoresearch.harness.{module}", job],
            cwd=folder, env=environment(folder, compile_cache), pass_fds=descriptors, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )


def trusted(module: str, *arguments: str, descriptors: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start one of our own processes, with pipes to its standard input and output."""
    path = os.pathsep.join([str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-P", "-m", f"autoresearch.harness.{module}", *arguments],
        env=os.environ | {"PYTHONPATH": path}, pass_fds=descriptors, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )


def end(process: subprocess.Popen[bytes], grace_s: float = 2.0) -> None:
    """Stop a process and its session: TERM, then KILL. A KILL at once can strand memory that a GPU has wired."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: the latter where only zombies are left
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_s)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
