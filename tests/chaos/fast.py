"""A night with the real loop, ledger, git and watchdogs, and a trainer that takes milliseconds.

    python -m tests.chaos.fast CLONE '{"experiments": 20}'

Training is a formula of learning rate and seed. Its process is real: it writes weights piece by piece beside a process
of its own that nobody waits for. What a person would have been told is a line of the file `told`, written at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autoresearch.cli.studying import interruptible
from autoresearch.errors import UserError
from autoresearch.harness import checkpoint, launch
from autoresearch.harness.supervise import Outcome, TrialFailed, take_weights
from autoresearch.records import MACHINE, Experiment, Point, Score, Trial
from autoresearch.research import storage
from autoresearch.research.lab import Lab
from autoresearch.research.loop import BaselineFailed, Loop
from autoresearch.research.researchers.base import Context, Proposal, Researcher
from autoresearch.research.study import Study
from autoresearch.research.until import Until
from autoresearch.research.view import View
from backends.recipe import Recipe
from tests.report.made import pretended

ROOT = Path(__file__).resolve().parents[2]
TAG = "mar8"
START = '[data]\ntokenizer = "byte"\n\n[optim]\nmatrix_lr = 0.02\n'
STEP = 0.0004  # of the learning rate, which this formula rewards for ever
WEIGHTS = b'{"w":{"dtype":"F32","shape":[1024],"data_offsets":[0,4096]}}    '  # a safetensors header
TRAIN = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from autoresearch.harness.parent import end_group_with_us, end_with_parent
end_with_parent()
end_group_with_us()
if os.fork() == 0:
    time.sleep(600)
    os._exit(0)
with open("weights.safetensors", "wb", buffering=0) as f:
    f.write(len({WEIGHTS!r}).to_bytes(8, "little") + {WEIGHTS!r})
    for _ in range(8):
        f.write(os.urandom(512))
        time.sleep(float(sys.argv[1]) / 8)
os.write(1, b"done")
sys.stdin.read()  # as a trial waits for its channel to close
"""


@dataclass
class FastRunner:
    """`train_s` is how long its process trains, `points` how long a curve is."""

    train_s: float = 0.02
    answer_s: float = 1.0
    points: int = 4
    backend: str = "fake"
    prepared: Any = field(default_factory=lambda: pretended(train_tokens=10**8, rows=7))

    def too_short(self, recipe: Recipe) -> str:
        return ""

    def train(self, candidate: dict[str, bytes], recipe: Recipe, seed: int, folder: Path, budget_s: float | None,
              steps: int | None = None, listen: Callable[[dict], None] = lambda m: None) -> Outcome:
        (folder / launch.SCRATCH).mkdir(parents=True)
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", TRAIN, str(self.train_s)],
                                   cwd=folder / launch.SCRATCH, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   start_new_session=True)
        launch.register(process)
        try:
            if not select.select([process.stdout], [], [], self.answer_s)[0] or not process.stdout.read(4):
                return Outcome(status="crash", reason="the trial ended by itself", cause=MACHINE)
        finally:
            launch.end(process, grace_s=0.05)
        measured = {i * self.points // 4 for i in range(4)}
        curve = [Point(i + 1, i / 4, 5.0 - i / self.points, 2.0 if i in measured else None) for i in range(self.points)]
        outcome = Outcome(steps=100, tokens=51200, train_s=1.0, total_s=0.01, params=1024, curve=curve,
                          weights=take_weights(folder), facts={"precision": "float32", "device": "fake"})
        checkpoint.stamp(outcome.weights, checkpoint.record(
            candidate, backend="fake", precision="float32", device="fake", recipe=recipe.flat(), vocab=257,
            tokenizer_digest="t", data_name="made up", data_digest="d", seed=seed, budget_s=budget_s, steps=100,
            tokens=51200, train_s=1.0))
        return outcome

    def score(self, candidate: dict[str, bytes], recipe: Recipe, folder: Path, weights: Path, split: str,
              rows: int | None, seconds: float | None = None, records: str = "recorded.npz", per_row: int = 1) -> Score:
        luck = np.random.default_rng([seed_of(candidate, recipe), int(checkpoint.read(weights)[0].seed)]).normal()
        bpb = 3.0 - 2.0 * recipe.optim.matrix_lr + 1e-5 * luck
        np.savez(folder / (records or "recorded.npz"), nats=np.full(7, bpb), bytes=np.full(7, 100))
        return Score(split, 700 * np.log(2) * bpb, 700, 700, 700, 7)

    def audit(self, candidate: dict[str, bytes], recipe: Recipe, folder: Path, weights: Path, split: str, rows: int,
              precision: str, records: str = "recorded.npz") -> str:
        checkpoint.read(weights)  # raises UserError for weights that are not whole
        with np.load(folder / records, allow_pickle=False) as recorded:
            if len(recorded["nats"]) != 7:
                raise TrialFailed("invalid", "other records")
        return "replay of 7 positions"


def seed_of(candidate: dict[str, bytes], recipe: Recipe) -> int:
    whole = recipe.digest() + str(sorted(candidate.items()))
    return int(hashlib.sha256(whole.encode()).hexdigest()[:8], 16)


class Steps(Researcher):
    """One of two ideas is better, the other worse; which is which follows from the number of the experiment."""

    name = "steps"

    def propose(self, context: Context) -> Proposal:
        n = max(e.n for e in context.experiments) + 1
        better = random.Random(n).random() < 0.5
        rate = context.recipe.optim.matrix_lr + (STEP if better else -STEP / 2) + 1e-7 * (n % 97)
        files = {"torch_model.py": f"a = {n}\n"} if n % 5 == 0 else {}
        return Proposal(f"idea {n}", f"after {len(context.experiments)}", {"optim.matrix_lr": round(rate, 9)}, files)


@dataclass
class Told(View):
    """Acknowledges: a line is there before the night goes on."""

    descriptor: int

    def say(self, *words: object) -> None:
        os.write(self.descriptor, (" ".join(map(str, words)) + "\n").encode())

    def note(self, text: str) -> None:
        self.say("note", text)

    def trial_ended(self, trial: Trial) -> None:
        if trial.status == "ok":
            self.say("trial", trial.id, trial.bpb())

    def decided(self, experiment: Experiment, gain_bpb: float | None) -> None:
        self.say("decided", experiment.n, experiment.verdict, experiment.sha)

    def close(self) -> None: ...


def loop_of(study: Study, runner: Any, view: View, until: Until) -> Loop:
    lab = Lab(study, study.ledger, runner, 300.0, view)
    return Loop(lab, Steps(), {}, until, study.ledger.fact("ratchet", "greedy"))


def night(clone: Path, wishes: dict[str, Any]) -> int:
    """An exit code as the command line has it: 0, or 1 with a sentence on stderr; 3 for what nobody foresaw."""
    told = Told(os.open(clone.parent / "told", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644))
    runner = FastRunner(**{k: wishes[k] for k in ("train_s", "answer_s", "points") if k in wishes})
    until = Until(experiments=wishes.get("experiments"))
    if not wishes.get("needs_room", True):
        storage.needed_bytes = lambda params: 0  # type: ignore[assignment]
    try:
        with Study.open(clone, TAG) as study, study.lock(), interruptible(until, told):
            loop_of(study, runner, told, until).run({}, "")
        return 0
    except KeyboardInterrupt:
        return 1
    except UserError as e:
        print(f"error: {e.message}\n  {e.hint}", file=sys.stderr, flush=True)
        return 1
    except BaselineFailed as e:
        print(f"error: the baseline failed: {e}", file=sys.stderr, flush=True)
        return 1
    except OSError as e:
        print(f"error: {e.strerror}: {e.filename}", file=sys.stderr, flush=True)
        return 1 if e.errno else 3
    except BaseException:
        traceback.print_exc()
        return 3


def make(folder: Path, **facts: Any) -> Path:
    """A clone with a study that has not begun."""
    clone = folder / "clone"
    (clone / "backends/gpt").mkdir(parents=True)
    (clone / "backends/gpt/recipe.toml").write_text(START)
    (clone / "backends/gpt/torch_model.py").write_text("a = 1\n")
    who = ("-c", "user.name=A Person", "-c", "user.email=person@example.org")
    for args in (("init", "-q"), ("add", "-A"), (*who, "commit", "-q", "-m", "start")):
        subprocess.run(["git", *args], cwd=clone, check=True)
    Study.create(clone, TAG, facts={"budget_s": 300.0, "disk_bytes": 10**12, **facts}).close()
    return clone


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    place, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
    if not (place / "studies").exists():
        make(place.parent, **asked.pop("facts", {}))
    began = time.monotonic()
    code = night(place, asked)
    print(f"{time.monotonic() - began:.1f} s", file=sys.stderr)
    sys.exit(code)
