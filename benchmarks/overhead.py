"""What a trial costs beyond training: start, warm-up, scoring, audit, git and ledger, as a share of 300 seconds.

    python -m benchmarks.overhead --text shakespeare_complete.txt --budget 20 --experiments 6 --backend cpu

Runs a study of short trials in a new clone and a new cache, and takes the times from its ledger. They are those of
longer trials too, but for scoring, which takes as many rows as a share of the budget allows, or all of val: its row
says what it comes to where trials are 300 s. Warm-up is compilation where that is on: trials whose code and shapes were
compiled before are reported apart from those that compile. Keep the machine otherwise idle.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import tempfile
from datetime import datetime
from pathlib import Path

from autoresearch.records import Trial
from autoresearch.research.lab import SCORED_ROWS, scoring_seconds
from autoresearch.research.study import Study
from benchmarks import clones
from benchmarks.clones import ar

TAG = "overhead"
BUDGET_S = 300.0  # that the shares are of
SLOW_WARMUP = 2.0  # times the fastest warm-up of the study: it compiled


def trials(clone: Path) -> list[Trial]:
    """Those that were scored, oldest first."""
    with Study.open(clone, TAG, readonly=True) as study:
        found = [t for e in study.ledger.experiments() for t in e.trials if t.status == "ok"]
    return sorted(found, key=lambda t: t.id)


def warmup_s(trial: Trial) -> float:
    return float(trial.facts["warmup_s"])


def around_s(trial: Trial) -> float:
    """Start of its processes, end, weights on disk; without warm-up."""
    return trial.total_s - trial.train_s - warmup_s(trial)


def scoring_s(found: list[Trial], budget_s: float, val_rows: int) -> list[float]:
    """What scoring would take in trials of 300 s. The first trial of a study, which has the time that its budget
    allows, sets how many rows of val are scored; starting the scorer is scaled with them, so that it is rather too
    long."""
    allowed = found[0].facts[SCORED_ROWS] * scoring_seconds(BUDGET_S) / scoring_seconds(budget_s)
    return [t.scored_s * max(1.0, min(val_rows, allowed) / t.facts[SCORED_ROWS]) for t in found]


def between(found: list[Trial]) -> list[float]:
    """Seconds from a trial's score to the start of the next: records, verdict, git, the next proposal; with the audit
    where the experiment was kept."""
    began = {t.id: datetime.fromisoformat(t.started).timestamp() for t in found}
    return [began[b.id] - (began[a.id] + a.whole_s) for a, b in itertools.pairwise(found) if b.id == a.id + 1]


def table(found: list[Trial], budget_s: float, val_rows: int) -> str:
    """`val_rows`: how many the split has."""
    fastest = min(map(warmup_s, found))
    warm = [s for s in map(warmup_s, found) if s <= SLOW_WARMUP * fastest]
    cold = [s for s in map(warmup_s, found) if s > SLOW_WARMUP * fastest]
    parts = {"start and end of its processes, weights written": [around_s(t) for t in found],
             "warm-up, compiled before": warm,
             f"scoring, as many rows as {BUDGET_S:g} s allow": scoring_s(found, budget_s, val_rows),
             "verdict, git, ledger, next proposal": between(found)}
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
    parser.add_argument("--budget", type=float, default=20.0)
    parser.add_argument("--experiments", default="6")
    parser.add_argument("--backend", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overhead-", ignore_cleanup_errors=True) as name:
        clone, cache = clones.fresh(Path(name) / "clone"), Path(name) / "cache"
        told = json.loads(ar(clone, cache, "prepare", "--text", str(options.text.resolve()), "--name", TAG, "--json"))
        ar(clone, cache, "loop", "--tag", TAG, "--budget", str(options.budget), "--experiments", options.experiments,
           "--backend", options.backend, "--verify-seeds", "0")
        found = trials(clone)
        print(f"{len(found)} trials of {options.budget:g} s on {options.backend}; {platform.machine()}, "
              f"{os.cpu_count()} cores\n")
        print(table(found, options.budget, told["splits"]["val"]["rows"]))


if __name__ == "__main__":
    main()
