"""How long a keyless researcher thinks, and how long the brief of one with a key takes to write, as the ledger grows.

    python -m benchmarks.proposing [--rounds N]

Medians of CPU milliseconds of one proposal on ledgers of 100, 300 and 1,000 experiments of a trainer that is a function
(benchmarks/simulated.py). What a process does once isn't counted: imports, and what TPE has already been taught.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

from autoresearch.research.brief import brief
from autoresearch.research.researchers.base import Context
from autoresearch.research.researchers.playbook import Playbook
from autoresearch.research.researchers.search import SAMPLERS, Search
from benchmarks.simulated import START, Study, Trainer

SIZES = (100, 300, 1000)


def recorded(experiments: int) -> Study:
    """Numeric changes around the start, as a ledger has after nights of them; few are kept."""
    rng = random.Random(0)
    study = Study(START, Trainer(0))
    while len(study.ledger) < experiments:
        study.record({"optim.matrix_lr": rng.uniform(0.01, 0.2), "optim.embedding_lr": rng.uniform(0.1, 2),
                      "model.qk_scale": rng.uniform(0.5, 2), "optim.adam_eps": rng.uniform(1e-10, 1e-8)})
    return study


def milliseconds(work: Callable[[Context], object], context: Context, rounds: int) -> float:
    work(context)
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        work(context)
        taken.append(1000 * (time.process_time() - began))
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    works: dict[str, Callable[[Context], object]] = {"playbook": Playbook().propose}
    works |= {f"search, {sampler}": Search(sampler).propose for sampler in SAMPLERS}
    works |= {"the brief": brief}
    print("| milliseconds | " + " | ".join(f"{size:,} experiments" for size in SIZES) + " |")
    print("|---|" + "--:|" * len(SIZES))
    contexts = [recorded(size).context() for size in SIZES]
    for name, work in works.items():
        print(f"| {name} | " + " | ".join(f"{milliseconds(work, c, rounds):.0f}" for c in contexts) + " |")


if __name__ == "__main__":
    main()
