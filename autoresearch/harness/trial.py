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
from typing import Any

import numpy as np

import backends
from autoresearch.harness import jobs
from autoresearch.harness.channel import Channel, Closed, Ring, RingShape
from autoresearch.harness.child import Unusable, die_with_parent, failure, numbers_only
from autoresearch.harness.clock import Budget
from backends.base import Backend, State, resolve_precision
from backends.recipe import Recipe

WARMUP_STEPS = 3
REPORT_EVERY_S = 0.25
DIVERGED_NATS = 50.0


class Diverged(Exception):
    pass


def initial_state(backend: Backend, recipe: Recipe, job: jobs.TrialJob) -> State:
    """The seed decides the weights; the stream (seed, 0) is theirs alone."""
    from backends.gpt import params
    from backends.spec import GPTSpec

    weights = params.initial(recipe, GPTSpec.of(recipe, job.vocab), np.random.default_rng([job.seed, 0]))
    return backend.init(recipe, job.vocab, weights)


def warm_up(backend: Backend, recipe: Recipe, job: jobs.TrialJob) -> None:
    """Compile and touch everything that training touches, on random tokens; the state is thrown away."""
    rng = np.random.default_rng(0)
    state = initial_state(backend, recipe, job)
    for i in range(WARMUP_STEPS):
        tokens = rng.integers(0, job.vocab, (recipe.rows_per_step, recipe.model.seq_len + 1), dtype=np.int32)
        float(backend.step(state, tokens, i / WARMUP_STEPS))
    backend.loss(state, rng.integers(0, job.vocab, (job.dev_rows, recipe.model.seq_len + 1), dtype=np.int32))
    backend.sync()


def check(loss_nats: float, step: int) -> float:
    if not math.isfinite(loss_nats) or loss_nats > DIVERGED_NATS:
        raise Diverged(f"training diverged: the loss was {loss_nats:g} at step {step}")
    return loss_nats


def train(backend: Backend, state: State, recipe: Recipe, job: jobs.TrialJob, channel: Channel) -> None:
    """Steps until the budget ends. The loss of a step is read while the next one runs."""
    ring = Ring(job.ring, RingShape(recipe.rows_per_step, job.dev_rows, recipe.model.seq_len))
    budget = Budget(job.budget_s, job.steps)
    dev_due = list(jobs.DEV_FRACTIONS)
    step, pending, loss_nats, reported_s = 0, None, None, -1.0
    budget.start()
    while budget.allows(step):
        progress = budget.progress(step)
        loss = backend.step(state, ring.take(job.filled, job.free), progress)
        if pending is not None:
            loss_nats = check(float(pending), step)
        pending, step = loss, step + 1
        dev_nats = None
        if dev_due and progress >= dev_due[0]:
            dev_due = [f for f in dev_due if f > progress]
            dev_nats = backend.loss(state, ring.dev.copy())
        budget.lap()
        if dev_nats is not None or budget.elapsed_s() - reported_s > REPORT_EVERY_S:
            reported_s = budget.elapsed_s()
            channel.send(event="step", step=step, elapsed_s=reported_s, train_nats=loss_nats, dev_nats=dev_nats,
                         peak_memory_bytes=backend.peak_memory_bytes())
    backend.sync()
    elapsed_s = budget.elapsed_s()
    if pending is not None:
        loss_nats = check(float(pending), step)
    channel.send(event="stopped", step=step, elapsed_s=elapsed_s, train_nats=loss_nats)


def run(job: jobs.TrialJob, channel: Channel) -> None:
    from safetensors.numpy import save_file

    began = time.perf_counter()
    recipe = Recipe().replace(job.recipe)
    try:
        backend = backends.load(job.backend)
        device = backend.device()
        precision = resolve_precision(recipe.runtime.precision, device)
    except (RuntimeError, ValueError) as e:
        raise Unusable(str(e)) from None
    ceiling = backend.matmul_flops(precision, 0.3)
    channel.send(event="loaded", device=device.name, precision=precision)
    warm_up(backend, recipe, job)
    state = initial_state(backend, recipe, job)
    backend.sync()
    gc.collect()
    gc.freeze()  # collector pauses of hundreds of milliseconds would land in the budget
    gc.disable()
    channel.send(event="ready", warmup_s=time.perf_counter() - began, ceiling_flops=ceiling)
    if channel.receive(None) is None:
        raise Closed
    _watch(channel)
    train(backend, state, recipe, job, channel)
    tokens = np.random.default_rng(1).integers(0, job.vocab, (2, recipe.model.seq_len + 1), dtype=np.int32)
    weights = backend.weights(state)
    save_file(weights, os.path.join(job.folder, "weights.safetensors"))
    channel.send(event="done", params=int(sum(w.size for w in weights.values())),
                 peak_memory_bytes=backend.peak_memory_bytes(),
                 diagnostics=numbers_only(backend.diagnostics(state, tokens)))


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
    die_with_parent()
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
