"""Schedules: progress in [0, 1] of the budget -> the numbers that one step needs.

Plain Python for every backend alike. Learning rates arrive at the
optimizers final: base rate x width scaling x schedule.
"""

from __future__ import annotations

import zlib

from backends.recipe import Recipe

# Polynomials that drive every singular value of X towards 1: X is divided by its norm times the first number, then
# X <- a X + b (X Xᵀ) X + c (X Xᵀ)² X for each (a, b, c). The polar express is optimal for five iterations
# (arXiv 2505.16932); the quintic of Newton and Schulz repeats one step (Jordan et al. 2024, Muon).
POLYNOMIALS = {
    "polar_express": (1.02, [
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ]),
    "newton_schulz": (1.0, [(3.4445, -4.7750, 2.0315)] * 5),
}


def lr_multiplier(recipe: Recipe, progress: float) -> float:
    """Trapezoid: linear warm-up, flat, linear warm-down to final_lr_frac."""
    s = recipe.schedule
    if progress < s.warmup_frac:
        return progress / s.warmup_frac
    if progress <= 1 - s.warmdown_frac:
        return 1.0
    left = max(0.0, 1 - progress) / s.warmdown_frac
    return left + (1 - left) * s.final_lr_frac


def muon_momentum(recipe: Recipe, progress: float) -> float:
    s = recipe.schedule
    risen = min(1.0, progress / s.momentum_warmup_frac) if s.momentum_warmup_frac else 1.0
    return (1 - risen) * s.momentum_start + risen * recipe.optim.muon_momentum


def row_parts(recipe: Recipe, progress: float) -> int:
    """In how many parts training rows are cut: short sequences first (arXiv 2108.06084), the tokens of a step
    the same. Halves at equal intervals of the warm-up until it is 1."""
    s = recipe.schedule
    stages = s.seq_parts.bit_length() - 1
    return s.seq_parts >> int(stages * progress / s.seq_warmup_frac) if progress < s.seq_warmup_frac else 1


def salt(seed: int, step: int) -> float:
    """A number that decides the dropout of one step; a whole one that float32 holds."""
    return float(zlib.crc32(b"%d %d" % (seed, step)) >> 9)


def hyper(recipe: Recipe, progress: float, step: int, seed: int = 0) -> dict[str, float]:
    """Every number of one step; `step` counts from 1. The names are the optimizers' contract."""
    o = recipe.optim
    lr = lr_multiplier(recipe, progress)
    adam_lr = lr * (recipe.model.width / 768) ** -0.5
    return {
        "matrix_lr": (lr if o.matrix_rule == "muon" else adam_lr) * o.matrix_lr,
        "embedding_lr": adam_lr * o.embedding_lr,
        "value_embedding_lr": adam_lr * o.value_embedding_lr,
        "unembedding_lr": adam_lr * o.unembedding_lr,
        "input_lambda_lr": lr * o.scalar_lr,
        "resid_lambda_lr": lr * o.scalar_lr * 0.01,  # they multiply the whole stream; large steps diverge
        "vector_lr": adam_lr * o.vector_lr,
        "matrix_decay": o.matrix_decay * (1 - progress * (1 - recipe.schedule.final_decay_frac)),
        "embedding_decay": o.embedding_decay,
        "value_embedding_decay": o.value_embedding_decay,
        "unembedding_decay": o.unembedding_decay,
        "momentum": muon_momentum(recipe, progress),
        "muon_beta2": o.muon_beta2,
        "beta1": o.adam_beta1,
        "beta2": o.adam_beta2,
        "eps": o.adam_eps,
        "bias1": 1 - o.adam_beta1**step,
        "bias2": 1 - o.adam_beta2**step,
        "input_beta1": 0.96,  # few numbers, noisy gradients: average them longer
        "input_bias1": 1 - 0.96**step,
        "clip_norm": o.clip_norm,
        "salt": salt(seed, step),
    }
