"""The update rule in PyTorch: Muon for matrices, AdamW for everything else, in place.

`h` holds the numbers of `schedule.hyper` as 0-d float32 tensors, so a new learning rate never recompiles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backends.gpt.params import muon_groups
from backends.gpt.schedule import POLAR_EXPRESS

State = dict[str, Tensor]


def init(weights: dict[str, Tensor], roles: dict[str, str]) -> State:
    """Zeroed moments: two per AdamW weight, a momentum and a row or column mean per Muon stack."""
    state: State = {}
    for name, w in weights.items():
        if roles[name] != "matrix":
            state[f"{name}.m"], state[f"{name}.v"] = torch.zeros_like(w), torch.zeros_like(w)
    for (out, into), names in muon_groups(weights, roles).items():
        like = weights[names[0]]
        state[f"muon.{out}x{into}.m"] = like.new_zeros(len(names), out, into)
        state[f"muon.{out}x{into}.v"] = like.new_zeros(len(names), *((out, 1) if out >= into else (1, into)))
    return state


def adamw(w: Tensor, g: Tensor, m: Tensor, v: Tensor, h: dict[str, Tensor], role: str) -> None:
    """arXiv 1711.05101, bias-corrected, the decay decoupled and scaled by the learning rate."""
    lr = h[f"{role}_lr"]
    beta1, bias1 = (h["input_beta1"], h["input_bias1"]) if role == "input_lambda" else (h["beta1"], h["bias1"])
    if f"{role}_decay" in h:
        w.mul_(1 - lr * h[f"{role}_decay"])
    m.lerp_(g, 1 - beta1)
    v.lerp_(g.square(), 1 - h["beta2"])
    w.sub_(lr / bias1 * m / ((v / h["bias2"]).sqrt() + h["eps"]))


def orthogonalise(x: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """The nearest semi-orthogonal matrices of a stack, by the polar express in `dtype`."""
    tall = x.shape[-2] > x.shape[-1]
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)).to(dtype)
    x = x.mT if tall else x
    for a, b, c in POLAR_EXPRESS[:steps]:
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.mT if tall else x).float()


def muon(w: Tensor, g: Tensor, m: Tensor, v: Tensor, h: dict[str, Tensor], steps: int, dtype: torch.dtype) -> Tensor:
    """New weights of a stack (S, out, in): orthogonalised Nesterov momentum (Muon), each row or column
    brought to equal variance at unchanged norm (NorMuon, arXiv 2510.05491), then a step whose decay
    acts only where it agrees with the step's sign (cautious, arXiv 2510.12402)."""
    m.lerp_(g, 1 - h["momentum"])
    u = orthogonalise(g.lerp(m, h["momentum"]), steps, dtype)
    axis = -1 if w.shape[-2] >= w.shape[-1] else -2
    mean = u.square().mean(dim=axis, keepdim=True)
    norm = (mean.sum(dim=(-2, -1), keepdim=True) * u.shape[axis]).sqrt()
    v.lerp_(mean, 1 - h["muon_beta2"])
    scale = v.clamp_min(1e-10).rsqrt()
    new_norm = (mean * u.shape[axis] * scale.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    u = u * scale * (norm / new_norm.clamp_min(1e-10))
    lr = h["matrix_lr"] * max(1.0, w.shape[-2] / w.shape[-1]) ** 0.5
    return w - lr * (u + h["matrix_decay"] * w * (u * w >= 0))


def update(weights: dict[str, Tensor], grads: dict[str, Tensor], state: State, h: dict[str, Tensor],
           roles: dict[str, str], muon_steps: int, dtype: torch.dtype) -> None:
    """One step of every weight, in place."""
    for name, w in weights.items():
        if roles[name] != "matrix":
            adamw(w, grads[name], state[f"{name}.m"], state[f"{name}.v"], h, roles[name])
    for (out, into), names in muon_groups(weights, roles).items():
        stack, grad = (torch.stack([x[n] for n in names]) for x in (weights, grads))
        m, v = state[f"muon.{out}x{into}.m"], state[f"muon.{out}x{into}.v"]
        for name, new in zip(names, muon(stack, grad, m, v, h, muon_steps, dtype).unbind(0), strict=True):
            weights[name].copy_(new)


def eval_weights(weights: dict[str, Tensor], state: State) -> dict[str, Tensor]:
    """What is scored and saved. A candidate that averages its weights returns the average here."""
    return weights
