"""Dynamic loss scaling for float16 (arXiv 1710.03740).

float16 ends at 6e-8, and gradients of a mean over thousands of tokens lie below that: they would be zero. So a
multiple of the loss is differentiated, and its gradients are divided by that multiple in float32. Where one overflows
the step is left out and the multiple halved; after STEADY steps without that it is doubled.

    init      the multiple and how long it has held, kept among the optimizer's moments
    guarded   an update in place, taken back where a gradient is not finite

Tensors alone, no value is read by the host: one compiled graph can hold it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SCALE, HELD = "loss_scale", "loss_scale.held"
START, MOST, STEADY = 2.0**16, 2.0**24, 1000


def init(device: torch.device) -> dict[str, Tensor]:
    return {SCALE: torch.full((), START, device=device), HELD: torch.zeros((), device=device)}


def guarded(update: Callable[[dict[str, Tensor]], None], weights: dict[str, Tensor], grads: dict[str, Tensor],
            moments: dict[str, Tensor]) -> None:
    """`update` changes weights and moments in place, given gradients; it gets the unscaled ones, which replace those
    in `grads` one by one. The copies of weights and moments are what `GPTSpec.training_bytes` adds for float16."""
    scale, held = moments[SCALE], moments[HELD]
    for k in grads:
        grads[k] = grads[k].float() / scale
    finite = torch.stack([g.isfinite().all() for g in grads.values()]).all()
    changed = [*weights.values(), *(m for k, m in moments.items() if k not in (SCALE, HELD))]
    before = [x.clone() for x in changed]
    update(grads)
    for x, old in zip(changed, before, strict=True):
        x.copy_(torch.where(finite, x, old))
    steady = held + 1 >= STEADY
    grown = torch.where(steady, (2 * scale).clamp_max(MOST), scale)
    held.copy_(torch.where(finite & ~steady, held + 1, torch.zeros_like(held)))
    scale.copy_(torch.where(finite, grown, scale / 2))
