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
    "doctor": "Look at everything a night needs, and say how to mend what is missing.",
    "demo": "A short study on offline text, from nothing to a report in minutes.",
    "prepare": "Prepare text to train on and to be scored on.",
    "data": "What is prepared: list it, look into it, check it, choose it, delete it.",
    "probe": "Measure this machine and propose a model size that fits it.",
    "bench": "Measure how fast each backend and precision of this machine trains.",
    "train": "Train the current recipe once and score it.",
    "eval": "Score a trained model: on a split of its text, or on a file of your own.",
    "loop": "Improve the model until told to stop: propose, train, score, keep or revert.",
    "queue": "Put an experiment of your own next, before what the researcher proposes.",
    "try": "Train and judge the edit in the study's worktree, then commit or revert it.",
    "status": "Where the study stands: baseline, champion, counts by verdict.",
    "watch": "Show a running study as its own terminal does, from another one.",
    "dashboard": "The study as a page in your browser: live, with its queue and your guidance.",
    "log": "The experiments of a study, or one of them in full.",
    "context": "Print what whoever proposes is told: brief, recipe, code, what was tried, how it went.",
    "cost": "What proposing has cost, and what it brought: by researcher and over time.",
    "sample": "Write text with the champion.",
    "report": "Write the study's report: a page to open, and its picture.",
    "compare": "Two studies or two experiments side by side.",
    "verify": "Score the champion again, on everything it was not selected on.",
    "ablate": "Measure what every kept change is worth beside the others.",
    "replay": "Measure a kept change against what it changed, on another backend.",
    "promote": "Train the champion at a larger size, with and without each of its changes.",
    "adopt": "Bring kept changes to your own branch, each as a commit.",
    "delete": "Delete a study: its folder, its branch and its experiments.",
    "export": "Write a trained model as a folder: weights, tokenizer, recipe, code and a model card.",
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
