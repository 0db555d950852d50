"""This trainer beside nanoGPT and karpathy/autoresearch on one CPU: steps a second, or the score of equal minutes.

    git clone https://github.com/karpathy/nanoGPT && git clone https://github.com/karpathy/autoresearch upstream
    ar prepare --text shakespeare.txt --holdout-chars 250000 --name peers --tokenizer byte --tokenizer bpe-1024 \\
        --tokenizer bpe-4096
    python -m benchmarks.peers speed --nanogpt nanoGPT --upstream upstream
    python -m benchmarks.peers score --nanogpt nanoGPT --upstream upstream --seconds 300 --seed 1 --seed 2 --seed 3

`speed` times every trainer at one shape on the same text, in turn, `--rounds` times, with the same allocator settings,
and prints medians and ratios. `score` trains them one after the other for the same time, compilation not counted, seed
by seed, and prints bits per byte of what was held out, in blocks of the sequence length and of at most 256 tokens. Of
several seeds it prints means too, and differences to the first trainer on the same seeds, each with half of its 95%
interval. Rows are drawn, and blocks begin, as each trainer's own do; upstream is also given the tokenizer, the batch
and the rows that `ar probe` gives this trainer. benchmarks/peer_trainers.py says what was changed in the peers so that
they run.

The figures in docs/performance.md are of nanoGPT at 3adf61e154c3 and karpathy/autoresearch at 228791fb499a, seed 1.
Those of validation text counted the end of a document as a token to predict, though it has no bytes: 19 of 64,000.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoresearch.research.git import GitError, git
from autoresearch.research.paired import half_width
from benchmarks.clones import ROOT

if TYPE_CHECKING:
    from autoresearch.data.prepared import Prepared
    from autoresearch.data.tokenizer import Tokenizer
    from benchmarks.peer_trainers import Trainer

WARMUP_STEPS = 3
BLOCK = 256  # tokens, the longest context of the peers as they are
HELD_OUT = ("val", "holdout")
MEASURES = (*HELD_OUT, *(f"{split} by at most {BLOCK}" for split in HELD_OUT))
REFERENCE = str(ROOT / "backends/reference.toml")
PEERS = {"nanogpt": "karpathy/nanoGPT", "upstream": "karpathy/autoresearch"}


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
    options = parsed()
    if options.what == "worker":
        worker(json.loads(sys.stdin.readline()))
    elif options.what == "speed":
        speed(options)
    else:
        score(options)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "score", "worker"))
    for kind, name in PEERS.items():
        parser.add_argument(f"--{kind}", type=Path, help=f"a clone of {name}")
    parser.add_argument("--data", default=None, help="a prepared text; default: the current one")
    parser.add_argument("--seed", type=int, action="append",
                        help="of rows and weights; 1, the default, is the peers' own; score: may be repeated")
    parser.add_argument("--recipe", type=Path, action="append", default=[],
                        help="score: a recipe of this trainer's own, beside the reference recipe; may be repeated")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="speed: steps in each round")
    parser.add_argument("--float32", action="store_true", help="speed: upstream without autocast, this trainer alike")
    parser.add_argument("--seconds", type=float, default=300.0, help="score: training time of each")
    options = parser.parse_args()
    options.seed = list(dict.fromkeys(options.seed or [1]))
    if min(options.seed) < 0:
        parser.error(f"--seed {min(options.seed)}: must be 0 or more")
    if options.what == "speed" and len(options.seed) > 1:
        parser.error(f"speed takes one --seed, not {len(options.seed)}: it repeats rounds")
    return options


def speed(options: argparse.Namespace) -> None:
    size = (options.depth, options.width, 128 if options.width % 128 == 0 else 64, 256, 8192)
    entries = [Entry("nanoGPT, compiled", "nanogpt", "bpe-4096", *size),
               Entry("upstream, compiled", "upstream", "bpe-4096", *size, precision="bfloat16"),
               Entry("this trainer", "ours", "bpe-4096", *size, REFERENCE, "bfloat16")]
    if options.float32:
        entries = [replace(e, precision="float32") for e in entries]
    entries = [e for e in entries if e.kind == "ours" or getattr(options, e.kind)]
    times: list[list[float]] = [[] for _ in entries]
    with contextlib.ExitStack() as ending:
        workers = [ending.enter_context(contextlib.closing(Worker(e, options, options.seed[0]))) for e in entries]
        for _ in range(options.rounds):
            for one, found in zip(workers, times, strict=True):
                found.append(one.ask(do="time", steps=options.steps)["seconds"] / options.steps)
    print(f"{options.depth} layers, width {options.width}, 256 tokens a row, 8,192 a step; {options.rounds} rounds of "
          f"{options.steps} steps in turn{commits(options)}\n")
    print("| trainer | precision | tokens/s, median | slowest to fastest round | against the first, median of rounds |")
    print("|---|---|--:|--:|--:|")
    for e, found in zip(entries, times, strict=True):
        rates = sorted(e.tokens_per_step / s for s in found)
        ratio = statistics.median(a / b for a, b in zip(times[0], found, strict=True))
        print(f"| {e.label} | {e.precision} | {statistics.median(rates):,.0f} | {rates[0]:,.0f} to {rates[-1]:,.0f} | "
              f"{ratio:.2f} |")


def score(options: argparse.Namespace) -> None:
    entries = to_score(options)
    found: list[list[list[float]]] = [[] for _ in entries]  # by trainer, seed and measure
    print(f"{options.seconds:g} s of training each; bits per byte{commits(options)}\n")
    print("| trainer | tokenizer | depth x width | tokens a row | a step | steps | " + " | ".join(MEASURES) + " |\n"
          "|---|---|--:|--:|--:|--:" + "|--:" * len(MEASURES) + "|")
    for seed in options.seed:
        for e, runs in zip(entries, found, strict=True):
            with contextlib.closing(Worker(e, options, seed)) as one:
                done = one.ask(do="train", seconds=options.seconds)
            runs.append([done[f"{split} by {length}"] for length in blocks(e.seq_len) for split in HELD_OUT])
            label = e.label + (f", seed {seed}" if len(options.seed) > 1 else "")
            print(f"| {label} | {e.tokenizer} | {e.depth} x {e.width} | {e.seq_len} | {e.tokens_per_step:,} | "
                  f"{done['steps']:,} | {' | '.join(f'{bpb:.4f}' for bpb in runs[-1])} |", flush=True)
    print("\n" + summary(entries, found))


def to_score(options: argparse.Namespace) -> list[Entry]:
    from backends.recipe import load

    entries = [Entry("nanoGPT, its README's size for CPUs", "nanogpt", "byte", 4, 128, 32, 64, 768),
               Entry("upstream, BPE 4096", "upstream", "bpe-4096", 4, 256, 128, 256, 8192, precision="bfloat16"),
               Entry("upstream, BPE 1024, smaller steps", "upstream", "bpe-1024", 4, 256, 128, 256, 4096,
                     precision="bfloat16"),
               Entry("upstream, BPE 4096, smaller steps", "upstream", "bpe-4096", 4, 256, 128, 256, 4096,
                     precision="bfloat16"),
               Entry("upstream, BPE 4096, smaller steps, longer rows", "upstream", "bpe-4096", 4, 256, 128, 512, 4096,
                     precision="bfloat16"),
               Entry("this trainer, upstream's recipe", "ours", "bpe-4096", 4, 256, 128, 256, 8192, REFERENCE,
                     "bfloat16")]
    entries = [e for e in entries if e.kind == "ours" or getattr(options, e.kind)]
    for file in options.recipe:
        r = load(file)
        entries.append(Entry("this trainer, " + file.name, "ours", r.data.tokenizer, r.model.depth, r.model.width,
                             r.model.head_dim, r.model.seq_len, r.batch.tokens_per_step, str(file.resolve()),
                             r.runtime.precision))
    return entries


def summary(entries: Sequence[Entry], found: Sequence[Sequence[Sequence[float]]]) -> str:
    """Means over seeds, where there are several, and upstream's best line by each measure."""
    scores_ESM, lines = np.array(found), list[str]()  # by trainer, seed and measure
    if (seeds := scores_ESM.shape[1]) > 1:
        lines += [f"Means of {seeds} seeds, ± half of their 95% intervals:\n",
                  "| trainer | " + " | ".join(MEASURES) + " |\n|---" + "|--:" * len(MEASURES) + "|"]
        lines += [f"| {e.label} | {means(scores_SM)} |" for e, scores_SM in zip(entries, scores_ESM, strict=True)]
        lines += [f"| {e.label}, less {entries[0].label} | {means(scores_SM - scores_ESM[0], '+.4f')} |"
                  for e, scores_SM in zip(entries[1:], scores_ESM[1:], strict=True)]
        lines += [""]
    theirs, means_EM = [i for i, e in enumerate(entries) if e.kind == "upstream"], scores_ESM.mean(axis=1)
    for m, measure in enumerate(MEASURES if theirs else ()):
        best = theirs[int(np.argmin(means_EM[theirs, m]))]
        lines.append(f"upstream's best on {measure}: {entries[best].label}, {means_EM[best, m]:.4f}")
    return "\n".join(lines)


def means(scores_SM: np.ndarray, form: str = ".4f") -> str:
    return " | ".join(f"{statistics.fmean(column):{form}} ± {half_width(column):.4f}"
                      for column in scores_SM.T.tolist())


def commits(options: argparse.Namespace) -> str:
    """Which commits the peers' clones are at."""
    clones = {name: clone for kind, name in PEERS.items() if (clone := getattr(options, kind))}
    return "".join(f"; {name} at {commit(clone)}" for name, clone in clones.items())


def commit(clone: Path) -> str:
    try:
        return git(clone, "rev-parse", "HEAD").decode().strip()
    except GitError as e:
        return f"an unknown commit ({e.message})"


class Worker:
    """A trainer in a process of its own, compiled and warm; it rests while others are timed."""

    def __init__(self, entry: Entry, options: argparse.Namespace, seed: int):
        from benchmarks.peer_trainers import ALLOCATOR

        job = vars(entry) | {"clone": str(getattr(options, entry.kind, None) or ""), "data": options.data, "seed": seed}
        self._label = entry.label
        self._process = subprocess.Popen(
            [sys.executable, __file__, "worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | ALLOCATOR | {"PYTHONPATH": str(ROOT)})
        print(f"warming up: {entry.label}", file=sys.stderr)
        self._say(job)
        self._hear()

    def ask(self, **request: Any) -> dict[str, Any]:
        self._say(request)
        return self._hear()

    def close(self) -> None:
        """Ends it and waits, so that the next one has the cores to itself."""
        self._process.communicate()

    def _say(self, message: dict[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):  # the peers print on their way
                return dict(json.loads(line))
        raise SystemExit(f"{self._label}: its process ended early, with exit code {self._process.wait()}; what it said "
                         "is above")


# In the process of a worker


def worker(job: dict[str, Any]) -> None:
    """Answers requests, one a line: to time steps of the warm trainer, or to train a new one and score it."""
    from autoresearch.data import prepared

    text = prepared.find(job["data"]) if job["data"] else prepared.current()
    tokenizer = text.tokenizer(job["tokenizer"])
    steps, warm = batches(job, text, tokenizer), built(job, tokenizer.vocab)
    for _ in range(WARMUP_STEPS):
        warm.step(next(steps), 0.5)
    answer({})
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "time":
            began = time.perf_counter()
            for _ in range(request["steps"]):
                warm.step(next(steps), 0.5)
            answer({"seconds": time.perf_counter() - began})
        else:
            answer(scores(job, text, tokenizer, steps, request["seconds"]))


def batches(job: dict[str, Any], text: Prepared, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The rows of one step after another, drawn as the trainer's own code does."""
    from autoresearch.data.batches import training_rows
    from benchmarks.peer_trainers import crops

    streams, T, seed = text.tokens("train", tokenizer.name), job["seq_len"], job["seed"]
    rows: Iterator[np.ndarray] = crops(streams, T, seed) if job["kind"] == "nanogpt" else (
        row for row, _ in training_rows(streams, tokenizer.bos, T, seed))
    while True:
        yield np.stack(list(itertools.islice(rows, job["tokens_per_step"] // T)))


def built(job: dict[str, Any], vocab: int) -> Trainer:
    from benchmarks.peer_trainers import NanoGPT, Ours, Shape, Upstream

    if job["kind"] == "ours":
        size = {"model.depth": job["depth"], "model.width": job["width"], "model.head_dim": job["head_dim"],
                "batch.tokens_per_step": job["tokens_per_step"],
                "runtime.compile": True, "runtime.precision": job["precision"]}
        return Ours(Path(job["recipe"]), size, vocab, job["seed"])
    shape = Shape(job["depth"], job["width"], job["head_dim"], job["seq_len"], vocab)
    if job["kind"] == "nanogpt":
        return NanoGPT(Path(job["clone"]), shape, job["seed"])
    return Upstream(Path(job["clone"]), shape, job["precision"] == "bfloat16", job["seed"])


def scores(job: dict[str, Any], text: Prepared, tokenizer: Tokenizer, steps: Iterator[np.ndarray],
           seconds: float) -> dict[str, Any]:
    """Of a new trainer after so many seconds, and how many steps it made in them."""
    from benchmarks.peer_trainers import scored, train

    fresh = built(job, tokenizer.vocab)  # the compiled code is in its cache by now
    fresh.step(next(steps), 0.0)
    done = train(fresh, steps, seconds)
    return {"steps": done} | {
        f"{split} by {length}": scored(fresh, text, split, tokenizer, length, own_start=job["kind"] != "nanogpt")
        for length in {*blocks(job["seq_len"])} for split in HELD_OUT}


def blocks(seq_len: int) -> tuple[int, int]:
    """Lengths in which a model is scored: its own, and what compares with others."""
    return seq_len, min(seq_len, BLOCK)


def answer(message: dict[str, Any]) -> None:
    print("\n" + json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
