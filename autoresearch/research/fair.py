"""Fair time: when a trial may start, and whether its score may stand.

    Terms     what a person allows: others at work, battery power
    verdict   why a trial that ended is run again instead of scored
    lost      the same of one that still trains
    wait      until the machine is fit for a trial
    looked    what other programs do just now
    crowded   whether that would make a trial unfair
    drifted   whether the machine's speed has moved since an older trial

docs/decisions.md has the limits and why; autoresearch/harness/conditions.py declares them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoresearch.harness import conditions, sensors
from autoresearch.harness.conditions import LIMITS, Conditions
from autoresearch.records import Experiment, Trial
from autoresearch.research.until import Paused

BUSY_OK, ON_BATTERY = "AUTORESEARCH_BUSY_OK", "AUTORESEARCH_ON_BATTERY"  # for a process and those it starts
USUAL = 3  # trials that say what is usual: after two reruns a machine that has changed for good is its own usual
LISTEN_S, LOOK_S, POLL_S = 5.0, 1.0, 0.25  # of load at a time, when it is only said, and between looks whether to stop
SAY_AGAIN_S = 600.0


@dataclass(frozen=True)
class Terms:
    busy_ok: bool = False
    on_battery: bool = False

    @classmethod
    def here(cls) -> Terms:
        return cls(_on(BUSY_OK), _on(ON_BATTERY))


def verdict(seen: Conditions | None, experiments: Sequence[Experiment], backend: str, terms: Terms) -> str:
    """Why the trial that ran under these conditions is not scored, or nothing."""
    return "" if seen is None else conditions.unfair(
        seen, [c for _, c in _measured(experiments)][-USUAL:], accelerated(backend), terms.busy_ok)


def lost(load: Conditions | None, budget_s: float, backend: str, terms: Terms) -> str:
    """Why the trial that has met this load will not be scored, however quiet the rest of it is, or nothing."""
    return "" if load is None or terms.busy_ok else conditions.lost(load, budget_s, accelerated(backend))


def accelerated(backend: str) -> bool:
    """Whether training leaves the CPU's cores to others."""
    return backend == "cuda" or (backend == "mlx" and sys.platform == "darwin")


def drifted(experiments: Sequence[Experiment], since: Trial) -> bool:
    """By the calibrations around an older trial and those of the last few."""
    found = _measured(experiments)
    speeds = [(t.id, c.speed) for t, c in found if c.speed and t.status == "ok"]
    then = [speed for n, speed in speeds if n <= since.id][-USUAL:]
    return conditions.drifted([speed for _, speed in speeds][-USUAL:], then) if "machine" in since.facts else False


def _measured(experiments: Sequence[Experiment]) -> list[tuple[Trial, Conditions]]:
    """Trials that trained to their end, oldest first; those that were interrupted for being unusual too."""
    trials = sorted((t for e in experiments for t in e.trials if "machine" in t.facts), key=lambda t: t.id)
    return [(t, Conditions.from_json(t.facts["machine"])) for t in trials]


def wait(terms: Terms, backend: str, listen: bool, stop: Callable[[], bool], note: Callable[[str], None]) -> None:
    """Until there is mains power and, with `listen`, until others leave the cores alone. Raises Paused."""
    said_s: float | None = None
    while reason := unfit(terms, backend, listen, stop):
        if stop():
            raise Paused
        if said_s is None or time.monotonic() - said_s > SAY_AGAIN_S:
            said_s = time.monotonic()
            note(f"waiting: {reason}")
    if said_s is not None:
        note("going on")


def unfit(terms: Terms, backend: str, listen: bool, stop: Callable[[], bool]) -> str:
    """Why no trial should start now, after a few seconds of watching where there may be a reason."""
    if not terms.on_battery and sensors.on_battery():
        _pause(LISTEN_S, stop)
        return "the machine is on battery; plug it in, or add --on-battery"
    return "" if not listen else crowded(terms, backend, LISTEN_S, stop)


def crowded(terms: Terms, backend: str, seconds: float = LOOK_S, stop: Callable[[], bool] = lambda: False) -> str:
    """How much others use where that would make a trial unfair, after some seconds of watching, or nothing."""
    if terms.busy_ok:
        return ""
    seen = looked(seconds, stop)
    if seen.outside_cores is None or not conditions.unfair(seen, accelerated=accelerated(backend)):
        return ""
    remedy = "wait" if seen.by_host else "end them"
    return (f"{seen.others} use {seen.outside_cores:.2f} of {seen.cores:g} cores (at most "
            f"{LIMITS.outside_frac * seen.cores:.2f} while a trial trains); {remedy}, or add --busy-ok")


def looked(seconds: float = LOOK_S, stop: Callable[[], bool] = lambda: False) -> Conditions:
    """What other programs use of the cores, watched for some seconds."""
    before, began_s = sensors.counters(), time.monotonic()
    _pause(seconds, stop)
    return conditions.load(before, sensors.counters(), time.monotonic() - began_s)


def _pause(seconds: float, stop: Callable[[], bool]) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s and not stop():
        time.sleep(POLL_S)


def _on(name: str) -> bool:
    return os.environ.get(name, "").lower() not in ("", "0", "off", "no", "false")
