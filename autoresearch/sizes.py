"""Which model, batch and tokenizer a budget can feed: the table of choices, and the rule that picks one.

    Size      one choice, its figures predicted by the cost model and the scaling law
    table     every choice that is worth a look
    choose    the rule: the best score that the law predicts

The cost model (costs.py) says how many steps of a choice this machine makes in the budget, the law (scaling.py) what a
model has learnt after so many.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autoresearch.costs import Costs, estimated_bytes
from autoresearch.errors import UserError
from autoresearch.harness.jobs import DEV_FRACTIONS
from autoresearch.scaling import LAW, MOST_WEIGHTS_PER_BYTE
from backends.recipe import Recipe
from backends.spec import GPTSpec

HEAD_DIM = 64
SHAPES = tuple((d, 64 * (d + wider)) for d in range(1, 17) for wider in (0, 1))  # as wide as 64 times the depth, or so
MIN_STEP_TOKENS, MAX_STEP_TOKENS = 1024, 2**19
MEMORY_SHARE = 0.6  # of the device: the rest is for scoring, other programs and what the estimate leaves out
HOPELESS_BPB = 0.1  # behind the best: not listed
UNDECAYED_BPB = 0.05  # that the last fifth of a run, in which learning rates end, gains about (docs/shakespeare.md)


@dataclass(frozen=True)
class TokenizedText:
    """A text to train on, as a tokenizer cuts it."""

    vocab: int
    text_bytes: int
    bytes_per_token: float


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
    tokens: int
    tokens_per_param: float
    readings: float  # of the text
    memory_bytes: int
    keeps_best: bool  # the weights of a dev measurement before the end should be better than the last ones
    score: float  # bits per byte that the law predicts; differences count, the text may shift them all

    @property
    def tokens_per_s(self) -> float:
        return self.tokens_per_step / self.step_s


def sized(base: Recipe, depth: int, width: int, tokens_per_step: int, micro_rows: int = 0) -> Recipe:
    T = base.model.seq_len
    return base.replace({"model.depth": depth, "model.width": width, "model.head_dim": HEAD_DIM, "model.kv_heads": 0,
                         "model.value_gate_channels": min(base.model.value_gate_channels, width),
                         "batch.tokens_per_step": max(1, tokens_per_step // T) * T, "batch.micro_rows": micro_rows})


def table(base: Recipe, texts: Mapping[str, TokenizedText], costs: Costs, budget_s: float,
          memory_bytes: int) -> list[Size]:
    """Sizes that fit into memory, each with the batch that the law likes best and its neighbours, for each tokenizer;
    none that is larger for its text than those of which the law was made. UserError where not even the smallest fits
    into memory."""
    require_room(base, texts[base.data.tokenizer].vocab, memory_bytes)
    found: list[Size] = []
    for tokenizer, text in texts.items():
        rows = [row for shape in _known(base, text)
                for row in batches(base, *shape, tokenizer, text, costs, budget_s, memory_bytes)]
        best = min((row.score for row in rows), default=math.inf)
        found += [row for row in rows if row.score <= best + HOPELESS_BPB]
    return found


def _known(base: Recipe, text: TokenizedText) -> Iterator[tuple[int, int]]:
    """Shapes, smallest first, of which the law knows something."""
    for depth, width in SHAPES:
        weights = GPTSpec.of(sized(base, depth, width, MIN_STEP_TOKENS), text.vocab).matmul_params()
        if (depth, width) == SHAPES[0] or weights <= MOST_WEIGHTS_PER_BYTE * text.text_bytes:
            yield depth, width


def require_room(base: Recipe, vocab: int, memory_bytes: int) -> None:
    smallest = within_memory(sized(base, *SHAPES[0], MIN_STEP_TOKENS), vocab, MEMORY_SHARE * memory_bytes)
    if estimated_bytes(smallest, vocab) > MEMORY_SHARE * memory_bytes:
        raise UserError(f"not even the smallest size, one row of {base.model.seq_len:,} tokens at a time, fits into "
                        f"this device's memory of {memory_bytes / 2**30:.1f} GiB", "Lower model.seq_len in the recipe.")


def batches(base: Recipe, depth: int, width: int, tokenizer: str, text: TokenizedText, costs: Costs, budget_s: float,
            memory_bytes: int) -> list[Size]:
    """The power of two whose steps teach most in the budget, and its neighbours; what does not fit is left out."""
    options = [2**k for k in range(MIN_STEP_TOKENS.bit_length() - 1, MAX_STEP_TOKENS.bit_length())]
    recipes = {r.batch.tokens_per_step: r for r in (sized(base, depth, width, tokens) for tokens in options)}
    rows: list[Size] = []
    for recipe in recipes.values():
        row = _size(recipe, tokenizer, text, costs, budget_s, memory_bytes)
        if row is None or (len(rows) > 1 and row.score > rows[-1].score > rows[-2].score):
            break
        rows.append(row)
    best = min(range(len(rows)), key=lambda i: rows[i].score, default=0)
    return rows[max(0, best - 1) : best + 2]


def choose(rows: Sequence[Size], tokenizer: str) -> Size:
    """Of the rows of one tokenizer; equal ones: the smallest."""
    return min((row for row in rows if row.tokenizer == tokenizer), key=lambda row: (row.score, row.params))


def shortlist(rows: Sequence[Size], chosen: Size, around: int = 4) -> list[Size]:
    """The sizes around the chosen one, its other batches, and its other tokenizers."""
    by_size = [choose(list(same), chosen.tokenizer) for _, same in itertools.groupby(
        (row for row in rows if row.tokenizer == chosen.tokenizer), key=lambda row: (row.depth, row.width))]
    at = by_size.index(chosen)
    same = [row for row in rows if (row.depth, row.width) == (chosen.depth, chosen.width)]
    batches = [row for row in same if row.tokenizer == chosen.tokenizer and row != chosen]
    others = {row.tokenizer for row in same} - {chosen.tokenizer}
    return [*by_size[max(0, at - around) : at + around], *batches, *(choose(same, name) for name in sorted(others))]


def _size(recipe: Recipe, tokenizer: str, text: TokenizedText, costs: Costs, budget_s: float,
          memory_bytes: int) -> Size | None:
    recipe = within_memory(recipe, text.vocab, MEMORY_SHARE * memory_bytes)
    if estimated_bytes(recipe, text.vocab) > MEMORY_SHARE * memory_bytes:
        return None
    spec, step_s, B = GPTSpec.of(recipe, text.vocab), costs.step_s(recipe, text.vocab), recipe.batch.tokens_per_step
    steps, weights = int(budget_s / max(1e-9, step_s)), spec.matmul_params()
    step_bytes = B * text.bytes_per_token
    scores = {share: LAW.score(weights, step_bytes, share * steps * step_bytes, text.text_bytes)
              + UNDECAYED_BPB * (share < 1) for share in (1.0, *DEV_FRACTIONS)}
    share = min(scores, key=lambda share: scores[share])
    return Size(spec.depth, spec.width, tokenizer, B, recipe.batch.micro_rows, spec.params(), step_s, steps, steps * B,
                steps * B / spec.params(), steps * step_bytes / text.text_bytes, costs.memory_bytes(recipe, text.vocab),
                share < 1, scores[share])


def within_memory(recipe: Recipe, vocab: int, most_bytes: float) -> Recipe:
    """The rows of one forward pass halved until the step fits, or no longer can be."""
    while estimated_bytes(recipe, vocab) > most_bytes and (lighter := halved(recipe)):
        recipe = recipe.replace(lighter)
    return recipe


def halved(recipe: Recipe) -> dict[str, object]:
    """The change to about half the rows in a forward pass, the same tokens a step; none where it is one row."""
    rows = next((r for r in range(recipe.micro_rows // 2, 0, -1) if recipe.rows_per_step % r == 0), 0)
    return {"batch.micro_rows": rows} if rows else {}
