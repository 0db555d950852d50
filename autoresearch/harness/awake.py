"""Keeping the machine awake while a study runs: a helper that holds the wish, and ends with us however we end."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

WHY = "a study is training models"


def command(pid: int) -> list[str]:
    """What keeps this system awake for as long as a process lives; empty where there is no such thing. A laptop's lid
    and a person's own wish to sleep win all the same, and then the trial is run again."""
    if sys.platform == "darwin":
        return ["caffeinate", "-i", "-m", "-s", "-w", str(pid)] if shutil.which("caffeinate") else []
    if shutil.which("systemd-inhibit") and shutil.which("tail"):
        return ["systemd-inhibit", "--what=sleep:idle", "--who=autoresearch", f"--why={WHY}", "--mode=block",
                "tail", f"--pid={pid}", "-f", os.devnull]
    return []


@contextlib.contextmanager
def awake(say: Callable[[str], None]) -> Iterator[None]:
    """Says so where the machine has a way of staying awake and refuses it."""
    asked = command(os.getpid())
    if not asked:
        yield
        return
    helper = subprocess.Popen(asked, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              start_new_session=True)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            helper.wait(0.2)
            if sys.platform == "darwin" or os.path.isdir("/run/systemd/system"):  # a container never sleeps
                say(f"this machine may fall asleep: {asked[0]} was refused")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(helper.pid, 15)
        helper.wait()
