"""Under what conditions a trial ran: what the machine tells, what is judged fair, and time that is bent on purpose."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import psutil
import pytest

from autoresearch.harness import awake, calibrate, cgroup, conditions, sensors, supervise
from autoresearch.harness.conditions import LIMITS, Conditions, Observer, drifted, lost, segments_s, unfair
from autoresearch.harness.runner import Runner
from autoresearch.harness.sensors import Counters, Instant, Sample
from autoresearch.records import Point
from tests.harness.tiny import comes_true, gone, honest, ours_below, tiny_recipe

QUIET = Conditions(elapsed_s=300.0, cores=8.0, outside_cores=0.1, idle_cores=1.0, memory_stall_frac=0.0,
                   swapped_bytes=0, limited_frac=0.0, cpu_mhz=3000.0, gpu_mhz=1500.0, on_battery=False, speed=2.0,
                   slowed_frac=0.0)


# Judging

@pytest.mark.parametrize(("seen", "reason"), [
    ({"asleep_s": 30.0}, "slept for 30 s"),
    ({"set_s": -3600.0}, "time was set back by 3600 s"),
    ({"stopped_s": 3.5}, "stopped for 3.5 s; at most 3.0 s is fair"),
    ({"power_changed": True}, "power supply changed"),
    ({"outside_cores": 0.5}, "other programs used 0.50 of 8 cores"),
    ({"outside_cores": 0.5, "stolen_cores": 0.3}, "other machines on this host used 0.50 of 8 cores"),
    ({"memory_stall_frac": 0.2}, "programs waited for it 20% of the time"),
    ({"memory_stall_frac": None, "swapped_bytes": 100 << 20}, "100 MiB were swapped"),
    ({"slowed_frac": 0.3}, "30% slower after training than before"),
    ({"cpu_mhz": 2500.0}, "the CPU's clock was at 2500 MHz, and at 3000 in the trials before"),
    ({"gpu_mhz": 1900.0}, "the GPU's clock"),
    ({"limited_frac": 0.5, "limited": "x86_pkg_temp at 99 °C, its limit is 95"},
     r"slowed down 50% of the time, and 0% in the trials before \(x86_pkg_temp at 99"),
])
def test_what_is_beyond_a_limit_is_not_scored_and_the_reason_has_its_number(seen: dict, reason: str) -> None:
    usual = [QUIET] * 3
    assert unfair(QUIET, usual) == ""
    assert re.search(reason, unfair(replace(QUIET, **seen), usual))


@pytest.mark.parametrize("seen", [
    {"asleep_s": 1.9, "set_s": -1.9, "stopped_s": 2.9}, {"outside_cores": 0.39}, {"memory_stall_frac": 0.049},
    {"swapped_bytes": 1 << 30}, {"slowed_frac": -0.2, "cpu_mhz": 3250.0, "limited_frac": 0.14}, {"on_battery": True},
    {"outside_cores": None, "memory_stall_frac": None, "swapped_bytes": None, "cpu_mhz": None, "gpu_mhz": None,
     "limited_frac": None, "slowed_frac": None, "speed": None},
])
def test_what_is_within_its_limit_or_is_not_told_is_scored(seen: dict) -> None:
    assert unfair(replace(QUIET, **seen), [QUIET] * 3) == ""


def test_a_trial_is_lost_when_no_rest_can_mend_it_and_not_before() -> None:
    """Of 300 s on 8 cores others may have 120 core-seconds."""
    def part(elapsed_s: float, outside_cores: float | None) -> Conditions:
        return Conditions(elapsed_s, cores=8.0, outside_cores=outside_cores)

    assert lost(part(50.0, 2.0), 300.0) == "" == lost(part(300.0, 0.39), 300.0) == lost(part(60.0, None), 300.0)
    why = lost(part(70.0, 2.0), 300.0)
    assert "used 2.00 of 8 cores in its first 70 s; over all its 300 s at most 0.40 is fair" in why
    assert lost(part(70.0, 2.0), 300.0, accelerated=True) == ""


def test_others_may_use_cores_that_an_accelerators_training_leaves_idle() -> None:
    busy = replace(QUIET, outside_cores=4.0, idle_cores=2.0)
    assert unfair(busy, accelerated=True) == ""
    assert "other programs" in unfair(busy, accelerated=False)
    assert "other programs" in unfair(replace(busy, idle_cores=0.5), accelerated=True)


def test_the_clock_of_cores_that_mostly_rest_beside_an_accelerator_says_nothing() -> None:
    resting = replace(QUIET, cpu_mhz=2000.0)
    assert unfair(resting, [QUIET] * 3, accelerated=True) == ""
    assert "the CPU's clock" in unfair(resting, [QUIET] * 3, accelerated=False)
    assert "the GPU's clock" in unfair(replace(resting, gpu_mhz=1000.0), [QUIET] * 3, accelerated=True)


def test_a_machine_that_is_always_hot_is_fair_to_all_and_one_that_has_changed_is_its_own_usual_after_reruns() -> None:
    hot = replace(QUIET, limited_frac=0.6, cpu_mhz=2000.0)
    assert unfair(hot, [hot] * 3) == "" and unfair(hot, []) == ""
    history = [QUIET, QUIET, QUIET]
    outcomes = []
    for _ in range(4):
        outcomes.append(unfair(hot, history[-3:]) == "")
        history.append(hot)
    assert outcomes == [False, False, True, True]


def test_drift_is_told_by_medians() -> None:
    assert not drifted([2.0, 0.5, 2.02], [2.0, 2.0, 2.0])
    assert drifted([1.8, 1.85, 2.0], [2.0, 2.01, 1.99]) and drifted([2.2, 2.2], [2.0, 2.0])
    assert not drifted([], [2.0]) and not drifted([2.0], [])


def test_conditions_survive_the_ledger() -> None:
    seen = replace(QUIET, step_s=[0.1, 0.2], limited="heat", power_changed=True)
    assert Conditions.from_json(seen.to_json()) == seen
    assert Conditions.from_json(Conditions(3.0).to_json()) == Conditions(3.0)


def test_what_it_was_like_is_told_in_words() -> None:
    seen = replace(QUIET, hottest_c=71.0, limited_frac=0.25, step_s=[0.1, 0.125], on_battery=True)
    assert seen.words() == ("others used 0.10 of 8 cores, calibrated at 2.00 GB/s, 71 °C at most, slowed down 25% of "
                            "the time, 100 to 125 ms a step, on battery")
    assert Conditions(1.0).words() == "it tells nothing"


def test_step_times_over_the_course_show_where_it_slowed_down() -> None:
    steady = [Point(10 * i, float(i)) for i in range(1, 41)]
    assert segments_s(steady) == pytest.approx([0.1] * 8)
    slower = steady[:20] + [Point(200 + 5 * i, 20.0 + i) for i in range(1, 21)]
    assert segments_s(slower) == pytest.approx([0.1] * 4 + [0.2] * 4)
    assert segments_s(steady[:3]) == [] and segments_s([]) == []


# What a machine tells

def machine(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


THERMAL, CPU = "sys__class__thermal__", "sys__devices__system__cpu__cpu0__"


def test_thermal_zones_say_when_they_are_beyond_the_trip_that_slows_the_cpu_down(tmp_path: Path) -> None:
    zone = THERMAL + "thermal_zone0__"
    files = {zone + "type": "x86_pkg_temp", zone + "temp": "80000", zone + "trip_point_0_type": "passive",
             zone + "trip_point_0_temp": "95000", zone + "trip_point_1_type": "active",
             zone + "trip_point_1_temp": "50000", THERMAL + "thermal_zone1__type": "absent",
             THERMAL + "thermal_zone1__temp": "-274000"}
    assert sensors.sample(machine(tmp_path, **files)) == Sample(None, None, 80.0, ())
    hot = sensors.sample(machine(tmp_path, **{zone + "temp": "97000"}))
    assert hot.hottest_c == 97.0 and hot.limited == ("x86_pkg_temp at 97 °C, its limit is 95",)


def test_a_device_that_cools_by_slowing_down_says_so_and_a_fan_does_not(tmp_path: Path) -> None:
    machine(tmp_path, **{THERMAL + "cooling_device0__type": "Fan", THERMAL + "cooling_device0__cur_state": "3",
                         THERMAL + "cooling_device1__type": "intel_powerclamp",
                         THERMAL + "cooling_device1__cur_state": "-1",
                         THERMAL + "cooling_device2__type": "Processor", THERMAL + "cooling_device2__cur_state": "0"})
    assert sensors.sample(tmp_path).limited == ()
    machine(tmp_path, **{THERMAL + "cooling_device2__cur_state": "2"})
    assert sensors.sample(tmp_path).limited == ("Processor is being cooled by slowing it down",)


def test_clock_rates_throttling_stalls_and_swapping_are_read_where_linux_tells_them(tmp_path: Path) -> None:
    machine(tmp_path, **{CPU + "cpufreq__scaling_cur_freq": "2400000",
                         "sys__devices__system__cpu__cpu1__cpufreq__scaling_cur_freq": "2600000",
                         CPU + "thermal_throttle__core_throttle_total_time_ms": "1500",
                         CPU + "thermal_throttle__package_throttle_total_time_ms": "2500",
                         "proc__pressure__memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=3000000\n"
                                                   "full avg10=0.00 avg60=0.00 avg300=0.00 total=1000000",
                         "proc__vmstat": "pgfault 5\npswpin 3\npswpout 4"})
    found = sensors.counters(tmp_path)
    assert (found.throttled_s, found.memory_stall_s) == (2.5, 3.0)
    assert found.swapped_bytes == 7 * os.sysconf("SC_PAGE_SIZE")
    assert sensors.sample(tmp_path).cpu_mhz == 2500.0


def test_a_machine_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    assert sensors.sample(tmp_path) == Sample(None, None, None, ())
    found = sensors.counters(tmp_path)
    assert (found.throttled_s, found.memory_stall_s, found.swapped_bytes) == (None, None, None)


def test_a_containers_share_of_the_cores_is_what_there_is(tmp_path: Path) -> None:
    machine(tmp_path, **{"proc__self__cgroup": "0::/box", "sys__fs__cgroup__box__cpu.max": "50000 100000"})
    assert sensors.cores(tmp_path) == 0.5
    machine(tmp_path, **{"sys__fs__cgroup__box__cpu.max": "max 100000"})
    assert sensors.cores(tmp_path) >= 1


def test_a_limit_of_a_group_above_ours_binds_too(tmp_path: Path) -> None:
    """A container in a service, or a scope in a person's slice: the least of all counts."""
    top = "sys__fs__cgroup__"
    machine(tmp_path, **{"proc__self__cgroup": "4:memory:/v1\n0::/service/box",
                         top + "service__box__cpu.max": "max 100000", top + "service__cpu.max": "150000 100000",
                         top + "service__box__memory.max": "max", top + "service__memory.max": "3000",
                         top + "memory.max": "4000"})
    assert cgroup.cores(tmp_path) == 1.5 and cgroup.memory_bytes(tmp_path) == 3000
    machine(tmp_path, **{"proc__self__cgroup": "0::/"})
    assert cgroup.cores(tmp_path) is None and cgroup.memory_bytes(tmp_path) == 4000
    machine(tmp_path, **{"proc__self__cgroup": "4:memory:/v1"})
    assert cgroup.memory_bytes(tmp_path) is None


STAT = """\
cpu  999 999 999 999 999 999 999 999 999 999
cpu0 100 10 1 70000 500 2 3 4 90 9
cpu2 200 20 2 70000 500 4 6 8 90 9
intr 5 0 0
cpu9lives 7"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/stat")
@pytest.mark.parametrize(("allowed", "ticks", "stolen"), [
    ({2}, 240, 8), ({0}, 120, 4), ({0, 2}, 360, 12),
    ({1, 2}, 360, 12),  # a container that numbers its two cores anew, or a core that was just switched off
])
def test_cpu_time_is_that_of_the_cores_that_we_may_use_by_their_numbers(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: set[int], ticks: int, stolen: int) -> None:
    """cpu1 is switched off: by their places cpu2 would be taken for it, and what others use of it be missed."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: allowed)
    found = sensors.counters(machine(tmp_path, proc__stat=STAT))
    assert found.busy_s == ticks / os.sysconf("SC_CLK_TCK")
    assert found.stolen_s == stolen / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(("text", "sample"), [
    ("1980, 41, 0x0000000000000001\n1100, 90, 0x20\n", Sample(None, 1980.0, 41.0, ())),
    ("1410, 88, 0x0000000000000060\n", Sample(None, 1410.0, 88.0, ("GPU: software thermal slowdown",
                                                                  "GPU: hardware thermal slowdown"))),
    ("[N/A], 41, [N/A]\n", Sample(None, None, 41.0, ())),
    ("No devices were found\n", Sample(None, None, None, ())), ("", Sample(None, None, None, ())),
])
def test_what_nvidia_smi_says_is_understood(text: str, sample: Sample) -> None:
    assert sensors.parse_nvidia_smi(text) == sample


@pytest.mark.parametrize(("text", "limits"), [
    ("Note: No thermal warning level has been recorded\nNote: No performance warning level has been recorded\n"
     "Note: No CPU power status has been recorded\n", []),
    ("CPU Power notify\n\tCPU_Scheduler_Limit \t= 100\n\tCPU_Available_CPUs \t= 8\n\tCPU_Speed_Limit \t= 70\n",
     ["CPU_Speed_Limit is 70%"]),
    ("Thermal warning level set to 1\n", ["thermal warning level 1"]),
    ("Thermal warning level set to 0\n", []),
])
def test_what_pmset_says_is_understood(text: str, limits: list[str]) -> None:
    assert sensors.parse_pmset(text) == limits


# Time that is bent

class Bent:
    """The clocks, but for what a test adds to them."""

    def __init__(self) -> None:
        self.steady_s = self.boot_s = self.wall_s = 0.0

    def __call__(self) -> Instant:
        now = sensors.instant()
        steady_s = now.steady_s + self.steady_s
        return Instant(steady_s, now.boot_s + self.steady_s + self.boot_s, now.wall_s + self.steady_s + self.boot_s
                       + self.wall_s)


def observed(bend: Callable[[Bent], None], counted: Callable[[], Counters] = sensors.counters,
             seen: Callable[[], Sample] = sensors.sample, seconds: float = 0.05) -> Conditions:
    clock = Bent()
    observer = Observer(os.getpid(), clock, counted, seen)
    assert comes_true(lambda: observer._samples, 10)  # it looks from now on, whatever its first sample took
    time.sleep(seconds)
    bend(clock)
    time.sleep(seconds)
    observer.stop()
    return observer.conditions([], (1.0, 1.0))


def test_sleep_a_clock_that_is_set_and_a_halt_of_our_own_are_told_apart() -> None:
    assert "slept for 30 s" in unfair(observed(lambda c: vars(c).update(boot_s=30.0)), busy_ok=True)
    assert "set back by 90 s" in unfair(observed(lambda c: vars(c).update(wall_s=-90.0)), busy_ok=True)
    assert "stopped for" in unfair(observed(lambda c: vars(c).update(steady_s=20.0), seconds=0.4), busy_ok=True)


def test_a_change_of_power_supply_in_the_middle_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    supply = [False]
    monkeypatch.setattr(conditions, "SAMPLE_EVERY", 1)
    monkeypatch.setattr(conditions, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(sensors, "on_battery", lambda: supply[0])
    assert "power supply changed" in unfair(observed(lambda c: supply.__setitem__(0, True), seconds=0.2), busy_ok=True)


def test_a_gpu_is_asked_when_it_has_worked_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, asked_at = list[int](), list[int]()

    def seen() -> Sample:
        looks.append(1)
        return Sample(None, None, None, ())

    def asked() -> Sample:
        asked_at.append(len(looks))
        return Sample(None, 300.0 if len(looks) * conditions.LOOK_EVERY_S < 1 else 1500.0, None, ())

    monkeypatch.setattr(conditions, "SAMPLE_EVERY", 1)
    monkeypatch.setattr(sensors, "asked", asked)
    observer = Observer(os.getpid(), seen=seen)
    assert comes_true(lambda: len(observer._samples) > 5, 10)
    observer.stop()
    assert asked_at == [4] and observer.conditions([], (1.0, 1.0)).gpu_mhz == 1500.0


def test_heat_during_a_trial_is_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "SAMPLE_EVERY", 1)
    monkeypatch.setattr(conditions, "LOOK_EVERY_S", 0.05)
    heat: list[str] = []
    seen = observed(lambda c: heat.append("too hot"), seen=lambda: Sample(2000.0, None, 70.0, tuple(heat)), seconds=0.3)
    assert seen.limited == "too hot" and 0.2 < (seen.limited_frac or 0) < 0.8 and seen.cpu_mhz == 2000.0
    cool = observed(lambda c: None, seen=lambda: Sample(2000.0, None, 50.0, ()))
    assert "too hot" in unfair(replace(seen, outside_cores=None), [replace(cool, outside_cores=None)] * 3)


def test_our_own_work_is_ours() -> None:
    before, began_s = sensors.counters(), time.process_time()
    while time.process_time() - began_s < 0.3:
        sum(range(1000))
    assert 0.25 < sensors.counters().own_s - before.own_s < 0.6


def test_a_cpu_hog_of_someone_else_is_outside_load() -> None:
    if sensors.counters().busy_s is None:
        pytest.skip("a container with a share of all cores")
    busy = "import time; end = time.monotonic() + 3\nwhile time.monotonic() < end: pass"
    watch = ("import os, sys, time; from dataclasses import replace\n"
             "from autoresearch.harness import conditions\n"
             "from autoresearch.harness.conditions import Observer, lost, unfair\nconditions.ASK_EVERY = 1\n"
             "observer = Observer(os.getpid())\ntime.sleep(1.0)\nobserver.stop()\n"
             "assert lost(replace(observer.so_far, cores=2.0), 2.0), observer.so_far\n"
             "seen = observer.conditions([], (1.0, 1.0))\n"
             "print(seen.outside_cores, unfair(replace(seen, cores=2.0, stopped_s=0.0)))")
    hogs = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(2)]  # not below the one that watches
    try:
        said = subprocess.run([sys.executable, "-c", watch], check=True, capture_output=True, text=True).stdout
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    assert float(said.split()[0]) > 0.3 and "other programs" in said, said


def halt(folder: Path, seconds: float | None) -> Callable[[dict], None]:
    """A listener that stops the trial at its first step, for some seconds or for good."""
    done = threading.Event()

    def stop() -> None:
        pid = next(p.pid for p in ours_below(folder) if "harness.trial" in " ".join(p.cmdline()))
        os.kill(pid, signal.SIGSTOP)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(pid, signal.SIGCONT)

    def listen(message: dict) -> None:
        if message["event"] == "step" and not done.is_set():
            done.set()
            threading.Thread(target=stop).start()

    return listen


def test_a_trial_that_was_stopped_and_went_on_is_told_from_one_that_ran(mlx: Runner, tmp_path: Path) -> None:
    outcome = mlx.train(honest(), tiny_recipe(), 1, tmp_path, 3.0, listen=halt(tmp_path, 1.6))
    assert outcome.status == "ok", outcome.reason
    seen = outcome.conditions
    assert seen is not None and 1.2 < seen.stopped_s < 2.5 and "were stopped for" in unfair(seen, busy_ok=True)
    assert seen.elapsed_s == pytest.approx(3.0, abs=0.7) and seen.speed and len(seen.step_s) in (0, conditions.SEGMENTS)


def test_a_trial_that_stays_stopped_is_interrupted_and_not_late(mlx: Runner, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise.Supervised, "_grace_s", lambda self: 1.5)
    outcome = mlx.train(honest(), tiny_recipe(), 1, tmp_path, 1.0, listen=halt(tmp_path, None))
    assert (outcome.status, "were stopped for" in outcome.reason) == ("interrupted", True), outcome.reason
    assert comes_true(lambda: not ours_below(tmp_path), 3), ours_below(tmp_path)


@pytest.mark.parametrize(("slowed", "expected"), [(0.0, 1.0), (0.7, 1.0), (0.8, 0.5), (1.0, 0.5)])
def test_a_calibration_sees_what_lasts(slowed: float, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds that something disturbed for milliseconds say nothing of the machine's speed."""
    rounds: list[float] = []

    def round_s(*_: object) -> float:
        rounds.append(0.004 if len(rounds) % 10 >= 10 * slowed else 0.008)
        return rounds[-1]

    monkeypatch.setattr(sensors, "cores", lambda: 2.0)
    monkeypatch.setattr(calibrate, "round_s", round_s)
    assert calibrate.speed() == pytest.approx(expected * 2 * calibrate.BLOCK_BYTES / 0.004 / 1e9)
    assert calibrate.LEAST_S <= sum(rounds[1:]) < calibrate.LEAST_S + 0.01


def test_a_slow_machine_is_calibrated_in_a_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[float] = []
    monkeypatch.setattr(calibrate, "round_s", lambda *_: rounds.append(1.0) or 1.0)  # type: ignore[func-returns-value]
    calibrate.speed()
    assert len(rounds) == 1 + calibrate.LEAST_ROUNDS


def test_a_calibration_hashes() -> None:
    assert 0.01 < calibrate.speed() < 10_000


# Staying awake

@pytest.fixture
def inhibitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemd-inhibit, or caffeinate, that says when it is there."""
    folder, here = tmp_path / "bin", tmp_path / "here"
    folder.mkdir()
    scripts = {"systemd-inhibit": 'shift 4\nexec "$@"', "caffeinate": 'while kill -0 "$5"; do sleep 0.1; done'}
    for name, rest in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\necho $$ > {here}\n{rest}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return here


def pid_of(here: Path) -> int:
    assert comes_true(lambda: here.exists() and here.read_text().strip(), 5)
    return int(here.read_text())


def test_the_machine_is_kept_awake_as_long_as_the_study_runs(inhibitor: Path) -> None:
    with awake.awake(lambda text: None):
        pid = pid_of(inhibitor)
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


def test_a_killed_study_lets_the_machine_sleep(inhibitor: Path) -> None:
    code = "import os, signal, time\nfrom autoresearch.harness.awake import awake\n" \
           "with awake(print):\n    time.sleep(0.3)\n    os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
    pid = pid_of(inhibitor)
    assert comes_true(lambda: gone(pid), 5)


def test_a_machine_without_a_way_of_staying_awake_runs_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert awake.command(1) == []
    with awake.awake(lambda text: pytest.fail(text)):
        pass


def test_limits_are_declared_once() -> None:
    """docs/decisions.md states each of them in this phrase; a limit that is changed has to be changed there."""
    text = (Path(__file__).parents[2] / "docs/decisions.md").read_text()
    section = " ".join(text.partition("\n## Fair time\n")[2].partition("\n## ")[0].split())
    c = LIMITS
    stated = {
        "clock_s": f"| sleep, or the time being set | {c.clock_s:g} s |",
        "stopped_s": f"| its processes, or the supervisor, stopped | {c.stopped_s:g} s, or 1% of the time |",
        "outside_frac": f"| other programs | {c.outside_frac:.0%} of the cores |",
        "idle_cores": f"| less than {({1: 'one core'})[c.idle_cores]} left idle |",
        "memory_stall_frac": f"| waiting for memory | {c.memory_stall_frac:.0%} of the time |",
        "swapped_bytes": f"without it {c.swapped_bytes >> 20} MiB swapped |",
        "limited_frac": f"| share of the time that clocks are cut for heat | {c.limited_frac:.0%} from usual |",
        "clock_rate_frac": f"| clock rate of CPU or GPU | {c.clock_rate_frac:.0%} from usual |",
        "slowed_frac": f"| calibration after training against that before | {c.slowed_frac:.0%} |",
        "drift_frac": f"has moved by more than {c.drift_frac:.0%} since the incumbent's trial",
    }
    assert stated.keys() == {field.name for field in fields(c)}
    assert {name: phrase for name, phrase in stated.items() if phrase not in section} == {}
