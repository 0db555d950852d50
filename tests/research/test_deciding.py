"""The verification's summary, and when a study stops."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from autoresearch.records import BASELINE, REFERENCE, Experiment, Score, Trial
from autoresearch.research import horizon, verify
from autoresearch.research.paired import gain, t_95
from autoresearch.research.until import Until
from autoresearch.research.verify import FIRST_SEED, summarise


def trial(n: int, purpose: str, seed: int, budget_s: float = 1.0, **bpb: float) -> Trial:
    nats = 0.6931471805599453 * 1000
    return Trial(id=1000 * n + seed, experiment=n, seed=seed, purpose=purpose, status="ok", budget_s=budget_s,
                 started="", scores=tuple(Score(split, b * nats, 300, 1000, 1000, 1) for split, b in bpb.items()))


def experiment(n: int, verdict: str, *trials: Trial) -> Experiment:
    return Experiment(n=n, parent="", sha="abc", researcher="", hypothesis="", evidence="", changes={}, recipe={},
                      state="done", verdict=verdict, reason="", created="", trials=trials)


def verified(n: int, verdict: str, scores: list[float]) -> Experiment:
    """An experiment whose verification trials scored these bits per byte on fresh seeds."""
    return experiment(n, verdict, *(trial(n, "verify", FIRST_SEED + i, confirm=b) for i, b in enumerate(scores)))


def test_nothing_is_claimed_before_champion_and_another_share_a_seed() -> None:
    assert summarise([]) is None
    assert summarise([verified(BASELINE, "keep", [2.0, 2.1])]) is None
    assert summarise([verified(BASELINE, "keep", [2.0]), verified(1, "keep", [])]) is None
    old_champion_only = [verified(BASELINE, "keep", [2.0]), verified(1, "keep", [1.9]), verified(2, "keep", [])]
    assert summarise(old_champion_only) is None


def test_a_clear_gain_is_stated_with_its_interval() -> None:
    summary = summarise([verified(REFERENCE, "", [2.20, 2.22, 2.21]), verified(BASELINE, "keep", [2.00, 2.02, 2.01]),
                         verified(3, "discard", [1.0, 1.0, 1.0]), verified(4, "keep", [1.90, 1.93, 1.91])])
    assert summary is not None
    reference, baseline = summary.gains
    assert baseline.mean_bpb == pytest.approx(0.0966667, abs=1e-6) and baseline.seeds == 3
    # Student's t with two degrees of freedom: 4.303 * stdev(0.10, 0.09, 0.10) / sqrt(3)
    assert baseline.low_bpb == pytest.approx(0.0966667 - 4.303 * 0.0057735 / 3**0.5, abs=1e-5)
    assert reference.percent == pytest.approx(100 * 0.2966667 / 2.21, abs=1e-3)
    assert "below the baseline" in summary.sentence and "3 fresh seeds" in summary.sentence


def test_a_gain_that_noise_could_be_is_not_called_one() -> None:
    unsure = summarise([verified(BASELINE, "keep", [2.0, 2.1, 2.2]), verified(1, "keep", [2.1, 1.9, 2.19])])
    assert unsure is not None and "No certain difference" in unsure.sentence
    assert "0.0367 bits per byte (1.7%) below was measured" in unsure.sentence
    assert re.search(r"95% interval from \d\.\d{4} below to \d\.\d{4} above", unsure.sentence)
    worse = summarise([verified(BASELINE, "keep", [2.0, 2.01, 2.02]), verified(1, "keep", [2.5, 2.51, 2.52])])
    assert worse is not None and "it is worse" in worse.sentence
    single = summarise([verified(BASELINE, "keep", [2.0]), verified(1, "keep", [1.9])])
    assert single is not None and "too few seeds" in single.sentence


def test_what_selecting_added_is_the_claim_less_what_fresh_seeds_give_on_the_same_split() -> None:
    def arm(n: int, claimed: float, val: float, confirm: float, holdout: float) -> Experiment:
        fresh = [trial(n, "verify", FIRST_SEED + i, val=val + i / 100, confirm=confirm + i / 100,
                       **({"holdout": holdout} if i < 2 else {})) for i in range(3)]
        return experiment(n, "keep", trial(n, "screen", 1, val=claimed), *fresh)

    summary = summarise([arm(BASELINE, 2.00, 2.10, 2.20, 2.30), arm(1, 1.90, 2.04, 2.15, 2.26)], [{}])
    assert summary is not None
    assert summary.claimed_bpb == pytest.approx(0.10) and summary.optimism_bpb == pytest.approx(0.04)
    assert {split: round(g.mean_bpb, 6) for split, g in summary.splits.items()} \
        == {"val": 0.06, "confirm": 0.05, "holdout": 0.04}
    assert "0.0500 bits per byte (2.3%) below the baseline on the confirm split" in summary.sentence
    assert verify.optimism(summary) == (
        "On val the screening seed showed a gain of 0.1000 over the baseline, fresh seeds 0.0600: the difference is "
        "selection bias, one seed's luck and other rows.")
    worse = summarise([arm(BASELINE, 2.00, 2.10, 2.20, 2.30), arm(1, 1.95, 2.04, 2.15, 2.26)])
    assert worse is not None and "gain of 0.0500 over the baseline, fresh seeds 0.0600: the diff" \
        in verify.optimism(worse), "no other words where the seed was unlucky"
    assert "read once for this pair: +0.0400 bits per byte" in verify.holdout(summary) and summary.splits[
        "holdout"].seeds == 2
    again = summarise([arm(BASELINE, 2.00, 2.10, 2.20, 2.30), arm(1, 1.90, 2.04, 2.15, 2.26)], [{}, {}])
    assert again is not None and "look 2 of this study" in verify.holdout(again)


def test_the_champion_is_the_last_in_the_line_of_keeps_not_the_highest_number() -> None:
    first, second = verified(1, "keep", [1.8]), verified(2, "keep", [1.9])
    line = [verified(BASELINE, "keep", [2.0]), replace(first, parent="two", sha="one"),
            replace(second, parent="abc", sha="two")]
    summary = summarise(line)
    assert summary is not None and summary.arms[-1].n == 1


def test_intervals_use_students_t_also_beyond_its_table() -> None:
    assert (t_95(1), t_95(4), t_95(20)) == (12.706, 2.776, 2.086)
    assert t_95(21) == pytest.approx(2.0796, abs=1e-3) and t_95(60) == pytest.approx(2.0003, abs=1e-3)
    assert gain("x", {1: 2.0}, {2: 2.0}) is None
    lone = gain("x", {1: 2.0}, {1: 1.9})
    assert lone is not None and not lone.is_real and not lone.is_loss


# Time to target


def raced(score: Callable[[float], float], budgets: list[float], noise: float = 0.001) -> horizon.Target | None:
    """A baseline that ends at 2.0 after 64 s; `score` says what a whole run of the champion gives."""
    seeds = range(FIRST_SEED, FIRST_SEED + 3)
    luck = dict(zip(seeds, (-noise, 0.0, noise), strict=True))
    base = experiment(BASELINE, "keep", *(trial(0, "verify", s, 64.0, confirm=2.0) for s in seeds))
    runs = [trial(1, "verify", s, 64.0, confirm=score(64.0) + luck[s]) for s in seeds]
    runs += [trial(1, "horizon", s, b, confirm=score(b) + luck[s]) for b in budgets for s in seeds]
    return horizon.target([base, experiment(1, "keep", *runs)], 1, 64.0)


def test_time_to_target_is_where_whole_runs_reach_the_baselines_score() -> None:
    budgets = horizon.horizons(64.0)
    assert budgets[0] == pytest.approx(64 / 2**0.5) and budgets[-1] == pytest.approx(4.0) and len(budgets) == 8
    found = raced(lambda s: 2.0 + 0.1 * math.log2(24.0 / s), budgets)
    assert found is not None and found.seconds is not None
    assert found.seconds == pytest.approx(24.0, rel=1e-6)
    assert found.low_s < 24.0 < found.high_s and found.high_s / found.low_s < 1.1
    assert "in 24 s (95% interval" in horizon.sentence(found) and "2.7 times as fast" in horizon.sentence(found)
    noisy = raced(lambda s: 2.0 + 0.1 * math.log2(24.0 / s), budgets, noise=0.02)
    assert noisy is not None and noisy.high_s / noisy.low_s > found.high_s / found.low_s


def test_a_target_out_of_reach_or_under_the_shortest_run_is_said_so() -> None:
    budgets = horizon.horizons(64.0)[:2]
    never = raced(lambda s: 2.1, budgets)
    assert never is not None and never.seconds is None and "does not reach" in horizon.sentence(never)
    early = raced(lambda s: 1.5, budgets)
    assert early is not None and early.seconds == 0.0 and "less than the shortest run" in horizon.sentence(early)
    unsure = raced(lambda s: 1.9999 + 0.01 * math.log2(64.0 / s), budgets, noise=0.05)
    assert unsure is not None and math.isinf(unsure.high_s) and "more than 64 s" in horizon.sentence(unsure)
    assert raced(lambda s: 1.9, []) is None, "the whole budget alone says nothing"


def test_a_study_leaves_time_for_what_comes_after_its_experiments() -> None:
    until = Until(deadline=time.time() + 100, reserve=lambda: 80.0)
    assert until.late(30) and not until.over(30) and not until.late(10)
    assert until.seconds_left() == pytest.approx(20, abs=1)
    assert not Until(reserve=lambda: 1e9).late(1e9), "without a deadline there is nothing to leave"


def test_a_study_stops_at_its_number_its_hour_or_a_wish() -> None:
    assert not Until().reached(1000, 1e6)
    assert Until(experiments=3).reached(3, 0) and not Until(experiments=3).reached(2, 0)
    assert Until(deadline=time.time() + 50).reached(0, 60) and not Until(deadline=time.time() + 50).reached(0, 10)
    asked = Until()
    asked.asked = True
    assert asked.reached(0, 0) and asked.late(0)
    assert not Until(experiments=0).late(0) and Until(deadline=time.time() + 50).late(60)
