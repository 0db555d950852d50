"""Twelve planted changes: does `careful` keep those that help, and only those?

    python -m benchmarks.planted --text shakespeare_complete.txt --folder planted truth      effects, 20 seeds each
    python -m benchmarks.planted --text shakespeare_complete.txt --folder planted nights     five nights of the twelve
    python -m benchmarks.planted --folder planted table                                      what is known so far

The starting recipe has three flaws and steps that are too small; four changes mend one each. Four change what should
not matter, four do harm. What each truly does is not what it was planted as but what 20 paired seeds say, none of which
a night uses: better or worse where the 95% interval leaves out zero and the effect is at least half a seed spread, else
harmless; harmful too where it failed on a seed. A night proposes the twelve in an order of its own, each once and on
top of what was kept before, to the loop that `ar loop --ratchet careful` runs, with seeds of its own. It may keep no
harmless or harmful change and must keep three of four helpful ones.

Everything is a study in a clone below --folder, so the same command goes on where it was stopped, and `ar log --tag
night-1` works there. 30 s a trial: truth takes about three hours on two cores, each night more than half an hour.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch.cli.terminal import TerminalView
from autoresearch.data import prepared
from autoresearch.errors import UserError
from autoresearch.harness import assemble
from autoresearch.harness.runner import Runner
from autoresearch.harness.supervise import Outcome
from autoresearch.records import BASELINE, MACHINE, Experiment
from autoresearch.research import verify
from autoresearch.research.events import Teller
from autoresearch.research.lab import Lab
from autoresearch.research.loop import BaselineFailed, Loop
from autoresearch.research.paired import half_width
from autoresearch.research.researchers.base import Context, Proposal, Researcher
from autoresearch.research.study import Study
from autoresearch.research.until import Until
from autoresearch.research.view import View
from backends.recipe import Recipe
from benchmarks import clones

TRUTH, NAME = "truth", "planted"
FIRST_SEED, SEEDS_PER_NIGHT = 10_001, 1000  # of the truth; nights have seeds below
MOST_NIGHTS = FIRST_SEED // SEEDS_PER_NIGHT - 1
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
PLACES = {change[1]: i for i, change in enumerate(CHANGES)}  # told by words: what is interrupted uses up a number


@dataclass(frozen=True)
class Shifted:
    """A night's seeds are its own, whatever the loop calls them. Not a kind of Runner but around one, which trains
    again what diverged in low precision, by its own method: the seed is shifted once."""

    runner: Runner
    offset: int

    def train(self, candidate: dict[str, bytes], recipe: Recipe, seed: int, *args: Any, **kwargs: Any) -> Outcome:
        return self.runner.train(candidate, recipe, self.offset + seed, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)


@dataclass
class Scripted(Researcher):
    """The twelve in a night's own order: the first that the ledger has no verdict of."""

    order: list[int]
    name: str = "planted"

    def propose(self, context: Context) -> Proposal:
        known = decided(context.experiments)
        _, words, changes = CHANGES[next(i for i in self.order if i not in known)]
        proposal = Proposal(words, "", changes)
        if why := context.refusal(proposal):  # the loop would let the playbook propose instead
            raise UserError(f"the planted change {words!r} would not be run: {why}",
                            "A night is of the twelve alone: mend PLANTED in benchmarks/planted.py, and begin in "
                            "another --folder.")
        return proposal


@dataclass(frozen=True)
class Place:
    """Where the studies are and who trains; a test brings a trainer of its own."""

    folder: Path
    runner: Callable[[int], Any]  # with that much added to every seed
    text_facts: dict[str, Any]
    budget_s: float
    backend: str
    view: Callable[[Study], View] = lambda study: View()

    @property
    def clone(self) -> Path:
        return self.folder / "clone"

    def loop(self, study: Study, researcher: Researcher, offset: int, experiments: int) -> Loop:
        lab = Lab(study, study.ledger, self.runner(offset), self.budget_s, self.view(study))
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
        loop = place.loop(study, Scripted([]), 0, 0)
        loop.run({}, "the planted starting recipe")
        arms = [verify.candidate(loop.lab, e) for e in _arms(loop)]
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            turn = (seed - FIRST_SEED) % len(arms)
            for arm in arms[turn:] + arms[:turn]:
                if seed not in tried(study.ledger.experiment(arm.n)):
                    loop.lab.discard_files(loop.lab.repeat(arm, seed))


def _arms(loop: Loop) -> list[Experiment]:
    """The starting recipe and each change of it, with a commit. A proposal that a kill left without one stays so."""
    ledger = loop.lab.ledger
    for _, words, changes in CHANGES:
        if words not in committed(ledger.experiments()):
            loop.commit(Proposal(words, "", changes))
    found = committed(ledger.experiments())
    return [ledger.experiment(BASELINE), *(found[words] for _, words, _ in CHANGES)]


def night(place: Place, number: int) -> None:
    order = list(range(len(CHANGES)))
    random.Random(number).shuffle(order)
    with place.study(f"night-{number}") as study, study.lock():
        left = len(CHANGES) - len(decided(study.ledger.experiments()))
        loop = place.loop(study, Scripted(order), SEEDS_PER_NIGHT * number, left)
        loop.run({}, "the planted starting recipe")


# What the ledger has

def committed(experiments: Iterable[Experiment]) -> dict[str, Experiment]:
    """By the words of the change."""
    return {e.hypothesis: e for e in experiments if e.n > BASELINE and e.sha}


def tried(experiment: Experiment) -> dict[int, float | None]:
    """Seed -> score, None where the recipe failed. What was interrupted, or failed by the machine's fault, is still to
    be run."""
    return {t.seed: t.bpb() if t.status == "ok" else None for t in experiment.trials
            if t.purpose == "repeat" and t.seed >= FIRST_SEED and t.status not in ("running", "interrupted")
            and t.facts.get("cause") != MACHINE}


def decided(experiments: Iterable[Experiment]) -> dict[int, str]:
    """Place in CHANGES -> verdict. One that was interrupted is open again. UserError for what was not planted."""
    found: dict[int, str] = {}
    for e in experiments:
        if e.n > BASELINE and e.verdict not in ("", "interrupted"):
            if e.hypothesis not in PLACES:
                raise UserError(f"#{e.n}, {e.hypothesis!r}, is none of the twelve planted changes, so its night "
                                "counts for nothing",
                                "Delete that study (ar delete TAG, in the clone below --folder) and run the same "
                                "command again.")
            found[PLACES[e.hypothesis]] = e.verdict
    return found


# What came out

@dataclass(frozen=True)
class Effect:
    """Of one change against the starting recipe, on paired seeds; positive is better."""

    mean_bpb: float  # over the seeds that it has a score on; nan where it has none
    half_bpb: float  # of the 95% interval
    seeds: int
    spread_bpb: float
    failed: int = 0  # seeds that it has no score on, though the starting recipe has

    @property
    def kind(self) -> str:
        if self.failed:
            return "harmful"
        if abs(self.mean_bpb) < max(self.half_bpb, self.spread_bpb / 2):
            return "harmless"
        return "helpful" if self.mean_bpb > 0 else "harmful"

    def __str__(self) -> str:
        gain = f"{self.mean_bpb:+.4f} ± {self.half_bpb:.4f}" if self.seeds else ""
        failed = f"failed on {self.failed} of {self.seeds + self.failed} seeds" if self.failed else ""
        return ", ".join(part for part in (gain, failed) if part)


def effects(clone: Path) -> dict[int, Effect]:
    """By the place of a change in CHANGES, as far as they are measured."""
    if TRUTH not in Study.tags(clone):
        return {}
    with Study.open(clone, TRUTH, readonly=True) as study:
        experiments = study.ledger.experiments()
    base = {s: b for e in experiments if e.n == BASELINE for s, b in tried(e).items() if b is not None}
    found: dict[int, Effect] = {}
    for words, e in committed(experiments).items():
        mine = {s: b for s, b in sorted(tried(e).items()) if s in base}
        gains = [base[s] - b for s, b in mine.items() if b is not None]
        if words in PLACES and len(mine) > 1:
            found[PLACES[words]] = Effect(statistics.fmean(gains) if gains else math.nan, half_width(gains), len(gains),
                                          statistics.stdev(base.values()), len(mine) - len(gains))
    return found


def verdicts(clone: Path) -> dict[int, dict[int, str]]:
    """Night -> place in CHANGES -> verdict, of what was decided."""
    found: dict[int, dict[int, str]] = {}
    for number in sorted(int(t[6:]) for t in Study.tags(clone) if t.startswith("night-")):
        with Study.open(clone, f"night-{number}", readonly=True) as study:
            found[number] = decided(study.ledger.experiments())
    return found


def table(clone: Path) -> str:
    true, nights = effects(clone), verdicts(clone)
    lines = ["| change | planted as | true gain, bits per byte (95%) | is | kept |", "|---|---|--:|---|--:|"]
    for i, (kind, _, changes) in enumerate(CHANGES):
        words = ", ".join(f"`{k} = {v}`" for k, v in changes.items())
        e = true.get(i)
        tried_in = [n for n in nights.values() if i in n]
        lines.append(f"| {words} | {kind} | {e or ''} | {e.kind if e else ''} | "
                     f"{sum(n[i] == 'keep' for n in tried_in)} of {len(tried_in)} |")
    if true:
        some = next(iter(true.values()))
        lines += ["", f"{min(e.seeds + e.failed for e in true.values())} paired seeds; the starting recipe's spread "
                      f"over seeds is {some.spread_bpb:.4f} bits per byte."]
    for number, said in nights.items():
        lines += _of_night(number, said, true)
    return "\n".join(lines)


def _of_night(number: int, said: dict[int, str], true: dict[int, Effect]) -> list[str]:
    keeps = [i for i, v in said.items() if v == "keep"]
    if len(true) < len(CHANGES):
        return ["", f"Night {number}: {len(keeps)} of {len(said)} kept; what is true isn't measured yet."]
    good, wrong = [i for i in keeps if true[i].kind == "helpful"], [i for i in keeps if true[i].kind != "helpful"]
    helpful = sum(e.kind == "helpful" for e in true.values())
    finished = "" if len(said) == len(CHANGES) else f" ({len(said)} of {len(CHANGES)} decided so far)"
    return ["", f"Night {number}{finished}: kept {len(good)} of {helpful} helpful changes and {len(wrong)} others"
                + (": " + ", ".join(CHANGES[i][1] for i in wrong) if wrong else "") + "."]


# On this machine

def prepare(folder: Path, text: Path, budget_s: float, backend: str, view: Callable[[Study], View]) -> Place:
    """A clone and a cache of their own, made once."""
    clones.settle(folder, {"text": clones.digest(text), "budget_s": budget_s, "backend": backend,
                           "trainer": assemble.digest(assemble.frozen_files())})
    os.environ["AUTORESEARCH_CACHE"] = str(folder / "cache")
    if not (folder / "clone").exists():
        clones.fresh(folder / "clone")
    if NAME not in prepared.names():
        clones.ar(folder / "clone", folder / "cache", "prepare", "--text", str(text.resolve()), "--name", NAME)
    found = prepared.find(NAME)
    facts = {"data_name": found.name, "data_digest": found.digest, "data_root": str(found.root)}
    return Place(folder, lambda offset: Shifted(Runner(found, backend, folder / "cache" / "compiled"), offset), facts,
                 budget_s, backend, view)


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("truth", "nights", "table"))
    parser.add_argument("--text", type=Path, help="for truth and nights")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--nights", type=int, default=5)
    parser.add_argument("--budget", type=float, default=30.0)
    parser.add_argument("--backend", default="cpu")
    options = parser.parse_args()
    if options.what != "table" and options.text is None:
        parser.error(f"--text is needed for {options.what}: the file to train on")
    if options.nights > MOST_NIGHTS:
        parser.error(f"--nights {options.nights}: at most {MOST_NIGHTS}; the seeds of more would be those that truth "
                     "is measured on")
    return options


def main() -> None:
    options = asked()
    folder, view = options.folder.resolve(), TerminalView()
    try:
        if options.what != "table":
            place = prepare(folder, options.text, options.budget, options.backend,
                            lambda study: Teller(study, view.show))
            if options.what == "truth":
                measure(place, options.seeds)
            else:
                for number in range(1, options.nights + 1):
                    night(place, number)
        said = table(folder / "clone")
    except (UserError, BaselineFailed) as e:
        sys.exit(str(e))
    finally:
        view.close()
    print(said)


if __name__ == "__main__":
    main()
