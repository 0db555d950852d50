"""What every process that runs candidate code does alike: end with its parent, name its failure."""

from __future__ import annotations

import ctypes
import math
import signal
import sys
from collections.abc import Mapping
from typing import Any

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "unable to allocate", "bad alloc", "failed to allocate",
                 "greater than the maximum allowed buffer size")


def die_with_parent() -> None:
    """Linux: a KILL when the parent ends, and first in line when the kernel runs out of memory."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as f:
        f.write("1000")


def failure(e: BaseException) -> dict[str, str]:
    """{"kind", "message"} of an exception; the kind tells running out of memory from other errors."""
    text = f"{type(e).__name__}: {e}".strip()
    out_of_memory = isinstance(e, MemoryError) or any(words in text.lower() for words in OUT_OF_MEMORY)
    return {"kind": "out_of_memory" if out_of_memory else "error", "message": text[:2000]}


def numbers_only(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(k): float(v) for k, v in values.items() if math.isfinite(float(v))}
