"""A clone where nights are started, hurt and ended, and what must be true after each of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from autoresearch.harness import checkpoint
from autoresearch.records import BASELINE, Experiment
from autoresearch.research.git import git
from autoresearch.research.study import Study
from autoresearch.research.until import Until
from autoresearch.research.view import View
from tests.chaos.fast import ROOT, TAG, FastRunner, loop_of, make

STAYS = {"ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "lock", "trials", "frozen", "report", "worktree",
         "results.tsv", ".results.tsv.new"}


class Place:
    """Use it as a context: at its end nothing of it runs."""

    def __init__(self, folder: Path, env: dict[str, str] | None = None, **facts: Any):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.clone = folder, make(folder, **facts)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.nursery", str(self.clone)], cwd=ROOT, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary)} | (env or {}))

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *args: object) -> None:
        left = self.processes()
        assert self._nursery.stdin and self._nursery.stdout
        self._nursery.stdin.close()
        for p in left:
            p.kill()
        self._nursery.wait(10)
        self._nursery.stdout.close()

    def start(self, **wishes: Any) -> psutil.Process:
        """A night, by its own process."""
        return psutil.Process(self._ask({"start": wishes}))

    def wait(self, night: psutil.Process) -> int:
        return self._ask({"wait": night.pid})

    def run(self, **wishes: Any) -> int:
        """The exit code of a night."""
        return self.wait(self.start(**wishes))

    def said(self) -> str:
        """On standard error, by all nights so far."""
        path = self.folder / "err"
        return path.read_text() if path.exists() else ""

    def told(self) -> list[list[str]]:
        """What was acknowledged, line by line; one that a kill tore is none."""
        path = self.folder / "told"
        return [line.split() for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] \
            if path.exists() else []

    def processes(self) -> list[psutil.Process]:
        """All that nights have started and that still lives."""
        return [p for p in psutil.Process(self._nursery.pid).children(recursive=True) if lives(p)]

    def _ask(self, wish: dict[str, Any]) -> int:
        assert self._nursery.stdin and self._nursery.stdout
        self._nursery.stdin.write(json.dumps(wish) + "\n")
        answer = self._nursery.stdout.readline()
        assert answer, f"the nursery ended\n{self.said()}"
        return int(answer)

    def study(self) -> Study:
        return Study.open(self.clone, TAG, readonly=True)

    # Invariants

    def check(self) -> list[Experiment]:
        """After a night, however it ended; returns its experiments. What a kill left is mended as a night does it."""
        end = time.monotonic() + 3
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.01)
        assert not left, f"still running: {[p.cmdline() for p in left]}"
        for lock in (self.clone / ".git").rglob("*.lock"):  # a git that was killed; it is some seconds later
            os.utime(lock, (0, 0))
        with Study.open(self.clone, TAG) as study, study.lock():
            loop_of(study, FastRunner(), View(), Until()).recover()
            experiments, head = study.ledger.experiments(), study.workspace.head()
            base = study.ledger.fact("base")
        self._nothing_acknowledged_is_lost(experiments)
        nothing_is_counted_twice(experiments)
        self._branch_and_ledger_agree(experiments, head, base)
        self._no_file_is_left(experiments)
        assert not list(self.temporary.iterdir())
        return experiments

    def _nothing_acknowledged_is_lost(self, experiments: list[Experiment]) -> None:
        verdicts = {e.n: (e.verdict, e.sha, e.state) for e in experiments}
        scores = {t.id: (t.status, t.bpb()) for e in experiments for t in e.trials}
        for what, *words in self.told():
            if what == "decided":
                n, verdict, sha = words
                assert verdicts[int(n)] == (verdict, sha, "done")
            elif what == "trial":
                assert scores[int(words[0])] == ("ok", float(words[1]))

    def _branch_and_ledger_agree(self, experiments: list[Experiment], head: str, base: str) -> None:
        kept = [e for e in experiments if e.verdict == "keep"]
        assert head == (kept[-1].sha if kept else base)
        chain = git(self.clone, "rev-list", "--reverse", f"{base}..{head}").decode().split()
        assert chain == [e.sha for e in kept if e.sha != base]
        worktree = self.clone / "studies" / TAG / "worktree"
        assert git(worktree, "rev-parse", "HEAD").decode().strip() == head
        assert git(worktree, "status", "--porcelain") == b"" == git(self.clone, "status", "--porcelain")
        refs = dict(line.split()[::-1] for line in git(
            self.clone, "for-each-ref", "--format=%(objectname) %(refname)", f"refs/autoresearch/{TAG}").decode()
            .splitlines())
        for e in (e for e in experiments if e.sha):
            assert refs[f"refs/autoresearch/{TAG}/{e.n}"] == e.sha
        assert not [ref for ref in refs if "/saved/" in ref], "no edit was a person's"

    def _no_file_is_left(self, experiments: list[Experiment]) -> None:
        root = self.clone / "studies" / TAG
        assert {p.name for p in root.iterdir()} <= STAYS
        trials = {t.id: (t, e) for e in experiments for t in e.trials}
        for folder in (root / "trials").iterdir():
            trial, e = trials[int(folder.name)]
            may = {"log.txt"}
            if trial.status == "ok" and e.verdict in ("", "keep"):
                may |= {"weights.safetensors", "recorded.npz"}
            assert {p.name for p in folder.iterdir()} <= may, (folder, trial.status, e.verdict)
            if (weights := folder / "weights.safetensors").exists():
                checkpoint.read(weights)  # whole
        locks = list((self.clone / ".git").rglob("*.lock"))
        assert not [lock for lock in locks if TAG in str(lock)], locks


def nothing_is_counted_twice(experiments: list[Experiment]) -> None:
    assert [e.n for e in experiments] == list(range(BASELINE, len(experiments)))
    for e in experiments:
        scored = Counter((t.seed, t.purpose) for t in e.trials if t.status == "ok")
        assert all(count == 1 for count in scored.values()), (e.n, scored)
        assert all(len(t.scores) == (t.status == "ok") for t in e.trials)
        assert all(t.status != "running" for t in e.trials)


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def send(process: psutil.Process, signum: int) -> None:
    try:
        process.send_signal(signum)
    except psutil.NoSuchProcess:
        return


KILL, TERM, STOP, CONT = signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGCONT
