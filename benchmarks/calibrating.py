"""How well a calibration of so many seconds repeats on this machine as it is now, idle or not.

    python -m benchmarks.calibrating [--looks N]

Looks of two seconds, two seconds apart, are cut into windows as long as a calibration, and every window's speed (what
half, a quarter, a tenth of its rounds reach) is compared with every other's: how often would a trial between the two
have been called unfair? And with windows drawn as trials draw them, two each and the median of three trials, how often
would the machine's speed have been called changed?
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from autoresearch.harness import calibrate, sensors
from autoresearch.harness.conditions import LIMITS
from autoresearch.research.fair import USUAL

LOOK_S, DRAWS = 2.0, 10_000


def looks(count: int) -> list[list[float]]:
    """Seconds of each round of each look."""
    threads, block = max(1, min(calibrate.MOST_THREADS, int(sensors.cores()))), bytes(calibrate.BLOCK_BYTES)
    found = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(count):
            began, took_s = time.perf_counter(), list[float]()
            while time.perf_counter() - began < LOOK_S:
                took_s.append(calibrate.round_s(pool, threads, block))
            found.append(took_s)
            time.sleep(LOOK_S)
    return found


def windows(took_s: list[float], seconds: float) -> Iterator[list[float]]:
    window: list[float] = []
    for round_s in took_s:
        window.append(round_s)
        if sum(window) >= seconds and len(window) >= calibrate.LEAST_ROUNDS:
            yield window
            window = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--looks", type=int, default=30)
    found, rng = looks(parser.parse_args().looks), np.random.default_rng(0)
    print(f"| seconds | reached by | pairs apart by more than {LIMITS.slowed_frac:.0%} | called changed by more than "
          f"{LIMITS.drift_frac:.0%} |\n|--:|--:|--:|--:|")
    for seconds, share in itertools.product((0.02, 0.1, 0.2, 0.4), (0.5, 0.25, 0.1)):
        times = np.array([np.quantile(window, share) for took_s in found for window in windows(took_s, seconds)])
        apart = np.abs(times[:, None] / times[None, :] - 1)[~np.eye(len(times), dtype=bool)]
        then, now = np.median((1 / rng.choice(times, (2, DRAWS, USUAL, 2))).mean(-1), -1)
        print(f"| {seconds:g} | {share:.0%} | {np.mean(apart > LIMITS.slowed_frac):.2%} "
              f"| {np.mean(np.abs(now / then - 1) > LIMITS.drift_frac):.1%} |")


if __name__ == "__main__":
    main()
