"""One running trial seen from outside: the pipes to it, its messages, its time.

    Outcome      what a training run came to
    plumbing     the ring, pipes and channel between supervisor, feeder and trial
    Supervised   follows a trial from loaded to done; whatever goes wrong is a TrialFailed

What a child says is data from a stranger: numbers are checked, words are cleaned and cut.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from autoresearch.harness import caches, calibrate, checkpoint, launch
from autoresearch.harness.channel import Channel, RingShape, shared_buffer
from autoresearch.harness.conditions import Conditions, Observer
from autoresearch.harness.jobs import DEV_FRACTIONS
from autoresearch.harness.stranger import Failed, Stranger
from autoresearch.harness.text import clean, line
from autoresearch.records import MACHINE, Point

WARMUP_TIMEOUT_S = 900.0  # from its start until it is warm: cold compilation of a large model on few cores
FEEDER_TIMEOUT_S = 300.0  # a large text on a slow disk; it has had the whole warm-up before
HAND_OVER_S, HAND_OVER_SHARE, SLOW_DISK_BYTES_PER_S = 3.0, 0.01, 50e6
COPIES = 4.0  # times what our own copy of its weights takes: they leave a device, are laid out and written
FINISH_S = 10.0
SILENT_S = 60.0  # without a word from a trial that trains, and at least twice what its whole warm-up took
SLOWER = 20.0  # times its longest silence so far
# What a trial may tell: it reports four times a second, and dev at fixed fractions and perhaps at its end.
MOST_POINTS, POINTS_PER_S, MOST_DEV = 1000, 20.0, len(DEV_FRACTIONS) + 1
MOST_WEIGHTS_BYTES, MOST_TIMES = 1 << 30, 8  # and so many times what the recipe's weights take

HANDING_OVER = "handing over the weights"
FEEDER_DIED = "the feeder died; the disk or the prepared text may be damaged"

Listener = Callable[[dict[str, Any]], None]


class TrialFailed(Failed):
    """Why a trial has no score, or one that does not count."""


@dataclass
class Outcome:
    """What one training run came to. Times are the supervisor's; `facts` are as the trial told them."""

    status: str = "ok"
    reason: str = ""
    cause: str = ""  # as TrialFailed has it
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
    conditions: Conditions | None = None  # while it trained; None where it didn't get to its end

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


@dataclass
class Pipes:
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
def plumbing(shape: RingShape) -> Iterator[Pipes]:
    ours, theirs = socket.socketpair()
    pipes = Pipes(shared_buffer(shape.size_bytes), *os.pipe(), *os.pipe(), Channel(ours), theirs)
    try:
        yield pipes
    finally:
        pipes.keep_ours()
        pipes.channel.close()


@dataclass
class Supervised:
    """One running trial, seen from outside."""

    trial: Stranger
    feeder: subprocess.Popen[bytes]
    folder: Path
    cache: Path  # where what it compiles in its warm-up is kept
    budget_s: float | None
    dev_scale: float
    weights_bytes: int  # by the recipe, which the candidate's own model need not follow
    listen: Listener
    warmup_s: float = field(default=0.0, init=False)  # by our clock

    def follow(self, outcome: Outcome) -> None:
        began = time.monotonic()
        loaded = self._await("loaded", WARMUP_TIMEOUT_S, "warm-up", began)
        ready = self._await("ready", WARMUP_TIMEOUT_S, "warm-up", began)
        self.warmup_s = time.monotonic() - began
        caches.keep(self.folder / launch.SCRATCH / caches.NAME, self.cache)
        outcome.facts = {"device": clean(str(loaded.get("device")))[:100],
                         "precision": clean(str(loaded.get("precision")))[:20],
                         "warmup_s": number(ready, "warmup_s"), "ceiling_flops": number(ready, "ceiling_flops")}
        self._await_feeder()
        before, seen = calibrate.speed(), Observer(self.trial.process.pid)
        try:
            self._train(outcome, seen)
        except TrialFailed as e:
            if (e.status == "timeout" or e.cause == MACHINE) and (why := seen.standstill()):
                raise TrialFailed("interrupted", why) from None
            raise
        saved, weights = self._handed_over()
        outcome.params, outcome.peak_memory_bytes = (int(number(saved, k)) for k in ("params", "peak_memory_bytes"))
        diagnostics = self._diagnostics(outcome)
        outcome.conditions = seen.conditions(outcome.curve, (before, calibrate.speed()))
        if isinstance(diagnostics, dict):
            outcome.facts["diagnostics"] = {clean(k)[:60]: v for k, v in list(diagnostics.items())[:100]
                                            if is_number(v)}
        outcome.weights = weights

    def _train(self, outcome: Outcome, seen: Observer) -> None:
        start = time.monotonic()
        try:
            self._go()
            self._until_stopped(start, outcome, seen)
            outcome.train_s = time.monotonic() - start
        finally:
            seen.stop()  # before the feeder ends, and with it the record of its CPU time
        outcome.steps = self._steps_taken()
        self._judge_time(outcome)

    def _until_stopped(self, start: float, outcome: Outcome, seen: Observer) -> None:
        measured = 0
        deadline = math.inf if self.budget_s is None else start + self.budget_s + self._grace_s()
        late = TrialFailed("timeout", f"training did not stop at its budget of {self.budget_s} s")
        heard, silent_s = start, max(SILENT_S, 2 * self.warmup_s)
        while True:
            hangs = TrialFailed("crash", f"the trial gave no sign of life for {silent_s:.0f} s: its device hangs, or a "
                                         "step takes longer than the whole warm-up did", MACHINE)
            message = self._next(*min((deadline, late), (heard + silent_s, hangs), key=lambda d: d[0]))
            heard, silent_s = time.monotonic(), max(silent_s, SLOWER * (time.monotonic() - heard))
            if message.get("event") not in ("step", "stopped"):
                continue
            train, dev = optional(message, "train_nats"), optional(message, "dev_nats")
            point = Point(int(number(message, "step")), time.monotonic() - start, train,
                          None if dev is None else dev * self.dev_scale)
            outcome.curve.append(point)
            measured += dev is not None
            if measured > MOST_DEV or len(outcome.curve) > MOST_POINTS + POINTS_PER_S * point.elapsed_s:
                raise TrialFailed("invalid", f"the trial reported its progress {len(outcome.curve)} times, {measured} "
                                             f"with a dev loss, within {point.elapsed_s:.0f} s: more than training has "
                                             "to tell")
            memory = int(optional(message, "peak_memory_bytes") or 0)
            self.listen({"event": "step", "point": point, "peak_memory_bytes": memory, "load": seen.so_far})
            if message["event"] == "stopped":
                return

    def _await_feeder(self) -> None:
        """Until it has cut and shuffled the documents, which on the clock would be the trial's time."""
        says = self.feeder.stdout
        assert says is not None
        if not select.select([says], [], [], FEEDER_TIMEOUT_S)[0]:
            raise TrialFailed("crash", f"the feeder had no row {FEEDER_TIMEOUT_S:.0f} s after the warm-up: the disk is "
                                       "slow, or the prepared text larger than this machine can shuffle", MACHINE)
        if not os.read(says.fileno(), 1):
            raise self._feeder_died()

    def _go(self) -> None:
        """Opens the feeder and starts the trial's clock."""
        try:
            self.feeder.stdin.write(b"\0")  # type: ignore[union-attr]
            self.feeder.stdin.flush()  # type: ignore[union-attr]
        except BrokenPipeError:
            raise self._feeder_died() from None
        self.trial.send(event="go")

    def _steps_taken(self) -> int:
        """As the feeder counted them; the number that tokens and speed are computed from."""
        try:
            out, _ = self.feeder.communicate(timeout=30)  # closing its input ends it
            return int(out)
        except (subprocess.TimeoutExpired, ValueError):
            raise self._feeder_died() from None

    def _feeder_died(self) -> TrialFailed:
        """With the last that it said of itself."""
        said = b""
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, said = self.feeder.communicate(timeout=5)
        words = [f": {line(last)[-300:]}" for last in said.decode(errors="replace").strip().splitlines()[-1:]]
        return TrialFailed("crash", "".join([FEEDER_DIED, *words]), MACHINE)

    def _grace_s(self) -> float:
        return max(5.0, 0.05 * (self.budget_s or 0.0))

    def _handed_over(self) -> tuple[dict[str, Any], Path]:
        """What it says of its weights, and our copy of them. Meanwhile it stands still, or it could make the copy slow
        that its own time is measured by."""
        began = time.monotonic()
        saved = self._await("saved", self._hand_over_s(self.weights_bytes / SLOW_DISK_BYTES_PER_S), HANDING_OVER)
        handed = time.monotonic()
        self._signal(signal.SIGSTOP)
        try:
            weights = take_weights(self.folder, MOST_WEIGHTS_BYTES + MOST_TIMES * self.weights_bytes)
        finally:
            self._signal(signal.SIGCONT)
        self._judge_hand_over(handed - began, time.monotonic() - handed)
        return saved, weights

    def _hand_over_s(self, disk_s: float) -> float:
        """From the end of training until the weights are written. What takes longer might be more training."""
        return HAND_OVER_S + HAND_OVER_SHARE * (self.budget_s or 0.0) + disk_s

    def _judge_hand_over(self, handed_s: float, copied_s: float) -> None:
        """The size of the weights is the candidate's to declare; how fast this disk is, our copy of them tells."""
        if handed_s > (most_s := self._hand_over_s(COPIES * copied_s)):
            raise overdue(HANDING_OVER, most_s)

    def _signal(self, signum: int) -> None:
        """To its group, but not to the fork that ends the group when we are gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter on macOS, where it has ended
            os.killpg(self.trial.process.pid, signum)

    def _diagnostics(self, outcome: Outcome) -> Any:
        """As the trial tells them. None where it fails at them: all that is scored has been taken."""
        try:
            told = self._await("done", self._finish_s(outcome), "its diagnostics").get("diagnostics")
        except TrialFailed as e:
            if e.status == "invalid":
                raise
            launch.end(self.trial.process)  # what it does still is load to calibrate beside
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.trial.process.wait(2)  # and so is its own end
        return told

    def _finish_s(self, outcome: Outcome) -> float:
        """For diagnostics, when the weights are no longer the trial's: a few steps' work."""
        return FINISH_S + 0.02 * (self.budget_s or 0.0) + 4 * outcome.train_s / max(1, outcome.steps)

    def _judge_time(self, outcome: Outcome) -> None:
        if self.budget_s is not None and outcome.train_s > self.budget_s + max(1.0, 0.02 * self.budget_s):
            raise TrialFailed("timeout", f"trained for {outcome.train_s:.1f} s of a budget of {self.budget_s:g} s; "
                                         "its last step took longer than its steps usually do")

    def _await(self, event: str, timeout_s: float, during: str, since: float | None = None) -> dict[str, Any]:
        deadline = (time.monotonic() if since is None else since) + timeout_s
        while True:
            message = self._next(deadline, overdue(during, timeout_s))
            if message.get("event") == event:
                self.listen({"event": event} | {k: number(message, k) for k in ("ceiling_flops",) if k in message})
                return message

    def _next(self, deadline: float, late: TrialFailed) -> dict[str, Any]:
        """The next message. Raises TrialFailed for a failure, a death, a broken protocol; `late` at the deadline."""
        left = deadline - time.monotonic()
        try:
            message = None if left <= 0 else self.trial.receive(None if left == math.inf else left)
        except TrialFailed:
            if self.feeder.poll():  # it ends too when the trial is gone, but not with an error
                raise self._feeder_died() from None
            raise
        if message is None:
            raise late
        return message


def overdue(during: str, most_s: float) -> TrialFailed:
    return TrialFailed("timeout", f"{during} took longer than {most_s:.0f} s")


def take_weights(folder: Path, most_bytes: int = MOST_WEIGHTS_BYTES) -> Path:
    """A copy, beside its scratch folder, of what a trial says it has left there: it may be running and writing still.
    Links are not followed. At most so many bytes: a hole costs a trial nothing, but the copy of it time and disk."""
    left, taken = folder / launch.SCRATCH / checkpoint.WEIGHTS, folder / checkpoint.WEIGHTS
    try:
        source = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise TrialFailed("crash", "the trial ended without writing weights") from None
    except OSError:
        raise TrialFailed("invalid", "the trial left something else than a file in place of its weights") from None
    with open(source, "rb") as weights:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise TrialFailed("invalid", "the trial left something else than a file in place of its weights")
        with open(taken, "wb") as copy:
            left_bytes = most_bytes
            while piece := weights.read(1 << 20):
                left_bytes -= len(piece)
                if left_bytes < 0:
                    raise TrialFailed("invalid", f"the trial left weights of more than {most_bytes / 2**20:,.0f} MiB")
                copy.write(piece)
    return taken
