"""The feeder process: token rows from the train shard into the ring, in an order that only the seed decides.

Trusted. It prints an empty line when it has the first row. It starts to fill when the supervisor writes a byte to its
standard input, which is when the trial's clock starts, and ends when that input closes; then it prints how many steps
it handed over.
"""

from __future__ import annotations

import itertools
import os
import select
import sys

import numpy as np

from autoresearch.data.batches import dev_rows, training_rows
from autoresearch.harness import jobs
from autoresearch.harness.channel import Ring, RingShape


def feed(job: jobs.FeederJob, stdin: int) -> int:
    """Returns the number of steps that the trial took."""
    shape = RingShape(job.rows, job.dev_rows, job.seq_len)
    ring = Ring(job.ring, shape)
    *shards, dev = (np.memmap(path, np.dtype(job.dtype), mode="r") for path in (*job.shards, job.dev_shard))
    rows = training_rows(shards, job.bos, job.seq_len, job.seed)
    first, _ = next(rows)  # cutting and shuffling a large text takes seconds, which are not the trial's
    rows = itertools.chain([(first, 0)], rows)
    print(flush=True)
    if not os.read(stdin, 1):
        return 0
    ring.dev[:] = dev_rows(dev, job.bos, job.seq_len, job.dev_rows)
    filled = freed = 0
    while True:
        while filled - freed < shape.slots:
            slot = ring.steps[filled % shape.slots]
            for i in range(job.rows):
                slot[i], _ = next(rows)
            try:
                os.write(job.filled, b"\0")
            except BrokenPipeError:
                return freed
            filled += 1
        ready = select.select([job.free, stdin], [], [])[0]
        if job.free in ready:
            gone = os.read(job.free, 4096)
            if not gone:
                return freed
            freed = min(filled, freed + len(gone))  # more can't be free, whatever the trial writes
        if stdin in ready:
            return freed


def main() -> None:
    job = jobs.parse(jobs.FeederJob, sys.argv[1])
    print(feed(job, sys.stdin.fileno()), flush=True)


if __name__ == "__main__":
    main()
