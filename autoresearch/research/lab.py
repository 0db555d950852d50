"""The lab: one journalled trial at a time, and where its files go."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch.harness.runner import Outcome, Runner, TrialFailed
from autoresearch.harness.text import tail
from autoresearch.records import BASELINE, REFERENCE, Score, Trial
from autoresearch.research.ledger import Ledger
from autoresearch.research.study import Study
from autoresearch.research.view import View
from backends.recipe import Recipe

RETRIES_WHEN_INTERRUPTED = 2


@dataclass(frozen=True)
class Candidate:
    """What one trial trains: files below backends/gpt/ and the recipe that runs."""

    n: int
    files: dict[str, bytes]
    recipe: Recipe

    @property
    def label(self) -> str:
        return {BASELINE: "baseline", REFERENCE: "reference"}.get(self.n, f"#{self.n}")


@dataclass(frozen=True)
class Lab:
    study: Study
    ledger: Ledger
    runner: Runner
    budget_s: float
    view: View

    def screen(self, candidate: Candidate, seed: int) -> Trial:
        """A trial scored on validation rows: the study's prefix, which the first one ever sizes."""
        rows = self.ledger.fact("val_rows")
        trial = self._trial(candidate, seed, "screen", "val", rows, None if rows else scoring_seconds(self.budget_s))
        if rows is None and trial.status == "ok":
            self.ledger.set_fact("val_rows", trial.scores[0].rows)
        return trial

    def verify(self, candidate: Candidate, seed: int) -> Trial:
        """A trial with a fresh seed, scored on the whole confirm split. The read is counted."""
        return self._trial(candidate, seed, "verify", "confirm", None, None)

    def audit(self, candidate: Candidate, trial: Trial) -> str:
        """The replay audit's finding. Raises TrialFailed where the score was not earned."""
        folder = self.folder(trial.id)
        try:
            return self.runner.audit(candidate.files, candidate.recipe, folder, folder / "weights.safetensors", "val",
                                     trial.scores[0].rows, trial.facts["precision"])
        finally:
            _clean(folder)

    def folder(self, trial_id: int) -> Path:
        return self.study.root / "trials" / str(trial_id)

    def discard_files(self, trial: Trial) -> None:
        """Drop a trial's weights and records; its log stays."""
        folder = self.folder(trial.id)
        for name in ("weights.safetensors", "recorded.npz"):
            (folder / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Drop what trials that were killed have left; their logs stay."""
        for trial in (t for e in self.ledger.experiments() for t in e.trials if t.status == "interrupted"):
            _clean(self.folder(trial.id))
            self.discard_files(trial)

    def _trial(self, candidate: Candidate, seed: int, purpose: str, split: str, rows: int | None,
               seconds: float | None) -> Trial:
        for attempt in range(1 + RETRIES_WHEN_INTERRUPTED):
            trial = self._once(candidate, seed, purpose, split, rows, seconds)
            if trial.status != "interrupted" or attempt == RETRIES_WHEN_INTERRUPTED:
                break
            self.view.note(f"{candidate.label} is run again: {trial.reason}")
        return trial

    def _once(self, candidate: Candidate, seed: int, purpose: str, split: str, rows: int | None,
              seconds: float | None) -> Trial:
        facts = {"backend": self.runner.backend, "recipe": candidate.recipe.digest(),
                 "data": self.runner.prepared.digest}
        trial_id = self.ledger.start_trial(candidate.n, seed, purpose, self.budget_s, facts)
        self.view.trial_started(candidate.label, seed, self.budget_s)
        folder, outcome, scores = self.folder(trial_id), Outcome(), list[Score]()
        try:
            outcome = self.runner.train(candidate.files, candidate.recipe, seed, folder, self.budget_s,
                                        listen=lambda m: self.view.trial_event(m["event"], m.get("point")))
            if outcome.status == "ok" and outcome.weights:
                self.view.trial_event("scoring", None)
                if split != "val":
                    self.ledger.read(split, trial_id)
                scores.append(self.runner.score(candidate.files, candidate.recipe, folder, outcome.weights, split,
                                                rows, seconds))
        except TrialFailed as e:
            outcome.status, outcome.reason, outcome.log_tail = e.status, e.reason, tail(folder / "log.txt")
        except BaseException:
            self.ledger.end_trial(trial_id, "interrupted", "stopped by hand")
            raise
        finally:
            _clean(folder)
        self.ledger.end_trial(trial_id, outcome.status, outcome.reason, scores=scores, curve=outcome.curve,
                              facts=outcome.facts, **_measured(outcome, self.study.root))
        trial = next(t for t in self.ledger.experiment(candidate.n).trials if t.id == trial_id)
        self.view.trial_ended(trial)
        return trial


def _clean(folder: Path) -> None:
    for name in ("tree", "tmp"):
        shutil.rmtree(folder / name, ignore_errors=True)


def scoring_seconds(budget_s: float) -> float:
    """How long scoring may take: 4% of five minutes, and not below 3 s for short budgets."""
    return min(12.0, max(3.0, 0.1 * budget_s))


def _measured(o: Outcome, root: Path) -> dict[str, Any]:
    return {"steps": o.steps, "tokens": o.tokens, "train_s": o.train_s, "total_s": o.total_s, "params": o.params,
            "peak_memory_bytes": o.peak_memory_bytes, "utilisation": o.utilisation, "log_tail": o.log_tail,
            "weights": str(o.weights.relative_to(root)) if o.weights else ""}
