"""The client of a measuring process: one candidate on one backend, asked for times, memory and precision.

What the process answers is data from a stranger: numbers are checked, words are cleaned and cut.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch import scratch
from autoresearch.harness import assemble, caches, jobs, launch, sandbox
from autoresearch.harness.channel import Channel
from autoresearch.harness.stranger import Stranger
from autoresearch.harness.supervise import TrialFailed, is_number, number
from autoresearch.harness.text import clean
from autoresearch.harness.watch import Watch
from backends.base import Device
from backends.recipe import Recipe

PRECISIONS = ("float32", "bfloat16", "float16")
START_S = 120.0


@dataclass(frozen=True)
class Timed:
    step_s: list[float]
    peak_memory_bytes: int


@dataclass(frozen=True)
class Faithful:
    """What a low precision did to gradients and losses that float32 has."""

    precision: str
    steps: int
    flushed_frac: float  # of the gradients that are not zero in float32
    worst_cosine: float  # of a tensor's gradient in both
    worst_tensor: str
    gap_nats: float  # the largest between the losses of the short run
    fell_nats: float  # how far the loss fell in float32 meanwhile
    not_finite: int
    speed_ratio: float  # seconds of a float32 step over those of one in this precision, neither compiled


class Measuring:
    """A context manager around one process and its folder. Raises TrialFailed where it fails, dies or takes too long;
    then it is over. `compiled`: a folder that keeps what it compiles."""

    def __init__(self, candidate: dict[str, bytes], backend: str, compiled: Path | None = None):
        self._candidate, self._backend, self._compiled = candidate, backend, compiled

    def __enter__(self) -> Measuring:
        began = time.monotonic()
        with contextlib.ExitStack() as ending:
            self._folder = ending.enter_context(scratch.folder())
            self._start(ending)
            told = self._reply("device", START_S)
            listed = told.get("precisions")
            precisions = tuple(p for p in listed if p in PRECISIONS) if isinstance(listed, list) else ()
            if "float32" not in precisions:
                raise TrialFailed("invalid", "the measuring process reported precisions that can't be")
            memory = int(number(told, "memory_bytes"))
            if self._backend == "cpu" or (self._backend == "mlx" and sys.platform == "linux"):
                memory = min(memory, sandbox.memory_bytes())  # behind its walls it can't see a container's limit
            self.device = Device(clean(str(told.get("name")))[:100], memory, precisions, told.get("compiles") is True)
            self.idle_bytes, self.start_s = int(number(told, "idle_bytes")), time.monotonic() - began
            self._ending = ending.pop_all()
        return self

    def _start(self, ending: contextlib.ExitStack) -> None:
        assemble.assemble(self._folder / "tree", self._candidate)
        ours, theirs = socket.socketpair()
        channel = Channel(ours)
        with theirs:
            job = jobs.dump(jobs.MeasureJob(self._backend, theirs.fileno()))
            process = launch.candidate("measure", job, self._folder / "tree", self._folder, (theirs.fileno(),),
                                       compiled=self._compiled)
        ending.callback(self._keep_compiled)
        watch = Watch(process.pid, self._folder)
        ending.callback(watch.stop)
        ending.callback(launch.end, process)
        ending.callback(channel.close)
        self._process = Stranger("the measuring process", process, channel, watch, TrialFailed,
                                 self._folder / "log.txt")

    def _keep_compiled(self) -> None:
        if self._compiled is not None:  # it has seen no text
            caches.keep(self._folder / launch.SCRATCH / caches.NAME, self._compiled)

    def __exit__(self, *exception: object) -> None:
        self._ending.close()

    def begin(self, recipe: Recipe, vocab: int, timeout_s: float) -> float:
        """Starts a run of the recipe; seconds of its first step, in which it is compiled."""
        return number(self._ask(timeout_s, do="begin", recipe=recipe.flat(), vocab=vocab), "first_step_s")

    def time(self, seconds: float, timeout_s: float, least: int = 3) -> Timed:
        """Steps of the run that has begun."""
        told = self._ask(timeout_s, do="time", seconds=seconds, least=least)
        times = told.get("step_s")
        if not isinstance(times, list) or not times or not all(is_number(t) and t > 0 for t in times):
            raise TrialFailed("invalid", "the measuring process reported times that can't be")
        return Timed([float(t) for t in times[:1000]], int(number(told, "peak_memory_bytes")))

    def ceiling(self, precision: str, seconds: float, timeout_s: float,
                shapes: tuple[tuple[int, int, int] | None, ...] = (None,)) -> list[float]:
        """FLOP/s of each product (m, k) x (k, n); None: a large square one. So many seconds for each."""
        told = self._ask(timeout_s, do="ceiling", precision=precision, seconds=seconds, shapes=list(shapes))
        flops = told.get("flops")
        if not isinstance(flops, list) or len(flops) != len(shapes) or not all(is_number(f) and f >= 0 for f in flops):
            raise TrialFailed("invalid", "the measuring process reported speeds that can't be")
        return [float(f) for f in flops]

    def compare(self, recipe: Recipe, vocab: int, precision: str, seconds: float, timeout_s: float) -> Faithful:
        """A low precision beside float32, for about so many seconds."""
        told = self._ask(timeout_s, do="compare", recipe=recipe.flat(), vocab=vocab, precision=precision,
                         seconds=seconds)
        return Faithful(
            precision, int(number(told, "steps")), number(told, "flushed_frac"), number(told, "worst_cosine"),
            clean(str(told.get("worst_tensor")))[:80], number(told, "gap_nats"), number(told, "fell_nats"),
            int(number(told, "not_finite")), number(told, "speed_ratio"))

    def _ask(self, timeout_s: float, **asked: Any) -> dict[str, Any]:
        self._process.send(**asked)
        return self._reply("done", timeout_s)

    def _reply(self, event: str, timeout_s: float) -> dict[str, Any]:
        message = self._process.receive(max(0.0, timeout_s))
        if message is None:
            raise TrialFailed("timeout", f"no answer within {timeout_s:.0f} s")
        if message.get("event") != event:
            raise TrialFailed("crash", "the measuring process answered something else")
        return message
