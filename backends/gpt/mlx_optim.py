"""The update rule in MLX: Muon for matrices, AdamW for everything else, returning new arrays.

`h` holds the numbers of `schedule.hyper` as 0-d float32 arrays, so a new learning rate never recompiles.
The functions and their names are those of `torch_optim`; tests/parity holds the two equal.
"""

from __future__ import annotations

import mlx.core as mx

from backends.gpt.params import muon_groups
from backends.gpt.schedule import POLAR_EXPRESS

State = dict[str, mx.array]


def init(weights: dict[str, mx.array], roles: dict[str, str]) -> State:
    """Zeroed moments: two per AdamW weight, a momentum and a row or column mean per Muon stack."""
    state: State = {}
    for name, w in weights.items():
        if roles[name] != "matrix":
            state[f"{name}.m"], state[f"{name}.v"] = mx.zeros_like(w), mx.zeros_like(w)
    for (out, into), names in muon_groups(weights, roles).items():
        state[f"muon.{out}x{into}.m"] = mx.zeros((len(names), out, into))
        state[f"muon.{out}x{into}.v"] = mx.zeros((len(names), *((out, 1) if out >= into else (1, into))))
    return state


def lerp(a: mx.array, b: mx.array, t: mx.array) -> mx.array:
    return a + t * (b - a)


def adamw(w: mx.array, g: mx.array, m: mx.array, v: mx.array, h: dict[str, mx.array],
          role: str) -> tuple[mx.array, mx.array, mx.array]:
    """New (w, m, v). arXiv 1711.05101, bias-corrected, the decay decoupled and scaled by the learning rate."""
    lr = h[f"{role}_lr"]
    beta1, bias1 = (h["input_beta1"], h["input_bias1"]) if role == "input_lambda" else (h["beta1"], h["bias1"])
    if f"{role}_decay" in h:
        w = w * (1 - lr * h[f"{role}_decay"])
    m = lerp(m, g, 1 - beta1)
    v = lerp(v, mx.square(g), 1 - h["beta2"])
    return w - lr / bias1 * m / (mx.sqrt(v / h["bias2"]) + h["eps"]), m, v


def orthogonalise(x: mx.array, steps: int, dtype: mx.Dtype) -> mx.array:
    """The nearest semi-orthogonal matrices of a stack, by the polar express in `dtype`."""
    tall = x.shape[-2] > x.shape[-1]
    x = (x / (mx.sqrt(mx.square(x).sum(axis=(-2, -1), keepdims=True)) * 1.02 + 1e-6)).astype(dtype)
    x = x.swapaxes(-2, -1) if tall else x
    for a, b, c in POLAR_EXPRESS[:steps]:
        gram = x @ x.swapaxes(-2, -1)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.swapaxes(-2, -1) if tall else x).astype(mx.float32)


def muon(w: mx.array, g: mx.array, m: mx.array, v: mx.array, h: dict[str, mx.array], steps: int,
         dtype: mx.Dtype) -> tuple[mx.array, mx.array, mx.array]:
    """New (w, m, v) of a stack (S, out, in): orthogonalised Nesterov momentum (Muon), each row or column
    brought to equal variance at unchanged norm (NorMuon, arXiv 2510.05491), then a step whose decay
    acts only where it agrees with the step's sign (cautious, arXiv 2510.12402)."""
    m = lerp(m, g, 1 - h["momentum"])
    u = orthogonalise(lerp(g, m, h["momentum"]), steps, dtype)
    axis = -1 if w.shape[-2] >= w.shape[-1] else -2
    mean = mx.square(u).mean(axis=axis, keepdims=True)
    norm = mx.sqrt(mean.sum(axis=(-2, -1), keepdims=True) * u.shape[axis])
    v = lerp(v, mean, 1 - h["muon_beta2"])
    scale = mx.rsqrt(mx.maximum(v, 1e-10))
    new_norm = mx.sqrt((mean * u.shape[axis] * mx.square(scale)).sum(axis=(-2, -1), keepdims=True))
    u = u * scale * (norm / mx.maximum(new_norm, 1e-10))
    lr = h["matrix_lr"] * max(1.0, w.shape[-2] / w.shape[-1]) ** 0.5
    return w - lr * (u + h["matrix_decay"] * w * (u * w >= 0)), m, v


def update(weights: dict[str, mx.array], grads: dict[str, mx.array], state: State, h: dict[str, mx.array],
           roles: dict[str, str], muon_steps: int, dtype: mx.Dtype) -> tuple[dict[str, mx.array], State]:
    """New (weights, state) after one step of every weight."""
    weights, state = dict(weights), dict(state)
    groups = muon_groups(weights, roles)
    for name, w in weights.items():
        if roles[name] != "matrix":
            m, v = f"{name}.m", f"{name}.v"
            weights[name], state[m], state[v] = adamw(w, grads[name], state[m], state[v], h, roles[name])
    for (out, into), names in groups.items():
        stack, grad = (mx.stack([x[n] for n in names]) for x in (weights, grads))
        m, v = f"muon.{out}x{into}.m", f"muon.{out}x{into}.v"
        stack, state[m], state[v] = muon(stack, grad, state[m], state[v], h, muon_steps, dtype)
        weights.update(zip(names, stack, strict=True))
    return weights, state


def eval_weights(weights: dict[str, mx.array], state: State) -> dict[str, mx.array]:
    """What is scored and saved. A candidate that averages its weights returns the average here."""
    return weights
