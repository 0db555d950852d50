"""A short piece of work that is always the same: how fast is the machine now?

Hashing in one thread for each core, so that it sees clocks being cut and cores being shared, and takes 20 to 150 ms. It
doesn't see a GPU: that one's clock is among the sensors.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from autoresearch.harness import sensors

BLOCK_BYTES, ROUNDS = 4 << 20, 7
MOST_THREADS = 32


def speed() -> float:
    """GB/s hashed on all cores together: the median round's, since a round may be disturbed by nothing that lasts."""
    threads, block = max(1, min(MOST_THREADS, int(sensors.cores()))), bytes(BLOCK_BYTES)
    with ThreadPoolExecutor(threads) as pool:
        took_s = [_round_s(pool, threads, block) for _ in range(ROUNDS + 1)][1:]  # the first starts the threads
    return threads * BLOCK_BYTES / statistics.median(took_s) / 1e9


def _round_s(pool: ThreadPoolExecutor, threads: int, block: bytes) -> float:
    began = time.perf_counter()
    list(pool.map(hashlib.sha256, [block] * threads))
    return time.perf_counter() - began
