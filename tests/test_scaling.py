"""The scaling law behind the probe's choice: it is the one that its runs give, and says what is known of training."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch import sizes
from autoresearch.scaling import LAW
from benchmarks import learning
from benchmarks.learning import Assumed

LONG, SHORT = 10**10, 10**6  # bytes of text

def chosen(machine: Assumed) -> sizes.Size:
    return sizes.choose(machine.table(), "bpe")


def test_the_law_is_the_one_that_the_recorded_runs_give() -> None:
    assert astuple(LAW) == pytest.approx(astuple(learning.fit(learning.known())), rel=2e-3)


def test_it_tells_recorded_runs_apart_that_anybody_would_choose_between() -> None:
    """Runs of half a minute to five of the whole text."""
    runs = [run for run in learning.known() if run.share == 1.0 and not run.present]
    assert len(runs) > 20 and max(abs(learning.error(LAW, run)) for run in runs) < 0.03


def test_what_the_preset_has_gained_since_is_the_same_at_every_size() -> None:
    """So a law of mostly older runs tells sizes apart that the present preset trains."""
    gains = [learning.error(LAW, run) for run in learning.known() if run.present]
    assert len(gains) > 5 and min(gains) > 0.05 and max(gains) - min(gains) < 0.03


weights = st.integers(50_000, 500_000_000)
texts = st.integers(10_000, 10**11)


@given(weights, st.integers(1_000, 10**6), st.integers(1, 10_000), texts)
def test_fresh_text_and_larger_models_never_hurt_and_repeated_text_does(N: int, B: int, steps: int, U: int) -> None:
    D = B * steps
    at_best = replace(LAW, kappa=0.0)  # at the best step size of each
    assert at_best.score(N, B, 2 * D, 2 * D) < at_best.score(N, B, D, 2 * D)
    assert at_best.score(2 * N, B, D, D) < at_best.score(N, B, D, D)
    assert LAW.score(N, B, D, min(U, D)) >= LAW.score(N, B, D, D)
    assert math.isfinite(LAW.score(N, B, D, U)) and LAW.score(N, B, 0, U) == math.inf


def test_steps_of_the_best_size_learn_most() -> None:
    best = LAW.best_step_bytes(1e8)
    scores = [LAW.score(10**6, factor * best, 1e8, LONG) for factor in (0.25, 0.5, 1, 2, 4)]
    assert min(scores) == scores[2] and scores[0] == pytest.approx(scores[4])


@pytest.mark.parametrize(("machine", "depths", "step_tokens"), [
    (learning.H100, (5, 12), (2**15, 2**19)),  # by hand depth 8, 2^19 tokens
    (learning.LAPTOP, (2, 4), (2**13, 2**16)),  # depth at most 4, 2^13 to 2^15
    (learning.GTX_1660_TI, (2, 4), (2**13, 2**16)),
])
def test_what_people_found_best_by_hand_elsewhere_is_near_what_it_chooses(
        machine: Assumed, depths: tuple[int, int], step_tokens: tuple[int, int]) -> None:
    """The law has seen models of 0.2 to 7 million weights on one processor and one text."""
    size = chosen(machine)
    assert depths[0] <= size.depth <= depths[1] and step_tokens[0] <= size.tokens_per_step <= step_tokens[1]


def test_no_size_is_proposed_beyond_what_the_law_knows_of_a_text() -> None:
    size = chosen(Assumed(4e14, 0.015, SHORT))
    assert size.keeps_best and size.params < 10 * SHORT
    assert not chosen(Assumed(2e11, 0.01, LONG)).keeps_best
