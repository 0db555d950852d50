"""The watchdog: ends a trial whose processes together take more memory, disk or processes than there is for them.

Limits of the kernel hold one process at a time and some do not hold root; this holds all that came from one.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from autoresearch.harness import family, sandbox
from autoresearch.harness.family import Family

LOOK_EVERY_S = 0.5
OUT_OF_MEMORY = "out of memory"  # how such a reason begins
MEMORY_SHARE = 0.9  # beyond that the machine swaps, or the kernel picks a victim
TASKS, TASKS_PER_CORE = 1024, 64  # processes and threads: frameworks start several pools of one for each core


@dataclass(frozen=True)
class Use:
    tasks: int
    memory_bytes: int


class Watch:
    """Looks after what came from one process from a thread until `stop`. `reason` says why it ended all of it, if it
    did."""

    def __init__(self, leader: int, folder: Path):
        self.reason = ""
        self._family, self._folder = family.of(leader), folder
        self._memory_bytes = int(MEMORY_SHARE * sandbox.memory_bytes())
        self._disk_bytes = sandbox.disk_bytes(folder)
        self._tasks = TASKS + TASKS_PER_CORE * (os.cpu_count() or 1)
        self._free_bytes = shutil.disk_usage(folder).free
        self._oom_kills = oom_kills()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def starved(self) -> bool:
        """Whether a KILL that was not ours came from the kernel for want of memory: yes where it does not say."""
        return self._oom_kills is None or oom_kills() != self._oom_kills

    def _run(self) -> None:
        while not self._stopped.wait(LOOK_EVERY_S):
            if reason := self._excess():
                self.reason = reason
                if not self._family.send(signal.SIGKILL):
                    return

    def _excess(self) -> str:
        use, most = used(self._family), self._memory_bytes
        if use.memory_bytes > most and (own := used(self._family, shared_once=True).memory_bytes) > most:
            return f"{OUT_OF_MEMORY}: it took {_gib(own)}, {_gib(most)} are there for it"
        if use.tasks > self._tasks:
            return f"it ran {use.tasks:,} processes and threads, {self._tasks:,} are allowed"
        # Counting files is slow, asking what is free is not.
        if self._free_bytes - shutil.disk_usage(self._folder).free > self._disk_bytes // 2 \
                and (written := folder_bytes(self._folder)) > self._disk_bytes:
            return f"it wrote {_gib(written)} to disk, {_gib(self._disk_bytes)} are allowed"
        return ""


def used(whole: Family, shared_once: bool = False) -> Use:
    """By the processes of a family, threads counted. Unless `shared_once`, which is slow, memory that they share counts
    for each of them."""
    alive = [p for p in whole.members() if not p.dead]
    return Use(sum(p.tasks for p in alive),
               sum((_share(p.pid) if shared_once else 0) or p.memory_bytes for p in alive))


def oom_kills() -> int | None:
    """How often this kernel has killed for want of memory; None where it does not count."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def _share(pid: int) -> int:
    """Of resident memory, shared pages divided among those who share them; 0 where it can't be read."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as f:
            return next((1024 * int(line.split()[1]) for line in f if line.startswith(b"Pss:")), 0)
    except OSError:
        return 0


def folder_bytes(folder: Path) -> int:
    """On disk, of a folder that changes while it is looked at. Links are not followed."""
    total, left = 0, [folder]
    while left:
        try:
            with os.scandir(left.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        left.append(Path(entry.path))
                    else:
                        total += 512 * entry.stat(follow_symlinks=False).st_blocks
        except OSError:
            continue
    return total


def _gib(size: int) -> str:
    return f"{size / sandbox.GIB:.1f} GiB"
