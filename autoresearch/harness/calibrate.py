"""A short piece of work that is always the same: how fast is the machine now?

Hashing in one thread for each core, so that it sees clocks being cut and cores being shared, in 0.2 s. It doesn't see a
GPU: that one's clock is among the sensors.
"""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from autoresearch.harness import sensors

BLOCK_BYTES = 4 << 20
LEAST_ROUNDS, LEAST_S = 7, 0.2
MOST_THREADS = 32


def speed() -> float:
    """GB/s hashed on all cores together: what a quarter of the rounds reach. Whatever disturbs a round makes it slower
    and most of it lasts for milliseconds (benchmarks/calibrating.py)."""
    threads, block = max(1, min(MOST_THREADS, int(sensors.cores()))), bytes(BLOCK_BYTES)
    took_s: list[float] = []
    with ThreadPoolExecutor(threads) as pool:
        round_s(pool, threads, block)  # starts the threads
        while len(took_s) < LEAST_ROUNDS or sum(took_s) < LEAST_S:
            took_s.append(round_s(pool, threads, block))
    return threads * BLOCK_BYTES / float(np.quantile(took_s, 0.25)) / 1e9


def round_s(pool: ThreadPoolExecutor, threads: int, block: bytes) -> float:
    began = time.perf_counter()
    list(pool.map(hashlib.sha256, [block] * threads))
    return time.perf_counter() - began
