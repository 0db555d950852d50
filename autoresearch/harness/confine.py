"""Shutting a process in, from inside, before it reads anything that a candidate wrote. Linux.

It happens here, in a fresh interpreter with one thread, rather than between fork and exec: Python code run there can
deadlock in a supervisor that has threads. What stands before this are the interpreter and the person's own packages.
"""

from __future__ import annotations

import ctypes
import json
import resource
import struct
from dataclasses import asdict, dataclass, field

from autoresearch.harness import landlock, seccomp

PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 38, 24, 47, 4
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1


@dataclass(frozen=True)
class Walls:
    """What a process may reach. Folders count with all below them; what does not exist grants nothing."""

    version: int  # of Landlock
    read: list[str] = field(default_factory=list)
    run: list[str] = field(default_factory=list)  # read, and start programs from
    write: list[str] = field(default_factory=list)  # read and write, but start nothing from
    devices: list[str] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)  # "FSIZE": bytes, ... as in resource.RLIMIT_*

    def dump(self) -> str:
        return json.dumps(asdict(self))


def enter(text: str) -> None:
    """Behind dumped Walls, for ever, with every thread and process started later. Raises OSError where it can't be."""
    walls = Walls(**json.loads(text))
    for name, value in walls.limits.items():
        _limit(getattr(resource, f"RLIMIT_{name}"), value)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "can't give up gaining privileges")
    _drop_capabilities(libc)
    granted: dict[str, int] = {}
    for paths, rights in ((walls.read, landlock.READ), (walls.run, landlock.RUN), (walls.write, landlock.WRITE),
                          (walls.devices, landlock.DEVICE)):
        for path in paths:
            granted[path] = granted.get(path, 0) | rights
    landlock.restrict(granted, walls.version)
    seccomp.install(walls.version)


def _limit(which: int, value: int) -> None:
    """Never above what it is now."""
    soft, hard = (value if now == resource.RLIM_INFINITY else min(value, now) for now in resource.getrlimit(which))
    resource.setrlimit(which, (soft, hard))


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Root keeps the right to read and write other people's files, which Landlock bounds: its own interpreter may lie
    in somebody's home. All others go, so that limits bind and devices, clocks and mounts are out of reach."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as f:
        last = int(f.read())
    header, current = struct.pack("=Ii", CAPABILITY_VERSION_3, 0), ctypes.create_string_buffer(24)
    libc.capget(header, current)
    effective, permitted, _, *upper = struct.unpack("=6I", current.raw)
    if not any((effective, permitted, *upper[:2])):
        return
    for capability in range(last + 1):
        if capability != CAP_DAC_OVERRIDE:
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # refused to whoever lacks the right, who needs it not
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    kept = permitted & (1 << CAP_DAC_OVERRIDE)
    if libc.capset(header, struct.pack("=6I", kept, kept, 0, 0, 0, 0)) != 0:
        raise OSError(ctypes.get_errno(), "can't drop capabilities")
