"""The update rule in PyTorch: Muon (or AdamW) for matrices, AdamW for everything else, in place.

`w` is a weight, `g` its gradient, `m` and `v` its first and second moment, all of its shape, all float32. Muon's
matrices of one shape are a stack, (S, out, in); there `v` is a number of each row, (S, out, 1), or column, (S, 1, in),
and `u` becomes the update.
`h` holds the numbers of `schedule.hyper` as 0-d float32 tensors, so a new learning rate never recompiles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backends.gpt.params import muon_groups
from backends.gpt.schedule import POLYNOMIALS
from backends.recipe import Optim

State = dict[str, Tensor]


def init(weights: dict[str, Tensor], roles: dict[str, str], optim: Optim) -> State:
    """Zeroed moments: two per AdamW weight, a momentum and a row or column mean per Muon stack."""
    state: State = {}
    groups = muon_groups(weights, roles, optim)
    stacked = {name for names in groups.values() for name in names}
    for name, w in weights.items():
        if name not in stacked:
            state[f"{name}.m"], state[f"{name}.v"] = torch.zeros_like(w), torch.zeros_like(w)
    for (out, into), names in groups.items():
        like = weights[names[0]]
        state[f"muon.{out}x{into}.m"] = like.new_zeros(len(names), out, into)
        if optim.muon_variance:
            state[f"muon.{out}x{into}.v"] = like.new_zeros(len(names), *((out, 1) if out >= into else (1, into)))
    return state


def clip(grads: dict[str, Tensor], most: Tensor) -> dict[str, Tensor]:
    """Scaled down together to a norm of at most `most` (arXiv 1211.5063)."""
    norm = torch.stack([g.square().sum() for g in grads.values()]).sum().sqrt()
    scale = (most / (norm + 1e-6)).clamp_max(1.0)
    return {k: g * scale for k, g in grads.items()}


def adamw(w: Tensor, g: Tensor, m: Tensor, v: Tensor, h: dict[str, Tensor], role: str, cautious: bool) -> None:
    """arXiv 1711.05101, bias-corrected, the decay decoupled and scaled by the learning rate; a cautious one acts
    only where it agrees with the step's sign (arXiv 2510.12402)."""
    lr = h[f"{role}_lr"]
    beta1, bias1 = (h["input_beta1"], h["input_bias1"]) if role == "input_lambda" else (h["beta1"], h["bias1"])
    m.lerp_(g, 1 - beta1)
    v.lerp_(g.square(), 1 - h["beta2"])
    step = lr / bias1 * m / ((v / h["bias2"]).sqrt() + h["eps"])
    if f"{role}_decay" in h:
        decay = lr * h[f"{role}_decay"]
        w.mul_(1 - decay * (m * w >= 0) if cautious else 1 - decay)
    w.sub_(step)


def orthogonalise(x: Tensor, optim: Optim, dtype: torch.dtype) -> Tensor:
    """The nearest semi-orthogonal matrices of a stack, by a polynomial's iterations in `dtype`."""
    margin, polynomial = POLYNOMIALS[optim.muon_polynomial]
    tall = x.shape[-2] > x.shape[-1]
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) * margin + 1e-6)).to(dtype)
    x = x.mT if tall else x
    for a, b, c in polynomial[: optim.muon_steps]:
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.mT if tall else x).float()


def equal_variance(u: Tensor, v: Tensor, beta2: Tensor) -> Tensor:
    """Each row or column of u brought to equal variance at unchanged norm (NorMuon, arXiv 2510.05491)."""
    axis = -1 if u.shape[-2] >= u.shape[-1] else -2
    mean = u.square().mean(dim=axis, keepdim=True)
    norm = (mean.sum(dim=(-2, -1), keepdim=True) * u.shape[axis]).sqrt()
    v.lerp_(mean, 1 - beta2)
    scale = v.clamp_min(1e-10).rsqrt()
    new_norm = (mean * u.shape[axis] * scale.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    return u * scale * (norm / new_norm.clamp_min(1e-10))


def muon(w: Tensor, g: Tensor, m: Tensor, v: Tensor | None, h: dict[str, Tensor], optim: Optim,
         dtype: torch.dtype) -> Tensor:
    """New weights of a stack (S, out, in): a step along the orthogonalised Nesterov momentum (Muon, Jordan et al.
    2024), with a decay that, where cautious, acts only in agreement with the step's sign."""
    m.lerp_(g, 1 - h["momentum"])
    u = orthogonalise(g.lerp(m, h["momentum"]), optim, dtype)
    u = u if v is None else equal_variance(u, v, h["muon_beta2"])
    lr = h["matrix_lr"] * max(1.0, w.shape[-2] / w.shape[-1]) ** 0.5
    decay = h["matrix_decay"] * w
    return w - lr * (u + (decay * (u * w >= 0) if optim.cautious_matrices else decay))


def update(weights: dict[str, Tensor], grads: dict[str, Tensor], state: State, h: dict[str, Tensor],
           roles: dict[str, str], optim: Optim, dtype: torch.dtype) -> None:
    """One step of every weight, in place."""
    if optim.clip_norm:
        grads = clip(grads, h["clip_norm"])
    groups = muon_groups(weights, roles, optim)
    for name, w in weights.items():
        if f"{name}.m" in state:
            cautious = optim.cautious_matrices if roles[name] == "matrix" else optim.cautious_tables
            adamw(w, grads[name], state[f"{name}.m"], state[f"{name}.v"], h, roles[name], cautious)
    for (out, into), names in groups.items():
        stack, grad = (torch.stack([x[n] for n in names]) for x in (weights, grads))
        m, v = state[f"muon.{out}x{into}.m"], state.get(f"muon.{out}x{into}.v")
        for name, new in zip(names, muon(stack, grad, m, v, h, optim, dtype).unbind(0), strict=True):
            weights[name].copy_(new)


def eval_weights(weights: dict[str, Tensor], state: State) -> dict[str, Tensor]:
    """What is scored and saved. A candidate that averages its weights returns the average here."""
    return weights
