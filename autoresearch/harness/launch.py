"""Starting and ending processes: candidates in an isolated tree and a bare environment, trusted helpers beside us."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from autoresearch import scratch
from autoresearch.errors import UserError
from autoresearch.harness import caches, family, sandbox
from autoresearch.harness.assemble import PACKAGE
from autoresearch.harness.parent import PARENT

# What a child needs to find its interpreter, compiler and device. No keys, tokens or HOME.
PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CC", "CXX", "CUDA_HOME",
             "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SDKROOT",
             "DEVELOPER_DIR",
             "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")  # these two: as if the processor were an older one
SCRATCH = "tmp"  # below a trial's folder
USER = "candidate"
HEADERS = f"torchinductor_{USER}/precompiled_headers"  # where PyTorch looks for them, below TMPDIR
HANGS_S = 30.0  # a process that a KILL has not ended by then never ends
BOOT = """
import importlib, sys
tree, module, job, walls = sys.argv[1:]
# The finder of an editable install would lend the tree whatever it lacks from the person's own checkout.
sys.meta_path[:] = [f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__editable__")]
sys.path.insert(0, tree)
from autoresearch.harness.child import shut_in
shut_in(walls)
importlib.import_module(module).main(job)
"""


def environment(own: Path) -> dict[str, str]:
    return {k: os.environ[k] for k in PASSED_ON if k in os.environ} | {
        "TMPDIR": str(own), "HOME": str(own), "USER": USER, PARENT: str(os.getpid()),
        "TORCHINDUCTOR_CACHE_DIR": str(own / caches.NAME / "inductor"),
        "TRITON_CACHE_DIR": str(own / caches.NAME / "triton"),
        "TORCH_WARM_POOL": "0",  # compiling processes that Triton's torch starts die behind the walls: no /dev/shm
        "MLX_ENABLE_TF32": "0",  # else Metal, from the M5 on, multiplies float32 in TF32
        # Threads that spin while they wait make two trials, or one busy neighbour, 2.8x slower.
        "OMP_WAIT_POLICY": "passive",
    }


def drop_scratch(folder: Path) -> None:
    scratch.remove(folder / SCRATCH)


def candidate(module: str, job: str, tree: Path, folder: Path, descriptors: Sequence[int], *,
              read: Sequence[Path] = (), compiled: Path | None = None,
              headers: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a child-side module in the sandbox and a session of its own, in an empty folder/tmp, the only place where
    it may write. It may read `tree` and `read`, and finds a copy of `compiled` and links to the files in `headers`.
    What it prints goes to folder/log.txt. UserError where there should be a sandbox and can't be."""
    shut = sandbox.require()
    drop_scratch(folder)
    own = folder / SCRATCH
    own.mkdir(parents=True)
    if compiled is not None:
        caches.copy(compiled, own / caches.NAME)
    if headers is not None:
        (own / HEADERS).mkdir(parents=True)
        for file in headers.iterdir():
            (own / HEADERS / file.name).symlink_to(file)
    reads = [tree, *read, *([headers] if headers is not None else [])]
    walls = sandbox.walls(reads, own).dump() if shut and sys.platform == "linux" else ""
    wrapper = sandbox.wrapper(reads, own) if shut and sys.platform == "darwin" else []
    with open(folder / "log.txt", "ab") as log:
        return register(subprocess.Popen(
            [*wrapper, sys.executable, "-I", "-B", "-u", "-c", BOOT, str(tree), f"autoresearch.harness.{module}", job,
             walls], cwd=own, env=environment(own), pass_fds=descriptors, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        ))


def trusted(module: str, *arguments: str, descriptors: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start one of our own processes, with pipes to its standard input and output."""
    path = os.pathsep.join([str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return register(subprocess.Popen(
        [sys.executable, "-P", "-m", f"autoresearch.harness.{module}", *arguments],
        env=os.environ | {"PYTHONPATH": path, PARENT: str(os.getpid())}, pass_fds=descriptors, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ))


def end(process: subprocess.Popen[bytes], grace_s: float = 2.0) -> None:
    """Stop a process and all that came from it, wherever that has put itself: TERM, then KILL. A KILL at once can
    strand memory that a GPU has wired. When this returns nothing of it runs. UserError where nothing ends it."""
    if not family.known(process.pid):  # ended before
        return
    whole = family.of(process.pid)
    if process.poll() is None:
        whole.send(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)  # one that is stopped acts on no TERM before it goes on
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    give_up = time.monotonic() + HANGS_S
    while whole.send(signal.SIGKILL) > (process.poll() is None):  # those left behind end a moment after the KILL
        if time.monotonic() > give_up:
            raise _hangs(process.pid)
        time.sleep(0.002)
    try:
        process.wait(HANGS_S)
    except subprocess.TimeoutExpired:
        raise _hangs(process.pid) from None
    family.forget(process.pid)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def register(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """`end` will know all that came from it."""
    family.of(process.pid)
    return process


def _hangs(pid: int) -> UserError:
    return UserError(f"process {pid} can't be ended: it hangs inside the kernel, most likely in a driver",
                     "Restart the machine, then run the same command again: it goes on from there.")
