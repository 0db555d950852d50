"""What a model has learnt after so many steps: the runs behind the probe's choice of size, and the law fitted to them.

    ar prepare --text shakespeare.txt --holdout-chars 250000 --name shakespeare --tokenizer bpe-1024 \\
        --tokenizer bpe-2048 --tokenizer bpe-4096
    python -m benchmarks.learning run --data shakespeare      trains what learning_runs.json lacks
    python -m benchmarks.learning fit                         the coefficients of autoresearch/scaling.py, and errors
    python -m benchmarks.learning choose                      what the law chooses on machines of assumed speeds

A run has a number of steps, not of seconds, so that it means the same on every machine: the preset `modern`, mostly as
it was before key and token shift, in bfloat16 on the cpu backend, seed 1, scored on the whole validation split. With a
share below 1 it sees only the beginning of each document, the more often. Two at a time, of one thread each, they take
two cores about two hours. Each is written down when it ends; runs of another text would be of another law, so they are
refused. Those without the digest of their text are older: they count the ends of validation documents as tokens to
predict, 19 of 64,000 or more.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoresearch import sizes
from autoresearch.costs import Costs, not_negative
from autoresearch.scaling import Law
from backends.recipe import Recipe, load, preset_file
from backends.spec import GPTSpec
from benchmarks.clones import ROOT

if TYPE_CHECKING:
    from autoresearch.data.prepared import Prepared

RUNS = Path(__file__).with_name("learning_runs.json")
SEED = 1
LONG_BYTES = 8e6  # runs on more text are those that the others have to foretell
LEARNT_BY_HEART = 2.6  # bits per byte: such runs say nothing of sizes that anybody should choose
STARTS = ((0.3, 0.3, 4.0, 1.2, 0.6), (0.15, 0.3, 4.0, 1.0, 0.7), (0.5, 0.4, 6.0, 1.4, 0.5))  # alpha, beta, b, p, q
# Tokenizer, depth, width, tokens a step, steps, share of the text, whether by the preset as it is now
PLAN: list[tuple[Any, ...]] = [
    ("bpe-1024", 1, 128, 4096, 590, 1.0),
    ("bpe-1024", 3, 192, 4096, 700, 1.0),
    ("bpe-2048", 1, 64, 4096, 933, 1.0),
    ("bpe-2048", 1, 64, 8192, 610, 1.0),
    ("bpe-2048", 1, 128, 2048, 800, 1.0),
    ("bpe-2048", 1, 128, 4096, 160, 1.0),
    ("bpe-2048", 1, 128, 4096, 470, 1.0),
    ("bpe-2048", 2, 128, 2048, 716, 1.0),
    ("bpe-2048", 2, 128, 4096, 120, 1.0),
    ("bpe-2048", 2, 128, 4096, 358, 1.0),
    ("bpe-2048", 2, 128, 4096, 1430, 1.0),
    ("bpe-2048", 2, 128, 8192, 180, 1.0),
    ("bpe-2048", 2, 128, 8192, 715, 1.0),
    ("bpe-2048", 2, 128, 16384, 90, 1.0),
    ("bpe-2048", 2, 128, 32768, 45, 1.0),
    ("bpe-2048", 2, 192, 1024, 780, 1.0),
    ("bpe-2048", 2, 192, 2048, 390, 1.0),
    ("bpe-2048", 2, 192, 4096, 195, 1.0),
    ("bpe-2048", 2, 192, 4096, 790, 1.0),
    ("bpe-2048", 2, 192, 8192, 1023, 1.0),
    ("bpe-2048", 3, 192, 2048, 290, 1.0),
    ("bpe-2048", 3, 192, 4096, 585, 1.0),
    ("bpe-2048", 3, 256, 2048, 700, 1.0),
    ("bpe-2048", 3, 256, 4096, 888, 1.0),
    ("bpe-2048", 4, 256, 2048, 590, 1.0),
    ("bpe-2048", 5, 320, 2048, 300, 1.0),
    ("bpe-4096", 1, 128, 4096, 340, 1.0),
    ("bpe-4096", 2, 128, 4096, 280, 1.0),
    ("bpe-4096", 2, 256, 4096, 1025, 1.0),
    ("bpe-4096", 3, 192, 4096, 500, 1.0),
    ("bpe-4096", 4, 256, 4096, 680, 1.0),
    ("bpe-2048", 2, 192, 2048, 390, 0.5),
    ("bpe-2048", 2, 192, 4096, 790, 0.5),
    ("bpe-2048", 4, 256, 2048, 590, 0.5),
    ("bpe-2048", 1, 64, 4096, 933, 0.2),
    ("bpe-2048", 1, 128, 4096, 470, 0.2),
    ("bpe-2048", 2, 128, 4096, 358, 0.2),
    ("bpe-2048", 2, 192, 4096, 195, 0.2),
    ("bpe-2048", 2, 192, 4096, 790, 0.2),
    ("bpe-2048", 3, 256, 2048, 350, 0.2),
    ("bpe-2048", 2, 128, 4096, 358, 0.05),
    ("bpe-2048", 3, 256, 2048, 350, 0.05),
    ("bpe-4096", 4, 256, 4096, 680, 1.0, True),
    ("bpe-4096", 3, 192, 4096, 500, 1.0, True),
    ("bpe-2048", 2, 192, 4096, 195, 0.2, True),
    ("bpe-4096", 2, 192, 4096, 172, 0.2, True),
    ("bpe-2048", 1, 128, 4096, 470, 1.0, True),
    ("bpe-4096", 2, 128, 4096, 280, 1.0, True),
]


@dataclass(frozen=True)
class Run:
    tokenizer: str
    depth: int
    width: int
    tokens_per_step: int
    steps: int
    share: float
    present: bool = False  # by the preset as it is now; else without key and token shift, 256 tokens a row
    bytes_per_token: float = 0.0
    text_bytes: float = 0.0  # that it trained on, once or more often
    val_bpb: float = 0.0
    text: str = ""  # its digest; "": from before it was written down

    @property
    def step_bytes(self) -> float:
        return self.tokens_per_step * self.bytes_per_token

    @property
    def trained_bytes(self) -> float:
        return self.steps * self.step_bytes

    @functools.cached_property
    def weights(self) -> int:
        return GPTSpec.of(self.recipe(), int(self.tokenizer.removeprefix("bpe-"))).matmul_params()

    def recipe(self) -> Recipe:
        return load(preset_file("modern")).replace(self.changes())

    def changes(self) -> dict[str, Any]:
        return {"data.tokenizer": self.tokenizer, "model.depth": self.depth, "model.width": self.width,
                "model.value_gate_channels": min(32, self.width), "batch.tokens_per_step": self.tokens_per_step,
                "model.key_shift": self.present, "model.token_shift": self.present,
                "model.seq_len": 512 if self.present else 256, "runtime.precision": "bfloat16"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "fit", "choose", "worker"))
    parser.add_argument("--data", default=None, help="run: a prepared text; default: the current one")
    parser.add_argument("--jobs", type=int, default=2, help="run: processes at a time, of one thread each")
    options = parser.parse_args()
    if options.what == "worker":
        print(json.dumps(asdict(trained(Run(**json.loads(sys.stdin.readline())), options.data))))
    elif options.what == "run":
        run_all(options)
    elif options.what == "choose":
        choices()
    else:
        report(known())


def known() -> list[Run]:
    return [Run(**fields) for fields in json.loads(RUNS.read_text())] if RUNS.exists() else []


# Running


def run_all(options: argparse.Namespace) -> None:
    """Writes each run down when it ends. Exit code 1 where some failed, said at the end."""
    from autoresearch.data import prepared
    from benchmarks.peer_trainers import ALLOCATOR

    text = prepared.find(options.data) if options.data else prepared.current()
    runs, failed = known(), list[str]()
    refuse_other_text(runs, text)
    done = {replace(run, bytes_per_token=0.0, text_bytes=0.0, val_bpb=0.0, text="") for run in runs}
    missing = [run for fields in PLAN if (run := Run(*fields)) not in done]
    env = os.environ | ALLOCATOR | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = {pool.submit(in_a_process, run, text.name, env): run for run in missing}
        try:
            for job in as_completed(jobs):
                if why := job.exception():
                    failed.append(f"{jobs[job]}: {why}")
                    continue
                runs.append(job.result())
                print(runs[-1], flush=True)
                write(runs)
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C none begins
    if failed:
        raise SystemExit("\n".join([f"{len(failed)} of {len(missing)} runs failed; the same command trains them again:",
                                    *failed]))


def refuse_other_text(runs: Sequence[Run], text: Prepared) -> None:
    """Of runs that name no text, those of the whole of it tell how long it was."""
    size = text.manifest.splits["train"].bytes
    for run in runs:
        if run.text and run.text != text.digest:
            differs = f"its digest is {text.digest}, and {run.text} in {RUNS.name}"
        elif not run.text and run.share == 1.0 and abs(run.text_bytes - size) >= 1:
            differs = f"it has {size:,} bytes to train on, and {run.text_bytes:,.0f} in {RUNS.name}"
        else:
            continue
        raise SystemExit(f"{text.name} is not the text of the runs that there are: {differs}.\n"
                         f"Give the same text with --data, or move {RUNS} away to begin anew.")


def in_a_process(run: Run, data: str, env: dict[str, str]) -> Run:
    """Raises for whatever goes wrong; what the process said of it is on stderr."""
    said = subprocess.run([sys.executable, "-m", "benchmarks.learning", "worker", "--data", data], env=env,
                          input=json.dumps(asdict(run)), text=True, check=True, stdout=subprocess.PIPE).stdout
    return Run(**json.loads(said.splitlines()[-1]))


def write(runs: Sequence[Run]) -> None:
    """All of them, at once."""
    lines = ",\n".join(json.dumps({k: v for k, v in asdict(run).items() if k != "text" or v}) for run in runs)
    partial = RUNS.with_suffix(".partial")
    partial.write_text(f"[\n{lines}\n]\n")
    partial.replace(RUNS)


def trained(run: Run, data: str | None) -> Run:
    from autoresearch.data import prepared
    from autoresearch.data.batches import training_rows
    from benchmarks.peer_trainers import Ours, scored

    text = prepared.find(data) if data else prepared.current()
    tokenizer, T = text.tokenizer(run.tokenizer), run.recipe().model.seq_len
    whole = text.tokens("train", tokenizer.name)
    streams = [cut(stream, tokenizer.bos, run.share) for stream in whole]
    rows = (row for row, _ in training_rows(streams, tokenizer.bos, T, seed=SEED))
    trainer = Ours(preset_file("modern"), run.changes(), tokenizer.vocab, SEED)
    for step in range(run.steps):
        trainer.step(np.stack(list(itertools.islice(rows, run.tokens_per_step // T))), step / run.steps)
    per_token = text.manifest.splits["train"].bytes / sum(map(len, whole))
    return replace(run, bytes_per_token=per_token, text_bytes=per_token * sum(map(len, streams)), text=text.digest,
                   val_bpb=round(scored(trainer, text, "val", tokenizer, T, own_start=True), 4))


def cut(stream: np.ndarray, bos: int, share: float) -> np.ndarray:
    """The beginning of each document."""
    starts = [*np.flatnonzero(stream == bos), len(stream)]
    return np.concatenate([stream[a:a + max(2, int((b - a) * share))] for a, b in itertools.pairwise(starts)])


# Fitting


def report(runs: Sequence[Run]) -> None:
    law = fit(runs)
    short = fit([run for run in runs if run.trained_bytes < LONG_BYTES])
    print("| tokenizer | depth x width | as it is now | tokens a step | steps | MB of text | readings | bits per byte "
          "| the law errs by | from short runs alone |\n|---|--:|---|--:|--:|--:|--:|--:|--:|--:|")
    for run in sorted(runs, key=lambda r: (r.present, -r.share, r.trained_bytes)):
        foretold = f"{error(short, run):+.3f}" if run.trained_bytes >= LONG_BYTES else ""
        print(f"| {run.tokenizer} | {run.depth} x {run.width} | {'yes' if run.present else ''} | "
              f"{run.tokens_per_step:,} | {run.steps:,} | "
              f"{run.text_bytes / 1e6:.1f} | {run.trained_bytes / run.text_bytes:.1f} | {run.val_bpb:.3f} | "
              f"{error(law, run):+.3f} | {foretold} |")
    print("\nRuns by the preset as it is now lie lower by a constant, which the law leaves out.\n\n" + str(law))


def error(law: Law, run: Run) -> float:
    return law.score(run.weights, run.step_bytes, run.trained_bytes, run.text_bytes) - run.val_bpb


def fit(runs: Sequence[Run]) -> Law:
    """Least squares of relative errors: the coefficients that are factors by algebra, the others by steps that shrink.
    The beginnings of documents lie further from what is scored than whole ones, and the preset has become
    better: each share, and that, has a constant, which the law does not keep."""
    runs = [run for run in runs if run.val_bpb < LEARNT_BY_HEART]
    bpb, shares = np.array([run.val_bpb for run in runs]), sorted({run.share for run in runs} - {1.0})

    def solved(point: tuple[float, ...]) -> tuple[float, Law]:
        alpha, beta, b, p, q = point
        terms = [Law(*(*unit, *point, 0.0)) for unit in np.eye(5)]
        columns = np.array([[*(term.score(run.weights, run.step_bytes, run.trained_bytes, run.text_bytes)
                               for term in terms), *(float(run.share == share) for share in shares),
                             -float(run.present)] for run in runs])
        factors = not_negative(columns / bpb[:, None], np.ones(len(runs)))
        errors = columns @ factors / bpb - 1
        free = max(1, len(runs) - len(factors) - len(point))
        spread = math.sqrt(float(np.sum((errors * bpb) ** 2)) / free)
        E, A, K, kappa, C = map(float, factors[:5])
        return float(np.sum(errors**2)), Law(E, A, K, kappa, C, alpha, beta, b, p, q, spread)

    def descended(point: tuple[float, ...]) -> tuple[float, Law]:
        factor = 1.5
        while factor > 1.005:
            near = [tuple(x * f if i == j else x for j, x in enumerate(point))
                    for i in range(len(point)) for f in (factor, 1 / factor)]
            best = min(near, key=lambda other: solved(other)[0])
            if solved(best)[0] < (1 - 1e-7) * solved(point)[0]:
                point = best
            else:
                factor **= 0.6
        return solved(point)

    return min((descended(start) for start in STARTS), key=lambda found: found[0])[1]


# Choosing


@dataclass(frozen=True)
class Assumed:
    """A machine as the cost model sees one: what it multiplies in a second, what no step can do without."""

    flops: float
    step_s: float
    text_bytes: float
    seq_len: int = 256
    vocab: int = 2048

    def table(self) -> list[sizes.Size]:
        base = Recipe().replace({"data.tokenizer": "bpe", "model.seq_len": self.seq_len,
                                 "batch.tokens_per_step": self.seq_len})
        costs = Costs((self.step_s / 5, 1 / self.flops, 0.0, 0.0), 0.7)
        text = sizes.TokenizedText(self.vocab, int(self.text_bytes), 3.0)
        return sizes.table(base, {"bpe": text}, costs, BUDGET_S, MEMORY_BYTES)


BUDGET_S, MEMORY_BYTES = 300.0, 80 << 30
H100 = Assumed(4e14, 0.015, 4e10, 2048, 8192)
LAPTOP = Assumed(5e12, 0.006, 1e9)  # of Apple
GTX_1660_TI = Assumed(3e12, 0.006, 2e9)


def choices() -> None:
    for name, machine in {"H100": H100, "Apple laptop": LAPTOP, "GTX 1660 Ti": GTX_1660_TI}.items():
        rows = machine.table()
        shapes = {(row.depth, row.width): row for row in sorted(rows, key=lambda row: -row.score)}  # the best of each
        chosen = sizes.choose(rows, "bpe")
        others = ", ".join(f"{d} x {w} {row.score - chosen.score:+.3f}" for (d, w), row in sorted(shapes.items()))
        print(f"{name}, {machine}:\n  {chosen.depth} x {chosen.width}, {chosen.tokens_per_step:,} tokens a step\n"
              f"  {others}")


if __name__ == "__main__":
    main()
