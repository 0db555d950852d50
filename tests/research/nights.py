"""Nights with the real loop, ledger and git, whose training is a formula of learning rate, seed and code. A night kills
itself in the middle of the trial that it was told.

    make      a clone with a study that has not begun
    nursery   a process that has everything imported and forks the nights
    night     the experiments after a night (or the rest of one)
    failing   what a night says that ends with an error
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from autoresearch.harness.conditions import Conditions
from autoresearch.harness.jobs import DEV_FRACTIONS
from autoresearch.harness.supervise import Outcome, TrialFailed
from autoresearch.records import MACHINE, Experiment, Point, Score
from autoresearch.research import fair
from autoresearch.research.lab import Lab
from autoresearch.research.ledger import Ledger
from autoresearch.research.loop import Loop
from autoresearch.research.researchers.base import Context, Proposal, Researcher
from autoresearch.research.study import Study
from autoresearch.research.until import Until
from autoresearch.research.view import View
from autoresearch.research.workspace import Workspace
from backends.recipe import Recipe
from tests.report.made import copied, pretended

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "backends/gpt"
START = '[data]\ntokenizer = "byte"\n\n[optim]\nmatrix_lr = 0.02\n'
RATES = [{"changes": {"optim.matrix_lr": lr}} for lr in (0.05, 0.028, 0.0281, 0.03, 0.01)]
QUIET = {"elapsed_s": 300.0, "cores": 2.0, "outside_cores": 0.0, "idle_cores": 0.1, "speed": 1.0}

_nursery: subprocess.Popen[str] | None = None


def make(clone: Path) -> Path:
    return copied(_made, clone)


def _made(clone: Path) -> None:
    (clone / FOLDER).mkdir(parents=True)
    (clone / FOLDER / "recipe.toml").write_text(START)
    (clone / FOLDER / "torch_model.py").write_text("a = 1\nb = 2\nc = a + b\n")
    who = ("-c", "user.name=A Person", "-c", "user.email=person@example.org", "-c", "maintenance.auto=false")
    for args in (("init", "-q", "--template="), ("add", "-A"), (*who, "commit", "-q", "-m", "start")):
        subprocess.run(["git", *args], cwd=clone, check=True)
    Study.create(clone, "mar8").close()


@contextlib.contextmanager
def nursery() -> Iterator[None]:
    global _nursery
    with subprocess.Popen([sys.executable, "-m", "tests.research.nights"], cwd=ROOT, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}) as _nursery:
        yield
    _nursery = None


def night(clone: Path, experiments: int = len(RATES), killed: bool = False, **told: Any) -> list[Experiment]:
    code, said = _lived(clone, {"experiments": experiments} | told)
    assert code == (-signal.SIGKILL if killed else 0), said
    with Study.open(clone, readonly=True) as study:
        return study.ledger.experiments()


def failing(clone: Path, **told: Any) -> str:
    code, said = _lived(clone, {"experiments": 9} | told)
    assert code == 1, said
    return said


def _lived(clone: Path, told: dict[str, Any]) -> tuple[int, str]:
    """Exit code, as subprocess has it, and standard error of a night."""
    assert _nursery is not None and _nursery.stdin is not None and _nursery.stdout is not None, "outside of nursery()"
    _nursery.stdin.write(json.dumps([str(clone), {"script": RATES} | told]) + "\n")
    _nursery.stdin.flush()
    return int(_nursery.stdout.readline()), (clone.parent / "err").read_text()


# In the nursery and its children


def score_of(lr: float, seed: int) -> float:
    part = 0.02 * np.random.default_rng(seed).normal()
    own = 0.002 * np.random.default_rng([seed, int(lr * 1e6)]).normal()
    return 2.0 + 10 * (lr - 0.03) ** 2 * 100 + part + own


class Runner:
    backend = "fake"
    prepared = pretended()

    def __init__(self, study: Study, told: dict[str, Any], until: Until):
        self.study, self.told, self.until = study, told, until
        self.calls = self.scores = 0

    def seen(self) -> Conditions:
        """The machine in this trial: as told for its number, or for an earlier one and all that follow."""
        machine = self.told.get("machine", {})
        since = [v for k, v in machine.items() if k.endswith("+") and self.calls >= int(k[:-1])]
        return Conditions(**(QUIET | (since[-1] if since else {}) | machine.get(str(self.calls), {})))

    def too_short(self, recipe: Recipe) -> str:
        return ""

    def train(self, candidate: dict[str, bytes], recipe: Recipe, seed: int, folder: Path, budget_s: float | None,
              steps: int | None = None, listen: Callable[[dict[str, Any]], None] = lambda m: None) -> Outcome:
        assert budget_s is not None
        told = self.told
        self.calls += 1
        if self.calls == told.get("die_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        self.until.asked = self.calls == told.get("stop_at")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights.safetensors").write_bytes(b"w")
        if told.get("crashes", {}).get(str(recipe.optim.matrix_lr)) == seed:
            return Outcome(status="crash", reason="out of luck")
        if recipe.micro_rows > told.get("rows_that_fit", 10**9):
            return Outcome(status="crash", reason="out of memory: a test", cause="memory")
        if self.calls in told.get("faults", []):
            return Outcome(status="crash", reason="its device hangs", cause="machine")
        outcome = Outcome(steps=1, tokens=1, train_s=1.0, total_s=0.0, weights=folder / "weights.safetensors",
                          facts={"precision": "float32", "device": told.get("device", "a card")},
                          conditions=self.seen())
        for k, share in enumerate(DEV_FRACTIONS):
            point = Point(k + 1, share * budget_s, None, score_of(recipe.optim.matrix_lr, seed) + 0.4 * (1 - share))
            outcome.curve.append(point)
            try:
                load = replace(self.seen(), elapsed_s=point.elapsed_s) if told.get("watched") else None
                listen({"event": "step", "point": point, "load": load})
            except TrialFailed as e:
                return Outcome(status=e.status, reason=e.reason, curve=outcome.curve)
        return outcome

    def score(self, candidate: dict[str, bytes], recipe: Recipe, folder: Path, weights: Path, split: str,
              rows: int | None, seconds: float | None = None, records: str = "recorded.npz", per_row: int = 1) -> Score:
        told, trial = self.told, int(folder.name)
        seed = next(t.seed for e in self.study.ledger.experiments() for t in e.trials if t.id == trial)
        lr = recipe.optim.matrix_lr
        bpb = score_of(lr, seed) - told.get("gains", {}).get(str(lr), 0)
        bpb -= told.get("by_heart", {}).get(str(lr), 0) if split == "val" else 0
        bpb -= told.get("lucky", {}).get(str(lr), 0) if seed == 1 else 0
        self.scores += 1
        if self.scores == told.get("die_at_score"):
            os.kill(os.getpid(), signal.SIGKILL)
        rows = rows or 7  # of 100 bytes, in each of which the seed has luck of its own
        nats = 69.31471805599453 * (bpb + told.get("rough", 0) * np.random.default_rng([seed, 1]).normal(size=rows))
        if records:
            np.savez(folder / records, nats=nats, bytes=np.full(rows, 100))
        return Score(split, float(nats.sum()), 100 * rows, 100 * rows, 100 * rows, rows)

    def audit(self, candidate: dict[str, bytes], recipe: Recipe, folder: Path, weights: Path, split: str, rows: int,
              precision: str, records: str = "recorded.npz") -> str:
        assert (folder / records).is_file() and weights.is_file()
        if self.told.get("scorer_dies"):
            raise TrialFailed("crash", "the scorer ended", MACHINE)
        if str(recipe.optim.matrix_lr) in self.told.get("cheats", []):
            raise TrialFailed("invalid", "saw later tokens")
        return "replay of 7 positions"


@dataclass
class Scripted(Researcher):
    script: list[dict[str, Any]]
    name = "scripted"

    def propose(self, context: Context) -> Proposal:
        turn = self.script[sum(e.n > 0 for e in context.experiments)]
        return Proposal("an idea", "", turn.get("changes", {}), turn.get("files", {}))


@dataclass
class Told(View):
    path: Path

    def note(self, text: str) -> None:
        with self.path.open("a") as file:
            print(text, file=file)


def live(clone: Path, told: dict[str, Any]) -> None:
    """A night in this process, which is for nothing else afterwards."""
    os.environ.update(told.get("environment", {}))
    fair.unfit = lambda *_: ""  # it is quiet whenever one listens
    _doom(told.get("dies_easing"))
    until = Until(experiments=told["experiments"])
    with Study.open(clone) as study, study.lock():
        lab = Lab(study, study.ledger, Runner(study, told, until), 300.0, Told(clone.parent / "told"))
        Loop(lab, Scripted(told["script"]), {}, until, told.get("ratchet", "careful")).run({}, "")


def _doom(when: str | None) -> None:
    """Kills this process where a recipe that ran out of memory is halved: "before" its commit is made, or "after" the
    ledger has it."""
    commit = Ledger.commit

    def killed(*args: Any, **more: Any) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it lives")

    def committed(ledger: Ledger, n: int, sha: str, recipe: dict[str, Any] | None = None, **more: Any) -> None:
        commit(ledger, n, sha, recipe, **more)
        if recipe is not None:
            killed()

    if when == "before":
        Workspace.amend = killed  # type: ignore[method-assign]
    elif when == "after":
        Ledger.commit = committed  # type: ignore[method-assign, assignment]


def forked(clone: Path, told: dict[str, Any]) -> int:
    """A night in a process of its own; its exit code, as subprocess has it."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        err = os.open(clone.parent / "err", os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o644)
        for descriptor, to in ((os.open(os.devnull, os.O_RDONLY), 0), (err, 1), (err, 2)):
            os.dup2(descriptor, to)
        live(clone, told)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    for line in sys.stdin:
        clone, told = json.loads(line)
        print(forked(Path(clone), told), flush=True)


if __name__ == "__main__":
    main()
