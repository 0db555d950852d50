"""The runner: one trial from start to score, on the supervisor's own clock.

    Runner.train    feeder and trial side by side; kills what overstays
    Runner.score    the scorer process on a split
    Runner.audit    the replay audit of a score
    measure         step times of recipes, for `ar probe`

Nothing here imports a framework or the candidate. Whatever goes wrong comes back as a status and a reason.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from autoresearch.data.batches import dev_rows
from autoresearch.data.prepared import Prepared, tokens_file
from autoresearch.harness import assemble, audit, jobs, launch
from autoresearch.harness.channel import Channel, Closed, RingShape, shared_buffer
from autoresearch.harness.serving import failure_of
from autoresearch.harness.text import clean, tail
from autoresearch.records import Point, Score
from backends.recipe import Recipe
from backends.spec import GPTSpec

WARMUP_TIMEOUT_S = 900.0  # cold compilation of a large model on few cores
FINISH_S, SLOW_DISK_BYTES_PER_S = 10.0, 50e6
SCORE_TIMEOUT_S = 900.0
SLEPT_S = 2.0  # the two system clocks drift apart by no more unless the machine slept or the time was set

FEEDER_DIED = "the feeder died; the disk or the prepared text may be damaged"

Listener = Callable[[dict[str, Any]], None]


class TrialFailed(Exception):
    """`status` is a verdict: crash, timeout, invalid or interrupted."""

    def __init__(self, status: str, reason: str):
        self.status, self.reason = status, reason
        super().__init__(reason)


@dataclass
class Outcome:
    """What one training run came to. Times are the supervisor's; `facts` are as the trial told them."""

    status: str = "ok"
    reason: str = ""
    steps: int = 0
    tokens: int = 0
    train_s: float = 0.0
    total_s: float = 0.0
    params: int = 0
    peak_memory_bytes: int = 0
    utilisation: float | None = None
    curve: list[Point] = field(default_factory=list)
    log_tail: str = ""
    weights: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.train_s if self.train_s else 0.0


def number(message: dict[str, Any], key: str) -> float:
    """A finite number from a stranger's message, or TrialFailed."""
    value = message.get(key)
    if is_number(value):
        return float(value)
    raise TrialFailed("invalid", f"the trial reported {key} = {str(value)[:40]!r}, not a number that can be")


def is_number(value: Any) -> TypeGuard[float]:
    """Nothing that is measured here goes beyond 1e18, and SQLite's integers end soon after."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e18 < value < 1e18


def optional(message: dict[str, Any], key: str) -> float | None:
    return None if message.get(key) is None else number(message, key)


def dev_tokens(budget_s: float | None) -> int:
    """Tokens in one dev measurement: more where the budget is long, so that all of them stay under 1% of it."""
    return int(min(16384, max(2048, 64 * (budget_s or 0))))


@dataclass(frozen=True)
class Runner:
    """Runs trials of one prepared text on one backend. `caches` holds compile caches by code digest."""

    prepared: Prepared
    backend: str
    caches: Path

    def train(self, candidate: dict[str, bytes], recipe: Recipe, seed: int, folder: Path,
              budget_s: float | None, steps: int | None = None, listen: Listener = lambda m: None) -> Outcome:
        """One run of `candidate` (files below backends/gpt/) into `folder`. What it does wrong is the status."""
        began = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        outcome = Outcome()
        try:
            assemble.assemble(folder / "tree", candidate)
            self._train(candidate, recipe, seed, folder, budget_s, steps, outcome, listen)
        except TrialFailed as e:
            outcome.status, outcome.reason = e.status, e.reason
        outcome.total_s = time.monotonic() - began
        outcome.log_tail = tail(folder / "log.txt")
        return outcome

    def score(self, candidate: dict[str, bytes], recipe: Recipe, folder: Path, weights: Path, split: str,
              rows: int | None, seconds: float | None = None) -> Score:
        """Raises TrialFailed where the model can't be scored. Leaves folder/recorded.npz for `audit`."""
        result = self._ask("scorer", self._score_job(candidate, recipe, folder, weights, split, rows, seconds))
        return Score(**{key: result[key] for key in ("split", "nats", "tokens", "bytes", "chars", "rows")})

    def audit(self, candidate: dict[str, bytes], recipe: Recipe, folder: Path, weights: Path, split: str,
              rows: int, precision: str) -> str:
        """The finding in words. Raises TrialFailed (`invalid`) for a model that saw what it should not."""
        result = self._ask("audit", self._score_job(candidate, recipe, folder, weights, split, rows, None))
        honest, finding = audit.judge(result, precision)
        if not honest:
            raise TrialFailed("invalid", finding)
        return finding

    def _score_job(self, candidate: dict[str, bytes], recipe: Recipe, folder: Path, weights: Path, split: str,
                   rows: int | None, seconds: float | None) -> jobs.ScoreJob:
        if not (folder / "tree").exists():
            assemble.assemble(folder / "tree", candidate)
        return jobs.ScoreJob(
            prepared=str(self.prepared.root), tokenizer=recipe.data.tokenizer, split=split, rows=rows, seconds=seconds,
            backend=self.backend, recipe=recipe.flat(), weights=str(weights), tree=str(folder / "tree"),
            folder=str(folder), compile_cache=str(self._cache(candidate)), recorded=str(folder / "recorded.npz"))

    def _cache(self, candidate: dict[str, bytes]) -> Path:
        return self.caches / assemble.code_digest(candidate)

    def _ask(self, module: str, job: jobs.ScoreJob) -> dict[str, Any]:
        process = launch.trusted(module)
        try:
            out, err = process.communicate(jobs.dump(job).encode(), timeout=SCORE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise TrialFailed("timeout", f"scoring took longer than {SCORE_TIMEOUT_S:.0f} s") from None
        finally:
            launch.end(process)
        if process.returncode != 0:
            raise TrialFailed("crash", f"the {module} failed: {err.decode(errors='replace').strip()[-500:]}")
        result: dict[str, Any] = json.loads(out)
        if result["status"] != "ok":
            raise TrialFailed(result["status"], result["reason"])
        return result

    def _train(self, candidate: dict[str, bytes], recipe: Recipe, seed: int, folder: Path, budget_s: float | None,
               steps: int | None, outcome: Outcome, listen: Listener) -> None:
        tokenizer = self.prepared.tokenizer(recipe.data.tokenizer)
        dev = max(1, dev_tokens(budget_s) // recipe.model.seq_len)
        shape = RingShape(recipe.rows_per_step, dev, recipe.model.seq_len)
        spec = GPTSpec.of(recipe, tokenizer.vocab)
        with _plumbing(shape) as pipes, contextlib.ExitStack() as ending:
            ending.callback(shutil.rmtree, folder / "tmp", ignore_errors=True)
            feeder = launch.trusted("feeder", jobs.dump(self._feeder_job(recipe, seed, shape, pipes)),
                                    descriptors=(pipes.ring, pipes.filled_write, pipes.free_read))
            ending.callback(launch.end, feeder)
            job = jobs.TrialJob(
                backend=self.backend, recipe=recipe.flat(), vocab=tokenizer.vocab, seed=seed, budget_s=budget_s,
                steps=steps, dev_rows=dev, folder=str(folder), control=pipes.theirs.fileno(), ring=pipes.ring,
                filled=pipes.filled_read, free=pipes.free_write)
            trial = launch.candidate("trial", jobs.dump(job), folder / "tree", folder, self._cache(candidate),
                                     (pipes.theirs.fileno(), pipes.ring, pipes.filled_read, pipes.free_write))
            ending.callback(launch.end, trial)
            pipes.keep_ours()
            scale = self._dev_scale(recipe, dev)
            supervised = _Supervised(trial, feeder, pipes.channel, folder, budget_s, scale, 4 * spec.params(), listen)
            supervised.follow(outcome)
        told, asked = outcome.facts["precision"], recipe.runtime.precision
        if told not in audit.TOLERANCE or asked not in ("auto", told):  # how strict the audit is depends on it
            raise TrialFailed("invalid", f"the trial reported the precision {told!r}; the recipe says {asked}")
        outcome.tokens = outcome.steps * recipe.batch.tokens_per_step
        if outcome.facts["ceiling_flops"] > 0:
            outcome.utilisation = spec.flops_per_token() * outcome.tokens_per_s / outcome.facts["ceiling_flops"]

    def _feeder_job(self, recipe: Recipe, seed: int, shape: RingShape, pipes: _Pipes) -> jobs.FeederJob:
        name = recipe.data.tokenizer
        train = self.prepared.tokens("train", name)
        return jobs.FeederJob(
            shard=str(self.prepared.root / tokens_file("train", name)),
            dev_shard=str(self.prepared.root / tokens_file("dev", name)), dtype=str(train.dtype),
            bos=self.prepared.tokenizer(name).bos, rows=shape.rows, seq_len=shape.seq_len, dev_rows=shape.dev_rows,
            seed=seed, ring=pipes.ring, filled=pipes.filled_write, free=pipes.free_read)

    def _dev_scale(self, recipe: Recipe, count: int) -> float:
        """Bits per byte of the dev rows per nat per token."""
        tokenizer = self.prepared.tokenizer(recipe.data.tokenizer)
        rows = dev_rows(self.prepared.tokens("dev", tokenizer.name), tokenizer.bos, recipe.model.seq_len, count)
        targets = rows[:, 1:]
        return targets.size / math.log(2) / max(1, int(tokenizer.token_bytes[targets].sum()))


@dataclass
class _Pipes:
    ring: int
    filled_read: int
    filled_write: int
    free_read: int
    free_write: int
    channel: Channel
    theirs: socket.socket
    _only_ours: bool = False

    def keep_ours(self) -> None:
        """Close what only the children need, so that each sees the other's end close."""
        if not self._only_ours:
            self._only_ours = True
            for fd in (self.ring, self.filled_read, self.filled_write, self.free_read, self.free_write):
                os.close(fd)
            self.theirs.close()


@contextlib.contextmanager
def _plumbing(shape: RingShape) -> Iterator[_Pipes]:
    ours, theirs = socket.socketpair()
    pipes = _Pipes(shared_buffer(shape.size_bytes), *os.pipe(), *os.pipe(), Channel(ours), theirs)
    try:
        yield pipes
    finally:
        pipes.keep_ours()
        pipes.channel.close()


@dataclass
class _Supervised:
    """One running trial, seen from outside."""

    trial: subprocess.Popen[bytes]
    feeder: subprocess.Popen[bytes]
    channel: Channel
    folder: Path
    budget_s: float | None
    dev_scale: float
    weights_bytes: int
    listen: Listener

    def follow(self, outcome: Outcome) -> None:
        loaded = self._await("loaded", WARMUP_TIMEOUT_S, "warm-up")
        ready = self._await("ready", WARMUP_TIMEOUT_S, "warm-up")
        outcome.facts = {"device": clean(str(loaded.get("device")))[:100],
                         "precision": clean(str(loaded.get("precision")))[:20],
                         "warmup_s": number(ready, "warmup_s"), "ceiling_flops": number(ready, "ceiling_flops")}
        start, wall = time.monotonic(), time.time()
        self._go()
        self._until_stopped(start, outcome)
        outcome.train_s = time.monotonic() - start
        outcome.steps = self._steps_taken()
        self._judge_time(outcome, drift_s=abs(time.time() - wall - outcome.train_s))
        done = self._await("done", self._finish_s(outcome), "handing over the weights")
        outcome.params, outcome.peak_memory_bytes = int(number(done, "params")), int(number(done, "peak_memory_bytes"))
        diagnostics = done.get("diagnostics")
        if isinstance(diagnostics, dict):
            outcome.facts["diagnostics"] = {clean(k)[:60]: v for k, v in list(diagnostics.items())[:100]
                                            if is_number(v)}
        outcome.weights = self.folder / "weights.safetensors"
        if not outcome.weights.is_file():
            raise TrialFailed("crash", "the trial ended without writing weights")

    def _until_stopped(self, start: float, outcome: Outcome) -> None:
        deadline = math.inf if self.budget_s is None else start + self.budget_s + self._grace_s()
        while True:
            message = self._next(deadline, f"training did not stop at its budget of {self.budget_s} s")
            if message.get("event") not in ("step", "stopped"):
                continue
            train, dev = optional(message, "train_nats"), optional(message, "dev_nats")
            point = Point(int(number(message, "step")), time.monotonic() - start, train,
                          None if dev is None else dev * self.dev_scale)
            outcome.curve.append(point)
            memory = int(optional(message, "peak_memory_bytes") or 0)
            self.listen({"event": "step", "point": point, "peak_memory_bytes": memory})
            if message["event"] == "stopped":
                return

    def _go(self) -> None:
        """Opens the feeder and starts the trial's clock."""
        try:
            self.feeder.stdin.write(b"\0")  # type: ignore[union-attr]
            self.feeder.stdin.flush()  # type: ignore[union-attr]
            self.channel.send(event="go")
        except (BrokenPipeError, Closed):
            raise TrialFailed("crash", self._death()) from None

    def _steps_taken(self) -> int:
        """As the feeder counted them; the number that tokens and speed are computed from."""
        try:
            out, _ = self.feeder.communicate(timeout=30)  # closing its input ends it
            return int(out)
        except (subprocess.TimeoutExpired, ValueError):
            raise TrialFailed("crash", FEEDER_DIED) from None

    def _grace_s(self) -> float:
        return max(5.0, 0.05 * (self.budget_s or 0.0))

    def _finish_s(self, outcome: Outcome) -> float:
        """For saving and diagnostics: a few steps' work. What takes longer might be more training."""
        step_s = outcome.train_s / max(1, outcome.steps)
        return FINISH_S + 0.02 * (self.budget_s or 0.0) + 4 * step_s + self.weights_bytes / SLOW_DISK_BYTES_PER_S

    def _judge_time(self, outcome: Outcome, drift_s: float) -> None:
        if drift_s > SLEPT_S:
            raise TrialFailed("interrupted", f"the system clock moved {drift_s:.0f} s against the steady one: "
                                             "the machine slept or its time was set")
        if self.budget_s is not None and outcome.train_s > self.budget_s + max(1.0, 0.02 * self.budget_s):
            raise TrialFailed("timeout", f"trained for {outcome.train_s:.1f} s of a budget of {self.budget_s:g} s; "
                                         "its last step took longer than its steps usually do")

    def _await(self, event: str, timeout_s: float, during: str) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while True:
            message = self._next(deadline, f"{during} took longer than {timeout_s:.0f} s")
            if message.get("event") == event:
                self.listen({"event": event} | {k: number(message, k) for k in ("ceiling_flops",) if k in message})
                return message

    def _next(self, deadline: float, late: str) -> dict[str, Any]:
        """The next message. Raises TrialFailed for a failure, a death, a broken protocol, or the deadline."""
        try:
            left = deadline - time.monotonic()
            message = None if left <= 0 else self.channel.receive(None if left == math.inf else left)
        except Closed:
            raise TrialFailed("crash", self._death()) from None
        except ValueError as e:
            raise TrialFailed("invalid", f"the trial broke the protocol: {e}") from None
        if message is None:
            raise TrialFailed("timeout", late)
        if message.get("event") == "failed":
            raise TrialFailed("crash", failure_of(message))
        return message

    def _death(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.feeder.poll() is not None:
                return FEEDER_DIED
            code = self.trial.wait(5)
            if code == -9:
                return "the trial was killed, most likely by the system for taking too much memory"
            return f"the trial ended by itself with {'signal ' + str(-code) if code < 0 else f'exit code {code}'}"
        return "the trial closed its channel"


def measure(candidate: dict[str, bytes], backend: str, recipes: list[Recipe], vocab: int, seconds_each: float,
            folder: Path, caches: Path, timeout_s: float) -> Iterator[dict[str, Any]]:
    """Messages of the measuring process, device first, then one per recipe as it is measured. Ends early, without
    raising, at the timeout or at a failure, which is then the last message."""
    tree = folder / "tree"
    assemble.assemble(tree, candidate)
    ours, theirs = socket.socketpair()
    job = jobs.MeasureJob(backend, [r.flat() for r in recipes], vocab, seconds_each, theirs.fileno())
    process = launch.candidate("measure", jobs.dump(job), tree, folder, caches / assemble.code_digest(candidate),
                               (theirs.fileno(),))
    theirs.close()
    channel, deadline = Channel(ours), time.monotonic() + timeout_s
    try:
        while True:
            try:
                message = channel.receive(max(0.0, deadline - time.monotonic()))
            except (Closed, ValueError):
                yield {"event": "failed", "message": tail(folder / "log.txt")}
                return
            if message is None or message.get("event") == "done":
                return
            yield message
            if message.get("event") == "failed":
                return
    finally:
        channel.close()
        launch.end(process)
