"""The figures of docs/parity.md.

    MLX_ENABLE_TF32=0 python -m tests.parity.figures

Prints the table of deviations, the other checks, what Adam's epsilon and the learning rates do to a comparison of
curves, and how far beyond its limit the weakest planted bug is.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

import backends
from backends.recipe import Recipe
from tests.parity import compare, test_compiled, test_planted_bugs, test_precision

SEEDS = range(5)


def deviations() -> list[str]:
    """The largest deviation of each kind per variant over the seeds."""
    kinds = list(compare.LIMITS)
    lines = ["| variant | " + " | ".join(kinds) + " |", "|---" + "|---:" * len(kinds) + "|"]
    for variant in compare.VARIANTS:
        worst = dict.fromkeys(kinds, 0.0)
        for seed in SEEDS:
            for name, value in compare.measure(variant, seed=seed).items():
                kind = compare.kind(name)
                worst[kind] = max(worst[kind], value if math.isfinite(value) else math.inf)
        lines += [f"| {variant} | " + " | ".join(f"{worst[k]:.1e}" for k in kinds) + " |"]
    return [*lines, f"| limit | {' | '.join(f'{compare.LIMITS[k]:.0e}' for k in kinds)} |"]


def from_initial_weights() -> float:
    return max(compare.measure(v, trained=False, seed=seed)["curve"] for v in compare.VARIANTS for seed in SEEDS)


def other_checks() -> list[str]:
    lines = ["| other checks | measured | limit |", "|---|---:|---:|"]
    for name in ("cpu", "mlx"):
        backend = backends.load(name)
        apart = test_compiled.distance(*(test_compiled.train(backend, test_compiled.small_problem(compiled))
                                         for compiled in (False, True)))
        lines += [f"| compiled against eager, {test_compiled.STEPS} updates, {name} | {apart:.1e} | "
                  f"{test_compiled.LIMIT:.0e} |"]
    for name in ("cpu", "mlx"):
        exact, rounded = (test_precision.curve(name, precision) for precision in ("float32", "bfloat16"))
        lines += [f"| bfloat16 against float32, {len(exact)} losses in nats per token, {name} | "
                  f"{np.abs(exact - rounded).max():.1e} | {test_precision.LIMIT_NATS:.0e} |"]
    return lines


def curves_apart(changes: dict[str, float], steps: int) -> list[float]:
    """Of the defaults from the real initial weights, with `changes`; a seed each, nats per token."""
    apart = []
    for seed in SEEDS:
        p = compare.problem("defaults", trained=False, seed=seed)
        p = dataclasses.replace(p, recipe=p.recipe.replace(changes))
        ours, theirs = compare.torch_facts(p, steps).curve, compare.mlx_facts(p, steps).curve
        apart.append(float(np.abs(ours - theirs).max()))
    return apart


def weakest_bug() -> str:
    """How many times its limit the largest deviation is, for the bug that shows least."""
    found = {}
    for variant, bugs in test_planted_bugs.BUGS.items():
        compare.oracle(variant, test_planted_bugs.STEPS)
        test_planted_bugs.clean_mlx(variant)
        for bug, line in bugs.items():
            with test_planted_bugs.planted(*line):
                measured = test_planted_bugs.measure(variant, line[0])
            ratios = [value / compare.LIMITS[compare.kind(name)] for name, value in measured.items()]
            found[f"{bug} ({variant})"] = max((r if math.isfinite(r) else math.inf) for r in ratios)
    return ", ".join(f"{bug}: {found[bug]:.0f} times" for bug in sorted(found, key=found.__getitem__)[:3])


def main() -> None:
    torch.set_num_threads(1)  # for arrays this small, threads that wait for each other cost more than the arithmetic
    print(*deviations(), "",
          f"Largest distance of the curves from the real initial weights: {from_initial_weights():.1e}",
          "", *other_checks(), "", sep="\n")
    own = {k: v for k, v in Recipe().flat().items() if k in compare.BASE and k.endswith("_lr")}
    for eps in (1e-10, 1e-8, 1e-6):
        apart = [max(curves_apart(rates | {"optim.adam_eps": eps}, compare.CURVE_STEPS)) for rates in (own, {})]
        print(f"Adam's epsilon {eps:.0e}: curves of {compare.CURVE_STEPS} steps {apart[0]:.1e} apart at the default "
              f"rates, {apart[1]:.1e} at those of the comparison")
    print(f"\nThe weakest planted bugs, beyond their limit: {weakest_bug()}")


if __name__ == "__main__":
    main()
