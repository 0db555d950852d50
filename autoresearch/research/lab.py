"""The lab: one journalled trial at a time, and where its files go."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autoresearch import scratch, words
from autoresearch.errors import UserError
from autoresearch.harness import checkpoint, sandbox
from autoresearch.harness.runner import RECORDS, Runner
from autoresearch.harness.supervise import Outcome, TrialFailed
from autoresearch.harness.text import cut, tail
from autoresearch.records import BASELINE, SCORED_S, Point, Score, Trial, name_of
from autoresearch.research import decide, fair, futility, sizing, storage
from autoresearch.research.ledger import Ledger
from autoresearch.research.storage import Storage
from autoresearch.research.study import Study
from autoresearch.research.view import View
from backends.recipe import Recipe
from backends.spec import GPTSpec

RETRIES_WHEN_INTERRUPTED = 2
SCORED_ROWS = "scored_rows"  # fact of a trial: how many SCORED_S was for; it may have been scored on others since
WRITTEN = "weights_sha256"  # fact of a trial: its file of weights when it was scored
CURVE_POINTS = 200
MAX_LOG_BYTES = 1 << 20  # of a trial's log, its end, that stay


@dataclass(frozen=True)
class Candidate:
    """What one trial trains: files below backends/gpt/ and the recipe that runs."""

    n: int
    files: dict[str, bytes]
    recipe: Recipe
    kind: str = ""  # of change, as decide.EXPECTED has them: how much pairing on seeds tells
    name: str = ""  # of what nobody proposed
    paths: tuple[str, ...] = ()  # that were changed

    @property
    def label(self) -> str:
        return self.name or name_of(self.n)


@dataclass(frozen=True)
class Lab:
    study: Study
    ledger: Ledger
    runner: Runner
    budget_s: float
    view: View
    stop: Callable[[], bool] = lambda: False  # while it waits until the machine is fit for a trial
    terms: fair.Terms = field(default_factory=fair.Terms.here)

    def screen(self, candidate: Candidate, seed: int) -> Trial:
        """A trial scored on validation rows: the study's prefix, which the first one ever sizes."""
        rows = self.ledger.fact("val_rows")
        trial = self._trial(candidate, seed, "screen", ("val",), rows,
                            None if rows else scoring_seconds(self.budget_s))
        if rows is None and trial.status == "ok":
            self.ledger.set_fact("val_rows", trial.scores[0].rows)
        return trial

    def settle_rows(self, candidate: Candidate, trials: list[Trial]) -> list[Trial]:
        """The trials of a recipe's seeds, scored on enough validation rows that their choice hardly matters. Those of
        a new study may have to be scored again. Raises TrialFailed."""
        if not self.ledger.fact("rows_settled"):
            rows = self._rows_wanted(trials)
            self.ledger.set_fact("val_rows", rows)
            self.ledger.set_fact("rows_settled", True)
        rows = self.ledger.fact("val_rows")
        return [trial if trial.scores[0].rows == rows else self._rescored(candidate, trial, rows) for trial in trials]

    def _rows_wanted(self, trials: list[Trial]) -> int:
        nats = []
        for trial in trials:
            with np.load(self.folder(trial.id) / RECORDS, allow_pickle=False) as records:
                nats.append(records["nats"])
                bytes_R = records["bytes"]
        have = min(map(len, nats))  # a kill may have come between two of them
        nats_SR = np.stack([nats_R[:have] for nats_R in nats])
        spread = decide.spread_bpb([b for t in trials if (b := t.bpb()) is not None])
        wanted = sizing.rows_wanted(nats_SR, bytes_R[:have], spread, self.runner.prepared.manifest.splits["val"].rows)
        if wanted > have:
            self.view.note(f"{wanted:,} validation rows are scored instead of {have:,}: fewer would blur the scores by "
                           "more than a third of what the seed does")
        return wanted

    def _rescored(self, candidate: Candidate, trial: Trial, rows: int) -> Trial:
        folder = self.folder(trial.id)
        try:
            score = self.runner.score(candidate.files, self._runs(candidate), folder, folder / checkpoint.WEIGHTS,
                                      "val", rows)
        finally:
            _clean(folder)
        self.ledger.replace_score(trial.id, score)
        return replace(trial, scores=(score,))

    def repeat(self, candidate: Candidate, seed: int) -> Trial:
        """As a screening trial, on a fresh seed."""
        return self._trial(candidate, seed, "repeat", ("val",), self.ledger.fact("val_rows"), None)

    def extra(self, candidate: Candidate, seed: int, purpose: str, splits: tuple[str, ...] = ("val",),
              rows: int | None = None, keep: bool = False, part: str = "") -> Trial:
        """A trial that no experiment is decided by, scored on the first `rows` of each split, None: on all of them.
        Looks at confirm and holdout are counted. Its weights go, unless they are to be kept. `part` is for the view."""
        trial = self._trial(candidate, seed, purpose, splits, rows, None, part)
        (self.folder(trial.id) / RECORDS).unlink(missing_ok=True)
        if not keep:
            self.discard_files(trial)
        return trial

    def confirm(self, candidate: Candidate, trial: Trial, records: str = "", per_row: int = 1) -> Score:
        """The weights of a screening trial on the confirm split, over as many rows as on val; kept with the trial, so
        that they are looked at once. The look is counted. `records`: a file for `audit` to replay. Raises
        TrialFailed."""
        folder = self.folder(trial.id)
        done = next((s for s in trial.scores if s.split == "confirm"), None)
        if done and (not records or (folder / records).is_file()):
            return done
        if not (weights := folder / checkpoint.WEIGHTS).is_file():
            raise TrialFailed("interrupted", f"the weights of {candidate.label} are gone: they could not be scored on "
                                             "the confirm split")
        self.ledger.read("confirm", trial.id)
        try:
            score = self.runner.score(candidate.files, self._runs(candidate), folder, weights, "confirm",
                                      self.ledger.fact("val_rows"), records=records, per_row=per_row)
        finally:
            _clean(folder)
        self.ledger.replace_score(trial.id, score)
        return score

    def audit(self, candidate: Candidate, trial: Trial, split: str = "val", records: str = RECORDS) -> str:
        """The replay audit's finding. Raises TrialFailed where the score was not earned."""
        folder = self.folder(trial.id)
        try:
            return self.runner.audit(candidate.files, self._runs(candidate), folder, folder / checkpoint.WEIGHTS, split,
                                     trial.scores[0].rows, trial.facts["precision"], records)
        finally:
            _clean(folder)

    def folder(self, trial_id: int) -> Path:
        return self.study.root / "trials" / str(trial_id)

    def is_whole(self, trial: Trial) -> bool:
        """Whether the trial's weights are those that were written, and its records are there to replay."""
        try:
            found = checkpoint.sha256(self.folder(trial.id) / checkpoint.WEIGHTS)
        except OSError:
            return False
        return found == trial.facts.get(WRITTEN, found) and (self.folder(trial.id) / RECORDS).is_file()

    def discard_files(self, trial: Trial) -> None:
        """Drop a trial's weights and records; its log stays."""
        folder = self.folder(trial.id)
        for path in (folder / checkpoint.WEIGHTS, *folder.glob("*.npz")):
            path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Drop what trials that were killed have left; their logs stay."""
        for trial in (t for e in self.ledger.experiments() for t in e.trials if t.status == "interrupted"):
            folder = self.folder(trial.id)
            _clean(folder)
            for left in (p for p in folder.glob("*") if p.name != "log.txt" and not p.is_dir()):
                left.unlink()

    def _trial(self, candidate: Candidate, seed: int, purpose: str, splits: tuple[str, ...], rows: int | None,
               seconds: float | None, part: str = "") -> Trial:
        for attempt in range(1 + RETRIES_WHEN_INTERRUPTED):
            # What ended a trial is waited for to pass; before the first there is nothing to suspect.
            fair.wait(self.terms, self.runner.backend, attempt > 0, self.stop, self.view.note)
            trial = self._once(candidate, seed, purpose, splits, rows, seconds, part)
            if trial.status != "interrupted" or attempt == RETRIES_WHEN_INTERRUPTED:
                break
            self.discard_files(trial)
            self.view.note(f"{candidate.label} is run again: {trial.reason}")
        return trial

    def _once(self, candidate: Candidate, seed: int, purpose: str, splits: tuple[str, ...], rows: int | None,
              seconds: float | None, part: str) -> Trial:
        self._make_room(candidate)
        facts = {"backend": self.runner.backend, "recipe": candidate.recipe.digest(),
                 "data": self.runner.prepared.digest, "sandbox": sandbox.describe(), "kind": candidate.kind}
        trial_id = self.ledger.start_trial(candidate.n, seed, purpose, self.budget_s, facts)
        self.view.trial_started(candidate.label, seed, self.budget_s, part)
        folder, outcome, scores, start = self.folder(trial_id), Outcome(), list[Score](), time.monotonic()
        try:
            outcome = self.runner.train(candidate.files, self._runs(candidate), seed, folder, self.budget_s,
                                        listen=self._listener(candidate, seed, purpose))
            if outcome.conditions is not None:
                outcome.facts["machine"] = outcome.conditions.to_json()
            if outcome.status == "ok" and (why := self._unfair(outcome)):
                raise TrialFailed("interrupted", why)
            if outcome.status == "ok" and outcome.weights:
                self._check_device(outcome.facts.get("device"))
                self.view.trial_event("scoring", None)
                began = time.monotonic()
                for split in splits:
                    if split != "val":
                        self.ledger.read(split, trial_id)
                    scores.append(self.runner.score(candidate.files, self._runs(candidate), folder, outcome.weights,
                                                    split, rows, seconds))
                outcome.facts |= {SCORED_S: time.monotonic() - began, SCORED_ROWS: sum(s.rows for s in scores)}
        except TrialFailed as e:
            outcome.status, outcome.reason, outcome.cause = e.status, e.reason, e.cause
            outcome.log_tail = tail(folder / "log.txt")
        except BaseException as e:
            why = "stopped by hand" if isinstance(e, KeyboardInterrupt) else f"the study stopped: {e}"
            took_s = outcome.total_s or time.monotonic() - start  # the runner's, where only scoring was cut short
            with contextlib.suppress(UserError):  # the next start says it, where the ledger can't be written now
                self.ledger.end_trial(trial_id, "interrupted", why, total_s=took_s)
            raise
        finally:
            _clean(folder)
        if outcome.cause:
            outcome.facts["cause"] = outcome.cause
        if outcome.weights and scores:
            outcome.facts[WRITTEN] = checkpoint.sha256(outcome.weights)
        self.ledger.end_trial(trial_id, outcome.status, outcome.reason, scores=scores, curve=thinned(outcome.curve),
                              facts=outcome.facts, **_measured(outcome, self.study.root))
        trial = next(t for t in self.ledger.experiment(candidate.n).trials if t.id == trial_id)
        self.view.trial_ended(trial)
        return trial

    def unfit(self, recipe: Recipe) -> str:
        """Why no trial of a recipe may run in this study, in words, or nothing: a precision that the probe did not
        allow, which an audit is less strict in or the card lacks, or weights that no room could be made for."""
        device, asked, champion = self.ledger.fact("device") or {}, recipe.runtime.precision, self.ledger.incumbent()
        if (offered := device.get("precisions", [])) and asked not in ("auto", *offered):
            return f"runtime.precision = {asked}: the probe found {' and '.join(offered)} usable here; take one of " \
                   "these, or auto"
        allowed, needed = self._storage().budget_bytes, self._needed_bytes(recipe)
        if champion and needed > allowed >= self._needed_bytes(Recipe().replace(champion.recipe)):
            return f"a trial of it needs {words.size(needed)} of disk space, and the study may take " \
                   f"{words.size(allowed)} (ar loop --disk): make the model smaller"
        return ""

    def _runs(self, candidate: Candidate) -> Recipe:
        """The recipe with what precision = "auto" is by the probe: how strict an audit is, is not the candidate's."""
        device, recipe = self.ledger.fact("device") or {}, candidate.recipe
        if recipe.runtime.precision != "auto" or device.get("backend") != self.runner.backend:
            return recipe
        return recipe.replace({"runtime.precision": device["precisions"][0]})

    def _make_room(self, candidate: Candidate) -> None:
        """Raises UserError where the disk is full, and TrialFailed for an experiment that alone is too large for it."""
        champion, needed = self.ledger.incumbent(), self._needed_bytes(candidate.recipe)
        room = partial(self._storage().make_room, self.ledger.experiments(), champion.n if champion else None)
        try:
            room(needed)
        except UserError as e:
            theirs = self._needed_bytes(Recipe().replace(champion.recipe)) if champion else needed
            if needed <= theirs or candidate.n <= BASELINE or self.ledger.experiment(candidate.n).verdict:
                raise
            room(theirs)
            raise TrialFailed("invalid", f"{e.message}; the champion's would fit") from None

    def _storage(self) -> Storage:
        return Storage(self.study.trials, self.ledger.fact(storage.FACT, storage.BUDGET_BYTES))

    def _needed_bytes(self, recipe: Recipe) -> int:
        vocab = self.runner.prepared.tokenizer(recipe.data.tokenizer).vocab
        return storage.needed_bytes(GPTSpec.of(recipe, vocab).params())

    def _check_device(self, name: str | None) -> None:
        """Scores are compared on one kind of device. Raises TrialFailed for a trial on another, of the same backend."""
        known, backend = self.ledger.fact("trial_devices", {}), self.runner.backend
        if backend not in known:
            self.ledger.set_fact("trial_devices", known | {backend: name})
        elif known[backend] != name:
            raise TrialFailed("crash", f"it ran on {name}; the scores of this study are of {known[backend]}, and "
                                       "compare only with each other")

    # Fair time

    def _unfair(self, outcome: Outcome) -> str:
        """Why its trial is run again, or nothing. What --busy-ok lets pass is at least said."""
        def verdict(terms: fair.Terms) -> str:
            return fair.verdict(outcome.conditions, self.ledger.experiments(), self.runner.backend, terms)

        why = verdict(self.terms)
        if not why and self.terms.busy_ok and (passed := verdict(replace(self.terms, busy_ok=False))):
            self.view.note(f"scored all the same (--busy-ok): {passed}")
        return why

    def drifted(self, since: Trial) -> bool:
        return not self.terms.busy_ok and fair.drifted(self.ledger.experiments(), since)

    def _listener(self, candidate: Candidate, seed: int, purpose: str) -> Callable[[dict[str, Any]], None]:
        """Shows what a trial tells, and ends one that others have spoilt already, and a screening trial that is
        hopeless."""
        hope = futility.Hope()
        if purpose == "screen" and candidate.n > BASELINE and futility.wanted():
            ledger = self.ledger
            hope = futility.Hope.of(ledger.experiments(), ledger.pairs(), ledger.incumbent(), candidate.n,
                                    candidate.paths, seed)

        def listen(message: dict[str, Any]) -> None:
            point = message.get("point")
            self.view.trial_event(message["event"], point)
            if message["event"] == "loaded":  # a second time where it diverged and is run again in float32
                hope.restart()
            if why := fair.lost(message.get("load"), self.budget_s, self.runner.backend, self.terms):
                raise TrialFailed("interrupted", why)
            if point is not None and (why := hope.lost(point)):
                raise TrialFailed("discard", why)

        return listen


def turns(what: str, seeds: int, candidates: Sequence[Candidate]) -> Iterator[tuple[int, Candidate, str]]:
    """(which seed from 0, who trains, which run of how many that is in words), seed by seed so that a stop leaves whole
    comparisons."""
    runs = seeds * len(candidates)
    for run, (i, candidate) in enumerate(itertools.product(range(seeds), candidates), 1):
        yield i, candidate, f"{what}, run {run} of {runs}, seed {i + 1} of {seeds}"


def _clean(folder: Path) -> None:
    for name in ("tree", "tmp"):
        scratch.remove(folder / name)
    cut(folder / "log.txt", MAX_LOG_BYTES)


def scoring_seconds(budget_s: float) -> float:
    """How long scoring may take: 4% of five minutes, and not below 3 s for short budgets."""
    return min(12.0, max(3.0, 0.1 * budget_s))


def thinned(curve: list[Point]) -> list[Point]:
    """Every measurement of dev and the last point, with as many between as a picture can show."""
    step = max(1, -(-len(curve) // CURVE_POINTS))
    return [p for i, p in enumerate(curve) if p.dev_bpb is not None or i % step == 0 or i == len(curve) - 1]


def _measured(o: Outcome, root: Path) -> dict[str, Any]:
    return {"steps": o.steps, "tokens": o.tokens, "train_s": o.train_s, "total_s": o.total_s, "params": o.params,
            "peak_memory_bytes": o.peak_memory_bytes, "utilisation": o.utilisation, "log_tail": o.log_tail,
            "weights": str(o.weights.relative_to(root)) if o.weights else ""}
