"""The command line, installed as `ar` and as `autoresearch`.

    VERBS   what there is, with one line on each, so that help and the archiver check import nothing
    main    the entry of both names
    run     runs one click command, and turns whatever goes wrong into sentences and an exit code

Compilers run `ar rcs lib.a x.o` with our environment active, so this module imports only sys and
os until it is known that the call is meant for us.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import click

VERBS = {
    "demo": "A short study on offline text, from nothing to a report in minutes.",
    "prepare": "Prepare text to train on and to be scored on.",
    "probe": "Measure this machine and propose a model size that fits it.",
    "train": "Train the current recipe once and score it.",
    "loop": "Improve the model until told to stop: propose, train, score, keep or revert.",
    "try": "Train and judge the edit in the study's worktree, then commit or revert it.",
    "status": "Where the study stands: baseline, champion, counts by verdict.",
    "log": "The experiments of a study, or one of them in full.",
    "sample": "Write text with the champion.",
    "report": "Write the study's picture and page.",
    "verify": "Score the champion again, on everything it was not selected on.",
}


def main() -> NoReturn:
    """The entry of `ar` and `autoresearch`. Ends the process with exit code 0, 1 or 2."""
    from autoresearch.cli import archiver

    argv = sys.argv[1:]
    prog = os.path.basename(sys.argv[0])
    if prog == "ar" and archiver.is_archiver_call(argv, VERBS):
        archiver.hand_over(argv)
    if sys.platform == "win32":
        print("error: autoresearch runs on Linux, macOS and WSL2, not on native Windows\n"
              "  Install WSL2 (`wsl --install` in PowerShell), open its shell, and clone and set up there.",
              file=sys.stderr)
        raise SystemExit(1)
    from autoresearch.cli.shell import command

    if prog in ("__main__.py", "-c", "-m", ""):
        prog = "python -m autoresearch"
    raise SystemExit(run(command, argv, prog))


def run(command: click.Command, args: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs a click command and returns its exit code; errors are printed as sentences on stderr."""
    from autoresearch.cli import shell

    return shell.run(command, args, prog)
