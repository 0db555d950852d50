"""What goes wrong inside a night without killing it: descriptors, rights, files that can't grow, a clock that jumps."""

from __future__ import annotations

import ctypes
import itertools
import os
import resource
import struct
import time
from pathlib import Path

from autoresearch.harness.confine import CAPABILITY_VERSION_3
from autoresearch.research import git, ledger_file, workspace

# In a storm nobody waits for minutes.
workspace.STALE_LOCK_S, git.LOCK_WAIT_S, git.HANGS_S = 0.3, 0.5, 2.0
ledger_file.BUSY_TIMEOUT_S = 1

PR_CAPBSET_DROP = 24
CAP_DAC = 1 << 1 | 1 << 2 | 1 << 3  # to override permissions of files, and to search, and to act as their owner


def arm(fault: str, clone: Path) -> None:
    if fault == "few descriptors":
        used = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 7, used + 7))
    elif fault == "no large files":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    elif fault == "no privileges":
        drop_file_capabilities()
    elif fault == "the clock jumps":
        real, calls = time.time, itertools.count()
        time.time = lambda: real() + 3600 * (next(calls) // 7 % 3 - 1)


def drop_file_capabilities() -> None:
    """Root obeys the permissions of files from here on, and so do the programs that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    for number in (n for n in range(32) if CAP_DAC >> n & 1):
        libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    header, current = struct.pack("=Ii", CAPABILITY_VERSION_3, 0), ctypes.create_string_buffer(24)
    libc.capget(header, current)
    _, permitted, inheritable, *upper = struct.unpack("=6I", current.raw)
    left = permitted & ~CAP_DAC
    if libc.capset(header, struct.pack("=6I", left, left, inheritable & ~CAP_DAC, *upper)) != 0:
        raise OSError(ctypes.get_errno(), "can't drop capabilities")
