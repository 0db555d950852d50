"""The update rule in MLX: Muon (or AdamW) for matrices, AdamW for everything else, returning new arrays.

`w` is a weight, `g` its gradient, `m` and `v` its first and second moment, all of its shape, all float32. Muon's
matrices of one shape are a stack, (S, out, in); there `v` is a number of each row, (S, out, 1), or column, (S, 1, in),
and `u` becomes the update.
`h` holds the numbers of `schedule.hyper` as 0-d float32 arrays, so a new learning rate never recompiles.
The functions and their names are those of `torch_optim`; tests/parity holds the two equal.
"""

from __future__ import annotations

import mlx.core as mx

from backends.gpt.params import muon_groups
from backends.gpt.schedule import POLYNOMIALS
from backends.recipe import Optim

State = dict[str, mx.array]


def init(weights: dict[str, mx.array], roles: dict[str, str], optim: Optim) -> State:
    """Zeroed moments: two per AdamW weight, a momentum and a row or column mean per Muon stack."""
    state: State = {}
    groups = muon_groups(weights, roles, optim)
    stacked = {name for names in groups.values() for name in names}
    for name, w in weights.items():
        if name not in stacked:
            state[f"{name}.m"], state[f"{name}.v"] = mx.zeros_like(w), mx.zeros_like(w)
    for (out, into), names in groups.items():
        state[f"muon.{out}x{into}.m"] = mx.zeros((len(names), out, into))
        if optim.muon_variance:
            state[f"muon.{out}x{into}.v"] = mx.zeros((len(names), *((out, 1) if out >= into else (1, into))))
    return state


def lerp(a: mx.array, b: mx.array, t: mx.array) -> mx.array:
    return a + t * (b - a)


def clip(grads: dict[str, mx.array], most: mx.array) -> dict[str, mx.array]:
    """Scaled down together to a norm of at most `most` (arXiv 1211.5063)."""
    norm = mx.sqrt(mx.stack([mx.square(g).sum() for g in grads.values()]).sum())
    scale = mx.minimum(most / (norm + 1e-6), 1.0)
    return {k: g * scale for k, g in grads.items()}


def adamw(w: mx.array, g: mx.array, m: mx.array, v: mx.array, h: dict[str, mx.array], role: str,
          cautious: bool) -> tuple[mx.array, mx.array, mx.array]:
    """New (w, m, v). arXiv 1711.05101, bias-corrected, the decay decoupled and scaled by the learning rate; a
    cautious one acts only where it agrees with the step's sign (arXiv 2510.12402)."""
    lr = h[f"{role}_lr"]
    beta1, bias1 = (h["input_beta1"], h["input_bias1"]) if role == "input_lambda" else (h["beta1"], h["bias1"])
    m = lerp(m, g, 1 - beta1)
    v = lerp(v, mx.square(g), 1 - h["beta2"])
    step = lr / bias1 * m / (mx.sqrt(v / h["bias2"]) + h["eps"])
    if f"{role}_decay" in h:
        decay = lr * h[f"{role}_decay"]
        w = w * (1 - decay * (m * w >= 0) if cautious else 1 - decay)
    return w - step, m, v


def orthogonalise(x: mx.array, optim: Optim, dtype: mx.Dtype) -> mx.array:
    """The nearest semi-orthogonal matrices of a stack, by a polynomial's iterations in `dtype`."""
    margin, polynomial = POLYNOMIALS[optim.muon_polynomial]
    tall = x.shape[-2] > x.shape[-1]
    x = (x / (mx.sqrt(mx.square(x).sum(axis=(-2, -1), keepdims=True)) * margin + 1e-6)).astype(dtype)
    x = x.swapaxes(-2, -1) if tall else x
    for a, b, c in polynomial[: optim.muon_steps]:
        gram = x @ x.swapaxes(-2, -1)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.swapaxes(-2, -1) if tall else x).astype(mx.float32)


def equal_variance(u: mx.array, v: mx.array, beta2: mx.array) -> tuple[mx.array, mx.array]:
    """New (u, v): each row or column of u brought to equal variance at unchanged norm (NorMuon, arXiv 2510.05491)."""
    axis = -1 if u.shape[-2] >= u.shape[-1] else -2
    mean = mx.square(u).mean(axis=axis, keepdims=True)
    norm = mx.sqrt(mean.sum(axis=(-2, -1), keepdims=True) * u.shape[axis])
    v = lerp(v, mean, 1 - beta2)
    scale = mx.rsqrt(mx.maximum(v, 1e-10))
    new_norm = mx.sqrt((mean * u.shape[axis] * mx.square(scale)).sum(axis=(-2, -1), keepdims=True))
    return u * scale * (norm / mx.maximum(new_norm, 1e-10)), v


def muon(w: mx.array, g: mx.array, m: mx.array, v: mx.array | None, h: dict[str, mx.array], optim: Optim,
         dtype: mx.Dtype) -> tuple[mx.array, mx.array, mx.array | None]:
    """New (w, m, v) of a stack (S, out, in): a step along the orthogonalised Nesterov momentum (Muon, Jordan et al.
    2024), with a decay that, where cautious, acts only in agreement with the step's sign."""
    m = lerp(m, g, 1 - h["momentum"])
    u = orthogonalise(lerp(g, m, h["momentum"]), optim, dtype)
    u, v = (u, v) if v is None else equal_variance(u, v, h["muon_beta2"])
    lr = h["matrix_lr"] * max(1.0, w.shape[-2] / w.shape[-1]) ** 0.5
    decay = h["matrix_decay"] * w
    return w - lr * (u + (decay * (u * w >= 0) if optim.cautious_matrices else decay)), m, v


def update(weights: dict[str, mx.array], grads: dict[str, mx.array], state: State, h: dict[str, mx.array],
           roles: dict[str, str], optim: Optim, dtype: mx.Dtype) -> tuple[dict[str, mx.array], State]:
    """New (weights, state) after one step of every weight."""
    weights, new = dict(weights), {}
    if optim.clip_norm:
        grads = clip(grads, h["clip_norm"])
    groups = muon_groups(weights, roles, optim)
    for name, w in weights.items():
        m, v = f"{name}.m", f"{name}.v"
        if m in state:
            cautious = optim.cautious_matrices if roles[name] == "matrix" else optim.cautious_tables
            weights[name], new[m], new[v] = adamw(w, grads[name], state[m], state[v], h, roles[name], cautious)
    for (out, into), names in groups.items():
        stack, grad = (mx.stack([x[n] for n in names]) for x in (weights, grads))
        m, v = f"muon.{out}x{into}.m", f"muon.{out}x{into}.v"
        stack, new[m], second = muon(stack, grad, state[m], state.get(v), h, optim, dtype)
        new |= {} if second is None else {v: second}
        weights.update(zip(names, stack, strict=True))
    return weights, new


def eval_weights(weights: dict[str, mx.array], state: State) -> dict[str, mx.array]:
    """What is scored and saved. A candidate that averages its weights returns the average here."""
    return weights
