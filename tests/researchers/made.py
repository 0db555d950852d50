"""Contexts made by hand, and nights with the real loop, ledger and git whose training takes no time."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from autoresearch.harness.supervise import Outcome
from autoresearch.records import BASELINE, Experiment, Point, Score, Spend, Trial
from autoresearch.research.account import Entry
from autoresearch.research.lab import Lab
from autoresearch.research.loop import Loop
from autoresearch.research.researchers.base import Context, Researcher
from autoresearch.research.study import Study
from autoresearch.research.until import Until
from autoresearch.research.view import View
from backends.recipe import Recipe
from tests.report.made import pretended

ROOT = Path(__file__).parents[2]
FILES = {"recipe.toml": "[data]\ntokenizer = \"byte\"\n", "torch_model.py": "def loss(x):\n    return x * 2\n",
         "mlx_model.py": "def loss(x):\n    return x * 2\n"}
START = Recipe().replace({"data.tokenizer": "byte"})


def calls(work: Callable[..., object], *given: object) -> int:
    """How many functions are called while `work(*given)` runs: what it costs, the same on every machine."""
    counted = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work(*given)
    finally:
        sys.setprofile(None)
    return counted


def experiment(n: int, recipe: Recipe, bpb: float | None, verdict: str, **fields: Any) -> Experiment:
    score = (Score("val", (bpb or 0) * math.log(2) * 1000, 300, 1000, 1000, 4),) if bpb else ()
    curve = tuple(Point(s, s / 10, 5 - s / 1000, 2 - s / 2000 if s % 200 == 0 else None) for s in range(0, 1001, 20))
    trial = Trial(n + 10, n, 1, "screen", "ok" if bpb else verdict, 30.0, "2026-01-01T00:00:00Z", steps=1000,
                  tokens=1_000_000, train_s=30.0, total_s=35.0, params=3_000_000, peak_memory_bytes=1 << 30,
                  scores=score, curve=curve, log_tail="" if bpb else "Traceback: it broke")
    given: dict[str, Any] = dict(parent="sha0", sha=f"sha{n}", researcher="playbook", hypothesis=f"idea {n}",
                                 evidence="", changes={}, recipe=recipe.flat(), state="done", verdict=verdict,
                                 reason="because", created="2026-01-01T00:00:00Z", trials=(trial,))
    return Experiment(n, **given | fields)


def context(experiments: Sequence[Experiment] = (), **fields: Any) -> Context:
    top = experiment(BASELINE, START, 1.5, "keep")
    by_sha = {e.sha: e for e in (top, *experiments)}
    gains = {e.n: statistics.fmean(theirs[seed] - mine[seed] for seed in shared) for e in experiments
             if (mine := e.on_val()) and e.counts and (theirs := by_sha.get(e.parent, top).on_val())
             and (shared := mine.keys() & theirs.keys())}
    given: dict[str, Any] = dict(
        incumbent=top, recipe=START, experiments=[top, *experiments], gains=gains, spread_bpb=0.002,
        tokenizers=["byte"], vocab={"byte": 257}, train_tokens={"byte": 10**7}, budget_s=300.0, seconds_left=None,
        brief="Make it better.",
        device={"name": "cpu", "backend": "cpu", "precisions": ("float32",)}, fits=lambda recipe: True,
        files=dict(FILES))
    return Context(**given | fields)


def clone_at(folder: Path) -> Path:
    (folder / "backends/gpt").mkdir(parents=True)
    for name, text in FILES.items():
        (folder / "backends/gpt" / name).write_text(text)
    (folder / "program.md").write_text("Make it better.\n")
    who = ("-c", "user.name=A Person", "-c", "user.email=person@example.org")
    for args in (("init", "-q"), ("add", "-A"), (*who, "commit", "-q", "-m", "start")):
        subprocess.run(["git", *args], cwd=folder, check=True)
    Study.create(folder, "mar8").close()
    return folder


class Runner:
    """Training as a formula: code that says BETTER is, code that says CRASH does, a faster rate is a little worse."""

    backend = "fake"
    prepared = pretended(train_tokens=10**7)

    def __init__(self, study: Study):
        self.study, self.environments = study, list[dict[str, str]]()

    def too_short(self, recipe: Recipe) -> str:
        return ""

    def train(self, candidate: dict[str, bytes], recipe: Recipe, seed: int, folder: Path, budget_s: float | None,
              steps: int | None = None, listen: object = None) -> Outcome:
        self.environments.append(dict(os.environ))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights.safetensors").write_bytes(b"w")
        if any(b"CRASH" in content for content in candidate.values()):
            return Outcome(status="crash", reason="NameError: name 'CRASH' is not defined", log_tail="CRASH")
        return Outcome(steps=10, tokens=1000, train_s=1.0, total_s=1.0, weights=folder / "weights.safetensors",
                       facts={"precision": "float32"})

    def score(self, candidate: dict[str, bytes], recipe: Recipe, folder: Path, weights: Path, split: str,
              rows: int | None, seconds: float | None = None, records: str = "recorded.npz", per_row: int = 1) -> Score:
        seed = next(t.seed for e in self.study.ledger.experiments() for t in e.trials if t.id == int(folder.name))
        better = sum(content.count(b"BETTER") for content in candidate.values())
        bpb = 2.0 - 0.05 * better + 0.05 * abs(math.log(recipe.optim.matrix_lr / 0.04)) + 0.001 * seed
        rows = rows or 7
        nats = np.full(rows, 100 * math.log(2) * bpb)
        np.savez(folder / (records or "recorded.npz"), nats=nats, bytes=np.full(rows, 100))
        return Score(split, float(nats.sum()), 100 * rows, 100 * rows, 100 * rows, rows)

    def audit(self, candidate: dict[str, bytes], recipe: Recipe, folder: Path, weights: Path, split: str, rows: int,
              precision: str, records: str = "recorded.npz") -> str:
        return "replay of 7 positions"


class Told(View):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass(frozen=True)
class Night:
    experiments: list[Experiment]
    entries: list[Entry]
    notes: list[str]
    environments: list[dict[str, str]] = field(repr=False)

    @property
    def statuses(self) -> list[str]:
        return [e.spend.status for e in self.entries]

    def spends(self) -> list[Spend]:
        return [e.spend for e in self.entries]


def night(clone: Path, researcher: Researcher, experiments: int) -> Night:
    with Study.open(clone) as study, study.lock():
        runner, told = Runner(study), Told()
        lab = Lab(study, study.ledger, runner, 300.0, told)  # type: ignore[arg-type]
        Loop(lab, researcher, {}, Until(experiments)).run({}, "")
        found = [e for e in study.ledger.experiments() if e.n > BASELINE]
        return Night(found, study.ledger.account.entries(), told.notes, runner.environments)
