"""When a trial may start, and which older trials a new one compares with."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from autoresearch.harness import sensors
from autoresearch.harness.conditions import Conditions
from autoresearch.harness.sensors import Counters
from autoresearch.records import Experiment, Trial
from autoresearch.research import fair
from autoresearch.research.fair import Terms
from autoresearch.research.until import Paused


def trials(*seen: Conditions, status: str = "ok") -> list[Experiment]:
    made = tuple(Trial(i + 1, 1, 1, "screen", status, 1.0, "", facts={"machine": c.to_json()})
                 for i, c in enumerate(seen))
    return [Experiment(1, "", "", "", "", "", {}, {}, "done", "discard", "", "", made)]


def at(speed: float, mhz: float = 3000.0) -> Conditions:
    return Conditions(300.0, speed=speed, cpu_mhz=mhz)


def test_a_trial_is_compared_with_the_last_few() -> None:
    past = trials(*[at(1.0, 3000.0)] * 5, *[at(1.0, 2000.0)] * 2)
    assert "the CPU's clock" in fair.verdict(at(1.0, 3000.0), past, "cpu", Terms())
    assert fair.verdict(at(1.0, 2000.0), past, "cpu", Terms()) == ""
    assert fair.verdict(at(1.0, 2000.0), [], "cpu", Terms()) == fair.verdict(None, past, "cpu", Terms()) == ""
    assert fair.verdict(at(1.0, 3000.0), past, "cpu", Terms(busy_ok=True)) == ""


def test_drift_since_an_older_trial_is_seen_when_it_lasts() -> None:
    once = trials(*[at(1.0)] * 4, at(0.8), at(1.0))
    assert not fair.drifted(once, once[0].trials[3])
    lasting = trials(*[at(1.0)] * 4, *[at(0.9)] * 2)
    assert fair.drifted(lasting, lasting[0].trials[3]) and not fair.drifted(lasting, lasting[0].trials[5])
    hopeless = trials(*[at(1.0)] * 4, *[at(0.9)] * 2, status="interrupted")
    assert not fair.drifted(hopeless, hopeless[0].trials[3]), "what was interrupted says nothing"
    untold = Trial(1, 1, 1, "screen", "ok", 1.0, "")
    assert not fair.drifted(lasting, untold)


@pytest.fixture
def battery(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    state = [True]
    monkeypatch.setattr(sensors.psutil, "sensors_battery", lambda: SimpleNamespace(power_plugged=not state[0]),
                        raising=False)
    monkeypatch.setattr(fair, "LISTEN_S", 0.01)
    monkeypatch.setattr(fair, "POLL_S", 0.01)
    return state


def test_on_battery_the_loop_waits_for_the_mains(battery: list[bool]) -> None:
    said: list[str] = []
    looks = itertools.count()

    def stop() -> bool:
        battery[0] = next(looks) < 5  # plugged in after a while
        return False

    fair.wait(Terms(), "cpu", False, stop, said.append)
    assert said == ["waiting: the machine is on battery; plug it in, or add --on-battery", "going on"]


def test_on_battery_the_loop_goes_on_where_that_is_allowed(battery: list[bool]) -> None:
    fair.wait(Terms(on_battery=True), "cpu", False, lambda: False, pytest.fail)


def test_a_wait_ends_when_a_stop_is_asked_for(battery: list[bool]) -> None:
    said: list[str] = []
    with pytest.raises(Paused):
        fair.wait(Terms(), "cpu", False, lambda: True, said.append)


def test_a_busy_machine_is_waited_for_and_told_who_is_busy(battery: list[bool],
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    battery[0] = False
    others_s = iter([0.0, 50.0, 100.0, 100.0])  # CPU time of others: far too much, then none
    monkeypatch.setattr(sensors, "counters", lambda: Counters(next(others_s), 0.0, None, None, None, None))
    monkeypatch.setattr(sensors, "cores", lambda: 2.0)
    said: list[str] = []
    fair.wait(Terms(), "cpu", True, lambda: False, said.append)
    assert len(said) == 2 and "of 2 cores (at most 0.10 while a trial trains)" in said[0] and "--busy-ok" in said[0]
    fair.wait(Terms(busy_ok=True), "cpu", True, lambda: False, pytest.fail)


def test_a_look_says_who_is_busy_and_waits_for_nobody(battery: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    battery[0] = False
    used_s = itertools.count(0.0, 50.0)
    monkeypatch.setattr(sensors, "counters", lambda: Counters(next(used_s), 0.0, None, None, None, None))
    monkeypatch.setattr(sensors, "cores", lambda: 2.0)
    assert "of 2 cores (at most 0.10 while a trial trains)" in fair.crowded(Terms(), "cpu", 0.01)
    assert fair.crowded(Terms(busy_ok=True), "cpu", 0.01) == ""


def test_terms_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, on in (("1", True), ("yes", True), ("", False), ("0", False), ("off", False)):
        monkeypatch.setenv(fair.BUSY_OK, value)
        monkeypatch.setenv(fair.ON_BATTERY, value)
        assert Terms.here() == Terms(on, on)
