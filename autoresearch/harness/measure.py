"""The measuring process of `ar probe` and `ar bench`: it does one thing at a time, as asked, on made-up tokens.

    begin     a run of a recipe: seconds of its first step, compilation included
    time      seconds of more steps of that run
    ceiling   FLOP/s of matrix products
    compare   a low precision beside float32 (child_precision.py)
"""

from __future__ import annotations

import gc
import sys
import time
import traceback
from typing import Any

import numpy as np

from autoresearch.harness import child_precision, jobs
from autoresearch.harness.channel import Channel, Closed
from autoresearch.harness.child import Unusable, failure, initial_state, load, precision_of
from backends.base import Backend, State
from backends.recipe import Recipe

PROGRESS = 0.5  # of the budget: past warm-ups, with whole rows and full learning rates


class Work:
    """One run at a time: the next one takes its place, and its memory."""

    def __init__(self, backend: Backend):
        self._backend = backend
        self._state: State = None
        self._tokens = np.zeros((0, 0), np.int32)

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        match asked["do"]:
            case "begin":
                return self.begin(Recipe().replace(asked["recipe"]), asked["vocab"])
            case "time":
                return self.time(asked["seconds"], asked["least"])
            case "ceiling":
                flops = self._backend.matmul_flops
                return {"flops": [flops(asked["precision"], asked["seconds"], shape and tuple(shape))
                                  for shape in asked["shapes"]]}
            case "compare":
                self._state = None
                return child_precision.compare(self._backend, Recipe().replace(asked["recipe"]), asked["vocab"],
                                               asked["precision"], asked["seconds"])
            case other:
                raise ValueError(f"asked for {other!r}")

    def begin(self, recipe: Recipe, vocab: int) -> dict[str, Any]:
        self._state = None
        gc.collect()
        precision_of(recipe, self._backend.device())
        rng = np.random.default_rng(0)
        self._state = initial_state(self._backend, recipe, vocab)
        self._tokens = rng.integers(0, vocab, (recipe.rows_per_step, recipe.model.seq_len + 1), dtype=np.int32)
        first_step_s = self._step()
        self._step()  # the second one may still be slower: caches and allocators settle
        return {"first_step_s": first_step_s}

    def time(self, seconds: float, least: int) -> dict[str, Any]:
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < least or (time.perf_counter() < end and len(times) < 200):
            times.append(self._step())
        return {"step_s": times, "peak_memory_bytes": self._backend.peak_memory_bytes()}

    def _step(self) -> float:
        start = time.perf_counter()
        float(self._backend.step(self._state, self._tokens, PROGRESS))
        self._backend.sync()
        return time.perf_counter() - start


def main(text: str) -> None:
    job = jobs.parse(jobs.MeasureJob, text)
    channel = Channel.inherit(job.control)
    try:
        backend = load(job.backend)
        device = backend.device()
        channel.send(event="device", name=device.name, memory_bytes=device.memory_bytes, compiles=device.compiles,
                     precisions=list(device.precisions), idle_bytes=backend.peak_memory_bytes())
        work = Work(backend)
        while (asked := channel.receive(None)) is not None:
            channel.send(event="done", **work.answer(asked))
    except Closed:
        return
    except Unusable as e:
        channel.send(event="failed", kind="unusable", message=str(e))
    except BaseException as e:  # the candidate may raise anything
        traceback.print_exc()
        channel.send(event="failed", **failure(e))
    sys.exit(1)
