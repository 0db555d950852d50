"""Is the probe's choice of size and batch any good? Successive halving over a grid, then both on fresh seeds.

    ar prepare --text shakespeare.txt --name shakespeare --tokenizer bpe-4096
    python -m benchmarks.probe_choice --budget 30
    python -m benchmarks.probe_choice --budget 120 --out sweep-120.json

Every size and batch of the grid trains for a share of the budget; the best third go on to a longer one, and so on to
the whole budget, each time from the start, since a learning-rate schedule belongs to its budget. The best five then
train on fresh seeds in turn with what a new study would begin with, for which the compiler is waited for; all are
scored on the whole validation split. A size that can't be trained or scored is infinitely bad; a trial that something
disturbed is run again. Printed: how much worse the probe's choice is than the best, with its standard error. A sweep
with --out that was stopped goes on, with the same text, machine, code and recipe.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch import machine, paths, probe, settle, sizes
from autoresearch.cli.machine import candidate_files, current_recipe
from autoresearch.data import prepared
from autoresearch.data.prepared import Prepared
from autoresearch.harness import assemble, caches
from autoresearch.harness.runner import Runner
from autoresearch.harness.supervise import TrialFailed
from autoresearch.research import fair
from backends.recipe import Recipe
from benchmarks.clones import ROOT

DEPTHS, WIDTHS = (1, 2, 3, 4, 6, 8), (64, 128, 192, 256, 320, 384)
TOKENS = tuple(2**k for k in range(11, 16))
SHARES = (1 / 9, 1 / 3, 1.0)  # of the budget; a third goes on each time
FINALISTS, FRESH_SEEDS = 5, (11, 12, 13)
RERUNS = 2  # of a trial that was disturbed

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
    if not all(map(math.isfinite, [*runs[chosen], *runs[winner]])):
        print("\nno regret can be said: the probe's choice failed on a seed")
        return
    pairs = [a / b - 1 for a, b in zip(runs[chosen], runs[winner], strict=True)]
    error = statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else 0.0
    print(f"\nregret of the probe's choice: {100 * statistics.fmean(pairs):.2f}%, standard error {100 * error:.2f}%; "
          "the best of several is flattered by chance")


def named(shape: Shape) -> str:
    return f"{shape[0]} x {shape[1]}, {shape[2]:,}"


def settings_of(text: Prepared, backend: str, candidate: dict[str, bytes], recipe: Recipe) -> dict[str, Any]:
    """All that scores depend on besides size, batch, budget and seed."""
    tokenizer = recipe.data.tokenizer
    return {"text": text.digest, "tokenizer": f"{tokenizer} {text.manifest.tokenizers[tokenizer].digest}",
            "backend": backend, "machine and frameworks": machine.digest(), "code": assemble.code_digest(candidate),
            "recipe": settle.family(recipe).digest(), "precision": recipe.runtime.precision,
            "compiled": recipe.runtime.compile, "keeps the best of dev": recipe.schedule.keep_best_dev}


def kept(out: Path | None, settings: dict[str, Any]) -> dict[str, float]:
    """The scores in a file, or SystemExit where they were made with other settings."""
    if out is None or not out.exists():
        return {}
    file = json.loads(out.read_text())
    before = file.get("settings")
    if before is None:
        differs = "it does not say with which settings, as files of earlier versions don't"
    else:
        differs = "; ".join(f"{name} was {before.get(name)} and is {value}" for name, value in settings.items()
                            if before.get(name) != value)
    if differs:
        raise SystemExit(f"{out} holds scores that don't compare with new ones: {differs}.\n"
                         "Sweep with the settings of before, or give another file with --out.")
    return dict(file["scores"])


@dataclass
class Sweep:
    """Trains and scores shapes of one recipe, and remembers what it has scored."""

    candidate: dict[str, bytes]
    recipe: Recipe
    runner: Runner
    chosen: Shape
    settings: dict[str, Any]
    out: Path | None
    known: dict[str, float] = field(default_factory=dict)

    @classmethod
    def begin(cls, options: argparse.Namespace) -> Sweep:
        text = prepared.find(options.data) if options.data else prepared.current()
        candidate = candidate_files(ROOT / paths.CANDIDATE)
        asked = current_recipe(ROOT / paths.CANDIDATE / "recipe.toml")
        plan = probe.probe(candidate, asked, options.backend, text, options.budget, patient=True)  # as a new study does
        print(plan.why)
        chosen = (plan.chosen.depth, plan.chosen.width, plan.chosen.tokens_per_step)
        recipe = asked.replace(plan.changes)
        settings = settings_of(text, options.backend, candidate, recipe)
        return cls(candidate, recipe, Runner(text, options.backend, caches.home()), chosen, settings, options.out,
                   kept(options.out, settings))

    def score(self, shape: Shape, budget_s: float, seed: int) -> float:
        """Validation bits per byte; infinite where it fails."""
        key = f"{named(shape)}, {budget_s:g} s, seed {seed}"
        if key not in self.known:
            self.known[key] = self._undisturbed(key, sizes.sized(self.recipe, *shape), budget_s, seed)
            if self.out:
                content = json.dumps({"settings": self.settings, "scores": self.known}, indent=0)
                partial = self.out.with_suffix(".partial")
                partial.write_text(content)
                partial.replace(self.out)
        return self.known[key]

    def _undisturbed(self, key: str, recipe: Recipe, budget_s: float, seed: int) -> float:
        """Of a trial that nothing disturbed, as a study would have it. SystemExit where each one was."""
        terms, disturbed = fair.Terms.here(), ""
        for attempt in range(1 + RERUNS):
            fair.wait(terms, self.runner.backend, attempt > 0, lambda: False, lambda line: say(f"{key}: {line}"))
            bpb, said, disturbed = self._once(recipe, budget_s, seed, terms)
            if not disturbed:
                say(f"{key}: {bpb:.4f}, {said}")
                return bpb
            say(f"{key}: disturbed: {disturbed}")
        goes_on = "it goes on" if self.out else "with --out it would go on"
        raise SystemExit(f"{key}: disturbed {1 + RERUNS} times, the last time because {disturbed}.\nRun the same "
                         f"command when the machine is quiet ({goes_on}), or set {fair.BUSY_OK}=1 to score whatever "
                         "others do.")

    def _once(self, recipe: Recipe, budget_s: float, seed: int, terms: fair.Terms) -> tuple[float, str, str]:
        """Validation bits per byte; what to say of it; and why it has to be run again, or nothing."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            folder = Path(name)
            outcome = self.runner.train(self.candidate, recipe, seed, folder, budget_s)
            if outcome.status == "interrupted":
                return math.inf, "", outcome.reason
            if disturbed := fair.verdict(outcome.conditions, (), self.runner.backend, terms):
                return math.inf, "", disturbed
            if outcome.status != "ok" or outcome.weights is None:
                return math.inf, f"{outcome.status}: {outcome.reason}", ""
            try:
                found = self.runner.score(self.candidate, recipe, folder, outcome.weights, "val", None)
            except TrialFailed as e:
                return math.inf, f"{e.status} while it was scored: {e.reason}", ""
            return found.bpb, f"{outcome.steps:,} steps", ""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
