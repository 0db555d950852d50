"""Settling what `precision = "auto"` means on a machine, by measuring it for a recipe.

    Settled    the precision, and what was found of each
    compare    every low precision that could be faster beside float32, in a process that measures
    settled    the same in a process of its own, or as it was found before
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoresearch import machine, paths, precision
from autoresearch.harness import assemble
from autoresearch.harness.measuring import Measuring
from autoresearch.harness.supervise import TrialFailed
from autoresearch.precision import Verdict
from backends.base import Device
from backends.recipe import Recipe
from backends.spec import GPTSpec

EACH_S, COMPARE_S, TIMEOUT_S = 0.1, 2.5, 30.0
WORTH_COMPARING = 0.9  # of float32's products: slower ones can't make a step faster
SIZE = {"model.depth": 2, "model.width": 128, "model.head_dim": 64, "model.kv_heads": 0, "batch.micro_rows": 0}


@dataclass(frozen=True)
class Settled:
    precision: str
    verdicts: tuple[Verdict, ...]
    products_flops: dict[str, float]  # of the model's matrix products together, by precision; 0: not measured
    speed_ratios: dict[str, float]  # a float32 step's seconds over those in each precision that was compared

    @classmethod
    def of(cls, found: dict[str, Any]) -> Settled:
        """From JSON. Raises TypeError or KeyError for something else."""
        return cls(**found | {"verdicts": tuple(Verdict(**v) for v in found["verdicts"])})


def compare(process: Measuring, recipe: Recipe, vocab: int, compiles: bool, timeout_s: float = TIMEOUT_S) -> Settled:
    """The fastest precision that is faithful; float32 where none is. Raises TrialFailed where not even float32 runs."""
    verdicts: list[Verdict] = []
    products, ratios = {"float32": products_flops(process, "float32", recipe, vocab, timeout_s)}, {"float32": 1.0}
    for low in (p for p in process.device.precisions if p != "float32"):
        try:
            products[low] = products_flops(process, low, recipe, vocab, timeout_s)
            if not (products[low] and products["float32"]):
                verdicts.append(Verdict(low, False, f"{low}: how fast its products are was not measured"))
                continue
            gain = products[low] / products["float32"]
            if gain < WORTH_COMPARING:
                verdicts.append(Verdict(low, False, f"{low}: its products are slower than float32's here"))
                continue
            found = process.compare(recipe, vocab, low, COMPARE_S, timeout_s)
        except TrialFailed as e:
            verdicts.append(Verdict(low, False, f"{low} could not be compared with float32: {e.reason}"))
            break
        verdicts.append(precision.judge(found, gain, compiles))
        ratios[low] = found.speed_ratio
    usable = [v.precision for v in verdicts if v.allowed]
    return Settled(max(usable, key=lambda p: products[p], default="float32"), tuple(verdicts), products, ratios)


def products_flops(process: Measuring, name: str, recipe: Recipe, vocab: int, timeout_s: float) -> float:
    """FLOP/s of a forward pass's matrix products, one after the other. 0 where one was not measured."""
    spec, rows = GPTSpec.of(recipe, vocab), recipe.micro_rows * recipe.model.seq_len
    C, M, L = spec.width, spec.mlp_width, spec.depth
    shapes = ((rows, C, C), (rows, C, M), (rows, M, C), (rows, C, vocab))
    times = (4 * L, (spec.mlp_matrices - 1) * L, L, 1)
    flops = [2.0 * m * k * n * t for (m, k, n), t in zip(shapes, times, strict=True)]
    rates = process.ceiling(name, EACH_S, timeout_s, shapes)
    return sum(flops) / sum(f / rate for f, rate in zip(flops, rates, strict=True)) if all(rates) else 0.0


def settled(candidate: dict[str, bytes], backend: str, recipe: Recipe, vocab: int) -> Settled:
    """Known again by machine, driver, frameworks, code, and the recipe but for its size. Raises TrialFailed."""
    parts = (machine.digest(), assemble.code_digest(candidate), family(recipe).digest(), backend, str(vocab))
    place = paths.cache() / "precision" / ("-".join(parts) + ".json")
    try:
        return Settled.of(json.loads(place.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        with Measuring(candidate, backend) as process:
            found = compare(process, recipe, vocab, may_compile(recipe, process.device))
        if all(found.products_flops.values()):
            keep(place, asdict(found))
        return found


def may_compile(recipe: Recipe, device: Device) -> bool:
    return recipe.runtime.compile and device.compiles


def family(recipe: Recipe) -> Recipe:
    """The recipe at one size, so that recipes of other sizes are known again."""
    gate = min(recipe.model.value_gate_channels, SIZE["model.width"])
    return recipe.replace(SIZE | {"batch.tokens_per_step": recipe.model.seq_len, "model.value_gate_channels": gate})


def keep(place: Path, found: dict[str, Any]) -> None:
    """A file that is whole or not there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=place.parent, suffix=".new", delete=False, encoding="utf-8") as new:
        json.dump(found, new)
    os.replace(new.name, place)
