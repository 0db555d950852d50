"""Which arithmetic to train in: a low precision only where it is measured to be faithful and faster.

    Verdict   a precision and the reason in words
    judge     what a measuring process found -> whether that precision may be used
"""

from __future__ import annotations

from dataclasses import dataclass

from autoresearch.harness.measuring import Faithful

# Limits lie between what was measured of bfloat16, and of float16 without a loss scale (docs/performance.md).
MOST_FLUSHED = 0.02  # of gradients that are not zero
LEAST_COSINE = 0.9  # of the worst tensor
MOST_GAP = 0.1  # of how far the loss fell in the short run, and at least:
GAP_NATS = 0.05
GAIN = 1.05  # a step has to be that much faster
PRODUCTS_GAIN, PRODUCTS_WORST = 1.3, 0.7  # or its products, where compiling removes what slows the rest


@dataclass(frozen=True)
class Verdict:
    precision: str
    allowed: bool
    reason: str


def judge(found: Faithful, products_ratio: float, compiled: bool) -> Verdict:
    """`products_ratio`: FLOP/s of the model's matrix products against those in float32."""
    if fault := unfaithful(found):
        return Verdict(found.precision, False, f"{found.precision} is not faithful to float32 here: {fault}")
    said = (f"{found.speed_ratio:.2f} times as fast a step as float32 and {products_ratio:.1f} times as fast products; "
            f"{100 * found.flushed_frac:.2g}% of gradients rounded to zero, worst tensor's cosine "
            f"{found.worst_cosine:.4f}, losses within {found.gap_nats:.3g} nats over {found.steps} steps")
    quicker = found.speed_ratio >= GAIN
    products = compiled and products_ratio >= PRODUCTS_GAIN and found.speed_ratio >= PRODUCTS_WORST
    claim = "is faithful and faster" if quicker else "is faithful, with faster products" if products else \
        "gains nothing"
    return Verdict(found.precision, quicker or products, f"{found.precision} {claim}: {said}")


def unfaithful(found: Faithful) -> str:
    """Why training in it would not be the training that float32 does; "" where it would."""
    faults = []
    if found.not_finite:
        faults.append(f"{found.not_finite:,} numbers that are not finite")
    if found.flushed_frac > MOST_FLUSHED:
        faults.append(f"{100 * found.flushed_frac:.0f}% of gradients are rounded to zero")
    if found.worst_cosine < LEAST_COSINE:
        faults.append(f"the gradient of {found.worst_tensor} points elsewhere (cosine {found.worst_cosine:.2f})")
    if found.gap_nats > max(GAP_NATS, MOST_GAP * found.fell_nats):
        faults.append(f"losses differ by {found.gap_nats:.3g} nats within {found.steps} steps")
    return "; ".join(faults)
