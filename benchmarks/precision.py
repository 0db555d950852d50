"""What low precision does to gradients and losses, on a processor: the table of docs/performance.md.

    python -m benchmarks.precision
    python -m benchmarks.precision --set model.depth=4 --set model.width=256 --seconds 10

Processors compute float16 as cards do, only slower, so what a card without bfloat16 meets can be seen anywhere: with
this trainer's loss scale, and without one and the loss divided by 256, as with that many micro-batches.
"""

from __future__ import annotations

import argparse
from typing import Any

SIGNS = ("flushed_frac", "worst_cosine", "worst_tensor", "gap_nats", "fell_nats", "not_finite", "steps", "speed_ratio")


def main() -> None:
    from autoresearch import precision
    from autoresearch.harness import child_precision
    from autoresearch.harness.measuring import Faithful
    from backends import torch_scaling
    from backends.base import Device
    from backends.recipe import load, preset_file
    from backends.torch_backend import TorchBackend

    class Card(TorchBackend):
        def device(self) -> Device:
            return Device("a processor that offers float16", super().device().memory_bytes,
                          ("float32", "bfloat16", "float16"))

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=NUMBER", help="change the modern preset")
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--seconds", type=float, default=2.5)
    options = parser.parse_args()
    changes: dict[str, Any] = {k: int(v) for k, v in (pair.split("=") for pair in options.set)}
    recipe = load(preset_file("modern")).replace({"model.depth": 2, "model.width": 128} | changes)
    ways: dict[str, tuple[str, float | None]] = {
        "bfloat16": ("bfloat16", None), "float16, dynamic scale": ("float16", None),
        "float16, no scale, loss / 256": ("float16", 1 / 256)}
    columns: dict[str, dict[str, Any]] = {}
    for label, (low, scale) in ways.items():
        if scale:
            torch_scaling.START, torch_scaling.STEADY = scale, 10**9
        found = child_precision.compare(Card("cpu"), recipe, options.vocab, low, options.seconds)
        columns[label] = found | {"refused": precision.unfaithful(Faithful(low, **found)) or "no"}
    m = recipe.model
    print(f"{m.depth} x {m.width}, {recipe.batch.tokens_per_step:,} tokens a step, vocabulary {options.vocab:,}\n")
    print("| sign | " + " | ".join(columns) + " |\n|---" + "|--:" * len(columns) + "|")
    for sign in (*SIGNS, "refused"):
        cells = (c[sign] if isinstance(c[sign], str) else f"{c[sign]:.4g}" for c in columns.values())
        print(f"| {sign} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
