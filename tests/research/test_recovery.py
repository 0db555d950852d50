"""A study after a kill: nothing acknowledged is lost, nothing is counted twice, the branch is the last keep."""

from __future__ import annotations

import fcntl
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoresearch.errors import UserError
from autoresearch.records import BASELINE, REFERENCE, Score
from autoresearch.research.events import Teller
from autoresearch.research.git import git
from autoresearch.research.study import Study
from autoresearch.research.workspace import Workspace

RECIPE = "backends/gpt/recipe.toml"
ROOT = Path(__file__).parents[2]

# Runs experiments as a loop does, for ever: every second is kept. Says what a person would have been told.
NIGHT = """
import sys
from pathlib import Path
from autoresearch.records import Score
from autoresearch.research.study import Study

def say(*words):
    print(*words, flush=True)

with Study.open(Path(sys.argv[1])) as study, study.lock():
    unfinished = study.reconcile()
    for e in unfinished:
        if e.sha:
            study.conclude(e.n, "discard", "resumed")
        else:
            study.conclude(e.n, "interrupted", "never committed")
    say("open")
    while True:
        parent = study.workspace.head()
        n = study.ledger.propose(parent=parent, researcher="test", hypothesis="h", evidence="e", changes={}, recipe={})
        say("proposed", n)
        sha = study.workspace.propose_commit(parent, {"backends/gpt/recipe.toml": f"depth = {n}\\n".encode()}, "m", n)
        study.ledger.commit(n, sha)
        trial = study.ledger.start_trial(n, 1, "screen", 30.0, {})
        study.ledger.end_trial(trial, "ok", scores=[Score("val", 1.0 / n, 1, 1, 1, 1)])
        say("scored", n, trial)
        verdict = "keep" if n % 2 else "discard"
        study.conclude(n, verdict, "because")
        say(verdict, n, sha)
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    clone = tmp_path / "clone"
    (clone / "backends/gpt").mkdir(parents=True)
    (clone / RECIPE).write_text("depth = 0\n")
    (clone / "program.md").write_text("Make it better.\n")
    identity = ("-c", "user.name=A Person", "-c", "user.email=person@example.org")
    for args in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-q", "-m", "start")):
        subprocess.run(["git", *args], cwd=clone, check=True)
    return clone


@pytest.fixture
def study(clone: Path):
    with Study.create(clone, "mar8") as study:
        yield study


def propose(study: Study, hypothesis: str = "", n: int | None = None) -> int:
    return study.ledger.propose(n=n, parent=study.workspace.head(), researcher="test", hypothesis=hypothesis,
                                evidence="", changes={}, recipe={})


def committed(study: Study, depth: int, n: int | None = None) -> int:
    parent, n = study.workspace.head(), propose(study, f"depth\t{depth}\n", n)
    sha = study.workspace.propose_commit(parent, {RECIPE: f"depth = {depth}\n".encode()}, "m", n)
    study.ledger.commit(n, sha)
    return n


def test_kills_at_any_moment_lose_nothing_acknowledged(clone: Path, tmp_path: Path):
    Study.create(clone, "mar8").close()
    script = tmp_path / "night.py"
    script.write_text(NIGHT)
    chance, told = random.Random(2), []
    for _ in range(10):
        with subprocess.Popen([sys.executable, str(script), str(clone)], stdout=subprocess.PIPE, text=True,
                              env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
            assert process.stdout and process.stdout.readline() == "open\n"
            told += [process.stdout.readline() for _ in range(chance.randrange(12))]
            time.sleep(chance.uniform(0.0, 0.05))
            process.kill()
            told += process.stdout.read().splitlines(keepends=True)
    complete = [line.split() for line in told if line.endswith("\n")]
    with Study.open(clone) as study, study.lock():
        study.reconcile()
        experiments = {e.n: e for e in study.ledger.experiments()}
        head = study.workspace.head()
    assert sum(words[0] == "keep" for words in complete) >= 3
    for what, n, *rest in complete:
        e = experiments[int(n)]
        if what == "scored":
            assert [t.id for t in e.trials if t.status == "ok" and len(t.scores) == 1] == [int(rest[0])]
        elif what in ("keep", "discard"):
            assert (e.verdict, e.state, e.sha) == (what, "done", rest[0])
    kept = [e for e in experiments.values() if e.verdict == "keep"]
    chain = git(clone, "rev-list", "--reverse", f"{kept[0].parent}..{head}").decode().split()
    assert chain == [e.sha for e in kept] and head == kept[-1].sha
    assert sorted(experiments) == list(range(1, max(experiments) + 1))
    assert all(len(e.trials) <= 1 for e in experiments.values())
    assert (clone / "studies/mar8/worktree" / RECIPE).read_text() == f"depth = {kept[-1].n}\n"
    assert git(clone, "status", "--porcelain") == b"" and (clone / RECIPE).read_text() == "depth = 0\n"


@pytest.mark.parametrize("stop_after", ["decide", "swap", "sync"])
def test_a_keep_stopped_between_any_two_steps_is_finished(study: Study, stop_after: str):
    n = committed(study, 5)
    e = study.ledger.experiment(n)
    study.ledger.decide(n, "keep", "better")
    if stop_after == "swap":
        git(study.clone, "update-ref", "refs/heads/autoresearch/mar8", e.sha, e.parent)
    elif stop_after == "sync":
        study.workspace.advance(e.parent, e.sha)
    assert study.reconcile() == [] and study.reconcile() == []
    assert study.ledger.experiment(n).state == "done" and study.workspace.head() == e.sha
    assert (study.worktree / RECIPE).read_text() == "depth = 5\n" and study.workspace.saved == []
    incumbent = study.ledger.incumbent()
    assert incumbent is not None and incumbent.n == n


def test_unfinished_experiments_are_handed_back_and_dead_trials_marked(study: Study):
    n = committed(study, 5)
    study.ledger.start_trial(n, 1, "screen", 30.0, {})
    bare = propose(study)
    assert [(e.n, e.state) for e in study.reconcile()] == [(n, "committed"), (bare, "proposed")]
    assert study.ledger.experiment(n).trials[0].status == "interrupted"


def test_a_branch_moved_by_hand_is_explained_and_mended_as_told(study: Study):
    study.conclude(committed(study, 5), "keep", "")
    kept = study.workspace.head()
    stray = study.workspace.propose_commit(kept, {RECIPE: b"stray\n"}, "by hand", 99)
    git(study.clone, "update-ref", "refs/heads/autoresearch/mar8", stray)
    with pytest.raises(UserError, match="was moved") as e:
        study.reconcile()
    command = e.value.hint.split(": ", 1)[1]
    subprocess.run(command, shell=True, cwd=study.clone, check=True)
    study.reconcile()
    assert study.workspace.head() == kept and (study.worktree / RECIPE).read_text() == "depth = 5\n"


def test_a_keep_whose_branch_was_moved_is_not_called_done(study: Study):
    n = committed(study, 5)
    study.ledger.decide(n, "keep", "")
    stray = study.workspace.propose_commit(study.workspace.head(), {RECIPE: b"stray\n"}, "by hand", 99)
    git(study.clone, "update-ref", "refs/heads/autoresearch/mar8", stray)
    with pytest.raises(UserError, match="was moved"):
        study.reconcile()
    assert study.ledger.experiment(n).state == "decided" and study.workspace.head() == stray


def test_a_deleted_branch_comes_back_at_the_incumbent(study: Study):
    study.conclude(committed(study, 5), "keep", "")
    kept = study.workspace.head()
    git(study.clone, "update-ref", "-d", "refs/heads/autoresearch/mar8")
    study.reconcile()
    assert study.workspace.head() == kept
    n = committed(study, 6)
    study.ledger.decide(n, "keep", "")
    git(study.clone, "update-ref", "-d", "refs/heads/autoresearch/mar8")
    study.reconcile()
    assert study.workspace.head() == study.ledger.experiment(n).sha


def test_edits_in_the_worktree_survive_a_restart(study: Study):
    (study.worktree / RECIPE).write_text("mine\n")
    study.reconcile(sync=False)
    assert (study.worktree / RECIPE).read_text() == "mine\n"
    study.reconcile()
    [ref] = study.workspace.saved
    assert git(study.clone, "show", f"{ref}:{RECIPE}") == b"mine\n"


def test_a_discarded_try_leaves_the_worktree_clean_and_other_edits_alone(study: Study):
    def tried(text: str) -> int:
        (study.worktree / RECIPE).write_text(text)
        n = propose(study)
        sha = study.workspace.commit_worktree(study.workspace.head(), "try", n)
        assert sha
        study.ledger.commit(n, sha)
        return n

    study.conclude(tried("worse\n"), "discard", "")
    assert (study.worktree / RECIPE).read_text() == "depth = 0\n"
    n = tried("worse too\n")
    (study.worktree / RECIPE).write_text("changed since\n")
    study.conclude(n, "discard", "")
    assert (study.worktree / RECIPE).read_text() == "changed since\n"


def test_a_second_owner_is_refused_with_the_first_ones_pid(study: Study):
    hold = subprocess.Popen([sys.executable, "-c", "import sys, time; from pathlib import Path\n"
                               "from autoresearch.research.study import Study\n"
                               "with Study.open(Path(sys.argv[1])) as study, study.lock():\n"
                               "    print('mine', flush=True); time.sleep(20)", str(study.clone)],
                            stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    with hold as holder:
        assert holder.stdout and holder.stdout.readline() == "mine\n"
        assert study.owner() == holder.pid
        with pytest.raises(UserError, match=f"in use by process {holder.pid}"), study.lock():
            pass
        holder.kill()
    with study.lock():
        assert study.owner() == os.getpid()
    assert study.owner() is None


def create_until(clone: Path, step: str) -> None:
    """Create a study and die at a step of it."""
    create = Workspace.create

    def die(workspace: Workspace, *args: str) -> None:
        if step == "after create":
            create(workspace, *args)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(Workspace, step.removeprefix("after "), die)
    Study.create(clone, "mar8")


@pytest.mark.parametrize("step", ["create", "_linked", "after create"])
def test_creating_a_study_can_be_interrupted_and_done_again(clone: Path, step: str):
    process = multiprocessing.get_context("fork").Process(target=create_until, args=(clone, step))
    process.start()
    process.join()
    (clone / RECIPE).write_text("a commit made in between\n")
    identity = ("-c", "user.name=P", "-c", "user.email=p@example.org")
    subprocess.run(["git", *identity, "commit", "-qam", "x"], cwd=clone, check=True)
    assert process.exitcode == -signal.SIGKILL and Study.tags(clone) == []
    with pytest.raises(UserError, match="no study"):
        Study.open(clone)
    with Study.create(clone, "mar8") as study:
        assert study.reconcile() == [] and (study.worktree / RECIPE).read_text() == "depth = 0\n"
    with pytest.raises(UserError, match="there is a study 'mar8' already"):
        Study.create(clone, "mar8")


def test_the_study_used_last_is_opened(clone: Path):
    for i, tag in enumerate(("one", "two", "three")):
        Study.create(clone, tag, facts={"budget_s": 30}).close()
        os.utime(clone / "studies" / tag / "lock", (i, i))
    with Study.open(clone, "one") as study, study.lock():
        assert study.ledger.fact("budget_s") == 30
    assert Study.tags(clone) == ["one", "three", "two"]
    with Study.open(clone, readonly=True) as study:
        assert study.tag == "one"
    with pytest.raises(UserError) as e:
        Study.open(clone, "four")
    assert "one, three, two" in e.value.hint


def test_a_copied_folder_whose_name_is_no_tag_is_no_study(clone: Path):
    Study.create(clone, "mar8").close()
    shutil.copytree(clone / "studies" / "mar8", clone / "studies" / "mar8 copy", symlinks=True)
    os.utime(clone / "studies" / "mar8 copy" / "lock")
    assert Study.tags(clone) == ["mar8"] and Study.in_use(clone) == []
    with Study.open(clone, readonly=True) as study:
        assert study.tag == "mar8"
    with pytest.raises(UserError, match="can't be the tag of a study"):
        Study.open(clone, "mar8 copy")


def test_a_command_that_only_looks_or_refuses_is_no_use_and_a_running_study_is_the_first(clone: Path):
    for i, tag in enumerate(("old", "new")):
        with Study.create(clone, tag) as study:
            Teller(study, lambda event: None).began(None, None)
            os.utime(study.root / "events.jsonl", (i, i))
    with Study.open(clone, "old") as study, study.lock():
        assert Study.tags(clone) == ["old", "new"] and Study.in_use(clone) == ["old"]
    assert Study.tags(clone) == ["new", "old"] and Study.in_use(clone) == []


def test_a_study_does_not_show_in_a_clone_that_ignores_nothing(study: Study):
    assert git(study.clone, "status", "--porcelain") == b""


def test_a_damaged_ledger_is_reported_when_its_study_is_opened(study: Study):
    path = study.root / "ledger.sqlite"
    study.close()
    path.write_bytes(os.urandom(20_000))
    for leftover in study.root.glob("ledger.sqlite-*"):
        leftover.unlink()
    with pytest.raises(UserError) as e:
        Study.open(study.clone)
    assert str(path) in e.value.message and e.value.hint


def test_results_tsv_has_upstreams_five_columns(study: Study):
    def scored(n: int, verdict: str, bits: float) -> None:
        trial = study.ledger.start_trial(n, 1, "screen", 30.0, {})
        scores = [Score("val", bits * math.log(2), 1, 1, 1, 1)] if bits else []
        study.ledger.end_trial(trial, "ok" if bits else "crash", peak_memory_bytes=3 * 2**29, scores=scores)
        study.conclude(n, verdict, "")

    committed(study, 1, REFERENCE)
    scored(committed(study, 2, BASELINE), "keep", 2.5)
    scored(committed(study, 3), "discard", 2.75)
    scored(committed(study, 4), "timeout", 0)
    committed(study, 5)  # not decided yet
    first, *rows = study.export_tsv().read_text().splitlines()
    sha = {e.n: e.sha[:7] for e in study.ledger.experiments()}
    assert first == "commit\tval_bpb\tmemory_gb\tstatus\tdescription"
    assert rows == [f"{sha[0]}\t2.500000\t1.5\tkeep\tdepth 2", f"{sha[1]}\t2.750000\t1.5\tdiscard\tdepth 3",
                    f"{sha[2]}\t0.000000\t0.0\tcrash\tdepth 4 [timeout]"]
    assert [p.name for p in study.root.glob("*.tsv")] == ["results.tsv"]


def test_nothing_is_made_where_no_study_can_start(tmp_path: Path):
    with pytest.raises(UserError, match="not a git repository"):
        Study.create(tmp_path, "mar8")
    assert list(tmp_path.iterdir()) == []


def test_two_that_only_look_for_the_owner_do_not_take_each_other_for_it(study: Study):
    with study.lock():
        pass
    with (study.root / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert study.owner() is None
