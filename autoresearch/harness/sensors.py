"""What a machine tells of itself without root: clocks, CPU time, memory pressure, heat, power. None: it doesn't tell.

    instant     the three clocks
    counters    what adds up: CPU time of all and of our own processes, stalls, swapping, throttling
    sample      what comes and goes: clock rates, temperatures, and who says that clocks are cut
    asked       the same from programs that have to be run for it
    on_battery  whether the mains are out

Linux tells it in /proc and /sys, macOS through sysctl and pmset, NVIDIA's driver through nvidia-smi.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from autoresearch.harness import cgroup

ROOT = Path("/")
# Columns of /proc/stat: user, nice, system, irq, softirq, steal; the first two hold what guests of ours take.
BUSY, STOLEN = (0, 1, 2, 5, 6, 7), (7,)
# Goes on while the machine sleeps, as time.monotonic() does not. macOS calls it CLOCK_MONOTONIC.
BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
COOLING = re.compile(r"processor|cpufreq|cpu-?idle|powerclamp|gpu|devfreq", re.IGNORECASE)
TRIPS = ("passive", "hot", "critical")  # of a thermal zone, but for `active`, which is a fan's
GPU_QUERY = "clocks.sm,temperature.gpu,clocks_throttle_reasons.active"
GPU_REASONS = {0x08: "hardware slowdown", 0x20: "software thermal slowdown", 0x40: "hardware thermal slowdown",
               0x80: "power brake"}
CRITICAL_PRESSURE = 4  # macOS: kern.memorystatus_vm_pressure_level


@dataclass(frozen=True)
class Instant:
    steady_s: float
    boot_s: float  # sleep included
    wall_s: float  # as it is set

    def asleep_s(self, until: Instant) -> float:
        return (until.boot_s - self.boot_s) - (until.steady_s - self.steady_s)

    def set_s(self, until: Instant) -> float:
        """By how much the time was set in between."""
        return (until.wall_s - self.wall_s) - (until.boot_s - self.boot_s)


def instant() -> Instant:
    return Instant(time.monotonic(), time.clock_gettime(BOOT_CLOCK), time.time())


@dataclass(frozen=True)
class Counters:
    """Since some moment of the past: differences count."""

    busy_s: float | None  # CPU time on the cores that we may use, by whomever, a hypervisor's other guests included
    own_s: float  # of this process, its children and theirs
    memory_stall_s: float | None  # some process waited for memory
    swapped_bytes: int | None
    throttled_s: float | None  # some core's clock was cut because it was hot
    faults: int | None  # of our own processes: pages that had to come from disk
    stolen_s: float | None = None  # of busy_s: what a hypervisor gave to its other guests


def counters(root: Path = ROOT) -> Counters:
    own = list(_family())
    busy_s, stolen_s = _cpu_times_s(root)
    return Counters(busy_s, sum(_cpu_s(p) for p in own), _memory_stall_s(root), _swapped_bytes(root),
                    _throttled_s(root), _faults(own), stolen_s)


def cores(root: Path = ROOT) -> float:
    """That we may use: all, or those of a CPU set, or a container's share."""
    allowed = float(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
    quota = cgroup.cores(root)
    return min(allowed, quota) if quota else allowed


@dataclass(frozen=True)
class Sample:
    cpu_mhz: float | None
    gpu_mhz: float | None
    hottest_c: float | None
    limited: tuple[str, ...]  # who says that clocks are cut, or memory is short

    def beside(self, other: Sample) -> Sample:
        hottest_c = max((c for c in (self.hottest_c, other.hottest_c) if c is not None), default=None)
        return Sample(self.cpu_mhz or other.cpu_mhz, self.gpu_mhz or other.gpu_mhz, hottest_c,
                      (*self.limited, *other.limited))


def sample(root: Path = ROOT) -> Sample:
    """What files tell, in about a millisecond."""
    zones = list(_zones(root))
    cut = [*_cooling(root), *(f"{name} at {c:.0f} °C, its limit is {trip:.0f}" for name, c, trip in zones
                              if trip and c >= trip)]
    return Sample(_cpu_mhz(root), None, max((c for _, c, _ in zones), default=None), tuple(cut))


def asked() -> Sample:
    """What programs tell, in some tens of milliseconds."""
    gpu = parse_nvidia_smi(_told("nvidia-smi", *_which_gpu(), f"--query-gpu={GPU_QUERY}",
                                 "--format=csv,noheader,nounits"))
    if sys.platform != "darwin":
        return gpu
    cut = parse_pmset(_told("pmset", "-g", "therm"))
    if _told("sysctl", "-n", "kern.memorystatus_vm_pressure_level").strip() == str(CRITICAL_PRESSURE):
        cut.append("memory pressure is critical")
    return gpu.beside(Sample(None, None, None, tuple(cut)))


def on_battery() -> bool | None:
    """None where there is no battery."""
    with contextlib.suppress(OSError, AttributeError, ValueError, RuntimeError):
        found = psutil.sensors_battery()
        return None if found is None or found.power_plugged is None else not found.power_plugged
    return None


def stopped(pid: int) -> bool:
    """Whether a process was told to stop, and not yet to go on."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


# What programs say

def parse_nvidia_smi(text: str) -> Sample:
    """Of the first card in the answer to GPU_QUERY; `[N/A]` for what it doesn't know."""
    fields = [f.strip() for f in (text.splitlines() or [""])[0].split(",")]
    if len(fields) != 3:
        return Sample(None, None, None, ())
    try:
        mask = int(fields[2], 16)
    except ValueError:
        mask = 0
    said = tuple(f"GPU: {reason}" for bit, reason in GPU_REASONS.items() if mask & bit)
    return Sample(None, _float(fields[0]), _float(fields[1]), said)


def parse_pmset(text: str) -> list[str]:
    """`pmset -g therm`: limits below 100 (Intel), and warning levels (Apple silicon)."""
    limits = re.findall(r"(CPU_Speed_Limit|CPU_Scheduler_Limit|GPU_Speed_Limit)\s*=\s*(\d+)", text)
    levels = re.findall(r"(?:thermal|performance) warning level\D{0,20}?(\d+)", text, re.IGNORECASE)
    return [f"{name} is {value}%" for name, value in limits if int(value) < 100] \
        + [f"thermal warning level {level}" for level in levels if int(level) > 0]


def _told(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        return done.stdout if done.returncode == 0 else ""
    return ""


def _which_gpu() -> list[str]:
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip()
    return ["-i", first] if first else []


# Our own processes

def _family() -> Iterator[psutil.Process]:
    own = psutil.Process()
    yield own
    with contextlib.suppress(psutil.Error):
        yield from own.children(recursive=True)


def _cpu_s(process: psutil.Process) -> float:
    """Ended children's included, which their parent takes over when it waits for them."""
    with contextlib.suppress(psutil.Error):
        t = process.cpu_times()
        return float(t.user + t.system + t.children_user + t.children_system)
    return 0.0


def _faults(processes: list[psutil.Process]) -> int | None:
    if sys.platform != "linux":
        return None
    total = 0
    for p in processes:
        with contextlib.suppress(OSError):  # fields after the name: 9 its major faults, 10 its ended children's
            fields = Path(f"/proc/{p.pid}/stat").read_bytes().rpartition(b")")[2].split()
            total += int(fields[9]) + int(fields[10])
    return total


# The machine

def _cpu_times_s(root: Path) -> tuple[float | None, float | None]:
    """Counters.busy_s and stolen_s. None in a container with a share of all cores: who uses the rest doesn't matter
    there."""
    if cgroup.cores(root):
        return None, None
    if sys.platform == "linux":
        stat, allowed = _text(root / "proc/stat") or "", os.sched_getaffinity(0)
        return _cpu_time_of(stat, allowed, BUSY), _cpu_time_of(stat, allowed, STOLEN)
    t = psutil.cpu_times()
    return float(t.user + t.nice + t.system), None


def _cpu_time_of(stat: str, allowed: set[int], columns: Sequence[int]) -> float | None:
    """By /proc/stat, on the cores that we may use. Cores that are switched off have no line. A container may number its
    cores anew, while our rights name them as the machine does: then all that it shows are ours."""
    ticks = {int(core): fields.split() for core, fields in re.findall(r"^cpu(\d+) (.+)$", stat, re.MULTILINE)}
    ours = [ticks[core] for core in allowed] if allowed <= ticks.keys() else list(ticks.values())
    used = sum(int(fields[i]) for fields in ours for i in columns if i < len(fields))
    return used / os.sysconf("SC_CLK_TCK") if ticks else None


def _memory_stall_s(root: Path) -> float | None:
    found = re.search(r"^some .*total=(\d+)", _text(root / "proc/pressure/memory") or "", re.MULTILINE)
    return int(found[1]) / 1e6 if found else None


def _swapped_bytes(root: Path) -> int | None:
    pages = re.findall(r"^pswp(?:in|out) (\d+)", _text(root / "proc/vmstat") or "", re.MULTILINE)
    return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE") if pages else None


def _throttled_s(root: Path) -> float | None:
    """Of the core that was slowed down longest (Intel)."""
    cores = root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle")
    found = [_number(p) for core in cores for p in core.glob("*_throttle_total_time_ms")]
    return max((ms / 1000 for ms in found if ms is not None), default=None)


def _cpu_mhz(root: Path) -> float | None:
    """The mean over a few cores: some kernels take milliseconds for each."""
    files = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    found = [_number(p) for p in files[:8]]
    rates = [r / 1000 for r in found if r is not None]
    return sum(rates) / len(rates) if rates else None


def _zones(root: Path) -> Iterator[tuple[str, float, float | None]]:
    """(name, temperature, the lowest temperature at which the system cuts clocks) of every thermal zone that tells."""
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        now = _number(zone / "temp")
        if now is None or not 0 < now < 200_000:  # what is not there often reads as nonsense
            continue
        kinds = {p: (_text(p) or "").strip() for p in zone.glob("trip_point_*_type")}
        trips = [t / 1000 for p, kind in kinds.items() if kind in TRIPS
                 and (t := _number(p.with_name(p.name.replace("_type", "_temp")))) and t > 0]
        yield (_text(zone / "type") or zone.name).strip(), now / 1000, min(trips, default=None)


def _cooling(root: Path) -> Iterator[str]:
    """Devices that cool by slowing down, and do so now."""
    for device in sorted(root.glob("sys/class/thermal/cooling_device*")):
        kind = (_text(device / "type") or "").strip()
        if COOLING.search(kind) and (_number(device / "cur_state") or 0) > 0:
            yield f"{kind} is being cooled by slowing it down"


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _number(path: Path) -> float | None:
    return _float(_text(path) or "")


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
