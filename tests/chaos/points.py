"""Named points of a study's life at which its process kills itself: before, after and inside every step of a keep."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from autoresearch.harness import checkpoint
from autoresearch.research.ledger import Ledger
from autoresearch.research.ledger_file import LedgerFile
from autoresearch.research.workspace import Workspace

BEFORE, AFTER = True, False


class Countdown:
    def __init__(self, nth: int):
        self.left = nth

    def pass_by(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _around(owner: Any, name: str, before: bool, when: Callable[..., bool] = lambda *a, **k: True) -> Callable:
    def arm(count: Countdown) -> None:
        real = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if before and when(*args, **kwargs):
                count.pass_by()
            result = real(*args, **kwargs)
            if not before and when(*args, **kwargs):
                count.pass_by()
            return result

        setattr(owner, name, wrapped)

    return arm


def _inside_a_row(count: Countdown) -> None:
    """After the statements of a transaction, before its COMMIT."""
    real = LedgerFile.transaction

    @contextlib.contextmanager
    def torn(self: LedgerFile) -> Iterator[Any]:
        with real(self) as db:
            yield db
            count.pass_by()

    LedgerFile.transaction = torn  # type: ignore[method-assign]


class _Torn:
    """A file that is being written when the process is killed."""

    def __init__(self, file: Any, count: Countdown, at: str):
        self._file, self._count, self._at = file, count, at

    def __enter__(self) -> _Torn:
        return self

    def __exit__(self, *args: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        if name == self._at:
            self._file.flush()
            self._count.pass_by()
        return getattr(self._file, name)


def _in_a_checkpoint(at: str) -> Callable:
    def arm(count: Countdown) -> None:
        def opening(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            file = open(path, mode, *args, **kwargs)  # noqa: SIM115
            return _Torn(file, count, at) if mode == "wb" else file

        checkpoint.open = opening  # type: ignore[attr-defined]

    return arm


def _keeps(workspace: Workspace, *args: str, **_: Any) -> bool:
    return args[0] == "update-ref" and "autoresearch: keep" in args


POINTS: dict[str, Callable[[Countdown], None]] = {
    "before the commit": _around(Workspace, "_record", BEFORE),
    "inside the commit": _around(Workspace, "_git", BEFORE, lambda self, *a, **k: a[0] == "update-index"),
    "after the commit": _around(Workspace, "_record", AFTER),
    "after the commit's row": _around(Ledger, "commit", AFTER),
    "before a trial": _around(Ledger, "start_trial", AFTER),
    "inside a checkpoint": _in_a_checkpoint("write"),
    "before a checkpoint's rename": _in_a_checkpoint("fileno"),
    "after a checkpoint": _around(checkpoint, "stamp", AFTER),
    "before a trial's row": _around(Ledger, "end_trial", BEFORE),
    "after a trial's row": _around(Ledger, "end_trial", AFTER),
    "inside a row": _inside_a_row,
    "before the verdict": _around(Ledger, "decide", BEFORE),
    "after the verdict": _around(Ledger, "decide", AFTER),
    "before the branch moves": _around(Workspace, "_git", BEFORE, _keeps),
    "after the branch moved": _around(Workspace, "_git", AFTER, _keeps),
    "after the worktree followed": _around(Workspace, "advance", AFTER),
    "before done": _around(Ledger, "finish", BEFORE),
    "after done": _around(Ledger, "finish", AFTER),
    "before results.tsv": _around(Path, "replace", BEFORE, lambda self, to: Path(to).name == "results.tsv"),
}


def arm(point: str, nth: int = 1) -> None:
    """This process dies when it comes to the point for the `nth` time."""
    POINTS[point](Countdown(nth))
