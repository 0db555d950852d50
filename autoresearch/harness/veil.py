"""Running a person's own agent: it may do what the person may, but some folders are out of its sight, and nothing of it
is left when it ends.

    command          how to start one
    main             its parent: hides the folders, waits, ends whatever it started
    everything_but   Linux: the paths that leave the hidden ones out

This keeps an honest agent from looking at what scores it, validation text and other studies. It is no sandbox: the
agent has the person's files, network and accounts. What it proposes runs in the sandbox like any other candidate.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType

from autoresearch.harness import family, landlock, sandbox

BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from autoresearch.harness.veil import main; main(sys.argv[1:])"
PACKAGE = Path(__file__).resolve().parents[2]
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
FILES_ONLY = 3  # Landlock of this version bounds files and leaves network and signals alone
LOOK_EVERY_S, GONE_WITHIN_S = 0.05, 5.0


def command(hidden: Iterable[Path]) -> list[str]:
    """What the command line of the agent is put after."""
    paths = [str(p.resolve()) for p in hidden]
    seatbelt = ["sandbox-exec", "-p", profile(paths)] if sys.platform == "darwin" and paths else []
    return [*seatbelt, sys.executable, "-I", "-B", "-c", BOOT, str(PACKAGE), json.dumps(paths)]


def profile(hidden: Sequence[str]) -> str:
    """In the language of sandbox-exec."""
    return f"(version 1)\n(allow default)\n(deny file-read* file-write* {sandbox.below(hidden)})\n"


def main(arguments: list[str]) -> None:
    """Ends with the exit code of the agent, 128 + signal where one ended it."""
    hidden, agent = json.loads(arguments[0]), arguments[1:]
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the person's Ctrl-C is for the study
    parent = os.getppid()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)  # what leaves its session still becomes our child
        if hidden and landlock.version():
            libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            landlock.restrict(everything_but(hidden), min(landlock.version(), FILES_ONLY))
    try:
        process = subprocess.Popen(agent)
        while process.poll() is None and os.getppid() == parent:
            time.sleep(LOOK_EVERY_S)
        code = process.returncode if process.returncode is not None else 143
    except OSError as e:
        print(f"{agent[0]} can't be started: {e.strerror}", file=sys.stderr)
        code = 127
    finally:
        end_all()
    raise SystemExit(code if code >= 0 else 128 - code)


def everything_but(hidden: Iterable[str]) -> dict[str, int]:
    """Rights to everything except what is below the hidden folders; names can be listed everywhere. In folders on the
    way to a hidden one nothing new can be made: a right to do so would hold below them too."""
    blocked = {os.path.realpath(path) for path in hidden}
    granted = {"/": landlock.READ_DIR}
    everything = landlock.HANDLED_FS[max(landlock.HANDLED_FS)]

    def walk(folder: str) -> None:
        with contextlib.suppress(PermissionError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.path in blocked or entry.is_symlink():  # what a link leads to is granted by its own name
                    continue
                if any(path.startswith(entry.path + "/") for path in blocked):
                    walk(entry.path)
                else:
                    granted[entry.path] = everything

    walk("/")
    return granted


def end_all() -> None:
    """Kills every descendant of this process, those in sessions of their own included."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while (found := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for process in family.listed():
        children.setdefault(process.parent, []).append(process.pid)
    found, todo = [], [root]
    while todo:
        todo = [child for pid in todo for child in children.get(pid, ())]
        found += todo
    return found


def _leave(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
