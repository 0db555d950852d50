"""Which model, batch and tokenizer a budget can feed: the table of choices, and the rule that picks one.

    Size      one choice, its figures predicted by the cost model
    table     every choice that is worth a look
    choose    the rule

Two rules of thumb agree with what was found best by hand, from an 8 GB laptop to an H100. On 5 MB of text the first
takes too small a size for five minutes; no better one is known yet (docs/performance.md):

    size      the largest whose budget holds at least 4 training tokens for each matmul weight
    batch     the power of two that gives about 55 steps for each square root of a second: 300 in half a minute, 950 in
              five
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoresearch.costs import Costs, estimated_bytes
from autoresearch.errors import UserError
from backends.recipe import Recipe
from backends.spec import GPTSpec

HEAD_DIM = 64
SHAPES = tuple((d, 64 * (d + wider)) for d in range(2, 17) for wider in (0, 1))  # as wide as 64 times the depth, or so
TOKENS_PER_WEIGHT = 4.0
STEPS_PER_ROOT = 55.0  # of seconds: 950 steps are what upstream takes in five minutes; 10 and 30 s agree
MIN_STEP_TOKENS, MAX_STEP_TOKENS = 1024, 2**19
MEMORY_SHARE = 0.6  # of the device: the rest is for scoring, other programs and what the estimate leaves out
HOPELESS = 0.25  # of the wanted tokens for each weight: larger sizes are not listed


@dataclass(frozen=True)
class Size:
    depth: int
    width: int
    tokenizer: str
    tokens_per_step: int
    micro_rows: int  # 0: all rows of a step at once
    params: int
    step_s: float
    steps: int
    steps_wanted: float
    tokens: int
    tokens_per_weight: float  # that takes part in matrix products
    tokens_per_param: float
    memory_bytes: int

    @property
    def tokens_per_s(self) -> float:
        return self.tokens_per_step / self.step_s


def steps_wanted(budget_s: float) -> float:
    return STEPS_PER_ROOT * math.sqrt(budget_s)


def sized(base: Recipe, depth: int, width: int, tokens_per_step: int, micro_rows: int = 0) -> Recipe:
    T = base.model.seq_len
    return base.replace({"model.depth": depth, "model.width": width, "model.head_dim": HEAD_DIM, "model.kv_heads": 0,
                         "model.value_gate_channels": min(base.model.value_gate_channels, width),
                         "batch.tokens_per_step": max(1, tokens_per_step // T) * T, "batch.micro_rows": micro_rows})


def table(base: Recipe, vocabs: Mapping[str, int], costs: Costs, budget_s: float, memory_bytes: int) -> list[Size]:
    """Sizes that fit into memory, each with three batches around the rule's, for each tokenizer. UserError where not
    even the smallest one does."""
    require_room(base, vocabs[base.data.tokenizer], memory_bytes)
    found: list[Size] = []
    for tokenizer, vocab in vocabs.items():
        for depth, width in SHAPES:
            rows = [row for tokens in _batches(base, depth, width, vocab, costs, budget_s)
                    if (row := _size(sized(base, depth, width, tokens), tokenizer, vocab, costs, budget_s,
                                     memory_bytes))]
            found += rows
            if not rows or max(row.tokens_per_weight for row in rows) < HOPELESS * TOKENS_PER_WEIGHT:
                break
    return found


def require_room(base: Recipe, vocab: int, memory_bytes: int) -> None:
    smallest = within_memory(sized(base, *SHAPES[0], MIN_STEP_TOKENS), vocab, MEMORY_SHARE * memory_bytes)
    if estimated_bytes(smallest, vocab) > MEMORY_SHARE * memory_bytes:
        raise UserError(f"not even the smallest size, one row of {base.model.seq_len:,} tokens at a time, fits into "
                        f"this device's memory of {memory_bytes / 2**30:.1f} GiB", "Lower model.seq_len in the recipe.")


def choose(rows: Sequence[Size], tokenizer: str) -> Size:
    """Of the rows of one tokenizer."""
    own = [row for row in rows if row.tokenizer == tokenizer]
    fed = [row for row in own if _closest(own, row).tokens_per_weight >= TOKENS_PER_WEIGHT]
    shape = max(fed, key=lambda r: (r.params, r.depth)) if fed else min(own, key=lambda r: (r.params, r.depth))
    return _closest(own, shape)


def shortlist(rows: Sequence[Size], chosen: Size, around: int = 4) -> list[Size]:
    """The sizes around the chosen one, its other batches, and its other tokenizers."""
    own = [row for row in rows if row.tokenizer == chosen.tokenizer]
    by_size = [_closest(own, shape) for shape in {(r.depth, r.width): r for r in own}.values()]
    at = by_size.index(chosen)
    same = [row for row in rows if (row.depth, row.width) == (chosen.depth, chosen.width)]
    batches = [row for row in same if row.tokenizer == chosen.tokenizer and row != chosen]
    tokenizers = {row.tokenizer: _closest([r for r in same if r.tokenizer == row.tokenizer], row)
                  for row in same if row.tokenizer != chosen.tokenizer}
    return [*by_size[max(0, at - around) : at + around], *batches, *tokenizers.values()]


def _closest(rows: Sequence[Size], shape: Size) -> Size:
    """The batch of a shape whose number of steps is nearest to the wanted one."""
    same = [row for row in rows if (row.depth, row.width) == (shape.depth, shape.width)]
    return min(same, key=lambda row: (abs(math.log(max(1, row.steps) / row.steps_wanted)), row.tokens_per_step))


def _batches(base: Recipe, depth: int, width: int, vocab: int, costs: Costs, budget_s: float) -> list[int]:
    """The power of two nearest to the wanted number of steps, at that batch's own speed, and its neighbours."""
    options = [2**k for k in range(MIN_STEP_TOKENS.bit_length() - 1, MAX_STEP_TOKENS.bit_length())]
    options = list(dict.fromkeys(sized(base, depth, width, t).batch.tokens_per_step for t in options))
    steps = [budget_s / max(1e-9, costs.step_s(sized(base, depth, width, t), vocab)) for t in options]
    best = min(range(len(options)), key=lambda i: abs(math.log(max(1e-9, steps[i]) / steps_wanted(budget_s))))
    return options[max(0, best - 1) : best + 2]


def _size(recipe: Recipe, tokenizer: str, vocab: int, costs: Costs, budget_s: float, memory_bytes: int) -> Size | None:
    recipe = within_memory(recipe, vocab, MEMORY_SHARE * memory_bytes)
    if estimated_bytes(recipe, vocab) > MEMORY_SHARE * memory_bytes:
        return None
    spec, step_s = GPTSpec.of(recipe, vocab), costs.step_s(recipe, vocab)
    steps = int(budget_s / max(1e-9, step_s))
    tokens = steps * recipe.batch.tokens_per_step
    return Size(spec.depth, spec.width, tokenizer, recipe.batch.tokens_per_step, recipe.batch.micro_rows, spec.params(),
                step_s, steps, steps_wanted(budget_s), tokens, tokens / spec.matmul_params(), tokens / spec.params(),
                costs.memory_bytes(recipe, vocab))


def within_memory(recipe: Recipe, vocab: int, most_bytes: float) -> Recipe:
    """The rows of one forward pass halved until the step fits, or no longer can be."""
    while estimated_bytes(recipe, vocab) > most_bytes and (lighter := halved(recipe)):
        recipe = recipe.replace(lighter)
    return recipe


def halved(recipe: Recipe) -> dict[str, object]:
    """The change to about half the rows in a forward pass, the same tokens a step; none where it is one row."""
    rows = next((r for r in range(recipe.micro_rows // 2, 0, -1) if recipe.rows_per_step % r == 0), 0)
    return {"batch.micro_rows": rows} if rows else {}
