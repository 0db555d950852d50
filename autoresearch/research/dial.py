"""One dial for size: a recipe at another depth, with everything that has to follow it.

    scaled      width, heads, batch, learning rates and decay from the depth
    fitted      gradient accumulation, then checkpointing, so that a step fits into memory
    seconds     the budget that gives the larger model as many tokens for each weight

The aspect ratio stays, and so does the size of a head. Tokens grow with the matmul weights; the batch grows as
tokens^0.383 (arXiv 2505.13738), learning rates as the root of the batch, and decay so that batch / (rate x decay x
tokens) stays (arXiv 2405.13698). AdamW's rates fall with the root of the width in `schedule.hyper` as it is, Muon's
need no correction. tests/parity/test_dial.py looks at what steps do to a model's outputs at three widths.
"""

from __future__ import annotations

import math
from typing import Any

from autoresearch.errors import UserError
from autoresearch.sizes import MEMORY_SHARE
from backends.recipe import Recipe, keys
from backends.spec import GPTSpec

BATCH_POWER = 0.383
RATES = ("matrix_lr", "embedding_lr", "value_embedding_lr", "unembedding_lr", "scalar_lr", "vector_lr")
DECAYS = ("matrix_decay", "embedding_decay", "value_embedding_decay", "unembedding_decay")


def scaled(recipe: Recipe, factor: float, vocab: int) -> Recipe:
    """At `factor` times its depth. Raises RecipeError for a size that can't be."""
    m = recipe.model
    heads = max(1, round(m.width * factor / m.head_dim))
    shape: dict[str, Any] = {
        "model.depth": max(1, round(m.depth * factor)), "model.width": heads * m.head_dim,
        "model.kv_heads": _kv_heads(heads, m.kv_heads * heads * m.head_dim / m.width),
        "model.value_gate_channels": min(m.value_gate_channels, heads * m.head_dim), "batch.micro_rows": 0}
    larger = recipe.replace(shape)
    tokens = GPTSpec.of(larger, vocab).matmul_params() / GPTSpec.of(recipe, vocab).matmul_params()
    batch = 2.0 ** round(math.log2(tokens**BATCH_POWER))
    rows = max(1, round(recipe.rows_per_step * batch))
    batch = rows / recipe.rows_per_step
    numbers: dict[str, Any] = {"batch.tokens_per_step": rows * m.seq_len}
    numbers |= {f"optim.{name}": _within(getattr(recipe.optim, name) * batch**0.5, name) for name in RATES}
    # What decays is rate x decay in a step, so of the correction the rate has brought a part.
    numbers |= {f"optim.{name}": getattr(recipe.optim, name) * batch**0.5 / tokens for name in DECAYS}
    return larger.replace(numbers)


def fitted(recipe: Recipe, vocab: int, memory_bytes: float | None) -> Recipe:
    """As many rows at a time as fit; where one row does not, checkpointing too. UserError where even that is too
    much."""
    rows = recipe.rows_per_step
    for checkpoint in (recipe.runtime.checkpoint, True):
        for parts in (n for n in range(1, rows + 1) if rows % n == 0):
            found = recipe.replace({"batch.micro_rows": rows // parts if parts > 1 else 0,
                                    "runtime.checkpoint": checkpoint})
            if not memory_bytes or _fits(found, vocab, memory_bytes):
                return found
    have = (memory_bytes or 0) / 2**30
    raise UserError(f"depth {recipe.model.depth}, width {recipe.model.width} does not fit into {have:.1f} GiB, one row "
                    "at a time and with checkpointing",
                    "Choose a smaller --depth.")


def seconds(small: Recipe, large: Recipe, vocab: int, budget_s: float) -> float:
    """At the same FLOP/s, which a larger model rather exceeds: as many tokens for each matmul weight."""
    before, after = GPTSpec.of(small, vocab), GPTSpec.of(large, vocab)
    work = after.flops_per_token() / before.flops_per_token()
    return budget_s * work * after.matmul_params() / before.matmul_params()


def _kv_heads(heads: int, wanted: float) -> int:
    """The number nearest to the one wanted that divides the query heads; 0, as many as those, stays."""
    if not wanted:
        return 0
    return min((n for n in range(1, heads + 1) if heads % n == 0), key=lambda n: abs(n - wanted))


def _fits(recipe: Recipe, vocab: int, memory_bytes: float) -> bool:
    return GPTSpec.of(recipe, vocab).training_bytes(recipe.micro_rows, 4) <= MEMORY_SHARE * memory_bytes


def _within(value: float, name: str) -> float:
    """A rate at the end of its range stays there."""
    key = next(k for k in keys() if k.name == f"optim.{name}")
    assert key.high is not None
    return min(key.high, value)
