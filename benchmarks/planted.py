"""Twelve planted changes: does `careful` keep those that help, and only those?

    python -m benchmarks.planted --text shakespeare_complete.txt --folder planted truth      effects, 20 seeds each
    python -m benchmarks.planted --text shakespeare_complete.txt --folder planted nights     five nights of the twelve
    python -m benchmarks.planted --folder planted table                                      what is known so far

The starting recipe has three flaws and steps that are too small; four changes mend one each. Four change what should
not matter, four do harm. What each truly does is not what it was planted as but what 20 paired seeds say, none of which
a night uses: better or worse where the 95% interval leaves out zero and the effect is at least half a seed spread, else
harmless. A night proposes the twelve in an order of its own, each once and on top of what was kept before, to the loop
that `ar loop --ratchet careful` runs, with seeds of its own. It may keep no harmless or harmful change and must keep
three of four helpful ones.

Everything is a study in a clone below --folder, so the same command goes on where it was stopped, and `ar log --tag
night-1` works there. 30 s a trial: truth takes about three hours on two cores, each night more than half an hour.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch.cli.terminal import TerminalView
from autoresearch.data import prepared
from autoresearch.harness import assemble
from autoresearch.harness.runner import Runner
from autoresearch.paths import CANDIDATE
from autoresearch.records import BASELINE, Experiment
from autoresearch.research import gate
from autoresearch.research.lab import Candidate, Lab
from autoresearch.research.loop import Loop
from autoresearch.research.paired import t_95
from autoresearch.research.researchers.base import Context, Proposal, Researcher
from autoresearch.research.study import Study
from autoresearch.research.until import Until
from autoresearch.research.view import View
from benchmarks import clones

TRUTH, NAME = "truth", "planted"
FIRST_SEED, SEEDS_PER_NIGHT = 10_001, 1000  # of the truth; nights have seeds below
START = """\
[data]
tokenizer = "bpe-2048"

[model]
depth = 2
width = 128
head_dim = 64

[optim]
matrix_lr = 0.01
embedding_lr = 0.1

[schedule]
warmdown_frac = 0.1

[batch]
tokens_per_step = 1024

[runtime]
compile = true
"""
PLANTED: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "helpful": (("larger steps of the matrices", {"optim.matrix_lr": 0.04}),
                ("larger steps of the embedding", {"optim.embedding_lr": 0.6}),
                ("learning rates fall over half of the budget", {"schedule.warmdown_frac": 0.5}),
                ("twice the tokens in a step", {"batch.tokens_per_step": 2048})),
    "harmless": (("another Adam epsilon", {"optim.adam_eps": 1e-10}),
                 ("another norm epsilon", {"model.norm_eps": 1e-5}),
                 ("another rotary base", {"model.rope_base": 12000.0}),
                 ("another decay of Muon's second moment", {"optim.muon_beta2": 0.96})),
    "harmful": (("half the width", {"model.width": 64}), ("half the tokens in a step", {"batch.tokens_per_step": 512}),
                ("learning rates end at half their peak", {"schedule.final_lr_frac": 0.5}),
                ("far too large steps of the matrices", {"optim.matrix_lr": 0.4}))}
CHANGES = [(kind, words, changes) for kind, group in PLANTED.items() for words, changes in group]


@dataclass
class Shifted(Runner):
    """A night's seeds are its own, whatever the loop calls them."""

    offset: int = 0

    def train(self, candidate: dict[str, bytes], recipe: Any, seed: int, *args: Any, **kwargs: Any) -> Any:
        return super().train(candidate, recipe, self.offset + seed, *args, **kwargs)


@dataclass
class Scripted(Researcher):
    """The twelve in a night's own order; where it is, the ledger says."""

    order: list[int]
    name: str = "planted"

    def propose(self, context: Context) -> Proposal:
        turn = sum(e.n > BASELINE for e in context.experiments)
        _, words, changes = CHANGES[self.order[turn]]
        return Proposal(words, "", changes)


@dataclass(frozen=True)
class Place:
    """Where the studies are and who trains; a test brings a trainer of its own."""

    folder: Path
    runner: Callable[[int], Any]  # with that much added to every seed
    text_facts: dict[str, Any]
    budget_s: float
    backend: str
    view: View = field(default_factory=View)

    @property
    def clone(self) -> Path:
        return self.folder / "clone"

    def loop(self, study: Study, researcher: Researcher, offset: int, experiments: int) -> Loop:
        lab = Lab(study, study.ledger, self.runner(offset), self.budget_s, self.view)
        return Loop(lab, researcher, {"backend": self.backend}, Until(experiments=experiments), "careful")

    def study(self, tag: str) -> Study:
        if tag in Study.tags(self.clone):
            return Study.open(self.clone, tag)
        return Study.create(self.clone, tag, facts=self.text_facts | {
            "start": START, "budget_s": self.budget_s, "backend": self.backend, "ratchet": "careful",
            "frozen_digest": assemble.digest(assemble.frozen_files())})


def measure(place: Place, seeds: int) -> None:
    """Seed by seed over all arms, so that a stop leaves whole pairs; the arms' order turns, so that drift evens out."""
    with place.study(TRUTH) as study, study.lock():
        loop = place.loop(study, Scripted(list(range(len(CHANGES)))), 0, 0)
        loop.run({}, "the planted starting recipe")
        for n, (_, words, changes) in enumerate(CHANGES, 1):
            if all(e.n != n or not e.sha for e in study.ledger.experiments()):
                loop.commit(Proposal(words, "", changes))
        arms = [_candidate(loop.lab, e) for e in study.ledger.experiments() if e.n >= BASELINE]
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            turn = (seed - FIRST_SEED) % len(arms)
            for arm in arms[turn:] + arms[:turn]:
                if seed not in study.ledger.experiment(arm.n).on_val():
                    loop.lab.discard_files(loop.lab.repeat(arm, seed))


def night(place: Place, number: int) -> None:
    order = list(range(len(CHANGES)))
    random.Random(number).shuffle(order)
    with place.study(f"night-{number}") as study, study.lock():
        done = sum(bool(e.verdict) for e in study.ledger.experiments() if e.n > BASELINE)
        loop = place.loop(study, Scripted(order), SEEDS_PER_NIGHT * number, len(CHANGES) - done)
        loop.run({}, "the planted starting recipe")


def _candidate(lab: Lab, experiment: Experiment) -> Candidate:
    files = lab.study.workspace.candidate_files(experiment.sha)
    return Candidate(experiment.n, files, gate.check([], files, CANDIDATE, lab.runner.prepared.tokenizers()))


# What came out

@dataclass(frozen=True)
class Effect:
    """Of one change against the starting recipe, on paired seeds; positive is better."""

    mean_bpb: float
    half_bpb: float  # of the 95% interval
    seeds: int
    spread_bpb: float

    @property
    def kind(self) -> str:
        if abs(self.mean_bpb) < max(self.half_bpb, self.spread_bpb / 2):
            return "harmless"
        return "helpful" if self.mean_bpb > 0 else "harmful"


def effects(clone: Path) -> dict[int, Effect]:
    """By the place of a change in CHANGES."""
    with Study.open(clone, TRUTH, readonly=True) as study:
        experiments = {e.n: e for e in study.ledger.experiments()}
    base = {s: b for s, b in experiments[BASELINE].on_val().items() if s >= FIRST_SEED}
    found = {}
    for n in range(1, len(CHANGES) + 1):
        mine = experiments[n].on_val() if n in experiments else {}
        gains = [base[s] - mine[s] for s in sorted(base.keys() & mine.keys())]
        if len(gains) > 1:
            half = t_95(len(gains) - 1) * statistics.stdev(gains) / len(gains) ** 0.5
            found[n - 1] = Effect(statistics.fmean(gains), half, len(gains), statistics.stdev(base.values()))
    return found


def kept(clone: Path) -> dict[int, dict[int, str]]:
    """Night -> place in CHANGES -> verdict, of what was decided."""
    found: dict[int, dict[int, str]] = {}
    for number in sorted(int(t[6:]) for t in Study.tags(clone) if t.startswith("night-")):
        with Study.open(clone, f"night-{number}", readonly=True) as study:
            found[number] = {next(i for i, c in enumerate(CHANGES) if c[1] == e.hypothesis): e.verdict
                             for e in study.ledger.experiments() if e.n > BASELINE and e.verdict}
    return found


def table(clone: Path) -> str:
    true, nights = effects(clone), kept(clone)
    lines = ["| change | planted as | true gain, bits per byte (95%) | is | kept |", "|---|---|--:|---|--:|"]
    for i, (kind, _, changes) in enumerate(CHANGES):
        words = ", ".join(f"`{k} = {v}`" for k, v in changes.items())
        e = true.get(i)
        gain = f"{e.mean_bpb:+.4f} ± {e.half_bpb:.4f}" if e else ""
        tried = [n for n in nights.values() if i in n]
        lines.append(f"| {words} | {kind} | {gain} | {e.kind if e else ''} | "
                     f"{sum(n[i] == 'keep' for n in tried)} of {len(tried)} |")
    if true:
        some = next(iter(true.values()))
        lines += ["", f"{min(e.seeds for e in true.values())} paired seeds; the starting recipe's spread over seeds is "
                      f"{some.spread_bpb:.4f} bits per byte."]
    for number, verdicts in nights.items():
        lines += _of_night(number, verdicts, true)
    return "\n".join(lines)


def _of_night(number: int, verdicts: dict[int, str], true: dict[int, Effect]) -> list[str]:
    keeps = [i for i, v in verdicts.items() if v == "keep"]
    if len(true) < len(CHANGES):
        return ["", f"Night {number}: {len(keeps)} of {len(verdicts)} kept; what is true isn't measured yet."]
    good, wrong = [i for i in keeps if true[i].kind == "helpful"], [i for i in keeps if true[i].kind != "helpful"]
    helpful = sum(e.kind == "helpful" for e in true.values())
    finished = "" if len(verdicts) == len(CHANGES) else f" ({len(verdicts)} of {len(CHANGES)} decided so far)"
    return ["", f"Night {number}{finished}: kept {len(good)} of {helpful} helpful changes and {len(wrong)} others"
                + (": " + ", ".join(CHANGES[i][1] for i in wrong) if wrong else "") + "."]


def prepare(folder: Path, text: Path, budget_s: float, backend: str) -> Place:
    """A clone and a cache of their own, made once."""
    os.environ["AUTORESEARCH_CACHE"] = str(folder / "cache")
    if not (folder / "clone").exists():
        clones.fresh(folder / "clone")
    if NAME not in prepared.names():
        clones.ar(folder / "clone", folder / "cache", "prepare", "--text", str(text.resolve()), "--name", NAME)
    found = prepared.find(NAME)
    facts = {"data_name": found.name, "data_digest": found.digest, "data_root": str(found.root)}
    return Place(folder, lambda offset: Shifted(found, backend, folder / "cache" / "compiled", None, offset), facts,
                 budget_s, backend, TerminalView())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("truth", "nights", "table"))
    parser.add_argument("--text", type=Path, help="for truth and nights")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--nights", type=int, default=5)
    parser.add_argument("--budget", type=float, default=30.0)
    parser.add_argument("--backend", default="cpu")
    options = parser.parse_args()
    folder = options.folder.resolve()
    if options.what != "table":
        if options.text is None:
            parser.error("--text is needed")
        place = prepare(folder, options.text, options.budget, options.backend)
        if options.what == "truth":
            measure(place, options.seeds)
        for number in range(1, options.nights + 1) if options.what == "nights" else ():
            night(place, number)
    print(table(folder / "clone"))


if __name__ == "__main__":
    main()
