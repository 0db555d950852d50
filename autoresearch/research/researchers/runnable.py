"""From a wished-for change to a recipe that can run: keys that depend on others follow, and memory is respected."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Set
from typing import Any

from autoresearch.research.researchers.base import Context
from autoresearch.research.researchers.repeats import fingerprint
from backends.recipe import Recipe, RecipeError

FOLLOWERS = {"batch.micro_rows", "model.value_gate_channels", "model.kv_heads"}  # keys that settle() adapts


def seen(context: Context) -> set[frozenset[Any]]:
    """Fingerprints of all that ran, and of the incumbent. What the machine has spoilt may run once more."""
    spoilt = Counter(fingerprint(e.recipe) for e in context.experiments if e.is_spoilt)
    ran = {fingerprint(e.recipe) for e in context.experiments if not e.is_spoilt}
    return ran | {recipe for recipe, times in spoilt.items() if times > 1} | {fingerprint(context.recipe.flat())}


def settle(context: Context, wish: dict[str, Any], ran: Set[frozenset[Any]] = frozenset()) -> Recipe | None:
    """The nearest runnable recipe to a flat one: keys that depend on others follow. None if it can't run or `ran`."""
    f = dict(wish)
    heads = max(1, round(f["model.width"] / f["model.head_dim"]))
    f["model.width"] = heads * f["model.head_dim"]
    f["model.value_gate_channels"] = min(f["model.value_gate_channels"], f["model.width"])
    f["model.kv_heads"] = 0 if f["model.kv_heads"] and heads % f["model.kv_heads"] else f["model.kv_heads"]
    rows = max(1, round(f["batch.tokens_per_step"] / f["model.seq_len"]))
    f["batch.tokens_per_step"] = rows * f["model.seq_len"]
    f["batch.micro_rows"] = math.gcd(rows, f["batch.micro_rows"]) % rows if f["batch.micro_rows"] < rows else 0
    f["schedule.seq_parts"] = math.gcd(f["schedule.seq_parts"], f["model.seq_len"])
    # The one of the two that was just changed stays, the other gives way.
    changed = f["schedule.warmup_frac"] != context.recipe.schedule.warmup_frac
    yields, stays = [f"schedule.{k}_frac" for k in (("warmdown", "warmup") if changed else ("warmup", "warmdown"))]
    f[yields] = min(f[yields], round(1 - f[stays], 3))
    while fingerprint(f) not in ran:
        try:
            recipe = context.recipe.replace(f)
        except RecipeError:
            return None
        # A memory model that denies what has just run is wrong about this machine; don't let it stop the night.
        if context.fits(recipe) or not context.fits(context.recipe):
            return recipe
        micro = (f["batch.micro_rows"] or rows) // 2  # accumulate gradients over smaller parts of the step
        if micro < 1:
            return None
        f["batch.micro_rows"] = math.gcd(rows, micro)
    return None


def in_words(old: dict[str, Any], changes: dict[str, Any], most: int = 2) -> str:
    """Up to `most` changes, and how many more there are. Keys that only follow others are left out."""
    shown = [k for k in changes if k not in FOLLOWERS] or list(changes)
    what = ", ".join(f"{k.partition('.')[2]} {old[k]} -> {changes[k]}" for k in shown[:most])
    return what + (f" and {len(shown) - most} more" if len(shown) > most else "")
