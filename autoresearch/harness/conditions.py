"""Under what conditions a trial ran, and whether its score compares with others.

    Conditions   what was seen while it trained
    Limits       how far it may differ from a machine left alone, and from the study's other trials
    unfair       why a trial can't be scored, or nothing
    lost         the same while it still trains, where the rest can't mend it
    load         what others use of the cores
    Observer     watches the machine from a thread while a trial trains

The limits are declared here, before any trial, and nowhere else; docs/decisions.md says why they are what they are.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from autoresearch.harness import sensors
from autoresearch.harness.sensors import Counters, Instant, Sample
from autoresearch.records import Point

SEGMENTS = 8  # of a trial's course
LOOK_EVERY_S, SAMPLE_EVERY, ASK_EVERY = 0.25, 8, 40  # looks between samples, and until programs are asked
FIRST_ASKED = 4  # look: before it has worked for a moment, a GPU's clock is that of rest
LATE_S = 0.25  # a look that comes later was held up; less happens to any thread


@dataclass(frozen=True)
class Limits:
    clock_s: float = 2.0  # sleep, and setting of the time
    stopped_s: float = 1.0  # that we or the trial were not let run, or 1% of its time
    outside_frac: float = 0.05  # of the cores, used by others, where training uses them
    idle_cores: float = 1.0  # left for feeding an accelerator, where others use more than that share
    memory_stall_frac: float = 0.05  # of the time
    swapped_bytes: int = 64 << 20  # where stalls are not told
    limited_frac: float = 0.15  # of the time that clocks are cut for heat, more or less than usual
    clock_rate_frac: float = 0.10  # of CPU or GPU, more or less than usual
    slowed_frac: float = 0.25  # between the calibrations before and after
    drift_frac: float = 0.03  # of calibrations since the incumbent's trial: it is run again


LIMITS = Limits()


@dataclass(frozen=True)
class Conditions:
    elapsed_s: float
    asleep_s: float = 0.0
    set_s: float = 0.0
    stopped_s: float = 0.0
    cores: float = 1.0
    outside_cores: float | None = None
    stolen_cores: float | None = None  # of these: by other guests of the host that this machine is one of
    idle_cores: float | None = None
    memory_stall_frac: float | None = None
    swapped_bytes: int | None = None
    faults: int | None = None  # of our own processes
    limited_frac: float | None = None
    limited: str = ""  # by what
    cpu_mhz: float | None = None
    gpu_mhz: float | None = None
    hottest_c: float | None = None
    on_battery: bool | None = None
    power_changed: bool = False
    speed: float | None = None  # calibrated, the mean of before and after
    slowed_frac: float | None = None  # from before to after
    step_s: list[float] = field(default_factory=list)  # in each segment of the course; a dev measurement included

    @property
    def by_host(self) -> bool:
        """Whether other guests of the host used most of what others used: no list of processes shows them."""
        return (self.stolen_cores or 0.0) > 0.5 * (self.outside_cores or 0.0)

    @property
    def others(self) -> str:
        return "other machines on this host" if self.by_host else "other programs"

    def words(self) -> str:
        """What a person may want to know of it, short."""
        found = [] if self.outside_cores is None else [f"others used {self.outside_cores:.2f} of {self.cores:g} cores"]
        if self.speed:
            found.append(f"calibrated at {self.speed:.2f} GB/s")
        if self.hottest_c is not None:
            found.append(f"{self.hottest_c:.0f} °C at most")
        if self.limited_frac:
            found.append(f"slowed down {self.limited_frac:.0%} of the time")
        if self.memory_stall_frac:
            found.append(f"waited for memory {self.memory_stall_frac:.1%}")
        if self.step_s:
            found.append(f"{1000 * min(self.step_s):.3g} to {1000 * max(self.step_s):.3g} ms a step")
        return ", ".join([*found, *(["on battery"] if self.on_battery else [])]) or "it tells nothing"

    def to_json(self) -> dict[str, Any]:
        return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in asdict(self).items()
                if v not in (None, "", [])} | {"step_s": [float(f"{s:.4g}") for s in self.step_s]}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Conditions:
        return cls(**facts)


def unfair(c: Conditions, usual: Sequence[Conditions] = (), accelerated: bool = False, busy_ok: bool = False,
           limits: Limits = LIMITS) -> str:
    """Why it can't be scored, in words. `usual`: of the study's last few trials, which what differs from machine to
    machine is compared with. `busy_ok`: whatever others do; time alone has to be sound."""
    stopped_s = max(limits.stopped_s, 0.01 * c.elapsed_s)
    if c.asleep_s > limits.clock_s:
        return f"the machine slept for {c.asleep_s:.0f} s"
    if abs(c.set_s) > limits.clock_s:
        return f"the machine's time was set {'forward' if c.set_s > 0 else 'back'} by {abs(c.set_s):.0f} s"
    if c.stopped_s > stopped_s:
        return f"its processes were stopped for {c.stopped_s:.1f} s; at most {stopped_s:.1f} s is fair"
    if c.power_changed:
        return "the power supply changed between mains and battery"
    return "" if busy_ok else _shared(c, accelerated, limits) or _unusual(c, usual, accelerated, limits)


def lost(c: Conditions, budget_s: float, accelerated: bool = False, limits: Limits = LIMITS) -> str:
    """Why a trial will be unfair even if nobody disturbs what is left of its budget, or nothing. `c`: of the part that
    is over."""
    used = (c.outside_cores or 0.0) * min(1.0, c.elapsed_s / budget_s)
    if accelerated or used <= limits.outside_frac * c.cores:
        return ""
    return (f"{c.others} used {c.outside_cores:.2f} of {c.cores:g} cores in its first {c.elapsed_s:.0f} s; over "
            f"all its {budget_s:g} s at most {limits.outside_frac * c.cores:.2f} is fair, which no rest could mend")


def _shared(c: Conditions, accelerated: bool, limits: Limits) -> str:
    """By what the machine was shared."""
    crowded = not accelerated or c.idle_cores is None or c.idle_cores < limits.idle_cores
    if c.outside_cores is not None and crowded and c.outside_cores > limits.outside_frac * c.cores:
        return (f"{c.others} used {c.outside_cores:.2f} of {c.cores:g} cores while it trained; at most "
                f"{limits.outside_frac * c.cores:.2f} is fair")
    if c.memory_stall_frac is not None and c.memory_stall_frac > limits.memory_stall_frac:
        return (f"memory was short: programs waited for it {c.memory_stall_frac:.0%} of the time; at most "
                f"{limits.memory_stall_frac:.0%} is fair")
    if c.memory_stall_frac is None and (c.swapped_bytes or 0) > limits.swapped_bytes:
        return f"memory was short: {(c.swapped_bytes or 0) >> 20} MiB were swapped"
    return ""


def _unusual(c: Conditions, usual: Sequence[Conditions], accelerated: bool, limits: Limits) -> str:
    """In what the machine differed from how it was before. A fanless laptop that always slows down when hot is fair to
    all trials alike, and one that has slowed down for good becomes the usual after a few."""
    if c.slowed_frac is not None and abs(c.slowed_frac) > limits.slowed_frac:
        way = "slower" if c.slowed_frac > 0 else "faster"
        return (f"the machine was {abs(c.slowed_frac):.0%} {way} after training than before; at most "
                f"{limits.slowed_frac:.0%} is fair")
    # Beside an accelerator most cores rest, and at what clocks they are seen is chance.
    for what, name in [("GPU", "gpu_mhz")] if accelerated else [("CPU", "cpu_mhz"), ("GPU", "gpu_mhz")]:
        now, before = getattr(c, name), _median(usual, name)
        if now and before and abs(now / before - 1) > limits.clock_rate_frac:
            return (f"the {what}'s clock was at {now:.0f} MHz, and at {before:.0f} in the trials before; "
                    f"{_allowed(limits)}")
    before = _median(usual, "limited_frac")
    if c.limited_frac is not None and before is not None and abs(c.limited_frac - before) > limits.limited_frac:
        return (f"the machine was slowed down {c.limited_frac:.0%} of the time, and {before:.0%} in the trials before"
                + (f" ({c.limited})" if c.limited else ""))
    return ""


def _allowed(limits: Limits) -> str:
    return f"at most {limits.clock_rate_frac:.0%} more or less is fair"


def _median(usual: Sequence[Conditions], name: str) -> float | None:
    found = [v for c in usual if (v := getattr(c, name)) is not None]
    return statistics.median(found) if found else None


def drifted(now: Sequence[float], then: Sequence[float], limits: Limits = LIMITS) -> bool:
    """Whether the calibrated speed has moved: medians, since a single calibration may meet anything."""
    return bool(now and then) and abs(statistics.median(now) / statistics.median(then) - 1) > limits.drift_frac


def segments_s(curve: Sequence[Point], segments: int = SEGMENTS) -> list[float]:
    """Seconds for each step in equal parts of the time, from the points that a trial reported; empty for too few."""
    points = [Point(0, 0.0), *curve]
    end_s = points[-1].elapsed_s
    if len(points) <= segments or end_s <= 0:
        return []
    found = []
    for i in range(segments):
        first, last = (_at(points, end_s * share / segments) for share in (i, i + 1))
        found.append(end_s / segments / (last - first) if last > first else end_s / segments)
    return found


def _at(points: Sequence[Point], elapsed_s: float) -> float:
    """The step at a moment, between the points around it."""
    for a, b in pairwise(points):
        if b.elapsed_s >= elapsed_s and b.elapsed_s > a.elapsed_s:
            return a.step + (b.step - a.step) * max(0.0, elapsed_s - a.elapsed_s) / (b.elapsed_s - a.elapsed_s)
    return float(points[-1].step)


def load(before: Counters, after: Counters, seconds: float) -> Conditions:
    """What others used of the cores in between, and what was left; unknown where the system does not tell."""
    cores, seconds = sensors.cores(), max(1e-9, seconds)
    if before.busy_s is None or after.busy_s is None:
        return Conditions(seconds, cores=cores)
    busy = (after.busy_s - before.busy_s) / seconds
    own = (after.own_s - before.own_s) / seconds
    stolen_s = _difference(before.stolen_s, after.stolen_s)
    return Conditions(seconds, cores=cores, outside_cores=max(0.0, busy - own), idle_cores=max(0.0, cores - busy),
                      stolen_cores=None if stolen_s is None else stolen_s / seconds)


class Observer:
    """Watches from when it is made until `stop`. `trial` is the process that trains."""

    def __init__(self, trial: int, now: Callable[[], Instant] = sensors.instant,
                 counted: Callable[[], Counters] = sensors.counters, seen: Callable[[], Sample] = sensors.sample):
        self._trial, self._now, self._counted, self._seen = trial, now, counted, seen
        self._samples: list[Sample] = []
        self._battery: list[bool] = []
        self._ours_s = self._theirs_s = 0.0  # that we, and the trial, were stopped
        self._ended = threading.Event()
        self._first, self._before = now(), counted()
        self._last, self._after = self._first, self._before
        self.so_far = Conditions(0.0)  # what others used of the cores, some seconds ago
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Before the trial's processes end, whose CPU time would be lost."""
        if not self._ended.is_set():
            self._last, self._after = self._now(), self._counted()
            self._ended.set()
            self._thread.join()

    def standstill(self, limits: Limits = LIMITS) -> str:
        """Why a trial is late that isn't to blame for it, or nothing."""
        return unfair(Conditions(self._last.steady_s - self._first.steady_s, self._first.asleep_s(self._last),
                                 self._first.set_s(self._last), max(self._ours_s, self._theirs_s)), limits=limits)

    def conditions(self, curve: Sequence[Point], speeds: tuple[float, float]) -> Conditions:
        a, b, samples = self._before, self._after, self._samples
        elapsed_s = max(1e-9, self._last.steady_s - self._first.steady_s)
        used = load(a, b, elapsed_s)
        heat = _difference(a.throttled_s, b.throttled_s)
        limited = [bool(s.limited) for s in samples]
        share = max(sum(limited) / len(limited) if limited else 0.0, (heat or 0.0) / elapsed_s)
        stall = _difference(a.memory_stall_s, b.memory_stall_s)
        swapped, faults = _difference(a.swapped_bytes, b.swapped_bytes), _difference(a.faults, b.faults)
        before, after = speeds
        return Conditions(
            elapsed_s=elapsed_s, asleep_s=self._first.asleep_s(self._last), set_s=self._first.set_s(self._last),
            stopped_s=max(self._ours_s, self._theirs_s), cores=used.cores, outside_cores=used.outside_cores,
            stolen_cores=used.stolen_cores, idle_cores=used.idle_cores,
            memory_stall_frac=None if stall is None else stall / elapsed_s,
            swapped_bytes=None if swapped is None else int(swapped), faults=None if faults is None else int(faults),
            limited_frac=min(1.0, share) if samples or heat is not None else None,
            limited="; ".join(sorted({name for s in samples for name in s.limited}))[:200],
            cpu_mhz=_mean([s.cpu_mhz for s in samples]), gpu_mhz=_mean([s.gpu_mhz for s in samples]),
            hottest_c=max((s.hottest_c for s in samples if s.hottest_c is not None), default=None),
            on_battery=any(self._battery) if self._battery else None, power_changed=len(set(self._battery)) > 1,
            speed=(before + after) / 2, slowed_frac=before / after - 1, step_s=segments_s(curve))

    def _run(self) -> None:
        looked_s, looks, asked = self._now().steady_s, 0, Sample(None, None, None, ())
        last = Conditions(0.0)
        while True:
            if (looks - FIRST_ASKED) % ASK_EVERY == 0:
                asked = sensors.asked()
                # The lower of two looks: what a process used may be missed by one of them while it ends.
                look = load(self._before, self._counted(), self._now().steady_s - self._first.steady_s)
                self.so_far, last = min(last, look, key=lambda c: (c.outside_cores or 0.0) * c.elapsed_s), look
            if looks % SAMPLE_EVERY == 0:
                self._samples.append(self._seen().beside(asked))
                self._battery += [p for p in [sensors.on_battery()] if p is not None]
                looked_s = self._now().steady_s  # what sampling takes is no standstill
            if self._ended.wait(LOOK_EVERY_S):
                return
            took_s, looked_s, looks = self._now().steady_s - looked_s, self._now().steady_s, looks + 1
            self._ours_s += took_s - LOOK_EVERY_S if took_s > LOOK_EVERY_S + LATE_S else 0.0
            self._theirs_s += took_s if sensors.stopped(self._trial) else 0.0


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else b - a


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None
