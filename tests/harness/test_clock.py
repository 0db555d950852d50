"""The clock of a trial: its own, which ends its training in time, and the supervisor's, which judges it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoresearch.harness import clock, supervise
from autoresearch.harness.clock import Budget
from autoresearch.harness.supervise import Outcome, Supervised, TrialFailed


class Watch:
    """Time that passes when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=watch))
    return watch


def after(watch: Watch, budget: Budget, *steps_s: float) -> Budget:
    """When it has been started and so many steps were taken."""
    budget.start()
    for step_s in steps_s:
        watch.now += step_s
        budget.lap()
    return budget


def test_a_step_that_its_median_step_time_says_would_overrun_does_not_begin(watch: Watch) -> None:
    budget = after(watch, Budget(10.0, None), 2.0, 2.0, 2.0)  # one more ends at 8 s
    assert budget.allows(3) and budget.allows(3, reserve_s=2.0) and not budget.allows(3, reserve_s=2.5)
    assert after(watch, Budget(10.0, None), 2.0, 2.0, 2.0, 2.0).allows(4), "it ends with the budget"
    assert not after(watch, Budget(10.0, None), 2.0, 2.0, 2.0, 2.5).allows(4)
    assert after(watch, Budget(10.0, None), 1.0, 7.0, 1.0).allows(3), "one that took long says little of the next"
    assert not after(watch, Budget(10.0, None), *[0.5] * 9, *[1.0] * 5).allows(14), "the last ones count"


def test_a_queued_step_is_waited_for_only_where_it_would_leave_no_time_for_the_next(watch: Watch) -> None:
    budget = after(watch, Budget(10.0, None), 2.0, 2.0, 2.0)
    assert not budget.is_closing() and budget.is_closing(reserve_s=0.5)
    assert after(watch, Budget(10.0, None), 2.0, 2.0, 2.5).is_closing()
    assert not after(watch, Budget(None, 3), 9.0).is_closing()


def test_a_budget_of_steps_is_kept_however_long_they_take(watch: Watch) -> None:
    budget = after(watch, Budget(None, 4), 1000.0)
    assert [budget.allows(step) for step in (3, 4)] == [True, False]
    assert [budget.progress(step) for step in (0, 1, 4, 5)] == [0.0, 0.25, 1.0, 1.0]


def test_progress_is_the_share_of_the_time_that_has_passed_whatever_took_it(watch: Watch) -> None:
    budget = after(watch, Budget(10.0, None), 1.0)
    watch.now += 1.5  # waiting for data, say
    assert budget.progress(1) == pytest.approx(0.25)
    watch.now += 100
    assert budget.progress(1) == 1.0


# The supervisor's


def supervised(budget_s: float | None, weights_bytes: int = 0) -> Supervised:
    """Nothing runs."""
    nothing: Any = None
    return Supervised(nothing, nothing, Path(), Path(), budget_s, 1.0, weights_bytes, lambda message: None)


@pytest.mark.parametrize(("budget_s", "in_time_s", "late_s"), [
    (10.0, 11.0, 11.1), (50.0, 51.0, 51.1), (300.0, 306.0, 306.1), (3600.0, 3672.0, 3672.1), (None, 1e6, None)])
def test_training_may_last_a_second_or_2_percent_longer_than_its_budget(
        budget_s: float | None, in_time_s: float, late_s: float | None) -> None:
    supervised(budget_s)._judge_time(Outcome(train_s=in_time_s))
    if late_s is not None:
        with pytest.raises(TrialFailed, match=f"of a budget of {budget_s:g} s") as failed:
            supervised(budget_s)._judge_time(Outcome(train_s=late_s))
        assert failed.value.status == "timeout"


def test_handing_over_may_take_3_s_and_1_percent_and_a_second_for_each_50_mb() -> None:
    assert waits_for_weights(supervised(None)) == 3
    assert waits_for_weights(supervised(300.0)) == 6
    assert waits_for_weights(supervised(300.0, weights_bytes=500 * 10**6)) == 16


def waits_for_weights(trial: Supervised) -> float:
    """Seconds, at most. None come."""
    with pytest.MonkeyPatch.context() as patch:
        waited: list[float] = []
        patch.setattr(supervise, "time", SimpleNamespace(monotonic=lambda: 1000.0))
        patch.setattr(Supervised, "_next", lambda self, deadline, late: waited.append(deadline - 1000) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trial._handed_over()
    return waited[0]


@pytest.mark.parametrize(("copied_s", "most_s"), [(0.0, 6.0), (0.5, 8.0), (2.0, 14.0)])
def test_large_weights_get_the_time_of_four_copies_of_them_and_no_more(copied_s: float, most_s: float) -> None:
    """Else a recipe of half a billion parameters, with the code of a small model, would have 34 s more to train."""
    large = supervised(300.0, weights_bytes=1_700_000_000)
    large._judge_hand_over(most_s, copied_s)
    with pytest.raises(TrialFailed, match=f"handing over the weights took longer than {most_s:.0f} s") as failed:
        large._judge_hand_over(most_s + 0.1, copied_s)
    assert failed.value.status == "timeout"


def test_a_warm_up_has_one_deadline_however_it_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits = [1000.0], list[float]()

    def next_message(self: Supervised, deadline: float, late: TrialFailed) -> dict[str, str]:
        waits.append(deadline - now[0])
        assert late.reason == "warm-up took longer than 900 s"
        now[0] += 800
        if len(waits) == 2:
            raise late
        return {"event": "loaded"}

    monkeypatch.setattr(supervise, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Supervised, "_next", next_message)
    with pytest.raises(TrialFailed, match="warm-up took longer than 900 s"):
        supervised(300.0).follow(Outcome())
    assert waits == [900, 100]


@pytest.mark.parametrize(("warmup_s", "silence_s"), [(1.0, 60), (30.0, 60), (100.0, 200), (900.0, 1800)])
def test_a_trial_may_be_silent_for_a_minute_or_twice_its_warm_up(
        warmup_s: float, silence_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[tuple[float, str]] = []
    monkeypatch.setattr(supervise, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    monkeypatch.setattr(Supervised, "_next", lambda self, deadline, late: waits.append((deadline - 1000, late.reason))
                        or {"event": "stopped", "step": 1})
    seen: Any = SimpleNamespace(so_far=None)
    trial = supervised(None)
    trial.warmup_s = warmup_s
    trial._until_stopped(1000.0, Outcome(facts={"warmup_s": 1e17}), seen)  # the trial may say what it likes
    assert [wait for wait, _ in waits] == [silence_s] and f"no sign of life for {silence_s} s" in waits[0][1]
