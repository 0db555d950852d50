"""A process that ends when the one that started it does, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

LOOK_EVERY_S = 0.5


def end_with_parent() -> None:
    """Linux: the kernel sends a KILL. Elsewhere a thread looks."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    else:
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    os.kill(os.getpid(), signal.SIGKILL)
