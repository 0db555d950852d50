"""A process that ends when the one that started it does, however that ends, and takes along what it has started."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
import time

LOOK_EVERY_S = 0.5
PR_SET_PDEATHSIG = 1
PARENT = "AUTORESEARCH_PARENT"  # environment variable: the process that started this one


def end_with_parent() -> None:
    """Linux: the kernel sends a KILL. Elsewhere a thread looks. A parent that was gone before is no longer ours."""
    if os.environ.get(PARENT, ours := str(os.getppid())) != ours:
        os._exit(1)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if str(os.getppid()) != ours:
            os._exit(1)
    else:
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def end_group_with_us() -> None:
    """Linux: when this process, the leader of its group, is gone, so are those it has started: the kernel's KILL would
    be for it alone. A fork does it that sleeps until then. Call it before there are threads."""
    if sys.platform != "linux":
        return
    leader = os.getpid()
    if os.fork():
        return
    try:
        os.setsid()
        os.closerange(0, 4096)  # whoever waits for an end of ours must see it close when the leader ends
        ends = os.pidfd_open(leader)  # a signal at its death would be from behind its walls, and held back by them
        if os.getppid() == leader:
            select.select([ends], [], [])
        os.killpg(leader, signal.SIGKILL)
    finally:
        os._exit(0)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
