"""How far MLX, or a card, is from the oracle (the cpu backend at float32, not compiled), in numbers.

    BACKENDS   those that can be asked here
    VARIANTS   recipe changes that together reach every branch of the model and the update rule
    Problem    a recipe with weights and text
    measure    Problem -> {"logits": 3e-7, "grad blocks.0...": 1e-6, ...}
    beyond     the measurements over their limits, as sentences; a test asserts that there are none,
               a test with a planted bug that there is one

`python -m tests.parity.figures` prints the table in docs/parity.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

import backends
from backends.base import Backend
from backends.cards import AMPERE
from backends.gpt import mlx_model, mlx_optim, params, schedule, torch_model, torch_optim
from backends.recipe import Recipe, load, preset_file
from backends.spec import GPTSpec
from backends.torch_backend import gradients

CARDS = ["cuda"] if torch.cuda.is_available() else []
BACKENDS = ["cpu", "mlx", *CARDS]  # of cpu and mlx a missing one is a failure, never a skip
SLOW_ON_CPU = ["mlx", pytest.param("cpu", marks=pytest.mark.slow), *CARDS]  # where torch compiles for half a minute
WITH_BFLOAT16 = ["cpu", "mlx", *(name for name in CARDS if torch.cuda.get_device_capability() >= AMPERE)]
VOCAB = 97
CURVE_STEPS = 30
SALT = 4321.0  # decides the dropout of the gradients that are compared
BASE: dict[str, Any] = {
    "model.depth": 2, "model.width": 32, "model.head_dim": 16, "model.seq_len": 16, "model.mlp_ratio": 2.0,
    "batch.tokens_per_step": 96, "schedule.warmup_frac": 0.1, "model.value_gate_channels": 12,
    # With upstream's 1e-10 Adam's first step is the sign of a gradient, whatever its size: rounding
    # decides it for tiny gradients, and a gradient that is twice too large goes unseen.
    "optim.adam_eps": 1e-6,
    # At the default rates so small a model is chaotic: rounding grows to 1e-2 nats within 30 steps.
    "optim.matrix_lr": 0.01, "optim.embedding_lr": 0.1, "optim.value_embedding_lr": 0.1, "optim.scalar_lr": 0.1,
    "runtime.precision": "float32", "runtime.compile": False,
}
WINDOWS = {"model.window_pattern": "SSSL", "model.depth": 3, "model.short_window_frac": 0.4}
DECAYS = {f"optim.{role}_decay": 0.3 for role in ("matrix", "embedding", "value_embedding", "unembedding")}
EVERYTHING: dict[str, Any] = WINDOWS | DECAYS | {
    "model.kv_heads": 1, "model.value_embeds": "all", "model.qk_scale": 1.3,
    "model.mlp_ratio": 0.8, "batch.micro_rows": 2, "optim.muon_steps": 4,
}
# The preset at this size. Its own rates and schedule; Adam's epsilon is that of BASE. Its std of 0.02 is for wide
# models: at this width it would leave the gradients of queries and keys to rounding.
GPT2: dict[str, Any] = {k: v for k, v in load(preset_file("gpt2")).flat().items()
                        if k not in BASE or k.startswith("schedule.") or k.endswith("_lr")} | {
                            "init.matrix_std": 0.0, "init.matrix_scale": 0.32}
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "windows": WINDOWS,
    "grouped heads": {"model.kv_heads": 2, "model.head_dim": 8},
    "no value embeddings": {"model.value_embeds": "none"},
    "value embeddings everywhere": {"model.value_embeds": "all"},
    "no softcap": {"model.softcap": 0.0},
    "gradient accumulation": {"batch.micro_rows": 2},
    "decays": DECAYS,
    "softcap that bites": {"model.softcap": 1.0},
    "qk scale": {"model.qk_scale": 1.3},
    "wide MLP": {"model.mlp_ratio": 4.0},
    "one block": DECAYS | {"model.depth": 1, "optim.muon_steps": 2},
    "everything": EVERYTHING,
    "gpt2": GPT2,
    "gpt2 with dropout": GPT2 | {"model.dropout": 0.2, "batch.micro_rows": 2},
    "gains": {"model.norm_gain": True, "model.qk_norm": "before"},
    "plain LayerNorm": {"model.norm": "layer", "model.norm_eps": 1e-3, "model.embed_norm": False},
    "SwiGLU": {"model.activation": "swiglu", "model.norm": "layer", "model.norm_gain": True, "model.biases": True,
               "model.qk_norm": "before"},
    "SiLU": {"model.activation": "silu", "model.resid_lambdas": False, "model.qk_norm": "none"},
    "plain value embeddings": {"model.value_embeds": "all", "model.value_gate": False, "model.input_lambdas": False},
    "AdamW for matrices": DECAYS | {"optim.matrix_rule": "adamw", "optim.matrix_lr": 1e-3,
                                    "optim.cautious_matrices": False, "optim.cautious_tables": True},
    "Newton-Schulz": DECAYS | {"optim.muon_polynomial": "newton_schulz", "optim.muon_variance": False,
                               "optim.cautious_matrices": False, "schedule.final_decay_frac": 0.5},
    # So small a norm that Adam's epsilon shows how it was reached: the updates do not depend on a factor otherwise.
    "clipping": {"optim.clip_norm": 0.003, "batch.micro_rows": 2},
    "short rows first": {"schedule.seq_parts": 4, "schedule.seq_warmup_frac": 0.5, "batch.micro_rows": 3},
    "checkpointing": {"runtime.checkpoint": True, "model.dropout": 0.3},
    "shifts": {"model.key_shift": True, "model.token_shift": True, "model.kv_heads": 1, "batch.micro_rows": 2},
    "tied embeddings": {"model.tied_embeddings": True, "init.embedding_std": 0.1, "init.projection_scale": 1.0,
                        "optim.embedding_lr": 0.01, "model.embed_norm": False},
}
COVERED = ("no softcap", "softcap that bites", "qk scale", "wide MLP", "decays")  # by others: compared by `make slow`
# Limits are 2 to 10 times the largest deviations of docs/parity.md; float32 resolves 1.2e-7.
LIMITS = {"logits": 3e-6, "long logits": 3e-6, "loss": 1e-5, "grad": 3e-5, "update": 3e-5, "step": 1e-3, "curve": 2e-4}


@dataclass(frozen=True)
class Problem:
    recipe: Recipe
    spec: GPTSpec
    weights: Mapping[str, np.ndarray]
    batches: tuple[np.ndarray, ...]  # one (rows, T+1) batch per step
    long_BT: np.ndarray  # twice the training context, where positions are not learned


def problem(variant: str, trained: bool = True, seed: int = 0) -> Problem:
    """`trained`: weights with nothing at zero. From the real initial weights most gradients are exactly
    zero on the first step, which hides bugs, and those of the lambdas are rounding noise."""
    return _problem(variant, trained, seed)


@cache  # by position, so that a default that is spelt out is the same key
def _problem(variant: str, trained: bool, seed: int) -> Problem:
    recipe = Recipe().replace(BASE | VARIANTS[variant])
    spec, rng = GPTSpec.of(recipe, VOCAB), np.random.default_rng(seed)
    weights = params.initial(recipe, spec, rng)
    for p in params.table(spec):
        if trained and p.init in ("zero", "projection", "unembedding", "one", "input_lambda"):
            weights[p.name] = weights[p.name] + rng.normal(0, 0.15, p.shape).astype(np.float32)
    text = _text(rng, recipe.rows_per_step * CURVE_STEPS, recipe.model.seq_len + 1)
    long_BT = _text(rng, 3, spec.max_positions or 2 * recipe.model.seq_len)
    return Problem(recipe, spec, weights, tuple(np.split(text, CURVE_STEPS)), long_BT)


def _text(rng: np.random.Generator, rows: int, T: int) -> np.ndarray:
    """Tokens that can be learnt: mostly a fixed successor, sometimes any token."""
    tokens = rng.integers(0, VOCAB, (rows, T), dtype=np.int32)
    for t in range(1, T):
        tokens[:, t] = np.where(rng.random(rows) < 0.8, (7 * tokens[:, t - 1] + 3) % VOCAB, tokens[:, t])
    return tokens


@dataclass(frozen=True)
class Facts:
    """What one backend computes for a problem, all NumPy."""

    logits: np.ndarray
    long_logits: np.ndarray
    loss: float
    grads: dict[str, np.ndarray]
    updates: dict[str, np.ndarray]  # change of each weight over three updates from given gradients
    step: dict[str, np.ndarray]  # change of each weight over the first step of the backend itself
    curve: np.ndarray


def torch_facts(p: Problem, steps: int, name: str = "cpu") -> Facts:
    def tensors(given: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        return {k: torch.tensor(v, device=name) for k, v in given.items()}

    tokens, salt = torch.tensor(p.batches[0], device=name).long(), torch.tensor(SALT, device=name)
    grads, _ = gradients(lambda w: torch_model.loss(w, tokens, p.spec, salt), not p.spec.checkpoint)(tensors(p.weights))
    weights, roles = tensors(p.weights), params.roles(p.spec)
    moments = torch_optim.init(weights, roles, p.recipe.optim)
    for h, given in _given_gradients(p):
        torch_optim.update(weights, tensors(given), moments, tensors(h), roles, p.recipe.optim, torch.float32)
    updates = {k: v.cpu().numpy() - p.weights[k] for k, v in weights.items()}
    return Facts(**_of_backend(p, backends.load(name), steps), grads={k: v.cpu().numpy() for k, v in grads.items()},
                 updates=updates)


def mlx_facts(p: Problem, steps: int) -> Facts:
    weights, roles = {k: mx.array(v) for k, v in p.weights.items()}, params.roles(p.spec)
    grads = mx.grad(lambda w: mlx_model.loss(w, mx.array(p.batches[0]), p.spec, mx.array(SALT)))(weights)
    moments = mlx_optim.init(weights, roles, p.recipe.optim)
    for h, given in _given_gradients(p):
        weights, moments = mlx_optim.update(
            weights, {k: mx.array(v) for k, v in given.items()}, moments,
            {k: mx.array(v, dtype=mx.float32) for k, v in h.items()}, roles, p.recipe.optim, mx.float32)
    updates = {k: np.array(v) - p.weights[k] for k, v in weights.items()}
    return Facts(**_of_backend(p, backends.load("mlx"), steps), grads={k: np.array(v) for k, v in grads.items()},
                 updates=updates)


def _given_gradients(p: Problem) -> Iterator[tuple[dict[str, float], dict[str, np.ndarray]]]:
    """Three updates' numbers and gradients of three sizes, the same for both, so that the update rule is compared
    alone."""
    rng = np.random.default_rng(9)
    for step, size in ((1, 1e-3), (2, 3e-3), (3, 1e-3)):
        grads = {k: rng.normal(0, size, v.shape).astype(np.float32) for k, v in p.weights.items()}
        yield schedule.hyper(p.recipe, 0.1 * step, step), grads


def _of_backend(p: Problem, backend: Backend, steps: int) -> dict[str, Any]:
    state = backend.init(p.recipe, VOCAB, dict(p.weights))
    facts: dict[str, Any] = {
        "logits": backend.logits(state, p.batches[0][:, :-1]),
        "long_logits": backend.logits(state, p.long_BT),
        "loss": backend.loss(state, p.batches[0]),
    }
    curve = curve_of(backend, state, p, 1, 0)
    facts["step"] = {k: v - p.weights[k] for k, v in backend.weights(state).items()}
    return facts | {"curve": np.array(curve + curve_of(backend, state, p, steps, 1))}


def curve_of(backend: Backend, state: Any, p: Problem, steps: int, start: int = 0) -> list[float]:
    """Training losses of steps start..steps-1, nats per token."""
    return [float(backend.step(state, p.batches[i], (i + 0.5) / CURVE_STEPS)) for i in range(start, steps)]


def oracle(variant: str, steps: int, trained: bool = True, seed: int = 0) -> Facts:
    return _oracle(variant, steps, trained, seed)


@cache
def _oracle(variant: str, steps: int, trained: bool, seed: int) -> Facts:
    return torch_facts(problem(variant, trained, seed), steps)


def deviations(a: Facts, b: Facts) -> dict[str, float]:
    """Relative distance of b from a, per array; the curve in nats. Root-mean-square, but for the
    backend's own step the mean: where an update is about zero, rounding decides whether cautious
    decay acts on that weight, and one such weight in a thousand would hide the others."""
    found = {
        "logits": _relative(a.logits, b.logits),
        "long logits": _relative(a.long_logits, b.long_logits),
        "loss": abs(a.loss - b.loss),
        "curve": float(np.abs(a.curve - b.curve).max()),
    }
    for what, ours, theirs, order in (("grad", a.grads, b.grads, 2), ("update", a.updates, b.updates, 2),
                                      ("step", a.step, b.step, 1)):
        found |= {f"{what} {name}": _relative(ours[name], theirs[name], order) for name in ours}
    return found


def _relative(a: np.ndarray, b: np.ndarray, order: int = 2) -> float:
    scale = np.linalg.norm(a.ravel(), order)
    return float(np.linalg.norm((a - b).ravel(), order) / scale) if scale else float(np.abs(b).max())


def measure(variant: str, steps: int = CURVE_STEPS, trained: bool = True, seed: int = 0,
            name: str = "mlx") -> dict[str, float]:
    """A backend against the oracle."""
    p = problem(variant, trained, seed)
    return deviations(oracle(variant, steps, trained, seed),
                      mlx_facts(p, steps) if name == "mlx" else torch_facts(p, steps, name))


def kind(name: str) -> str:
    return name if name in LIMITS else name.split()[0]


def beyond(measured: Mapping[str, float]) -> list[str]:
    """The measurements that are not within their limit; NaN is within none."""
    return [f"{name}: {value:.1e}, at most {LIMITS[kind(name)]:.0e}" for name, value in measured.items()
            if not value <= LIMITS[kind(name)]]
