"""Forks nights from a process that has everything imported: five hundred of them take minutes.

    {"start": {...wishes of the night}}  ->  its process id
    {"wait": pid}                        ->  its exit status, as subprocess has it

Orphans of a night become this process's children, so that whoever asks finds every process that was left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
from pathlib import Path

from tests.chaos import faults, points
from tests.chaos.fast import night

PR_SET_CHILD_SUBREAPER = 36


def start(clone: Path, wishes: dict) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 3
    try:
        os.setsid()
        err = os.open(clone.parent / "err", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(err, 1)
        os.dup2(err, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if "point" in wishes:
            points.arm(wishes["point"], wishes.get("nth", 1))
        faults.arm(wishes.get("fault", ""), clone)
        code = night(clone, wishes)
    finally:
        os._exit(code)


def wait(pid: int, ended: dict[int, int]) -> int:
    """Buries whoever dies meanwhile."""
    while pid not in ended:
        dead, status = os.waitpid(-1, 0)
        ended[dead] = status
    return os.waitstatus_to_exitcode(ended.pop(pid))


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    clone, ended = Path(sys.argv[1]), dict[int, int]()
    for line in sys.stdin:
        asked = json.loads(line)
        answer = start(clone, asked["start"]) if "start" in asked else wait(asked["wait"], ended)
        print(answer, flush=True)
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                ended[found[0]] = found[1]


if __name__ == "__main__":
    main()
