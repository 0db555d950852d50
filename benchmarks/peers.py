"""This trainer beside nanoGPT and karpathy/autoresearch on one CPU: steps a second, or the score of equal minutes.

    git clone https://github.com/karpathy/nanoGPT && git clone https://github.com/karpathy/autoresearch upstream
    ar prepare --text shakespeare.txt --holdout-chars 250000 --name peers --tokenizer byte --tokenizer bpe-1024 \\
        --tokenizer bpe-4096
    python -m benchmarks.peers speed --nanogpt nanoGPT --upstream upstream
    python -m benchmarks.peers score --nanogpt nanoGPT --upstream upstream --seconds 300

`speed` times every trainer at one shape on the same text, in turn, `--rounds` times, with the same allocator settings,
and prints medians and ratios. `score` trains them one after the other for the same time, compilation not counted, and
prints bits per byte of what was held out, in blocks of the sequence length and of at most 256 tokens. Rows are drawn,
and blocks begin, as each trainer's own do. benchmarks/peer_trainers.py says what was changed in the peers so that they
run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}  # what this trainer sets for itself
WARMUP_STEPS = 3
BLOCK = 256  # tokens, the longest context of the peers
HELD_OUT = ("val", "holdout")
REFERENCE = str(ROOT / "backends/reference.toml")


@dataclass(frozen=True)
class Entry:
    """One line of a table: a trainer at a size."""

    label: str
    kind: str  # nanogpt, upstream or ours
    tokenizer: str
    depth: int
    width: int
    head_dim: int
    seq_len: int
    tokens_per_step: int
    recipe: str = ""
    precision: str = "float32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "score", "worker"))
    parser.add_argument("--nanogpt", type=Path, help="a clone of karpathy/nanoGPT")
    parser.add_argument("--upstream", type=Path, help="a clone of karpathy/autoresearch")
    parser.add_argument("--data", default=None, help="a prepared text; default: the current one")
    parser.add_argument("--recipe", type=Path, action="append", default=[],
                        help="score: a recipe of this trainer's own, beside the reference recipe; may be repeated")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="speed: steps in each round")
    parser.add_argument("--float32", action="store_true", help="speed: upstream without autocast, this trainer alike")
    parser.add_argument("--seconds", type=float, default=300.0, help="score: training time of each")
    options = parser.parse_args()
    if options.what == "worker":
        return worker(json.loads(sys.stdin.readline()))
    (speed if options.what == "speed" else score)(options)


def speed(options: argparse.Namespace) -> None:
    size = (options.depth, options.width, 128 if options.width % 128 == 0 else 64, 256, 8192)
    entries = [Entry("nanoGPT, compiled", "nanogpt", "bpe-4096", *size),
               Entry("upstream, compiled", "upstream", "bpe-4096", *size, precision="bfloat16"),
               Entry("this trainer", "ours", "bpe-4096", *size, REFERENCE, "bfloat16")]
    if options.float32:
        entries = [replace(e, precision="float32") for e in entries]
    entries = [e for e in entries if e.kind == "ours" or getattr(options, e.kind)]
    workers = [Worker(e, options) for e in entries]
    times: list[list[float]] = [[] for _ in workers]
    for _ in range(options.rounds):
        for worker_, found in zip(workers, times, strict=True):
            found.append(worker_.ask(do="time", steps=options.steps)["seconds"] / options.steps)
    print(f"{options.depth} layers, width {options.width}, 256 tokens a row, 8,192 a step; {options.rounds} rounds of "
          f"{options.steps} steps in turn\n")
    print("| trainer | precision | tokens/s, median | slowest to fastest round | against the first, median of rounds |")
    print("|---|---|--:|--:|--:|")
    for e, found in zip(entries, times, strict=True):
        rates = sorted(e.tokens_per_step / s for s in found)
        ratio = statistics.median(a / b for a, b in zip(times[0], found, strict=True))
        print(f"| {e.label} | {e.precision} | {statistics.median(rates):,.0f} | {rates[0]:,.0f} to {rates[-1]:,.0f} | "
              f"{ratio:.2f} |")


def score(options: argparse.Namespace) -> None:
    from backends.recipe import load

    entries = [Entry("nanoGPT, its README's size for CPUs", "nanogpt", "byte", 4, 128, 32, 64, 768),
               Entry("upstream, BPE 4096", "upstream", "bpe-4096", 4, 256, 128, 256, 8192, precision="bfloat16"),
               Entry("upstream, BPE 1024, smaller steps", "upstream", "bpe-1024", 4, 256, 128, 256, 4096,
                     precision="bfloat16"),
               Entry("this trainer, upstream's recipe", "ours", "bpe-4096", 4, 256, 128, 256, 8192, REFERENCE,
                     "bfloat16")]
    entries = [e for e in entries if e.kind == "ours" or getattr(options, e.kind)]
    for file in options.recipe:
        r = load(file)
        entries.append(Entry("this trainer, " + file.name, "ours", r.data.tokenizer, r.model.depth, r.model.width,
                             r.model.head_dim, r.model.seq_len, r.batch.tokens_per_step, str(file.resolve()),
                             r.runtime.precision))
    print(f"{options.seconds:g} s of training each; bits per byte\n")
    print("| trainer | tokenizer | depth x width | tokens a row | a step | steps | val | holdout "
          f"| val by at most {BLOCK} | holdout |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for e in entries:
        done = Worker(e, options).ask(do="train", seconds=options.seconds)
        scores = (done[f"{split} by {length}"] for length in blocks(e.seq_len) for split in HELD_OUT)
        print(f"| {e.label} | {e.tokenizer} | {e.depth} x {e.width} | {e.seq_len} | {e.tokens_per_step:,} | "
              f"{done['steps']:,} | {' | '.join(f'{bpb:.4f}' for bpb in scores)} |", flush=True)


class Worker:
    """A trainer in a process of its own, compiled and warm; it rests while others are timed."""

    def __init__(self, entry: Entry, options: argparse.Namespace):
        job = vars(entry) | {"clone": str(getattr(options, entry.kind, None) or ""), "data": options.data}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | ALLOCATOR | {"PYTHONPATH": str(ROOT)})
        print(f"warming up: {entry.label}", file=sys.stderr)
        self._say(job)
        self._hear()

    def ask(self, **request: Any) -> dict[str, Any]:
        self._say(request)
        return self._hear()

    def _say(self, message: dict[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):  # the peers print on their way
                return dict(json.loads(line))
        raise SystemExit("a trainer ended early; what it said is above")


def worker(job: dict[str, Any]) -> None:
    from autoresearch.data import prepared
    from autoresearch.data.batches import training_rows
    from benchmarks.peer_trainers import NanoGPT, Ours, Shape, Trainer, Upstream

    text = prepared.find(job["data"]) if job["data"] else prepared.current()
    tokenizer = text.tokenizer(job["tokenizer"])
    streams, own_start = text.tokens("train", tokenizer.name), job["kind"] != "nanogpt"
    rows = (row for row, _ in training_rows(streams, tokenizer.bos, job["seq_len"], seed=1)) if own_start else crops(
        streams, job["seq_len"], seed=1)
    count = job["tokens_per_step"] // job["seq_len"]
    batches = (np.stack([next(rows) for _ in range(count)]) for _ in iter(int, 1))

    def trainer() -> Trainer:
        shape = Shape(job["depth"], job["width"], job["head_dim"], job["seq_len"], count, tokenizer.vocab)
        if job["kind"] == "ours":
            size = {"model.depth": job["depth"], "model.width": job["width"], "model.head_dim": job["head_dim"],
                    "batch.tokens_per_step": job["tokens_per_step"],
                    "runtime.compile": True, "runtime.precision": job["precision"]}
            return Ours(Path(job["recipe"]), size, tokenizer.vocab)
        if job["kind"] == "nanogpt":
            return NanoGPT(Path(job["clone"]), shape)
        return Upstream(Path(job["clone"]), shape, job["precision"] == "bfloat16")

    warm = trainer()
    for _ in range(WARMUP_STEPS):
        warm.step(next(batches), 0.5)
    answer({})
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "time":
            began = time.perf_counter()
            for _ in range(request["steps"]):
                warm.step(next(batches), 0.5)
            answer({"seconds": time.perf_counter() - began})
        else:
            fresh = trainer()  # the compiled code is in its cache by now
            fresh.step(next(batches), 0.0)
            steps = train(fresh, batches, request["seconds"])
            answer({"steps": steps} | {f"{split} by {length}": scored(fresh, text, split, tokenizer, length, own_start)
                                       for length in {*blocks(job["seq_len"])} for split in HELD_OUT})


def blocks(seq_len: int) -> tuple[int, int]:
    """Lengths in which a model is scored: its own, and what compares with others."""
    return seq_len, min(seq_len, BLOCK)


def answer(message: dict[str, Any]) -> None:
    print("\n" + json.dumps(message), flush=True)


def crops(streams: list[np.ndarray], length: int, seed: int) -> Iterator[np.ndarray]:
    """Rows from anywhere, as nanoGPT draws them; the others' begin with BOS."""
    rng, tokens = np.random.default_rng(seed), np.concatenate(streams)
    while True:
        start = rng.integers(len(tokens) - length)
        yield tokens[start:start + length + 1].astype(np.int32)


def train(trainer: Any, batches: Iterator[np.ndarray], seconds: float) -> int:
    began, steps = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds:
        trainer.step(next(batches), elapsed / seconds)
        steps += 1
    return steps


def scored(trainer: Any, text: Any, split: str, tokenizer: Any, length: int, own_start: bool) -> float:
    """Bits per byte of a split, in blocks of `length` targets that begin as training rows do: with BOS (`own_start`),
    or with the token before."""
    tokens = np.concatenate(text.tokens(split, tokenizer.name)).astype(np.int64)
    count = (len(tokens) - 1) // length
    inputs = tokens[:count * length].reshape(count, length).copy()
    targets = tokens[1:count * length + 1].reshape(count, length)
    if own_start:
        inputs[:, 0] = tokenizer.bos
    nats = 0.0
    for i in range(0, count, 8):
        logits = trainer.logits(inputs[i:i + 8]).astype(np.float64)
        top = logits.max(-1, keepdims=True)
        log_z = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
        nats += float((log_z - np.take_along_axis(logits, targets[i:i + 8, :, None], -1)[..., 0]).sum())
    return nats / math.log(2) / sum(len(tokenizer.tokens[t]) for t in targets.ravel() if t != tokenizer.bos)


if __name__ == "__main__":
    main()
