"""The measuring process of `ar probe`: seconds and bytes of training steps on random tokens."""

from __future__ import annotations

import sys
import time
import traceback

import numpy as np

import backends
from autoresearch.harness import jobs
from autoresearch.harness.channel import Channel
from autoresearch.harness.child import die_with_parent, failure
from backends.base import Backend, resolve_precision
from backends.recipe import Recipe


def measure(backend: Backend, recipe: Recipe, vocab: int, seconds: float) -> float:
    """Median seconds of a step, after one that is not counted."""
    from backends.gpt import params
    from backends.spec import GPTSpec

    rng = np.random.default_rng(0)
    state = backend.init(recipe, vocab, params.initial(recipe, GPTSpec.of(recipe, vocab), rng))
    tokens = rng.integers(0, vocab, (recipe.rows_per_step, recipe.model.seq_len + 1), dtype=np.int32)
    float(backend.step(state, tokens, 0.5))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 50):
        start = time.perf_counter()
        float(backend.step(state, tokens, 0.5))
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main(text: str) -> None:
    job = jobs.parse(jobs.MeasureJob, text)
    channel = Channel.inherit(job.control)
    die_with_parent()
    try:
        backend = backends.load(job.backend)
        device = backend.device()
        precisions = [p for p in device.precisions if p != "auto"]
        channel.send(event="device", name=device.name, memory_bytes=device.memory_bytes, precisions=precisions,
                     ceiling_flops={p: backend.matmul_flops(p, 0.5) for p in precisions})
        for i, flat in enumerate(job.recipes):
            recipe = Recipe().replace(flat)
            resolve_precision(recipe.runtime.precision, device)
            step_s = measure(backend, recipe, job.vocab, job.seconds_each)
            channel.send(event="measured", index=i, step_s=step_s, peak_memory_bytes=backend.peak_memory_bytes())
        channel.send(event="done")
    except BaseException as e:  # the candidate may raise anything
        traceback.print_exc()
        channel.send(event="failed", **failure(e))
        sys.exit(1)
