"""What packing rows costs, against the time a step of training takes on the same tokens.

    python -m benchmarks.feeding --tokens-per-s 50000 --tokens-per-s 1500000

Prints microseconds a row and the share of one core that a trainer of that speed asks of the feeder, for texts of short
documents, long documents and one document. The feeder is a process of its own, ahead of the step it feeds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from autoresearch.data.batches import training_rows

BOS = 4095
TOKENS, ROWS, ROUNDS = 20_000_000, 4000, 5
TEXTS = {"short documents (mean 220 tokens)": 220, "long documents (mean 3,000)": 3000, "one document": TOKENS}


def stream(mean: int, rng: np.random.Generator) -> np.ndarray:
    """Random tokens with documents of geometric lengths."""
    tokens = rng.integers(0, BOS, TOKENS, dtype=np.uint16)
    tokens[rng.random(TOKENS) < 1 / mean] = BOS
    tokens[0] = BOS
    return tokens


def row_s(tokens: np.ndarray, seq_len: int, seed: int) -> float:
    rows = training_rows([tokens], BOS, seq_len, seed)
    next(rows)
    began = time.perf_counter()
    for _ in range(ROWS):
        next(rows)
    return (time.perf_counter() - began) / ROWS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens-per-s", type=float, action="append", default=None)
    speeds = parser.parse_args().tokens_per_s or [50_000.0, 1_500_000.0]
    rng = np.random.default_rng(0)
    texts = {name: stream(mean, rng) for name, mean in TEXTS.items()}
    print("| text | tokens a row | microseconds a row |" + "".join(f" at {s:,.0f} tokens/s |" for s in speeds))
    print("|---|--:|--:|" + "--:|" * len(speeds))
    for name, tokens in texts.items():
        for seq_len in (256, 2048):
            median_s = statistics.median(row_s(tokens, seq_len, seed) for seed in range(ROUNDS))
            shares = "".join(f" {median_s * speed / seq_len:.2%} |" for speed in speeds)
            print(f"| {name} | {seq_len:,} | {1e6 * median_s:.1f} |{shares}")


if __name__ == "__main__":
    main()
