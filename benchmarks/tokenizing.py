"""How fast text becomes token streams, beside tiktoken's own batch encoding of the same strings on the same cores.

    python -m benchmarks.tokenizing [--text PATH] [--max-bytes N] [--vocab N ...] [--rounds N]

Rounds are interleaved and their medians compared. tiktoken gets its strings decoded and in handy lengths beforehand,
and leaves lists of ids in memory; `Tokenizer.streams` starts from bytes and ends with the arrays of `ar prepare`, BOS
included; the last columns write them to disk as it does, hashed and synced. Ratios are of speeds, to tiktoken's. The
text is Python's own source unless PATH is given.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from autoresearch.data import corpus, disk
from autoresearch.data.text import decode
from autoresearch.data.tokenizer import Tokenizer, chunks, train_bpe

LEARNED_BYTES = 4_000_000


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(tokenizer: Tokenizer, documents: list[bytes], rounds: int) -> list[float]:
    """Median seconds of tiktoken's batch encoding, of ours, and of ours to disk."""
    cores = os.cpu_count() or 1
    texts = [decode(chunk).encode("utf-8", "replace").decode() for document in documents for chunk in chunks(document)]
    with tempfile.TemporaryDirectory() as folder:
        works = [lambda: tokenizer._encoding.encode_ordinary_batch(texts, num_threads=cores),
                 lambda: list(tokenizer.streams(documents, cores)),
                 lambda: disk.write(Path(folder), "tokens", (some.tobytes() for some in tokenizer.streams(documents)))]
        taken = [[seconds(work) for work in works] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--max-bytes", type=int, default=12_000_000)
    parser.add_argument("--vocab", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    found = corpus.text([wanted.text], wanted.max_bytes) if wanted.text else corpus.stdlib(wanted.max_bytes)
    documents = list(found.documents())
    size = sum(map(len, documents))
    print(f"{found.source}: {len(documents):,} documents, {size / 1e6:.1f} MB, {os.cpu_count()} cores\n")
    print("| tokenizer | tiktoken, MB/s | streams, MB/s | ratio | to disk, MB/s | ratio |\n|---|--:|--:|--:|--:|--:|")
    for vocab in wanted.vocab or (1024, 4096, 16384):
        tokenizer = train_bpe(lambda: documents[::-(-size // LEARNED_BYTES)], vocab)
        if tokenizer is None:
            print(f"| bpe-{vocab} | the text is too small for it | | | | |")
            continue
        theirs_s, *ours_s = compare(tokenizer, documents, wanted.rounds)
        print(f"| {tokenizer.name} | {size / theirs_s / 1e6:.1f} |"
              + "".join(f" {size / s / 1e6:.1f} | {theirs_s / s:.2f} |" for s in ours_s))


if __name__ == "__main__":
    main()
