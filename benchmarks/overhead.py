"""What a trial costs beyond training: start, warm-up, scoring, audit, git and ledger, as a share of 300 seconds.

    python -m benchmarks.overhead --text shakespeare_complete.txt --budget 20 --experiments 6 --backend cpu

Runs a study of short trials in a new clone and a new cache, and takes the times from its ledger and from its journal's
time stamps. Nothing of what is measured depends on the budget but warm-up, which is compilation where it is on: trials
whose code and shapes were compiled before are reported apart from those that compile. Keep the machine otherwise idle.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sqlite3
import statistics
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks import clones
from benchmarks.clones import ar

BUDGET_S = 300.0  # that the shares are of
SLOW_WARMUP = 2.0  # times the fastest warm-up of the study: it compiled


@dataclass(frozen=True)
class Trial:
    id: int
    experiment: int
    began_s: float
    train_s: float
    total_s: float  # start to trained and stamped
    warmup_s: float

    @property
    def around_s(self) -> float:
        """Start of its processes, end, weights on disk; without warm-up."""
        return self.total_s - self.train_s - self.warmup_s


def trials(ledger: Path) -> list[Trial]:
    with sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True) as db:
        rows = db.execute("SELECT id, experiment, started, train_s, total_s, facts FROM trials WHERE status = 'ok' "
                          "ORDER BY id").fetchall()
    return [Trial(i, n, datetime.fromisoformat(began).timestamp(), train, total, json.loads(facts)["warmup_s"])
            for i, n, began, train, total, facts in rows]


def between(found: list[Trial]) -> list[float]:
    """Seconds from a trial's end to the start of the next: scoring, records, verdict, git, the next proposal; with the
    audit where the experiment was kept."""
    return [b.began_s - (a.began_s + a.total_s) for a, b in itertools.pairwise(found) if b.id == a.id + 1]


def table(found: list[Trial]) -> str:
    fastest = min(t.warmup_s for t in found)
    warm = [t.warmup_s for t in found if t.warmup_s <= SLOW_WARMUP * fastest]
    cold = [t.warmup_s for t in found if t.warmup_s > SLOW_WARMUP * fastest]
    rest = between(found)
    parts = {"start and end of its processes, weights written": [t.around_s for t in found],
             "warm-up, compiled before": warm, "scoring, verdict, git, ledger, next proposal": rest}
    lines = ["| part of a trial | median s | largest s | % of 300 s |", "|---|--:|--:|--:|"]
    for name, values in parts.items():
        median = statistics.median(values)
        lines.append(f"| {name} | {median:.2f} | {max(values):.2f} | {100 * median / BUDGET_S:.1f} |")
    total = sum(statistics.median(values) for values in parts.values())
    lines.append(f"| **in all** | **{total:.2f}** | | **{100 * total / BUDGET_S:.1f}** |")
    if cold:
        median = statistics.median(cold)
        lines.append(f"| apart: warm-up that compiles ({len(cold)} of {len(found)} trials) | "
                     f"{median:.2f} | {max(cold):.2f} | {100 * median / BUDGET_S:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--budget", default="20")
    parser.add_argument("--experiments", default="6")
    parser.add_argument("--backend", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overhead-", ignore_cleanup_errors=True) as name:
        clone = Path(name) / "clone"
        clones.fresh(clone)
        cache = clone.parent / "cache"
        ar(clone, cache, "prepare", "--text", str(options.text.resolve()), "--name", "overhead")
        ar(clone, cache, "loop", "--tag", "overhead", "--budget", options.budget, "--experiments", options.experiments,
           "--backend", options.backend, "--verify-seeds", "0")
        found = trials(clone / "studies" / "overhead" / "ledger.sqlite")
        print(f"{len(found)} trials of {options.budget} s on {options.backend}; {platform.machine()}, "
              f"{os.cpu_count()} cores\n")
        print(table(found))


if __name__ == "__main__":
    main()
