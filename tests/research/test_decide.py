"""The rules as statistics: what they keep and how often they are wrong, on numbers with a known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.research import decide
from autoresearch.research.decide import CAREFUL, DROP, GO_ON, KEEP, Fresh, Noise

GAINS = st.lists(st.floats(-1, 1), min_size=1, max_size=CAREFUL.seeds)
NOISE = st.builds(Noise, sd=st.floats(0.01, 1), dof=st.floats(1, 60))


def confirmed(true: float, sd: float, most: int, nights: int, seed: int, dof: float = 1e6, keeps: int = 0,
              screened: float = 10.0) -> np.ndarray:
    """The verdicts of that many confirmations of a candidate with a true gain; a screening that never tells to drop."""
    gains = np.random.default_rng(seed).normal(true, sd, (nights, most))
    verdict = np.zeros(nights, int)
    for n in range(1, most + 1):
        seen = Fresh(n, gains[:, :n].sum(1), 0.0)
        now = decide.look(seen, most, screened * sd, Noise(sd, dof), keeps)
        verdict = np.where(verdict == GO_ON, now, verdict)
    return verdict


# One seed


def test_one_seed_decides_for_greedy_at_any_decrease_and_for_fast_beyond_the_spread() -> None:
    spread = decide.spread_bpb([2.00, 2.02, 2.01])
    assert spread == pytest.approx(0.01)
    gains = np.array([-0.1, 0.0, 0.005, 0.02])
    assert decide.greedy(gains).tolist() == [False, False, True, True]
    assert decide.fast(gains, spread).tolist() == [False, False, False, True]


def test_equal_seeds_do_not_make_noise_vanish() -> None:
    assert decide.spread_bpb([2.0, 2.0, 2.0]) == decide.SMALLEST_SPREAD_BPB


# Noise


@pytest.mark.parametrize("kind", decide.EXPECTED)
def test_noise_begins_at_what_is_expected_of_the_kind_and_ends_at_what_repeats_show(kind: str) -> None:
    before = decide.pooled(kind, 0.01, 0.0, 0)
    assert before.sd == pytest.approx(0.01 * decide.EXPECTED[kind]) and before.dof == decide.EXPECTED_DOF
    after = decide.pooled(kind, 0.01, 1000 * 0.05**2, 1000)
    assert after.sd == pytest.approx(0.05, rel=0.01) and after.dof == 1000 + decide.EXPECTED_DOF


@given(t=st.floats(-30, 30), dof=st.floats(1, 200))
def test_students_t_and_its_normal_deviate_turn_into_each_other(t: float, dof: float) -> None:
    z = decide._z(t, 1, Noise(1.0, dof))
    assert decide.as_t(z, dof) == pytest.approx(t, rel=1e-6, abs=1e-9)
    assert abs(z) <= abs(t) + 1e-9 and z * t >= 0


@pytest.mark.parametrize(("t", "dof", "tail"), [  # from tables of Student's t: P(T > t)
    (2.353, 3, 0.05), (3.182, 3, 0.025), (1.812, 10, 0.05), (2.764, 10, 0.01), (1.671, 60, 0.05)])
def test_the_normal_deviate_has_the_tail_of_students_t(t: float, dof: float, tail: float) -> None:
    z = float(decide._z(t, 1, Noise(1.0, dof)))
    assert 0.5 * math.erfc(z / math.sqrt(2)) == pytest.approx(tail, rel=0.04)


# The incumbent's expected score


def test_a_lucky_trial_on_the_screening_seed_is_seen_through() -> None:
    """Two-way data with known parts: the expected score is nearer to the truth than the trial itself."""
    rng = np.random.default_rng(5)
    nights, recipes, seeds, r = 2000, 6, 5, 0.7
    part = rng.normal(0, math.sqrt(r), (nights, 1, seeds))
    levels = rng.normal(0, 1, (nights, recipes, 1))
    scores = levels + part + rng.normal(0, math.sqrt(1 - r), (nights, recipes, seeds))
    found = decide.reference(scores, Noise(math.sqrt(2 * (1 - r)), 50.0), 1.0)[:, 0]
    truth = (levels + part)[:, 0, 0]
    assert np.std(found - truth) < 0.75 * np.std(scores[:, 0, 0] - truth)
    assert abs(np.mean(found - truth)) < 0.05


@given(shift=st.floats(-5, 5), seed=st.integers(0, 99))
def test_the_expected_score_moves_with_the_scores_and_ignores_recipes_with_one_trial(shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(2, 0.02, (4, 5))
    scores[1:, 3:] = np.nan
    noise = Noise(0.015, 6.0)
    found = decide.reference(scores, noise, 0.02)
    assert decide.reference(scores + shift, noise, 0.02) == pytest.approx(found + shift, abs=1e-9)
    alone = np.full((1, 5), np.nan)
    alone[0, 2] = 9.0
    assert decide.reference(np.concatenate([scores, alone]), noise, 0.02) == pytest.approx(found, abs=1e-9)


def test_an_incumbent_with_one_trial_is_expected_to_score_that_again() -> None:
    scores = np.array([[2.5, np.nan, np.nan]])
    assert decide.reference(scores, Noise(0.01, 3.0), 0.01)[0] == pytest.approx(2.5)


# Screening


@given(gain=st.floats(-1, 1), more=st.floats(0, 1), noise=NOISE)
def test_what_is_promising_stays_so_with_a_larger_gain_and_a_loss_never_is(
        gain: float, more: float, noise: Noise) -> None:
    assert not (decide.promising(gain, noise) and not decide.promising(gain + more, noise))
    assert not decide.promising(-abs(gain), noise)


@given(noise=NOISE, spread=st.floats(0.001, 1), factor=st.floats(1, 10))
def test_more_noise_asks_for_more_seeds_within_limits(noise: Noise, spread: float, factor: float) -> None:
    few, many = (decide.most_seeds(Noise(noise.sd * f, noise.dof), spread) for f in (1, factor))
    assert 1 <= few <= many <= CAREFUL.seeds


# Looking


@given(gains=GAINS, more=st.floats(0, 1), noise=NOISE, screened=st.floats(0, 1), keeps=st.integers(0, 9))
def test_a_larger_gain_never_makes_the_verdict_worse(
        gains: list[float], more: float, noise: Noise, screened: float, keeps: int) -> None:
    one, other = (decide.look(Fresh.of([g + d for g in gains]), CAREFUL.seeds, screened, noise, keeps)
                  for d in (0.0, more))
    assert one <= other


@given(gains=GAINS, noise=NOISE, screened=st.floats(0, 1), scale=st.floats(0.01, 100))
def test_verdicts_and_claims_do_not_depend_on_the_unit(
        gains: list[float], noise: Noise, screened: float, scale: float) -> None:
    scaled = [g * scale for g in gains]
    z, z_scaled = (float(decide.z_score(Fresh.of(g), n)) for g, n in (
        (gains, noise), (scaled, Noise(noise.sd * scale, noise.dof))))
    assert z == pytest.approx(z_scaled, rel=1e-6, abs=1e-9)
    mine = decide.claim(Fresh.of(gains), CAREFUL.seeds, noise)
    theirs = decide.claim(Fresh.of(scaled), CAREFUL.seeds, Noise(noise.sd * scale, noise.dof))
    assert [x * scale for x in mine] == pytest.approx(list(theirs), rel=1e-6, abs=1e-6 * scale)


@given(gains=GAINS, noise=NOISE)
def test_claims_of_opposite_gains_are_opposite(gains: list[float], noise: Noise) -> None:
    gain, low, high = decide.claim(Fresh.of(gains), CAREFUL.seeds, noise)
    back, lower, upper = decide.claim(Fresh.of([-g for g in gains]), CAREFUL.seeds, noise)
    assert (gain, low, high) == pytest.approx((-back, -upper, -lower))
    assert low <= gain <= high and abs(gain) <= abs(sum(gains) / len(gains)) + 1e-12


@given(gains=GAINS, noise=NOISE, screened=st.floats(0, 1))
def test_a_confirmation_ends_at_its_last_seed(gains: list[float], noise: Noise, screened: float) -> None:
    assert decide.look(Fresh.of(gains), len(gains), screened, noise, 0) in (KEEP, DROP)


@given(gains=GAINS, noise=NOISE, screened=st.floats(0, 1), more=st.floats(0, 1))
def test_the_screening_trial_can_only_drop(
        gains: list[float], noise: Noise, screened: float, more: float) -> None:
    fresh = Fresh.of(gains)
    one, other = (decide.look(fresh, CAREFUL.seeds, s, noise, 0) for s in (screened, screened + more))
    assert (one == KEEP) == (other == KEEP)


def test_early_looks_ask_for_more_than_late_ones_and_keeps_make_it_easier() -> None:
    asked = [float(decide.asked(n, 6, 0)) for n in range(1, 7)]
    assert asked == sorted(asked, reverse=True) and asked[-1] == CAREFUL.keep
    assert decide.asked(3, 6, 2) < decide.asked(3, 6, 0)
    assert decide.asked(3, 6, 99) == decide.asked(3, 6, CAREFUL.keeps) > 0


@pytest.mark.parametrize("most", [1, 2, 4, 6])
def test_a_useless_change_that_got_past_the_screen_is_kept_as_rarely_as_the_bound_says(most: int) -> None:
    """Reflection: a Brownian motion passes a constant c by t = 1 with probability 2 P(Z > c); fewer looks, less."""
    kept = (confirmed(0.0, 1.0, most, 40_000, seed=most) == KEEP).mean()
    single = 0.5 * math.erfc(CAREFUL.keep / math.sqrt(2))
    margin = 3 * math.sqrt(single / 40_000)
    assert kept < 2 * single + margin
    if most == 1:
        assert kept == pytest.approx(single, abs=margin)


def test_noise_known_from_few_repeats_keeps_no_more_useless_changes() -> None:
    """The noise is estimated with 4 degrees of freedom, afresh in each confirmation."""
    rng, most, nights, dof = np.random.default_rng(8), 4, 40_000, 4
    sd = np.sqrt(rng.chisquare(dof, nights) / dof)
    gains, verdict = rng.normal(0, 1, (nights, most)), np.zeros(nights, int)
    for n in range(1, most + 1):
        now = decide.look(Fresh(n, gains[:, :n].sum(1), 0.0), most, 10.0, Noise(sd, dof), 0)
        verdict = np.where(verdict == GO_ON, now, verdict)
    assert (verdict == KEEP).mean() < math.erfc(CAREFUL.keep / math.sqrt(2))


def test_a_large_gain_is_kept_and_a_loss_is_dropped_soon() -> None:
    assert (confirmed(2.0, 1.0, 6, 5000, seed=1) == KEEP).mean() > 0.9
    lost = Fresh.of([-0.5])
    assert decide.look(lost, 6, 0.3, Noise(1.0, 20.0), 0) == DROP


def test_the_claimed_interval_covers_the_truth() -> None:
    rng, true, most = np.random.default_rng(4), 1.0, 6
    gains, covered, off = rng.normal(true, 1.0, (20_000, most)), [], []
    on = np.ones(len(gains), bool)
    for n in range(1, most + 1):
        seen = Fresh(n, gains[:, :n].sum(1), 0.0)
        kept = on & (decide.look(seen, most, 10.0, Noise(1.0, 1e6), 0) == KEEP)
        gain, low, high = decide.claim(seen, most, Noise(1.0, 1e6))
        covered += list((low <= true)[kept] & (true <= high)[kept])
        off += list((gain - true)[kept])
        on &= ~kept
    assert np.mean(covered) > 0.9 and abs(np.mean(off)) < 0.2


# Simplifications


def test_all_simplifications_of_a_study_together_lose_less_than_one_spread() -> None:
    allowed = [decide.allowance(0.01, k) for k in range(50)]
    assert allowed == sorted(allowed, reverse=True) and allowed[0] == 0.005
    assert 0.009 < sum(allowed) <= 0.01


def test_an_equal_score_is_kept_for_a_simplification_and_one_beyond_the_allowance_is_not() -> None:
    sd, allowance = 0.3, 1.0
    equal = confirmed(0.0 + allowance, sd, 6, 4000, seed=2)
    worse = confirmed(-allowance + allowance, sd, 6, 4000, seed=3)
    assert (equal == KEEP).mean() > 0.8 and (worse == KEEP).mean() < 0.13
