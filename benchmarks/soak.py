"""A long night with a trainer that takes no time: does anything grow that should not?

    python -m benchmarks.soak --experiments 2000

Runs tests/chaos/fast.py, which is the real loop, ledger, git and processes around a formula, and looks at its process
and its study from outside: memory, open files, threads, the ledger's size, seconds of an experiment. Every trial stores
a curve as long as one of 300 seconds has. The last quarter is compared with the second; the first fills caches.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.clones import ROOT

POINTS = 1200  # of a curve: four a second for 300 s
LOOK_EVERY_S = 2.0


@dataclass(frozen=True)
class Look:
    done: int
    elapsed_s: float
    memory_bytes: int
    files: int
    threads: int
    children: int
    ledger_bytes: int


def look(process: psutil.Process, study: Path, began: float) -> Look | None:
    """None before the first experiment, or when it is over."""
    ledger = study / "ledger.sqlite"
    try:
        with sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True) as db:
            done = db.execute("SELECT count(*) FROM experiments WHERE n > 0 AND state = 'done'").fetchone()[0]
        with process.oneshot():
            return Look(done, time.monotonic() - began, process.memory_info().rss, process.num_fds(),
                        process.num_threads(), len(process.children(recursive=True)),
                        ledger.stat().st_size + (study / "ledger.sqlite-wal").stat().st_size)
    except (OSError, sqlite3.Error, psutil.Error):
        return None


def watched(folder: Path, experiments: int, ratchet: str) -> list[Look]:
    clone = folder / "clone"
    wishes = {"experiments": experiments, "train_s": 0.0, "points": POINTS, "facts": {"ratchet": ratchet}}
    env = os.environ | {"PYTHONPATH": str(ROOT), "AUTORESEARCH_CACHE": str(folder / "cache"), "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "tests.chaos.fast", str(clone), json.dumps(wishes)]
    looks, began = list[Look](), time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL) as night:
        process = psutil.Process(night.pid)
        while night.poll() is None:
            time.sleep(LOOK_EVERY_S)
            if (seen := look(process, clone / "studies" / "mar8", began)) is not None:
                looks.append(seen)
    if night.returncode != 0:
        sys.exit(f"the night ended with exit code {night.returncode}")
    return looks


def quarter(looks: list[Look], which: int) -> list[Look]:
    last = looks[-1].done
    return [x for x in looks if (which - 1) * last / 4 <= x.done <= which * last / 4]


def is_short(looks: list[Look]) -> bool:
    """Whether a quarter has too few looks for a rate."""
    return not looks or any(len({x.done for x in quarter(looks, which)}) < 2 for which in (2, 4))


def seconds_each(looks: list[Look]) -> float:
    return (looks[-1].elapsed_s - looks[0].elapsed_s) / max(1, looks[-1].done - looks[0].done)


def table(looks: list[Look]) -> str:
    early, late = quarter(looks, 2), quarter(looks, 4)
    count = looks[-1].done

    def median(some: list[Look], what: str) -> float:
        return float(statistics.median(getattr(x, what) for x in some))

    rows: dict[str, Callable[[list[Look]], float]] = {
        "memory, MiB": lambda q: median(q, "memory_bytes") / 2**20, "open files": lambda q: median(q, "files"),
        "threads": lambda q: median(q, "threads"), "child processes": lambda q: median(q, "children"),
        "seconds an experiment": seconds_each}
    grown = (looks[-1].ledger_bytes - looks[0].ledger_bytes) / max(1, count - looks[0].done)
    lines = [f"{count:,} experiments in {looks[-1].elapsed_s / 60:.1f} minutes", "",
             "| | second quarter | last quarter |", "|---|--:|--:|"]
    lines += [f"| {name} | {of(early):.2f} | {of(late):.2f} |" for name, of in rows.items()]
    return "\n".join([*lines, "", f"The ledger grows by {grown / 1000:.1f} kB an experiment."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=2000)
    parser.add_argument("--ratchet", default="greedy", help="greedy: one trial each; careful: several")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        looks = watched(Path(name), options.experiments, options.ratchet)
    if is_short(looks):
        sys.exit(f"--experiments {options.experiments}: they were over after {len(looks)} looks, one every "
                 f"{LOOK_EVERY_S:g} s: too few to compare a quarter with another\n  Ask for more, such as 2000.")
    print(table(looks))


if __name__ == "__main__":
    main()
