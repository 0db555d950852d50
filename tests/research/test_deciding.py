"""The decision, the verification's summary, and when a study stops."""

from __future__ import annotations

import time

import pytest

from autoresearch.records import BASELINE, REFERENCE, Experiment, Score, Trial
from autoresearch.research import decide
from autoresearch.research.until import Until
from autoresearch.research.verify import FIRST_SEED, summarise


def verified(n: int, verdict: str, scores: list[float]) -> Experiment:
    """An experiment whose verification trials scored these bits per byte on fresh seeds."""
    nats = 0.6931471805599453 * 1000
    trials = tuple(
        Trial(id=100 * n + i, experiment=n, seed=FIRST_SEED + i, purpose="verify", status="ok", budget_s=1.0,
              started="", scores=(Score("confirm", b * nats, 300, 1000, 1000, 1),)) for i, b in enumerate(scores))
    return Experiment(n=n, parent="", sha="abc", researcher="", hypothesis="", evidence="", changes={}, recipe={},
                      state="done", verdict=verdict, reason="", created="", trials=trials)


def test_a_gain_within_the_spread_is_discarded_and_one_beyond_it_is_kept() -> None:
    spread = decide.spread_bpb([2.00, 2.02, 2.01])
    assert spread == pytest.approx(0.01)
    assert decide.decide(1.995, 2.0, spread).verdict == "discard"
    assert decide.decide(2.1, 2.0, spread).verdict == "discard"
    kept = decide.decide(1.98, 2.0, spread)
    assert kept.verdict == "keep" and kept.gain_bpb == pytest.approx(0.02)
    assert "1.9800 against 2.0000" in kept.reason and "0.0100" in kept.reason


def test_equal_seeds_do_not_make_noise_vanish() -> None:
    assert decide.spread_bpb([2.0, 2.0, 2.0]) == decide.SMALLEST_SPREAD_BPB


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
    worse = summarise([verified(BASELINE, "keep", [2.0, 2.01, 2.02]), verified(1, "keep", [2.5, 2.51, 2.52])])
    assert worse is not None and "it is worse" in worse.sentence
    single = summarise([verified(BASELINE, "keep", [2.0]), verified(1, "keep", [1.9])])
    assert single is not None and "too few seeds" in single.sentence


def test_a_study_stops_at_its_number_its_hour_or_a_wish() -> None:
    assert not Until().reached(1000, 1e6)
    assert Until(experiments=3).reached(3, 0) and not Until(experiments=3).reached(2, 0)
    assert Until(deadline=time.time() + 50).reached(0, 60) and not Until(deadline=time.time() + 50).reached(0, 10)
    asked = Until()
    asked.asked = True
    assert asked.reached(0, 0)
