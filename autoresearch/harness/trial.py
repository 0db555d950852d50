"""The trial process: warm up on random tokens, start the clock, train to the budget, write the weights.

Runs the candidate's code, in a tree made of the frozen package and `backends/gpt/` of one commit. What it
reports is shown and plotted; the clock, the tokens and the score that count are the supervisor's.
"""

from __future__ import annotations

import gc
import math
import os
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoresearch.harness import jobs
from autoresearch.harness.channel import Channel, Closed, Ring, RingShape
from autoresearch.harness.child import Unusable, failure, initial_state, load, numbers_only, precision_of
from autoresearch.harness.clock import Budget
from backends.base import Backend, State
from backends.recipe import Recipe

WARMUP_STEPS = 3
REPORT_EVERY_S = 0.25
DIVERGED_NATS = 50.0


class Diverged(Exception):
    pass


def stages(recipe: Recipe) -> list[float]:
    """The progress of a step in each stage of the short rows, which are each compiled for itself. The schedule is the
    candidate's, so it is asked: all along the budget, and as closely along the part that the recipe gives to them."""
    from backends.gpt import schedule

    asked = sorted({i / 100 * end for i in range(101) for end in (1.0, recipe.schedule.seq_warmup_frac)}, reverse=True)
    return list({schedule.row_parts(recipe, progress): progress for progress in asked}.values())


def warm_up(backend: Backend, recipe: Recipe, job: jobs.TrialJob) -> None:
    """Compile and touch everything that training touches, on random tokens; the state is thrown away."""
    rng = np.random.default_rng(0)
    state = initial_state(backend, recipe, job.vocab, job.seed)
    for progress in stages(recipe) * WARMUP_STEPS:
        tokens = rng.integers(0, job.vocab, (recipe.rows_per_step, recipe.model.seq_len + 1), dtype=np.int32)
        float(backend.step(state, tokens, progress))
    backend.loss(state, rng.integers(0, job.vocab, (job.dev_rows, recipe.model.seq_len + 1), dtype=np.int32))
    backend.sync()


def check(loss_nats: float, step: int) -> float:
    if not math.isfinite(loss_nats) or loss_nats > DIVERGED_NATS:
        raise Diverged(f"training diverged: the loss was {loss_nats:g} at step {step}")
    return loss_nats


@dataclass
class Dev:
    """Dev loss at fixed shares of the budget; where it `keeps`, also at the end, and the weights of the best."""

    backend: Backend
    keeps: bool
    due: list[float] = field(default_factory=lambda: list(jobs.DEV_FRACTIONS))
    best_nats: float = math.inf
    best: dict[str, np.ndarray] | None = None
    took_s: float = 0.0

    def is_due(self, progress: float) -> bool:
        before, self.due = self.due, [f for f in self.due if f > progress]
        return before != self.due

    def measure(self, state: State, rows_BT1: np.ndarray) -> float:
        """Nats per token. The time to copy the weights is part of the training that it interrupts."""
        began = time.perf_counter()
        nats = self.backend.loss(state, rows_BT1)
        if self.keeps and nats < self.best_nats:
            self.best_nats, self.best = nats, self.backend.weights(state)
        self.took_s = time.perf_counter() - began
        return nats


def train(backend: Backend, state: State, recipe: Recipe, job: jobs.TrialJob,
          channel: Channel) -> dict[str, np.ndarray] | None:
    """Steps until the budget ends. The loss of a step is read while the next one runs. Returns weights to save
    instead of the last, if any."""
    ring = Ring(job.ring, RingShape(recipe.rows_per_step, job.dev_rows, recipe.model.seq_len))
    budget = Budget(job.budget_s, job.steps)
    dev = Dev(backend, recipe.schedule.keep_best_dev)
    step, pending, loss_nats, reported_s = 0, None, None, -1.0
    budget.start()
    while _fits(backend, budget, step, dev.took_s if dev.keeps else 0.0):
        progress = budget.progress(step)
        loss = backend.step(state, ring.take(job.filled, job.free), progress)
        if pending is not None:
            loss_nats = check(float(pending), step)
        pending, step = loss, step + 1
        dev_nats = dev.measure(state, ring.dev.copy()) if dev.is_due(progress) else None
        budget.lap()
        if dev_nats is not None or budget.elapsed_s() - reported_s > REPORT_EVERY_S:
            reported_s = budget.elapsed_s()
            channel.send(event="step", step=step, elapsed_s=reported_s, train_nats=loss_nats, dev_nats=dev_nats,
                         peak_memory_bytes=backend.peak_memory_bytes())
    backend.sync()
    last_nats = dev.measure(state, ring.dev.copy()) if dev.keeps and step else None
    elapsed_s = budget.elapsed_s()
    if pending is not None:
        loss_nats = check(float(pending), step)
    channel.send(event="stopped", step=step, elapsed_s=elapsed_s, train_nats=loss_nats, dev_nats=last_nats)
    return dev.best


def _fits(backend: Backend, budget: Budget, step: int, reserve_s: float) -> bool:
    """Whether another step ends in time. A device may still be at the last one, which near the end is waited for."""
    if budget.is_closing(reserve_s):
        backend.sync()
    return budget.allows(step, reserve_s)


def run(job: jobs.TrialJob, channel: Channel) -> None:
    from safetensors.numpy import save_file

    began = time.perf_counter()
    recipe = Recipe().replace(job.recipe)
    backend = load(job.backend)
    device = backend.device()
    precision = precision_of(recipe, device)
    ceiling = backend.matmul_flops(precision, 0.3)
    channel.send(event="loaded", device=device.name, precision=precision)
    warm_up(backend, recipe, job)
    state = initial_state(backend, recipe, job.vocab, job.seed)
    backend.sync()
    gc.collect()
    gc.freeze()  # collector pauses of hundreds of milliseconds would land in the budget
    gc.disable()
    channel.send(event="ready", warmup_s=time.perf_counter() - began, ceiling_flops=ceiling)
    if channel.receive(None) is None:
        raise Closed
    _watch(channel)
    best = train(backend, state, recipe, job, channel)
    weights = best or backend.weights(state)
    save_file(weights, os.path.join(job.folder, "weights.safetensors"))
    channel.send(event="saved", params=int(sum(w.size for w in weights.values())),
                 peak_memory_bytes=backend.peak_memory_bytes())
    tokens = np.random.default_rng(1).integers(0, job.vocab, (2, recipe.model.seq_len + 1), dtype=np.int32)
    channel.send(event="done", diagnostics=numbers_only(backend.diagnostics(state, tokens)))  # these alone may fail


def _watch(channel: Channel) -> None:
    """End with the supervisor: after `go` its side is silent until it closes."""
    def wait() -> None:
        try:
            channel.receive(None)
        except (Closed, ValueError):
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(text: str) -> None:
    job = jobs.parse(jobs.TrialJob, text)
    channel = Channel.inherit(job.control)
    report: dict[str, Any]
    try:
        run(job, channel)
        return
    except Closed:
        sys.exit(1)
    except Diverged as e:
        report = {"kind": "diverged", "message": str(e)}
    except Unusable as e:
        report = {"kind": "unusable", "message": str(e)}
    except BaseException as e:  # the candidate may raise anything
        traceback.print_exc()
        report = failure(e)
    channel.send(event="failed", **report)
    sys.exit(1)
