"""Every NVIDIA card is told what it can do, on a machine that has none."""

from __future__ import annotations

import pytest

from backends.cards import Card, abilities

WHEEL = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")


@pytest.mark.parametrize(("name", "capability", "precisions", "compiles"), [
    ("GTX 980", (5, 2), ("float32",), False),
    ("P100", (6, 0), ("float32", "float16"), False),
    ("GTX 1080 Ti", (6, 1), ("float32",), False),
    ("V100", (7, 0), ("float32", "float16"), True),
    ("GTX 1660 Ti", (7, 5), ("float32", "float16"), True),
    ("T4", (7, 5), ("float32", "float16"), True),
    ("RTX 3090", (8, 6), ("bfloat16", "float32"), True),
    ("H100", (9, 0), ("bfloat16", "float32"), True),
    ("RTX 5090", (12, 0), ("bfloat16", "float32"), True),
])
def test_a_card_gets_the_arithmetic_that_it_has(name: str, capability: tuple[int, int], precisions: tuple[str, ...],
                                                compiles: bool) -> None:
    found = abilities(Card(name, capability))
    assert (found.precisions, found.compiles, found.problem) == (precisions, compiles, "")


@pytest.mark.parametrize(("capability", "built_for", "runs"), [
    ((7, 5), WHEEL, True), ((8, 9), WHEEL, True), ((12, 1), WHEEL, True),
    ((13, 0), WHEEL, True),  # from the PTX of compute_120
    ((6, 1), WHEEL, False), ((7, 0), WHEEL, False), ((11, 0), WHEEL, False),
    ((6, 1), ("sm_50", "sm_60", "sm_70"), True), ((6, 1), ("sm_75", "compute_60"), True),
    ((9, 0), ("sm_90a",), True), ((9, 0), ("gfx942",), True), ((7, 5), (), True),
])
def test_a_build_without_kernels_for_the_card_is_named(capability: tuple[int, int], built_for: tuple[str, ...],
                                                       runs: bool) -> None:
    problem = abilities(Card("A card", capability, built_for)).problem
    assert (problem == "") == runs
    if not runs:
        assert "no kernels for A card (sm_{}{})".format(*capability) in problem and "sm_75" in problem
