"""A study whose models score what a formula says: real git, ledger and lab, and trials that take no time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autoresearch.harness.supervise import Outcome
from autoresearch.records import Score
from autoresearch.research.lab import Lab
from autoresearch.research.until import Until
from autoresearch.research.view import View
from backends.recipe import Recipe, parse
from tests.report.made import START, Made, pretended, repository

Rule = Callable[[Recipe, dict[str, bytes]], float]  # bits per byte of a whole run, but for luck
NATS = 0.6931471805599453


@dataclass(frozen=True)
class Planted:
    """A runner whose trials end at once. `rule` says what a model scores; a seed adds luck that all models share, and
    a little of each one's own."""

    rule: Rule
    backend: str = "cpu"
    own: float = 0.0002
    until: Until = field(default_factory=Until)
    stop_after: int = 10**9
    calls: list[tuple[Path, int, float, str]] = field(default_factory=list)  # (folder, seed, budget, backend)

    @property
    def prepared(self) -> Any:
        return pretended(rows=10)

    def train(self, candidate: dict[str, bytes], recipe: Recipe, seed: int, folder: Path, budget_s: float | None,
              steps: int | None = None, listen: object = None) -> Outcome:
        assert budget_s is not None
        self.calls.append((folder, seed, budget_s, self.backend))
        if len(self.calls) >= self.stop_after:
            self.until.asked = True
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(b"w")
        if np.isinf(self.rule(recipe, candidate)):
            return Outcome(status="crash", reason="NameError: gate")
        return Outcome(steps=1, tokens=1, train_s=budget_s, total_s=budget_s, weights=folder / "weights.safetensors",
                       facts={"precision": "float32"})

    def score(self, candidate: dict[str, bytes], recipe: Recipe, folder: Path, weights: Path, split: str,
              rows: int | None, seconds: float | None = None, records: str = "recorded.npz", per_row: int = 1) -> Score:
        _, seed, budget_s, backend = next(call for call in self.calls if call[0] == folder)
        bpb = self.rule(recipe, candidate) + luck(seed) + self.own * float(
            np.random.default_rng([seed, int(recipe.digest(), 16), len(backend)]).normal())
        bpb += {"val": 0.0, "confirm": 0.1, "holdout": 0.2}[split] - 0.05 * np.log2(budget_s / 300.0)
        np.savez(folder / (records or "recorded.npz"), nats=np.ones(3), bytes=np.ones(3))
        return Score(split, bpb * NATS * 1000, 500, 1000, 1000, rows or 10)

    def audit(self, candidate: dict[str, bytes], recipe: Recipe, folder: Path, weights: Path, split: str, rows: int,
              precision: str, records: str = "recorded.npz") -> str:
        return "replay of 7 positions"

    def too_short(self, recipe: Recipe) -> str:
        return ""


def luck(seed: int) -> float:
    return 0.004 * float(np.random.default_rng(seed).normal())


@dataclass
class Night:
    """A study with a baseline and keeps whose trials follow the rule."""

    made: Made
    rule: Rule

    @classmethod
    def create(cls, folder: Path, rule: Rule, files: dict[str, bytes] | None = None) -> Night:
        night = cls(Made.create(repository(folder, files)), rule)
        night.made.baseline(*(rule(parse(START), night.files()) + luck(seed) for seed in (1, 2, 3)))
        return night

    def files(self) -> dict[str, bytes]:
        workspace = self.made.study.workspace
        return workspace.candidate_files(workspace.head())

    def keep(self, hypothesis: str = "An idea", files: dict[str, bytes] | None = None, **changes: Any) -> int:
        """Its number; `optim__matrix_lr=0.02` changes a key."""
        named = {key.replace("__", "."): value for key, value in changes.items()}
        after = self.files() | (files or {})
        bpb = self.rule(parse(after["recipe.toml"].decode()).replace(named), after) + luck(1)
        return self.made.idea("keep", bpb, hypothesis, changes=named, files=files)

    def lab(self, **planted: Any) -> Lab:
        study = self.made.study
        return Lab(study, study.ledger, Planted(self.rule, **planted), 300.0, View())  # type: ignore[arg-type]

    @property
    def champion(self) -> int:
        champion = self.made.study.ledger.incumbent()
        assert champion is not None
        return champion.n

    def trials(self, purpose: str) -> list[tuple[int, int]]:
        """(experiment, seed) of its finished ones, in order."""
        trials = [t for e in self.made.study.ledger.experiments() for t in e.trials]
        return [(t.experiment, t.seed) for t in sorted(trials, key=lambda t: t.id)
                if t.purpose == purpose and t.status == "ok"]
