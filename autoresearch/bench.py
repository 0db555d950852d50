"""How fast every backend and precision of this machine trains, side by side.

    Entry    one way to train one recipe
    Row      what was measured of it
    run      entries of one size in turn, each in a process of its own, for several rounds
    record   rows with the machine's description, as they are written to a file; `read` takes them from one

Random tokens, no text: what is timed is the step. Utilisation is against the fastest large matrix product that the same
process measured in the same precision.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import autoresearch
from autoresearch import machine
from autoresearch.data.tokenizer import BYTE, CHAR, GPT2, bpe_vocab
from autoresearch.errors import UserError
from autoresearch.harness import assemble
from autoresearch.harness.measuring import Measuring
from autoresearch.harness.supervise import TrialFailed
from backends.base import Device
from backends.recipe import Recipe
from backends.spec import GPTSpec

FORMAT = 1
BEGIN_S, ROUND_S = 900.0, 600.0  # at most: a cold compilation on few cores; a round of very slow steps
CEILING_S = 0.3  # each round
VOCABS = {BYTE: 257, GPT2: 50257, CHAR: 384}  # of char it depends on the text; bpe's names say theirs

Say = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    backend: str
    precision: str
    recipe: Recipe

    @property
    def label(self) -> str:
        m = self.recipe.model
        return f"{self.backend} {self.precision}, {m.depth} x {m.width}"


@dataclass
class Row:
    """`round_s`: seconds of a step, one mean for each round. Where `failed` says why, numbers are missing."""

    backend: str
    precision: str
    depth: int
    width: int
    seq_len: int
    vocab: int
    tokens_per_step: int
    compiled: bool
    params: int
    flops_per_token: float
    device: str = ""
    start_s: float = 0.0  # from the start of the process to a loaded framework and device
    first_step_s: float = 0.0  # compilation included
    round_s: list[float] = field(default_factory=list)
    ceiling_flops: float = 0.0
    peak_memory_bytes: int = 0
    failed: str = ""

    def tokens_per_s(self) -> tuple[float, float, float]:
        """(median, slowest, fastest) of the rounds."""
        rates = [self.tokens_per_step / s for s in self.round_s]
        return statistics.median(rates), min(rates), max(rates)

    def utilisation(self) -> float | None:
        return self.tokens_per_s()[0] * self.flops_per_token / self.ceiling_flops if self.ceiling_flops else None


def vocab_of(recipe: Recipe) -> int:
    name = recipe.data.tokenizer
    return VOCABS.get(name) or bpe_vocab(name) or 0


def sized(recipe: Recipe, depth: int, width: int) -> Recipe:
    """The recipe at another size, its heads as wide as they were where that divides, else 64."""
    head_dim = recipe.model.head_dim if width % recipe.model.head_dim == 0 else 64
    return recipe.replace({"model.depth": depth, "model.width": width, "model.head_dim": head_dim, "model.kv_heads": 0})


def look(candidate: dict[str, bytes], backend: str) -> Device:
    """The backend's device. Raises TrialFailed with the reason where there is none."""
    with Measuring(candidate, backend) as process:
        return process.device


def run(candidate: dict[str, bytes], entries: Iterable[Entry], rounds: int, seconds: float, compiled: Path | None,
        say: Say) -> list[Row]:
    """`compiled`: a folder with what was compiled before; None: everything is compiled anew."""
    done: list[Row] = []
    for _, group in itertools.groupby(entries, key=lambda e: (e.recipe.model.depth, e.recipe.model.width)):
        done += _group(candidate, list(group), rounds, seconds, compiled, say)
    return done


def _group(candidate: dict[str, bytes], entries: list[Entry], rounds: int, seconds: float, compiled: Path | None,
           say: Say) -> list[Row]:
    rows = [_row(e) for e in entries]
    with contextlib.ExitStack() as stack:
        running: list[tuple[Entry, Row, Measuring]] = []
        for entry, row in zip(entries, rows, strict=True):
            say(f"{entry.label}: starting{' and compiling' if row.compiled else ''}")
            with _failing_into(row):
                process = stack.enter_context(Measuring(candidate, entry.backend, compiled))
                _begin(entry, row, process)
                running.append((entry, row, process))
        for i in range(rounds):
            say(f"round {i + 1} of {rounds}")
            for entry, row, process in running:
                if not row.failed:
                    with _failing_into(row):
                        _time(entry, row, process, seconds)
    return rows


def _begin(entry: Entry, row: Row, process: Measuring) -> None:
    row.device, row.start_s = process.device.name, process.start_s
    row.first_step_s = process.begin(entry.recipe, row.vocab, BEGIN_S)


def _time(entry: Entry, row: Row, process: Measuring, seconds: float) -> None:
    row.ceiling_flops = max(row.ceiling_flops, process.ceiling(entry.precision, CEILING_S, ROUND_S)[0])
    timed = process.time(seconds, ROUND_S)
    row.round_s.append(statistics.fmean(timed.step_s))
    row.peak_memory_bytes = max(row.peak_memory_bytes, timed.peak_memory_bytes)


@contextlib.contextmanager
def _failing_into(row: Row) -> Iterator[None]:
    try:
        yield
    except TrialFailed as e:
        row.failed = brief(e)


def brief(e: TrialFailed) -> str:
    """The reason on one line: of a log's end, the last."""
    lines = e.reason.strip().splitlines()
    return lines[-1][:300] if lines else e.status


def _row(entry: Entry) -> Row:
    r, vocab = entry.recipe, vocab_of(entry.recipe)
    spec = GPTSpec.of(r, vocab)
    return Row(entry.backend, entry.precision, r.model.depth, r.model.width, r.model.seq_len, vocab,
               r.batch.tokens_per_step, r.runtime.compile, spec.params(), spec.flops_per_token())


def record(candidate: dict[str, bytes], rows: list[Row], rounds: int, seconds: float, cold: bool) -> dict[str, Any]:
    """Everything that another person needs to believe or repeat it. `cold`: everything was compiled anew."""
    return {"format": FORMAT, "made": time.strftime("%Y-%m-%d", time.gmtime()), "machine": machine.describe(),
            "trainer": {"version": autoresearch.__version__, "code": assemble.code_digest(candidate)},
            "rounds": rounds, "seconds_each": seconds, "cold": cold, "rows": [asdict(row) for row in rows]}


def read(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """A file that `record` made. UserError where it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']}, not {FORMAT}")
        rows = [Row(**row) for row in found["rows"]]
        if not all(math.isfinite(s) and s > 0 for row in rows for s in row.round_s):
            raise ValueError("it has times that can't be")
        return found, rows
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(f"{path} is not a file of results: {e}", "Make one with ar bench --out FILE.") from None
