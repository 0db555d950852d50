"""The probe: which model, batch and precision suit this machine and this budget, by measuring it.

A short ladder of sizes is timed in a process of its own, smallest first, and never a size whose predicted memory
does not fit. Two rules turn step times into a recipe; they agree with what was found best by hand, from an 8 GB
laptop to an H100:

    size    the largest whose budget holds at least 4 training tokens for each matmul weight
    batch   the power of two that gives about 2,000 steps
"""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoresearch.data.prepared import Prepared
from autoresearch.errors import UserError
from autoresearch.harness import runner
from backends.recipe import Recipe
from backends.spec import GPTSpec

LADDER = ((2, 128), (3, 192), (4, 256), (6, 384), (8, 512), (10, 640), (12, 768), (16, 1024))
TOKENS_PER_WEIGHT = 4.0
STEPS_WANTED = 2000
MIN_STEP_TOKENS, MAX_STEP_TOKENS = 1024, 2**19
MEMORY_SHARE = 0.6  # of the device: the rest is for scoring, other programs and what the estimate leaves out
MEASURED_TOKENS = 4096
TIMEOUT_S = 50.0
COMPILE_PAYS_S = 20.0  # budgets from here on: a compiled step is faster, and the minute it takes is not on the clock
COMPILE_GAIN = 1.4


@dataclass(frozen=True)
class Size:
    """One measured rung of the ladder."""

    depth: int
    width: int
    params: int
    tokens_per_s: float
    memory_bytes: int
    steps: int
    tokens_per_weight: float


@dataclass(frozen=True)
class Plan:
    backend: str
    device: dict[str, Any]  # name, memory_bytes, precisions, ceiling_flops by precision
    budget_s: float
    changes: dict[str, Any]  # {"table.key": value} on top of the recipe asked about
    why: str
    table: list[Size]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def probe(candidate: dict[str, bytes], recipe: Recipe, backend: str, prepared: Prepared, budget_s: float,
          caches: Path) -> Plan:
    """Measures for less than a minute. Raises UserError where not even the smallest size can be trained."""
    tokenizer = recipe.data.tokenizer if recipe.data.tokenizer in prepared.tokenizers() else _tokenizer(prepared)
    vocab = prepared.tokenizer(tokenizer).vocab
    base = recipe.replace({"data.tokenizer": tokenizer, "runtime.compile": False, "runtime.precision": "auto",
                           "batch.micro_rows": 0, "model.kv_heads": 0})
    rungs = [_sized(base, depth, width) for depth, width in LADDER]
    compiles = budget_s >= COMPILE_PAYS_S and (backend != "cpu" or shutil.which("c++") is not None)
    speed = COMPILE_GAIN if compiles else 1.0
    device: dict[str, Any] = {}
    table: list[Size] = []
    failure = ""
    with tempfile.TemporaryDirectory() as folder:
        for message in runner.measure(candidate, backend, rungs, vocab, 1.0, Path(folder), caches, TIMEOUT_S):
            if message["event"] == "device":
                device = {k: message[k] for k in ("name", "memory_bytes", "precisions", "ceiling_flops")}
            elif message["event"] == "measured":
                table.append(_size(rungs[len(table)], vocab, message, budget_s, speed))
                following = rungs[len(table)] if len(table) < len(rungs) else None
                if table[-1].tokens_per_weight < TOKENS_PER_WEIGHT or following is None \
                        or _memory(following, vocab) > MEMORY_SHARE * device["memory_bytes"]:
                    break
            elif message["event"] == "failed":
                failure = str(message["message"])
    if not table:
        raise UserError("the probe could not train even the smallest model on "
                        f"{backend}: {failure or 'it took too long'}", "Check the installation: ar train --steps 2")
    return _plan(base, recipe, vocab, backend, device, budget_s, table, compiles)


def _plan(base: Recipe, recipe: Recipe, vocab: int, backend: str, device: dict[str, Any], budget_s: float,
          table: list[Size], compiles: bool) -> Plan:
    fitting = [s for s in table if s.tokens_per_weight >= TOKENS_PER_WEIGHT]
    chosen = fitting[-1] if fitting else table[0]
    step_tokens = _batch(chosen.tokens_per_s * budget_s / STEPS_WANTED, base.model.seq_len)
    sized = _sized(base, chosen.depth, chosen.width).replace({"batch.tokens_per_step": step_tokens})
    ceilings = device["ceiling_flops"]
    precision = device["precisions"][0]
    if ceilings.get("bfloat16", 0) < 1.3 * ceilings["float32"]:
        precision = "float32"
    sized = sized.replace({"runtime.precision": precision, "runtime.compile": compiles})
    sized = _within_memory(sized, vocab, device["memory_bytes"])
    before = recipe.flat()
    changes = {k: v for k, v in sized.flat().items() if v != before.get(k)}
    reason = (f"{device['name']}: depth {chosen.depth}, width {chosen.width} trains {chosen.tokens_per_s:,.0f} "
              f"tokens/s, {chosen.tokens_per_weight:.1f} tokens for each matmul weight in {budget_s:g} s "
              f"({'at least' if fitting else 'the smallest size;'} {TOKENS_PER_WEIGHT:g} wanted); "
              f"{step_tokens:,} tokens a step give about {chosen.tokens_per_s * budget_s / step_tokens:,.0f} steps; "
              f"{precision}; {'compiled' if compiles else 'not compiled, the budget is too short for it to pay'}")
    return Plan(backend, device, budget_s, changes, reason, table)


def _tokenizer(prepared: Prepared) -> str:
    """The largest prepared one of at most 4096 tokens: more is memorised rather than learned on small texts."""
    sizes = {name: prepared.manifest.tokenizers[name].vocab for name in prepared.tokenizers()}
    small = [name for name in sizes if sizes[name] <= 4096] or list(sizes)
    return max(small, key=lambda name: sizes[name])


def _sized(base: Recipe, depth: int, width: int) -> Recipe:
    tokens = max(base.model.seq_len, MEASURED_TOKENS // base.model.seq_len * base.model.seq_len)
    return base.replace({"model.depth": depth, "model.width": width, "model.head_dim": 64,
                         "batch.tokens_per_step": tokens})


def _size(recipe: Recipe, vocab: int, message: dict[str, Any], budget_s: float, speed: float) -> Size:
    spec = GPTSpec.of(recipe, vocab)
    tokens_per_s = speed * recipe.batch.tokens_per_step / message["step_s"]
    tokens = tokens_per_s * budget_s
    steps = int(tokens / _batch(tokens / STEPS_WANTED, recipe.model.seq_len))
    return Size(spec.depth, spec.width, spec.params(), tokens_per_s, int(message["peak_memory_bytes"]), steps,
                tokens / spec.matmul_params())


def _batch(tokens: float, seq_len: int) -> int:
    """The nearest power of two, within bounds, as a multiple of seq_len."""
    power = 2 ** round(math.log2(max(1.0, tokens)))
    inside = min(MAX_STEP_TOKENS, max(MIN_STEP_TOKENS, power))
    return max(1, inside // seq_len) * seq_len


def _memory(recipe: Recipe, vocab: int) -> int:
    return GPTSpec.of(recipe, vocab).training_bytes(recipe.micro_rows, 4)


def _within_memory(recipe: Recipe, vocab: int, memory_bytes: int) -> Recipe:
    """Halve the rows of one forward pass until the step fits."""
    while _memory(recipe, vocab) > MEMORY_SHARE * memory_bytes and recipe.micro_rows % 2 == 0:
        recipe = recipe.replace({"batch.micro_rows": recipe.micro_rows // 2})
    if _memory(recipe, vocab) > memory_bytes:
        raise UserError(f"not even the smallest size, one row of {recipe.model.seq_len:,} tokens at a time, fits into "
                        f"this device's memory of {memory_bytes / 2**30:.1f} GiB", "Lower model.seq_len in the recipe.")
    return recipe
