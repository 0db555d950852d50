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

from backends.recipe import Optim, Recipe
from backends.spec import GPTSpec


@dataclass(frozen=True)
class Param:
    name: str
    shape: tuple[int, ...]
    role: str  # embedding, value_embedding, unembedding, matrix, vector, resid_lambda, input_lambda
    init: str  # embedding, unembedding, uniform, projection, zero, one, input_lambda


def table(spec: GPTSpec) -> list[Param]:
    C, V = spec.width, spec.vocab
    rows = [Param("embed.weight", (V, C), "embedding", "embedding")]
    if spec.max_positions:
        rows += [Param("positions.weight", (spec.max_positions, C), "embedding", "embedding")]
    if spec.embed_norm:
        rows += norm("embed_norm", C, spec)
    for i in range(spec.depth):
        rows += block(f"blocks.{i}", spec.has_value_embed[i], spec)
    rows += norm("norm", C, spec)
    if spec.resid_lambdas:
        rows += [Param("resid_lambdas", (spec.depth,), "resid_lambda", "one")]
    if spec.input_lambdas:
        rows += [Param("input_lambdas", (spec.depth,), "input_lambda", "input_lambda")]
    if not spec.tied_embeddings:
        rows += [Param("head.weight", (V, C), "unembedding", "unembedding")]
    return rows


def block(name: str, has_value_embed: bool, spec: GPTSpec) -> list[Param]:
    C, KV, M, V, D = spec.width, spec.kv_width, spec.mlp_width, spec.vocab, spec.head_dim
    rows = [
        *norm(f"{name}.attn.norm", C, spec),
        *linear(f"{name}.attn.q_proj", C, C, "uniform", spec.biases),
        *linear(f"{name}.attn.k_proj", KV, C, "uniform", False),  # softmax cancels what is added to all keys
        *linear(f"{name}.attn.v_proj", KV, C, "uniform", spec.biases),
        *linear(f"{name}.attn.o_proj", C, C, "projection", spec.biases),
        *norm(f"{name}.mlp.norm", C, spec),
        *linear(f"{name}.mlp.up_proj", M, C, "uniform", spec.biases),
        *linear(f"{name}.mlp.down_proj", C, M, "projection", spec.biases),
    ]
    if spec.qk_norm != "none" and spec.norm_gain:
        rows += [Param(f"{name}.attn.{x}_norm.weight", (D,), "vector", "one") for x in "qk"]
    if spec.token_shift:
        rows += [Param(f"{name}.{part}.shift.weight", (C,), "vector", "zero") for part in ("attn", "mlp")]
    if spec.activation == "swiglu":
        rows += linear(f"{name}.mlp.gate_proj", M, C, "uniform", spec.biases)
    if has_value_embed:
        rows += [Param(f"{name}.attn.value_embed.weight", (V, KV), "value_embedding", "uniform")]
        if spec.value_gate:
            rows += linear(f"{name}.attn.value_gate", spec.kv_heads, spec.value_gate_channels, "zero", False)
    return rows


def linear(name: str, out: int, into: int, init: str, bias: bool) -> list[Param]:
    return [Param(f"{name}.weight", (out, into), "matrix", init),
            *([Param(f"{name}.bias", (out,), "vector", "zero")] if bias else [])]


def norm(name: str, width: int, spec: GPTSpec) -> list[Param]:
    """Nothing where norms have no gain; a LayerNorm with one has a bias too where the recipe has biases."""
    gain = [Param(f"{name}.weight", (width,), "vector", "one")] if spec.norm_gain else []
    has_bias = spec.norm_gain and spec.norm == "layer" and spec.biases
    return gain + ([Param(f"{name}.bias", (width,), "vector", "zero")] if has_bias else [])


def roles(spec: GPTSpec) -> dict[str, str]:
    return {p.name: p.role for p in table(spec)}


def muon_groups(weights: Mapping[str, Any], roles: Mapping[str, str], optim: Optim) -> dict[tuple[int, ...], list[str]]:
    """Names of Muon's matrices by shape: those of one shape are updated as one stack. AdamW has the others."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, w in weights.items():
        if roles[name] == "matrix" and optim.matrix_rule == "muon":
            groups.setdefault(tuple(w.shape), []).append(name)
    return groups


def initial(recipe: Recipe, spec: GPTSpec, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """float32 weights in table order. Projections out of blocks start at zero, so a block starts as the identity,
    or as in GPT-2 smaller by the root of how many are added up; a value embedding counts its channels as fan-in,
    like the value projection it joins."""
    scale = recipe.init
    bound = 3**0.5 * scale.matrix_scale
    bound = bound * scale.matrix_std if scale.matrix_std else bound / spec.width**0.5
    out_bound = bound * scale.projection_scale / (2 * spec.depth) ** 0.5

    def uniform(shape: tuple[int, ...], bound: float) -> np.ndarray:
        return (2 * rng.random(shape, np.float32) - 1) * np.float32(bound)

    draw: dict[str, Callable[[tuple[int, ...]], np.ndarray]] = {
        "embedding": lambda shape: rng.standard_normal(shape, np.float32) * np.float32(scale.embedding_std),
        "unembedding": lambda shape: rng.standard_normal(shape, np.float32) * np.float32(scale.unembedding_std),
        "uniform": lambda shape: uniform(shape, bound),
        "projection": lambda shape: uniform(shape, out_bound) if out_bound else np.zeros(shape, np.float32),
        "zero": lambda shape: np.zeros(shape, np.float32),
        "one": lambda shape: np.ones(shape, np.float32),
        "input_lambda": lambda shape: np.full(shape, scale.input_lambda, np.float32),
    }
    return {p.name: draw[p.init](p.shape) for p in table(spec)}
