"""What the kernel allows our control group (version 2), such as a container or a service: the least of its own limits
and of those of every group that it is part of."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path("/")


def memory_bytes(root: Path = ROOT) -> int | None:
    """None where there is no limit."""
    return min((int(size) for size, *_ in _limits("memory.max", root)), default=None)


def cores(root: Path = ROOT) -> float | None:
    """Cores' worth of CPU time; None where there is no limit."""
    return min((int(time) / int(period) for time, period in _limits("cpu.max", root)), default=None)


def _limits(name: str, root: Path) -> list[list[str]]:
    """The words of such a file in each group from ours upwards, where there is one that limits anything."""
    found = []
    for group in _groups(root):
        try:
            words = (group / name).read_text(encoding="ascii").split()
        except OSError:
            continue
        if words and words[0] != "max":
            found.append(words)
    return found


def _groups(root: Path) -> list[Path]:
    top = root / "sys/fs/cgroup"
    try:
        own = re.search(r"^0::/(.*)$", (root / "proc/self/cgroup").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return []
    if own is None:
        return []
    group = top / own[1]
    return [group, *(above for above in group.parents if above.is_relative_to(top))]
