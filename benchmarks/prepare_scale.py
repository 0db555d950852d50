"""What memory and time `ar prepare` takes as the text grows.

    python -m benchmarks.prepare_scale [--mb 25 --mb 100] [--one-line] [--tokenizer NAME ...]

Writes made-up text of each size into a temporary folder (words of a Zipf distribution, documents of about 2 KB; or all
of it one line), prepares it in a process of its own with a cache beside it, and prints that process's peak resident
memory. Needs about 6 times the largest size of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

WORDS, WORDS_A_DOCUMENT = 200_000, 350
CHILD = """
import json, resource, sys, time
from pathlib import Path
from autoresearch.data import corpus
from autoresearch.data.prepare import prepare
began = time.monotonic()
said = lambda line: print(f"  {time.monotonic() - began:6.1f} s  {line}", file=sys.stderr)
found = prepare(corpus.text([Path(sys.argv[1])]), tokenizers=tuple(sys.argv[2:]), progress=said)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
facts = found.prepared.manifest
print(json.dumps([time.monotonic() - began, peak, facts.policy, facts.corpus.documents, list(facts.tokenizers)]))
"""


def write_text(path: Path, size: int, is_one_line: bool) -> None:
    rng = np.random.default_rng(0)
    letters = rng.integers(97, 123, (WORDS, 12)).astype(np.uint8)
    lengths = rng.integers(2, 12, WORDS)
    words = [letters[i, :lengths[i]].tobytes() for i in range(WORDS)]
    end = b" " if is_one_line else b".\n<|endoftext|>\n"
    written = 0
    with open(path, "wb") as file:
        while written < size:
            chosen = rng.zipf(1.3, WORDS_A_DOCUMENT) % WORDS
            written += file.write(b" ".join([words[i] for i in chosen.tolist()]) + end)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, action="append")
    parser.add_argument("--one-line", action="store_true")
    parser.add_argument("--tokenizer", action="append", default=[])
    wanted = parser.parse_args()
    rows = []
    for size_mb in wanted.mb or [25, 100]:
        with tempfile.TemporaryDirectory() as folder:
            text = Path(folder, "text.txt")
            write_text(text, size_mb * 10**6, wanted.one_line)
            environment = os.environ | {"AUTORESEARCH_CACHE": str(Path(folder, "cache"))}
            child = subprocess.run([sys.executable, "-c", CHILD, str(text), *wanted.tokenizer], env=environment,
                                   stdout=subprocess.PIPE, check=True, text=True)
        seconds, peak, policy, documents, tokenizers = json.loads(child.stdout)
        rows.append(f"| {size_mb:,} | {documents:,} | {policy} | {len(tokenizers)} | {peak / 1e6:,.0f} "
                    f"| {seconds:.0f} |")
    print("| text, MB | documents | split by | tokenizers | peak memory, MB | seconds |\n|--:|--:|---|--:|--:|--:|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
