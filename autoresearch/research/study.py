"""A study: one stretch of experiments under a tag, with its ledger, branch and worktree, and what survives a crash.

A keep is: commit object -> ledger `decided keep` -> compare-and-swap of the branch -> ledger `done`.
`conclude` does the last three; `reconcile` finishes whatever a kill left between any two of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from autoresearch.data import prepared
from autoresearch.data.prepared import Prepared
from autoresearch.errors import UserError
from autoresearch.records import BASELINE, Experiment
from autoresearch.research.ledger import Ledger
from autoresearch.research.workspace import Workspace, is_tag, moved, validate_tag

FOLDERS = ("trials", "frozen", "report")
LOCK_WAIT_S = 0.3  # longer than `owner` takes to look


@dataclass
class Study:
    """Everything below studies/<tag>. `open` or `create` one; close it, or use it as a context."""

    clone: Path
    tag: str
    ledger: Ledger
    workspace: Workspace

    @classmethod
    def create(cls, clone: Path, tag: str, base: str = "HEAD", facts: Mapping[str, Any] | None = None) -> Study:
        """A new study that begins at the commit `base`. Finishes what an interrupted `create` began."""
        root = _root(clone, validate_tag(tag))
        workspace = Workspace(clone, tag, root / "worktree")
        sha = workspace.resolve(base)  # says what is wrong with the repository before anything is written
        _make_folders(root)
        with _locked(root, tag):
            ledger = Ledger.open(root / "ledger.sqlite")
            try:
                if ledger.fact("created"):
                    raise UserError(f"there is a study {tag!r} already",
                                    f"Continue it with: ar loop --tag {tag}. Or choose another tag.")
                sha = ledger.fact("base") or sha
                ledger.set_fact("base", sha)
                workspace.create(sha)
                for key, value in (facts or {}).items():
                    ledger.set_fact(key, value)
                ledger.set_fact("created", datetime.now(UTC).isoformat(timespec="seconds"))
            except BaseException:
                ledger.close()
                raise
        return cls(clone, tag, ledger, workspace)

    @classmethod
    def open(cls, clone: Path, tag: str | None = None, readonly: bool = False) -> Study:
        """The study of that tag; None: the first of `tags`. Writers then take `lock` and `reconcile`."""
        tags = cls.tags(clone)
        if tag is None and not tags:
            raise UserError(f"there is no study in {clone / 'studies'} yet", "Start one with: ar loop")
        if tag is not None and validate_tag(tag) not in tags:
            known = f"There is {', '.join(tags)}. " if tags else ""
            raise UserError(f"there is no study {tag!r}", f"{known}Start it with: ar loop --tag {tag}")
        tag = tag or tags[0]
        root = _root(clone, tag)
        ledger = Ledger.open(root / "ledger.sqlite", readonly)
        return cls(clone, tag, ledger, Workspace(clone, tag, root / "worktree"))

    @staticmethod
    def tags(clone: Path) -> list[str]:
        """Tags of the studies: those that are worked on now, then the one that trained last, and so on."""
        found = sorted(_roots(clone), key=lambda root: (_in_use(root), _last_used(root)), reverse=True)
        return [root.name for root in found]

    @staticmethod
    def in_use(clone: Path) -> list[str]:
        """Tags of the studies that some process works on now."""
        return [root.name for root in _roots(clone) if _in_use(root)]

    @staticmethod
    def delete(clone: Path, tag: str) -> None:
        """All that a study has made: worktree, branch, refs, and its folder. UserError while a process works on it."""
        root = _root(clone, validate_tag(tag))
        with _locked(root, tag):
            Workspace(clone, tag, root / "worktree").remove()
            shutil.rmtree(root)

    @property
    def root(self) -> Path:
        return _root(self.clone, self.tag)

    @property
    def worktree(self) -> Path:
        return self.root / "worktree"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    @property
    def frozen(self) -> Path:
        return self.root / "frozen"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def results_tsv(self) -> Path:
        return self.root / "results.tsv"

    def text(self) -> Prepared:
        """The prepared text that its trials train on. UserError where it is gone or has changed."""
        return prepared.same(self.ledger.fact("data_name"), self.ledger.fact("data_digest"), f"study {self.tag!r}")

    def close(self) -> None:
        self.ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Sole right to change the study; UserError with the owner's process id where another has it."""
        return _locked(self.root, self.tag)

    def owner(self) -> int | None:
        """Process id of whoever holds the lock, None if nobody does."""
        return _owner(self.root) if _in_use(self.root) else None

    def conclude(self, n: int, verdict: str, reason: str) -> str | None:
        """Carries a verdict out so that a kill at any moment loses nothing: the ledger, the branch, the ledger.
        Returns the ref of edits in the worktree that had to be saved, if any."""
        self.ledger.decide(n, verdict, reason)
        return self._carry_out(self.ledger.experiment(n))

    def reconcile(self, sync: bool = True) -> list[Experiment]:
        """After a crash, or not: finishes what was decided, marks dead trials interrupted, mends branch and worktree.
        Returns the experiments that were not decided yet. Without `sync` edits in the worktree stay (`ar try`)."""
        for folder in FOLDERS:
            (self.root / folder).mkdir(exist_ok=True)
        self.ledger.abandon_running()
        experiments = self.ledger.experiments()
        self.workspace.ensure(self._expected_head())
        for experiment in experiments:
            self._carry_out(experiment)
        expected, head = self._expected_head(), self.workspace.head()
        if head != expected:
            raise moved(self.workspace.branch, head, expected)
        if sync:
            self.workspace.revert()
        return [e for e in experiments if e.state in ("proposed", "committed")]

    def export_tsv(self) -> Path:
        """results.tsv in upstream's five columns, replaced as a whole."""
        lines = ["commit\tval_bpb\tmemory_gb\tstatus\tdescription"]
        lines += [_tsv_line(e) for e in self.ledger.experiments() if e.n >= BASELINE and e.verdict]
        partial = self.root / ".results.tsv.new"  # one name: what a kill leaves, the next one replaces
        with partial.open("w", encoding="utf-8") as f:
            f.write("\n".join(lines) + "\n")
            f.flush()
            os.fsync(f.fileno())
        partial.replace(self.results_tsv)
        return self.results_tsv

    def _carry_out(self, e: Experiment) -> str | None:
        saved = None
        if e.state == "decided":
            if e.verdict == "keep":
                saved = self.workspace.advance(e.parent, e.sha)
            elif e.sha and self.workspace.holds(e.sha):  # it was made in the worktree, with `ar try`
                saved = self.workspace.revert()
            self.ledger.finish(e.n)
        return saved

    def _expected_head(self) -> str:
        """Where the branch is once everything decided has been carried out."""
        incumbent = self.ledger.incumbent()
        return incumbent.sha if incumbent and incumbent.sha else str(self.ledger.fact("base"))


def _root(clone: Path, tag: str) -> Path:
    return clone / "studies" / tag


def _make_folders(root: Path) -> None:
    try:
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True, exist_ok=True)
        ignore = root.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")  # a clone whose own .gitignore lacks studies/ stays clean too
    except OSError as e:
        raise UserError(f"can't make {root}: {e.strerror}", "Check that the folder may be written to.") from None


def _is_created(path: Path) -> bool:
    """Whether a ledger's study was set up to the end. A damaged one counts, so that opening it explains itself."""
    try:
        with Ledger.open(path, readonly=True) as ledger:
            return bool(ledger.fact("created"))
    except UserError:
        return path.stat().st_size > 0


def _roots(clone: Path) -> list[Path]:
    """A folder that no study can be called after, such as a copy "mar8 copy", is nobody's study."""
    return [path.parent for path in sorted((clone / "studies").glob("*/ledger.sqlite"))
            if is_tag(path.parent.name) and _is_created(path)]


def _last_used(root: Path) -> float:
    """When a trial of it was last told of: a command that refuses or only reads takes the lock, and is no use of it."""
    times = [path.stat().st_mtime for name in ("events.jsonl", "lock") if (path := root / name).exists()]
    return times[0] if times else root.stat().st_mtime


def _in_use(root: Path) -> bool:
    try:
        with _locked(root, root.name, announce=False):
            return False
    except UserError:
        return True


def _owner(root: Path) -> int | None:
    try:
        return int((root / "lock").read_text())
    except (OSError, ValueError):
        return None


def _try_flock(lock: IO[str], how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


@contextlib.contextmanager
def _locked(root: Path, tag: str, announce: bool = True) -> Iterator[None]:
    """An flock, which ends with its process however that ends. The file tells the owner's process id."""
    try:
        lock = (root / "lock").open("a+" if announce else "r")
    except FileNotFoundError:
        lock = None
    except OSError as e:
        raise UserError(f"can't open {root / 'lock'}: {e.strerror}",
                        "Check that the folder may be written to.") from None
    if lock is None:  # asked only who owns it, and nobody ever has
        yield
        return
    with lock:
        give_up = time.monotonic() + (LOCK_WAIT_S if announce else 0)
        # Two that only look don't take each other for the owner.
        while not _try_flock(lock, fcntl.LOCK_EX if announce else fcntl.LOCK_SH):
            if time.monotonic() > give_up:
                pid = _owner(root)
                raise UserError(f"study {tag!r} is in use by process {pid or '(unknown)'}", "Wait for it or stop it "
                                "with Ctrl-C in its window, or work in another study with --tag.")
            time.sleep(0.02)
        if announce:
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
        yield


def _tsv_line(e: Experiment) -> str:
    """Upstream knows keep, discard and crash, and gives a crash no numbers; other verdicts are named in the text."""
    scored = e.counts and e.bpb() is not None
    bpb = (e.bpb() or 0.0) if scored else 0.0
    memory_gb = max((t.peak_memory_bytes for t in e.trials), default=0) / 2**30 if scored else 0.0
    status = e.verdict if scored else "crash"
    unscored = "stopped early" if e.verdict == "discard" else e.verdict
    text = " ".join(e.hypothesis.split()) + ("" if scored or unscored == "crash" else f" [{unscored}]")
    return f"{e.sha[:7] or '0' * 7}\t{bpb:.6f}\t{memory_gb:.1f}\t{status}\t{text}"
