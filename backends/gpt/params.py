"""The parameter table (name, shape, role) and the initial weights, one for all backends.

Roles decide the update rule: `matrix` by Muon, the others by AdamW with the role's learning rate.
Shapes are (out, in). Weights are drawn in NumPy from the generator that the harness hands in, so a
recipe and a seed start the same run everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.recipe import Recipe
from backends.spec import GPTSpec


@dataclass(frozen=True)
class Param:
    name: str
    shape: tuple[int, ...]
    role: str  # embedding, value_embedding, unembedding, matrix, resid_lambda, input_lambda
    init: str  # embedding, unembedding, uniform, zero, one, input_lambda


def table(spec: GPTSpec) -> list[Param]:
    C, KV, M, V = spec.width, spec.kv_width, spec.mlp_width, spec.vocab
    rows = [Param("embed.weight", (V, C), "embedding", "embedding")]
    for i in range(spec.depth):
        block = f"blocks.{i}"
        rows += [
            Param(f"{block}.attn.q_proj.weight", (C, C), "matrix", "uniform"),
            Param(f"{block}.attn.k_proj.weight", (KV, C), "matrix", "uniform"),
            Param(f"{block}.attn.v_proj.weight", (KV, C), "matrix", "uniform"),
            Param(f"{block}.attn.o_proj.weight", (C, C), "matrix", "zero"),
            Param(f"{block}.mlp.up_proj.weight", (M, C), "matrix", "uniform"),
            Param(f"{block}.mlp.down_proj.weight", (C, M), "matrix", "zero"),
        ]
        if spec.has_value_embed[i]:
            rows += [
                Param(f"{block}.attn.value_embed.weight", (V, KV), "value_embedding", "uniform"),
                Param(f"{block}.attn.value_gate.weight", (spec.kv_heads, spec.value_gate_channels), "matrix", "zero"),
            ]
    return [
        *rows,
        Param("resid_lambdas", (spec.depth,), "resid_lambda", "one"),
        Param("input_lambdas", (spec.depth,), "input_lambda", "input_lambda"),
        Param("head.weight", (V, C), "unembedding", "unembedding"),
    ]


def roles(spec: GPTSpec) -> dict[str, str]:
    return {p.name: p.role for p in table(spec)}


def muon_groups(weights: Mapping[str, Any], roles: Mapping[str, str]) -> dict[tuple[int, ...], list[str]]:
    """Names of the matrices by shape: those of one shape are updated as one stack."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, w in weights.items():
        if roles[name] == "matrix":
            groups.setdefault(tuple(w.shape), []).append(name)
    return groups


def initial(recipe: Recipe, spec: GPTSpec, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """float32 weights in table order. Projections out of blocks start at zero, so a block starts as
    the identity; a value embedding counts its channels as fan-in, like the value projection it joins."""
    scale = recipe.init
    bound = 3**0.5 * scale.matrix_scale / spec.width**0.5
    draw: dict[str, Callable[[tuple[int, ...]], np.ndarray]] = {
        "embedding": lambda shape: rng.standard_normal(shape, np.float32) * np.float32(scale.embedding_std),
        "unembedding": lambda shape: rng.standard_normal(shape, np.float32) * np.float32(scale.unembedding_std),
        "uniform": lambda shape: (2 * rng.random(shape, np.float32) - 1) * np.float32(bound),
        "zero": lambda shape: np.zeros(shape, np.float32),
        "one": lambda shape: np.ones(shape, np.float32),
        "input_lambda": lambda shape: np.full(shape, scale.input_lambda, np.float32),
    }
    return {p.name: draw[p.init](p.shape) for p in table(spec)}
