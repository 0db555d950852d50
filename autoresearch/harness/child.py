"""What every process that runs candidate code does alike: end with its parent, name its failure."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from autoresearch.harness.parent import end_with_parent


class Unusable(Exception):
    """This machine can't do what the recipe or the person asked for; the message says so, a traceback adds nothing."""


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "unable to allocate", "bad alloc", "failed to allocate",
                 "greater than the maximum allowed buffer size")


def die_with_parent() -> None:
    """Ends with the parent; on Linux it is also first in line when the kernel runs out of memory."""
    end_with_parent()
    if sys.platform == "linux":
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as f:
            f.write("1000")


def failure(e: BaseException) -> dict[str, str]:
    """{"kind", "message"} of an exception; the kind tells running out of memory from other errors."""
    text = f"{type(e).__name__}: {e}".strip()
    out_of_memory = isinstance(e, MemoryError) or any(words in text.lower() for words in OUT_OF_MEMORY)
    return {"kind": "out_of_memory" if out_of_memory else "error", "message": text[:2000]}


def numbers_only(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(k): float(v) for k, v in values.items() if math.isfinite(float(v))}
