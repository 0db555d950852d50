"""The runner: one trial from start to score, on the supervisor's own clock.

    Runner.train      feeder and trial side by side; kills what overstays
    Runner.score      the scorer process on a split
    Runner.evaluate   the same, with what else the rows tell, on a person's own text too
    Runner.audit      the replay audit of a score

Nothing here imports a framework or the candidate. Whatever goes wrong comes back as a status and a reason.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import subprocess
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from autoresearch.data.batches import dev_rows
from autoresearch.data.prepare import extend
from autoresearch.data.prepared import Prepared, tokens_file
from autoresearch.harness import assemble, audit, caches, checkpoint, headers, jobs, launch, seal
from autoresearch.harness.channel import RingShape
from autoresearch.harness.scorer import longest_row, padded
from autoresearch.harness.stranger import DIVERGED, Stranger
from autoresearch.harness.supervise import Listener, Outcome, Pipes, Supervised, TrialFailed, plumbing
from autoresearch.harness.text import tail
from autoresearch.harness.watch import Watch
from autoresearch.records import MACHINE, Evaluation, Score
from backends.recipe import Recipe
from backends.spec import GPTSpec

SCORE_TIMEOUT_S = 900.0
LOW_PRECISIONS = ("bfloat16", "float16")
DIVERGED_IN = "diverged_in"  # fact of a trial: the low precision it was begun in; it was run again in float32
RECORDS = "recorded.npz"  # in a trial's folder: logits at secret positions of a score, for its audit
ANSWERS = {"scorer": ("split", "nats", "tokens", "bytes", "chars", "rows", "bpb_error", "legacy_bytes"),
           "audit": ("positions", "difference", "gain_nats", "gain_error")}


def _evaluation(result: dict[str, Any]) -> Evaluation:
    score = Score(**{key: result[key] for key in ("split", "nats", "tokens", "bytes", "chars", "rows")})
    return Evaluation(score, result["bpb_error"], result["legacy_bytes"])


@cache
def program() -> str:
    """The program that runs, by its files when it was first asked."""
    return assemble.program_digest()


def dev_tokens(budget_s: float | None) -> int:
    """Tokens in one dev measurement: more where the budget is long, so that all of them stay under 1% of it."""
    return int(min(16384, max(2048, 64 * (budget_s or 0))))


@dataclass
class Runner:
    """Runs trials of one prepared text on one backend. `caches` holds compile caches by code digest; `shards` is how
    many shards of train are trained on, whatever the tokenizer; None: those that are encoded."""

    prepared: Prepared
    backend: str
    caches: Path
    shards: int | None = None

    def train(self, candidate: dict[str, bytes], recipe: Recipe, seed: int, folder: Path,
              budget_s: float | None, steps: int | None = None, listen: Listener = lambda m: None) -> Outcome:
        """One run of `candidate` (files below backends/gpt/) into `folder`. What it does wrong is the status. One that
        diverges in low precision is run again in float32."""
        began = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        outcome = Outcome()
        try:
            assemble.assemble(folder / "tree", candidate)
            self._train(candidate, recipe, seed, folder, budget_s, steps, outcome, listen)
        except TrialFailed as e:
            outcome.status, outcome.reason, outcome.cause = e.status, e.reason, e.cause
        outcome.total_s = time.monotonic() - began
        outcome.log_tail = tail(folder / "log.txt")
        low = outcome.facts.get("precision")
        if outcome.cause != DIVERGED or low not in LOW_PRECISIONS:
            return outcome
        plain = recipe.replace({"runtime.precision": "float32"})
        again = self.train(candidate, plain, seed, folder, budget_s, steps, listen)
        again.facts[DIVERGED_IN] = low
        again.total_s += outcome.total_s
        return again

    def score(self, candidate: dict[str, bytes], recipe: Recipe, folder: Path, weights: Path, split: str,
              rows: int | None, seconds: float | None = None, records: str = RECORDS, per_row: int = 1) -> Score:
        """Raises TrialFailed where the model can't be scored. Leaves a file `records` for `audit`, unless it is ""."""
        job = self._score_job(candidate, recipe, folder, weights, split, rows, seconds, records)
        job = replace(job, per_row=per_row)
        return _evaluation(self._ask("scorer", job, SCORE_TIMEOUT_S)).score

    def evaluate(self, candidate: dict[str, bytes], recipe: Recipe, folder: Path, weights: Path, split: str,
                 rows: int | None = None, own_rows: Path | None = None) -> Evaluation:
        """Like `score`, for as long as it takes, with nothing kept for an audit. `own_rows`, from `save_rows`, are
        scored in place of the split's."""
        job = self._score_job(candidate, recipe, folder, weights, split, rows, None, "")
        job = replace(job, own_rows=str(own_rows or ""))
        return _evaluation(self._ask("scorer", job, None))

    def audit(self, candidate: dict[str, bytes], recipe: Recipe, folder: Path, weights: Path, split: str,
              rows: int, precision: str, records: str = RECORDS) -> str:
        """The finding in words. Raises TrialFailed (`invalid`) for a model that saw what it should not."""
        job = self._score_job(candidate, recipe, folder, weights, split, rows, None, records)
        if recipe.runtime.precision == "auto":  # what that came to is the candidate's own word
            precision = "float32"
        result = self._ask("audit", job, SCORE_TIMEOUT_S)
        honest, finding = audit.judge(result, precision)
        if not honest:
            raise TrialFailed("invalid", finding)
        return finding

    def too_short(self, recipe: Recipe) -> str:
        """Why the model could not read the rows that are scored, or nothing: learned positions end where they were
        not trained. No row has more tokens than bytes."""
        reach = GPTSpec.of(recipe, 1).max_positions
        if reach is None or reach >= padded(self.prepared.manifest.row_bytes):
            return ""
        longest = longest_row(str(self.prepared.root), recipe.data.tokenizer)
        return "" if reach >= longest else (
            f"model.seq_len = {reach}: with model.positions = learned it must be at least {longest}, the longest row "
            f"that is scored in tokens of {recipe.data.tokenizer}; make it longer, or model.positions rotary")

    def _score_job(self, candidate: dict[str, bytes], recipe: Recipe, folder: Path, weights: Path, split: str,
                   rows: int | None, seconds: float | None, records: str = RECORDS) -> jobs.ScoreJob:
        if not (folder / "tree").exists():
            assemble.assemble(folder / "tree", candidate)
        if recipe.runtime.precision != "float32" and checkpoint.precision(weights) == "float32":
            recipe = recipe.replace({"runtime.precision": "float32"})  # in which it was trained, in the end
        return jobs.ScoreJob(
            prepared=str(self.prepared.root), tokenizer=recipe.data.tokenizer, split=split, rows=rows, seconds=seconds,
            backend=self.backend, recipe=recipe.flat(), weights=str(weights), tree=str(folder / "tree"),
            folder=str(folder), recorded=str(folder / records) if records else "", nonce=secrets.token_hex(8))

    def _cache(self, candidate: dict[str, bytes]) -> Path:
        return caches.of(candidate, self.caches)

    def _ask(self, module: str, job: jobs.ScoreJob, timeout_s: float | None) -> dict[str, Any]:
        expected = seal.seal(job.nonce, self.prepared, job.tokenizer, program())
        process = launch.trusted(module)
        try:
            out, err = process.communicate(jobs.dump(job).encode(), timeout=timeout_s)
        except subprocess.TimeoutExpired as e:
            raise TrialFailed("timeout", f"scoring took longer than {e.timeout:.0f} s") from None
        finally:
            launch.end(process)
        if process.returncode != 0:
            said = err.decode(errors="replace").strip()[-500:]
            raise TrialFailed("crash", f"the {module} failed: {said or f'exit code {process.returncode}'}", MACHINE)
        try:
            result = seal.opened(out, expected, ANSWERS[module])
        except seal.Broken as e:
            raise TrialFailed("crash", f"the {module} {e}", MACHINE) from None
        if result["status"] != "ok":
            raise TrialFailed(result["status"], result["reason"], result["cause"])
        return result

    def _train(self, candidate: dict[str, bytes], recipe: Recipe, seed: int, folder: Path, budget_s: float | None,
               steps: int | None, outcome: Outcome, listen: Listener) -> None:
        tokenizer = self.prepared.tokenizer(recipe.data.tokenizer)
        dev = max(1, dev_tokens(budget_s) // recipe.model.seq_len)
        shape = RingShape(recipe.rows_per_step, dev, recipe.model.seq_len)
        spec = GPTSpec.of(recipe, tokenizer.vocab)
        if reason := self.too_short(recipe):
            raise TrialFailed("invalid", reason)
        compiles = self.backend == "cpu" and recipe.runtime.compile
        shared = headers.made(self.caches) if compiles else None
        with plumbing(shape) as pipes, contextlib.ExitStack() as ending:
            ending.callback(launch.drop_scratch, folder)
            feeder = launch.trusted("feeder", jobs.dump(self._feeder_job(recipe, seed, shape, pipes, listen)),
                                    descriptors=(pipes.ring, pipes.filled_write, pipes.free_read))
            ending.callback(launch.end, feeder)
            job = jobs.TrialJob(
                backend=self.backend, recipe=recipe.flat(), vocab=tokenizer.vocab, seed=seed, budget_s=budget_s,
                steps=steps, dev_rows=dev, folder=str(folder / launch.SCRATCH), control=pipes.theirs.fileno(),
                ring=pipes.ring, filled=pipes.filled_read, free=pipes.free_write)
            trial = launch.candidate("trial", jobs.dump(job), folder / "tree", folder,
                                     (pipes.theirs.fileno(), pipes.ring, pipes.filled_read, pipes.free_write),
                                     compiled=self._cache(candidate), headers=shared)
            watch = Watch(trial.pid, folder)
            ending.callback(watch.stop)
            ending.callback(launch.end, trial)
            pipes.keep_ours()
            scale = self._dev_scale(recipe, dev)
            stranger = Stranger("the trial", trial, pipes.channel, watch, TrialFailed)
            supervised = Supervised(stranger, feeder, folder, self._cache(candidate), budget_s, scale,
                                    4 * spec.params(), listen)
            supervised.follow(outcome)
            launch.end(trial)
        told, asked = outcome.facts["precision"], recipe.runtime.precision
        if told not in audit.TOLERANCE or asked not in ("auto", told):  # how strict the audit is depends on it
            raise TrialFailed("invalid", f"the trial reported the precision {told!r}; the recipe says {asked}")
        outcome.facts |= {"tokenizer": self.prepared.manifest.tokenizers[recipe.data.tokenizer].digest,
                          "program": program()}
        outcome.tokens = outcome.steps * recipe.batch.tokens_per_step
        if outcome.facts["ceiling_flops"] > 0:
            outcome.utilisation = spec.flops_per_token() * outcome.tokens_per_s / outcome.facts["ceiling_flops"]
        self._stamp(candidate, recipe, seed, budget_s, outcome)

    def _stamp(self, candidate: dict[str, bytes], recipe: Recipe, seed: int, budget_s: float | None,
               outcome: Outcome) -> None:
        """The weights become a checkpoint, now that the trial can't touch them any more."""
        assert outcome.weights is not None
        tokenizer = self.prepared.manifest.tokenizers[recipe.data.tokenizer]
        about = checkpoint.record(
            candidate, backend=self.backend, precision=outcome.facts["precision"], device=outcome.facts["device"],
            recipe=recipe.flat(), vocab=tokenizer.vocab, tokenizer_digest=tokenizer.digest,
            data_name=self.prepared.name, data_digest=self.prepared.digest, seed=seed, budget_s=budget_s,
            steps=outcome.steps, tokens=outcome.tokens, train_s=outcome.train_s)
        try:
            checkpoint.stamp(outcome.weights, about)
        except ValueError as e:
            raise TrialFailed("invalid", f"the file of weights that the trial wrote {e}") from None

    def _feeder_job(self, recipe: Recipe, seed: int, shape: RingShape, pipes: Pipes,
                    listen: Listener) -> jobs.FeederJob:
        name = recipe.data.tokenizer
        train = self._train_text(name, listen).tokens("train", name, self.shards)
        return jobs.FeederJob(
            shards=[str(shard.filename) for shard in train],
            dev_shard=str(self.prepared.root / tokens_file("dev", name)), dtype=str(train[0].dtype),
            bos=self.prepared.tokenizer(name).bos, rows=shape.rows, seq_len=shape.seq_len, dev_rows=shape.dev_rows,
            seed=seed, ring=pipes.ring, filled=pipes.filled_write, free=pipes.free_read)

    def _train_text(self, tokenizer: str, listen: Listener) -> Prepared:
        """The text with the shards of train that every trial sees; those that a tokenizer lacks are encoded now, and
        each line about it is an event."""
        if len(self.prepared.manifest.tokenizers[tokenizer].shards) < (self.shards or 0):
            self.prepared = extend(self.prepared, tokenizer, self.shards or 0, lambda line: listen({"event": line}))
        return self.prepared

    def _dev_scale(self, recipe: Recipe, count: int) -> float:
        """Bits per byte of the dev rows per nat per token."""
        tokenizer = self.prepared.tokenizer(recipe.data.tokenizer)
        rows = dev_rows(self.prepared.tokens("dev", tokenizer.name)[0], tokenizer.bos, recipe.model.seq_len, count)
        targets = rows[:, 1:]
        return targets.size / math.log(2) / max(1, int(tokenizer.token_bytes[targets].sum()))
