"""Is the probe's choice of size and batch any good? Successive halving over a grid, then both on fresh seeds.

    ar prepare --text shakespeare.txt --name shakespeare --tokenizer bpe-4096
    python -m benchmarks.probe_choice --budget 30
    python -m benchmarks.probe_choice --budget 120 --out sweep-120.json

Every size and batch of the grid trains for a share of the budget; the best third go on to a longer one, and so on to
the whole budget, each time from the start, since a learning-rate schedule belongs to its budget. The best five then
train on fresh seeds in turn with what `ar probe` recommends; all are scored on the whole validation split. Printed: how
much worse the recommended one is than the best, with its standard error. A sweep with --out that was stopped goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DEPTHS, WIDTHS, TOKENS = (2, 3, 4, 6, 8), (128, 192, 256, 320, 384), tuple(2**k for k in range(11, 16))
SHARES = (1 / 9, 1 / 3, 1.0)  # of the budget; a third goes on each time
FINALISTS, FRESH_SEEDS = 5, (11, 12, 13)

Shape = tuple[int, int, int]  # depth, width, tokens a step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=30.0, help="seconds of training")
    parser.add_argument("--data", default=None, help="a prepared text; default: the current one")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--out", type=Path, default=None, help="keep every score in this file, and go on from it")
    options = parser.parse_args()
    sweep = Sweep.begin(options)
    shapes: list[Shape] = list(itertools.product(DEPTHS, WIDTHS, TOKENS))
    for share in SHARES:
        scores = {shape: sweep.score(shape, share * options.budget, seed=1) for shape in shapes}
        ranked = sorted(scores, key=lambda shape: scores[shape])
        print(f"\n{share * options.budget:g} s: {len(shapes)} sizes and batches; the best five")
        for shape in ranked[:FINALISTS]:
            print(f"  {named(shape)}: {scores[shape]:.4f}")
        shapes = ranked[: max(FINALISTS, len(ranked) // 3)]
    final(sweep, shapes[:FINALISTS], options.budget)


def final(sweep: Sweep, best: list[Shape], budget_s: float) -> None:
    chosen = sweep.chosen
    runs: dict[Shape, list[float]] = {shape: [] for shape in dict.fromkeys([chosen, *best])}
    for seed in FRESH_SEEDS:
        for shape, found in runs.items():
            found.append(sweep.score(shape, budget_s, seed))
    print("\n| depth x width, tokens a step | val_bpb, mean | seeds |\n|---|--:|---|")
    for shape, found in sorted(runs.items(), key=lambda run: statistics.fmean(run[1])):
        mark = " (the probe's)" if shape == chosen else ""
        print(f"| {named(shape)}{mark} | {statistics.fmean(found):.4f} | {', '.join(f'{b:.4f}' for b in found)} |")
    winner = min(runs, key=lambda shape: statistics.fmean(runs[shape]))
    pairs = [a / b - 1 for a, b in zip(runs[chosen], runs[winner], strict=True)]
    error = statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else 0.0
    print(f"\nregret of the probe's choice: {100 * statistics.fmean(pairs):.2f}%, standard error {100 * error:.2f}%; "
          "the best of several is flattered by chance")


def named(shape: Shape) -> str:
    return f"{shape[0]} x {shape[1]}, {shape[2]:,}"


@dataclass
class Sweep:
    """Trains and scores shapes of one recipe, and remembers what it has scored."""

    candidate: dict[str, bytes]
    recipe: Any
    runner: Any
    chosen: Shape
    out: Path | None
    known: dict[str, float] = field(default_factory=dict)

    @classmethod
    def begin(cls, options: argparse.Namespace) -> Sweep:
        from autoresearch import paths, probe
        from autoresearch.cli.machine import candidate_files, current_recipe
        from autoresearch.data import prepared
        from autoresearch.harness import caches
        from autoresearch.harness.runner import Runner

        text = prepared.find(options.data) if options.data else prepared.current()
        candidate = candidate_files(ROOT / paths.CANDIDATE)
        asked = current_recipe(ROOT / paths.CANDIDATE / "recipe.toml")
        plan = probe.probe(candidate, asked, options.backend, text, options.budget)
        print(plan.why)
        known = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
        chosen = (plan.chosen.depth, plan.chosen.width, plan.chosen.tokens_per_step)
        runner = Runner(text, options.backend, caches.home())
        return cls(candidate, asked.replace(plan.changes), runner, chosen, options.out, known)

    def score(self, shape: Shape, budget_s: float, seed: int) -> float:
        """Validation bits per byte; infinite where it fails."""
        from autoresearch import sizes

        key = f"{named(shape)}, {budget_s:g} s, seed {seed}"
        if key not in self.known:
            recipe = sizes.sized(self.recipe, *shape)
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                outcome = self.runner.train(self.candidate, recipe, seed, Path(folder), budget_s)
                self.known[key] = float("inf") if outcome.weights is None else self.runner.score(
                    self.candidate, recipe, Path(folder), outcome.weights, "val", None).bpb
            print(f"{key}: {self.known[key]:.4f}, {outcome.steps:,} steps", file=sys.stderr, flush=True)
            if self.out:
                self.out.write_text(json.dumps(self.known, indent=0))
        return self.known[key]


if __name__ == "__main__":
    main()
