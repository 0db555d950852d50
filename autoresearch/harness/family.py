"""The processes that came from one that we started, wherever they have put themselves.

A process group is not enough: outside the sandbox, and on macOS, a process can leave it with `setsid`. On Linux the
orphans of what we start are handed to us, so none gets away. Elsewhere those are found that were seen at least once
below the process they came from.

    Process   a line of the system's list
    Family    one that we started and all that came from it
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from dataclasses import dataclass

PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    group: int
    session: int  # 0 where the system does not say
    started: str  # tells a process from a later one with its number, in the system's own words
    tasks: int
    memory_bytes: int  # resident
    dead: bool  # a zombie

    @property
    def key(self) -> tuple[int, str]:
        return self.pid, self.started


_families: dict[int, Family] = {}


def of(leader: int) -> Family:
    """The family of a process that leads a session of its own, from its start to `forget`."""
    if leader not in _families:
        _families[leader] = Family(leader)
    return _families[leader]


def known(leader: int) -> bool:
    return leader in _families


def forget(leader: int) -> None:
    _families.pop(leader, None)


class Family:
    def __init__(self, leader: int):
        self.leader = leader
        self._seen: set[tuple[int, str]] = set()
        self._others: set[tuple[int, str]] = set()
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            self._others = _older(leader)

    def members(self) -> list[Process]:
        """Those that live, and those of the dead that are ours to bury."""
        now = listed()
        found = {p.pid: p for p in now if p.group == self.leader or p.key in self._seen or self._adopted(p)}
        while more := [p for p in now if p.parent in found and p.pid not in found]:
            found |= {p.pid: p for p in more}
        self._seen |= {p.key for p in found.values()}
        return list(found.values())

    def _adopted(self, p: Process) -> bool:
        """Ours by the death of its parent: what we start in a session of its own has a family, or was there before."""
        return (p.parent == os.getpid() and p.session not in (0, os.getsid(0)) and p.pid not in _families
                and p.key not in self._others)

    def send(self, signum: int) -> int:
        """To all of it at once, then to those outside the group. How many still live, buries the dead."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: the latter where only zombies are left
            os.killpg(self.leader, signum)
        alive = 0
        for p in self.members():
            if p.dead:
                self._bury(p)
                continue
            alive += 1
            if p.group != self.leader:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(p.pid, signum)
        return alive

    def _bury(self, p: Process) -> None:
        """The leader is for whoever waits for it."""
        if p.parent == os.getpid() and p.pid != self.leader:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(p.pid, os.WNOHANG)


def _older(leader: int) -> set[tuple[int, str]]:
    """Children of ours that were there before it. One that is younger may be an orphan of its already."""
    me, now = os.getpid(), listed()
    children = [p for p in now if p.parent == me and p.pid != leader]
    born = [int(p.started) for p in now if p.pid == leader]  # in ticks since the system started
    return {p.key for p in children if not born or int(p.started) <= born[0]}


def listed() -> list[Process]:
    """Every process of the system that can be seen."""
    if sys.platform != "linux":
        return _by_ps()
    page = os.sysconf("SC_PAGE_SIZE")
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", "rb") as f:
                state, *fields = f.read().rpartition(b")")[2].split()
        except OSError:
            continue
        parent, group, session, threads, pages = (int(fields[i]) for i in (0, 1, 2, 16, 20))
        found.append(Process(int(pid), parent, group, session, fields[18].decode(), threads, page * pages,
                             state in (b"Z", b"X")))
    return found


def _by_ps() -> list[Process]:
    asked = subprocess.Popen(["ps", "-axo", "pid=,ppid=,pgid=,rss=,state=,lstart="], stdout=subprocess.PIPE, text=True,
                             env=os.environ | {"LC_ALL": "C", "TZ": "UTC"})  # local time changes in autumn
    found = []
    for pid, parent, group, kib, state, *started in (line.split() for line in asked.communicate()[0].splitlines()):
        found.append(Process(int(pid), int(parent), int(group), 0, " ".join(started), 1, 1024 * int(kib),
                             state.startswith("Z")))
    return [p for p in found if p.pid != asked.pid]
