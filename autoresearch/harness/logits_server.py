"""The logits server: saved weights and token rows in, logits out, over shared memory.

Runs the candidate's forward pass in a fresh process. It never learns which tokens are scored or how well. Its weights
are there when it has warmed up without them: from then on its time is counted.
"""

from __future__ import annotations

import sys
import traceback

import numpy as np

import backends
from autoresearch.harness import jobs
from autoresearch.harness.channel import Channel, Closed, map_array
from autoresearch.harness.child import failure, initial_state
from backends.base import Backend
from backends.recipe import Recipe
from backends.spec import GPTSpec


def serve(job: jobs.ServerJob, channel: Channel) -> None:
    from safetensors.numpy import load_file

    recipe = Recipe().replace(job.recipe)
    reach = GPTSpec.of(recipe, job.vocab).max_positions
    if reach is not None and job.length > reach:
        raise ValueError(f"rows of {job.length} tokens; the model learned {reach} positions")
    backend = backends.load(job.backend)
    tokens = map_array(job.tokens, (job.batch, job.length), np.int32)
    out = map_array(job.logits, (job.batch, job.length, job.vocab), np.float32)
    _warm_up(backend, recipe, job)
    channel.send(event="ready")
    state = None
    while True:
        request = channel.receive(None)
        if request is None:
            continue
        if state is None:
            state = backend.init(recipe, job.vocab, load_file(job.weights))
        rows = int(request["rows"])
        logits = backend.logits(state, tokens[:rows].copy())
        if logits.shape != (rows, job.length, job.vocab):
            raise ValueError(f"logits of shape {logits.shape}; expected {(rows, job.length, job.vocab)}")
        out[:rows] = logits
        channel.send(event="served", rows=rows)


def _warm_up(backend: Backend, recipe: Recipe, job: jobs.ServerJob) -> None:
    """Compile and touch what scoring touches, on initial weights and random tokens; the state is thrown away."""
    tokens = np.random.default_rng(0).integers(0, job.vocab, (job.batch, job.length), dtype=np.int32)
    backend.logits(initial_state(backend, recipe, job.vocab), tokens)


def main(text: str) -> None:
    job = jobs.parse(jobs.ServerJob, text)
    channel = Channel.inherit(job.control)
    try:
        serve(job, channel)
    except Closed:
        sys.exit(0)
    except BaseException as e:  # the candidate may raise anything
        traceback.print_exc()
        channel.send(event="failed", **failure(e))
        sys.exit(1)
