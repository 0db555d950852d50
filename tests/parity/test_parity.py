"""MLX, and a card where there is one, computes what the oracle computes: logits, loss, gradients, updates, a curve."""

from __future__ import annotations

import numpy as np
import pytest

from backends.gpt import params
from tests.parity import compare

ALL = [pytest.param(v, marks=pytest.mark.slow if v in compare.COVERED else ()) for v in compare.VARIANTS]
OTHERS = [name for name in compare.BACKENDS if name != "cpu"]


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("variant", ALL)
def test_it_equals_the_oracle(name: str, variant: str) -> None:
    assert compare.beyond(compare.measure(variant, name=name)) == []


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("variant", ["defaults", "everything", "gpt2"])
def test_training_from_the_real_initial_weights_follows_the_oracle(name: str, variant: str) -> None:
    measured = compare.measure(variant, trained=False, name=name)
    assert compare.beyond({k: measured[k] for k in ("logits", "loss", "curve")}) == []


def test_every_parameter_is_compared_and_has_a_gradient_and_moves() -> None:
    """A gradient of zero on both sides would be equal and prove nothing."""
    for variant in compare.VARIANTS.keys() - compare.COVERED:
        facts, names = compare.oracle(variant, compare.CURVE_STEPS), {p.name for p in _table(variant)}
        for arrays in (facts.grads, facts.updates, facts.step):
            assert set(arrays) == names
            assert [name for name, a in arrays.items() if not np.isfinite(a).all() or not a.any()] == []


def test_the_variants_reach_what_they_are_named_for() -> None:
    spec = compare.problem("everything").spec
    assert min(spec.windows) < spec.seq_len < compare.problem("everything").long_BT.shape[1]
    assert spec.kv_heads < spec.heads
    assert all(spec.has_value_embed)
    assert compare.problem("everything").recipe.micro_rows < len(compare.problem("everything").batches[0])


def test_the_curve_learns() -> None:
    """A curve that stays where it began would agree whatever the update rule did."""
    curve = compare.oracle("defaults", compare.CURVE_STEPS, trained=False).curve
    assert curve[-5:].mean() < curve[0] - 1


def _table(variant: str) -> list[params.Param]:
    return params.table(compare.problem(variant).spec)
