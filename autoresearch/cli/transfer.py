"""A download in a terminal: a bar with speed and time left; in a log, a line for every tenth of it."""

from __future__ import annotations

import sys
from typing import Any

import click


class Transfer:
    """`report` and `say` of autoresearch.data.hub. Closed, it leaves the terminal clean."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._tenth = -1

    def __enter__(self) -> Transfer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None

    def say(self, line: str) -> None:
        if self._progress:
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            click.echo(line, err=True)

    def report(self, there: int, total: int) -> None:
        if sys.stderr.isatty():
            self._draw(there, total)
        elif there * 10 // total > self._tenth:
            self._tenth = there * 10 // total
            click.echo(f"{there / 1e6:,.0f} of {total / 1e6:,.0f} MB", err=True)

    def _draw(self, there: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        if self._progress is None:
            self._progress = Progress(BarColumn(bar_width=40), DownloadColumn(), TransferSpeedColumn(),
                                      TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task("", total=total, completed=there)
            self._progress.start()
        self._progress.update(self._task, completed=there)
        if there >= total:
            self.__exit__()
