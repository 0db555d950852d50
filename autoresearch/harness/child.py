"""What every process that runs candidate code does alike: be shut in, end with its parent, begin a run, name its
failure. Imports what may start threads, or is the candidate's, only inside functions: walls bind the thread that enters
them and those it starts."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autoresearch.harness.parent import end_group_with_us, end_with_parent

if TYPE_CHECKING:
    from backends.base import Backend, Device, State
    from backends.recipe import Recipe


class Unusable(Exception):
    """This machine can't do what the recipe or the person asked for; the message says so, a traceback adds nothing."""


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "unable to allocate", "bad alloc", "failed to allocate",
                 "greater than the maximum allowed buffer size", "insufficient memory", "status_alloc_failed")
# What a driver says that is lost or reset, Metal of a command it gave up, and a disk. A kernel that is launched wrongly
# or goes where it must not is the code's.
DEVICE_FAULTS = ("cuda error", "cuda driver error", "command buffer execution failed", "gpu hang", "nvml",
                 "no space left on device", "disk quota exceeded", "input/output error")
CODE_FAULTS = ("illegal memory access", "device-side assert", "misaligned address", "invalid configuration argument",
               "invalid argument", "invalid device function", "too many resources requested for launch")


def shut_in(walls: str) -> None:
    """Ends with the parent, with all that it starts, and on Linux is first in line when the kernel runs out of memory.
    Then, where there are `walls`, goes behind them; nothing of the candidate's has been imported before."""
    end_with_parent()
    end_group_with_us()
    if sys.platform == "linux":
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as f:
            f.write("1000")
    if walls:
        from autoresearch.harness import confine

        confine.enter(walls)


def load(name: str) -> Backend:
    """Raises Unusable where this machine can't run it."""
    import backends

    try:
        return backends.load(name)
    except (RuntimeError, ValueError) as e:
        raise Unusable(str(e)) from None


def precision_of(recipe: Recipe, device: Device) -> str:
    """What it trains in. Raises Unusable where the device can't."""
    from backends.base import resolve_precision

    try:
        return resolve_precision(recipe.runtime.precision, device)
    except ValueError as e:
        raise Unusable(str(e)) from None


def initial_state(backend: Backend, recipe: Recipe, vocab: int, seed: int = 0) -> State:
    """The seed decides the weights and the dropout. The weights come from the stream (seed, 0), and so does the order
    of the first epoch's text (data/batches.py): the same numbers, to ends that have nothing in common."""
    import numpy as np

    from backends.gpt import params
    from backends.spec import GPTSpec

    weights = params.initial(recipe, GPTSpec.of(recipe, vocab), np.random.default_rng([seed, 0]))
    return backend.init(recipe, vocab, weights, seed)


def failure(e: BaseException) -> dict[str, str]:
    """{"kind", "message"} of an exception; the kind tells running out of memory, and a device that failed, from other
    errors."""
    text = f"{type(e).__name__}: {e}".strip()

    def says(words: tuple[str, ...]) -> bool:
        return any(w in text.lower() for w in words)

    if isinstance(e, MemoryError) or says(OUT_OF_MEMORY):
        kind = "out_of_memory"
    else:
        kind = "device" if says(DEVICE_FAULTS) and not says(CODE_FAULTS) else "error"
    return {"kind": kind, "message": text[:2000]}


def numbers_only(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(k): float(v) for k, v in values.items() if math.isfinite(float(v))}
