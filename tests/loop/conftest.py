"""A clone with a small, handicapped candidate, a study of it with its baseline, and `ar` as a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from autoresearch.cli import run, shell
from autoresearch.data.prepared import Prepared
from autoresearch.harness import assemble
from autoresearch.records import Experiment
from autoresearch.research.study import Study
from tests.harness.tiny import RECIPE, ROOT, comes_true, ours_below

TAG = "mar8"
BUDGET_S = 1.0
RECIPE_FILE, MODEL_FILE = "backends/gpt/recipe.toml", "backends/gpt/mlx_model.py"
SLOW, RIGHT = '    return norm(w, "norm", x_BTC, spec) * 0.02\n', '    return norm(w, "norm", x_BTC, spec)\n'


@dataclass(frozen=True)
class Command:
    """A running or finished `ar`, and what it has said so far."""

    process: subprocess.Popen[bytes]
    said: Path

    @property
    def stdout(self) -> str:
        return (self.said / "out").read_text()

    @property
    def stderr(self) -> str:
        return (self.said / "err").read_text()

    def finish(self, code: int = 0, within_s: float = 90) -> Command:
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not end:\n{self.stdout}\n{self.stderr}") from None
        assert self.process.returncode == code, f"exit code {self.process.returncode}\n{self.stdout}\n{self.stderr}"
        assert "\nTraceback" not in "\n" + self.stderr, self.stderr
        return self

    def comes_to(self, condition: Callable[[], object], within_s: float = 40) -> None:
        end = time.monotonic() + within_s
        while not condition():
            assert self.process.poll() is None, f"{self.stdout}\n{self.stderr}"
            assert time.monotonic() < end, f"it did not come to that:\n{self.stdout}\n{self.stderr}"
            time.sleep(0.02)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def decided(e: Experiment) -> bool:
    """By its scores: a gain too large to believe is put in quarantine, which may find against it."""
    return e.state == "done" and (e.verdict in ("keep", "discard") or
                                  (e.verdict == "invalid" and "quarantined" in e.reason))


@dataclass(frozen=True)
class Place:
    """A person's clone, the cache of prepared text, and commands run there."""

    clone: Path
    text: Prepared
    program: tuple[str, ...] = ("-m", "autoresearch")

    @property
    def root(self) -> Path:
        return self.clone / "studies" / TAG

    @property
    def worktree(self) -> Path:
        return self.root / "worktree"

    def start(self, *args: str) -> Command:
        env = os.environ | {"PYTHONPATH": str(ROOT), "AUTORESEARCH_CACHE": str(self.text.root.parents[1])}
        said = Path(tempfile.mkdtemp(prefix="said-", dir=self.clone.parent))
        with open(said / "out", "wb") as out, open(said / "err", "wb") as err:
            return Command(subprocess.Popen([sys.executable, *self.program, *args], cwd=self.clone, env=env,
                                            stdout=out, stderr=err, start_new_session=True), said)

    def ar(self, *args: str, code: int = 0) -> Command:
        """The finished command, whose exit code is checked."""
        return self.start(*args).finish(code)

    def git(self, *args: str) -> str:
        return subprocess.run(["git", *args], cwd=self.clone, check=True, capture_output=True, text=True).stdout

    def study(self) -> Study:
        return Study.open(self.clone, TAG, readonly=True)

    def experiments(self) -> list[Experiment]:
        with self.study() as study:
            return study.ledger.experiments()

    def last(self) -> Experiment:
        return self.experiments()[-1]

    def checkout(self) -> tuple[object, ...]:
        """Everything of the person's that a study must leave alone."""
        files = {p: p.read_bytes() for p in self.clone.rglob("*")
                 if p.is_file() and not {".git", "studies", "checkpoints"} & set(p.relative_to(self.clone).parts)}
        return (self.git("status", "--porcelain"), self.git("symbolic-ref", "HEAD"), self.git("rev-parse", "HEAD"),
                self.git("diff", "--cached"), self.git("stash", "list"), files)

    def running(self, since: int) -> bool:
        """Whether an experiment above that number has a trial that trains now."""
        last = self.last()
        return last.n > since and any(t.status == "running" for t in last.trials) and self.trains()

    def trains(self) -> bool:
        return any("harness.trial" in " ".join(p.cmdline()) for p in ours_below(self.root))


def make_clone(folder: Path, recipe: str = RECIPE) -> Path:
    """A repository with the real candidate, but for a small recipe and an MLX model that hardly learns."""
    shutil.copytree(ROOT / "backends/gpt", folder / "backends/gpt", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "backends/reference.toml").write_text(RECIPE)  # the real one's tokenizer is not prepared here
    (folder / RECIPE_FILE).write_text(recipe)
    model = (folder / MODEL_FILE).read_text()
    assert model.count(RIGHT) == 1
    (folder / MODEL_FILE).write_text(model.replace(RIGHT, SLOW))
    (folder / "program.md").write_text("Make it better.\n")
    (folder / ".gitignore").write_text("__pycache__/\nstudies/\n")
    who = ("-c", "user.name=A Person", "-c", "user.email=person@example.org")
    for args in (("init", "-q"), ("add", "-A"), (*who, "commit", "-q", "-m", "start")):
        subprocess.run(["git", *args], cwd=folder, check=True)
    return folder


def begin(place: Place, backend: str, budget_s: float) -> None:
    """A study as `ar loop` begins it, but for the probe: its plan is to leave the recipe alone."""
    device = {"name": "a test", "memory_bytes": 4 << 30, "precisions": ["float32", "bfloat16"], "backend": backend}
    Study.create(place.clone, TAG, facts={
        "budget_s": budget_s, "backend": backend, "data_name": place.text.name, "data_digest": place.text.digest,
        "data_root": str(place.text.root), "frozen_digest": assemble.digest(assemble.frozen_files()),
        "plan": {"changes": {}, "why": "a test"}, "device": device}).close()


@pytest.fixture(scope="session")
def text(shared_text: Prepared) -> Prepared:
    return shared_text


@pytest.fixture(scope="session")
def shared_place(shared_study: Callable[[str], Place], text: Prepared,
                 tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A clone with a study that has its baseline. Tests share it, each adds experiments of its own."""
    place = Place(tmp_path_factory.mktemp("shared") / "clone", text)
    shutil.copytree(shared_study("mlx").clone, place.clone, symlinks=True)
    with Study.open(place.clone, TAG) as study, study.lock():
        study.reconcile()  # the copied worktree still leads to the repository that it was copied from
    return place


@pytest.fixture
def place(shared_place: Place) -> Iterator[Place]:
    """The shared place, the person's checkout as it was and no process left afterwards."""
    before = shared_place.checkout()
    yield shared_place
    assert shared_place.checkout() == before
    assert comes_true(lambda: not ours_below(shared_place.root), 3), ours_below(shared_place.root)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """refused(place, *args): what `ar` says as it fails, run in this process. For what fails before anything trains."""
    def said(place: Place, *args: str, code: int = 1) -> str:
        monkeypatch.chdir(place.clone)
        monkeypatch.setenv("AUTORESEARCH_CACHE", str(place.text.root.parents[1]))
        assert run(shell.command, args, "ar") == code
        printed = capsys.readouterr()
        assert printed.out == "" and "Traceback" not in printed.err, printed
        return printed.err

    return said


def result_of(done: Command) -> dict:
    """The JSON line of `ar try`, the only line on its standard output."""
    assert done.stdout.count("\n") == 1, done.stdout
    return json.loads(done.stdout)
