"""The queue: a person's own experiments, in the order they came, kept until something became of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch.errors import UserError
from autoresearch.research import person
from autoresearch.research.git import GitError
from autoresearch.research.ledger import Ledger
from autoresearch.research.ledger_file import LedgerError
from autoresearch.research.loop import Loop
from autoresearch.research.queue import Queued
from autoresearch.research.researchers.playbook import Playbook
from autoresearch.research.until import Until
from autoresearch.research.workspace import Workspace
from tests.research.planted import Night

ID = ("-c", "user.name=A Person", "-c", "user.email=person@example.org")
RECIPE = "backends/gpt/recipe.toml"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


def experiment(ledger: Ledger) -> int:
    return ledger.propose(parent="p", researcher="person", hypothesis="h", evidence="", changes={}, recipe={})


def test_entries_wait_in_the_order_they_came_and_survive(ledger: Ledger) -> None:
    first = ledger.queue.add("deeper", {"model.depth": 6, "runtime.compile": False, "model.norm": "layer"})
    second = ledger.queue.add("GELU", {}, "--- a\n+++ b\n")
    ledger.close()
    with Ledger.open(ledger.file.path, readonly=True) as again:
        waiting = again.queue.waiting()
    assert [(q.id, q.hypothesis, q.changes, q.patch) for q in waiting] == [
        (first, "deeper", {"model.depth": 6, "runtime.compile": False, "model.norm": "layer"}, ""),
        (second, "GELU", {}, "--- a\n+++ b\n")]


def test_an_entry_leaves_when_it_became_an_experiment_or_is_removed(ledger: Ledger) -> None:
    ids = [ledger.queue.add(name, {"model.depth": 6}) for name in "abc"]
    ledger.queue.refused(ids[0], experiment(ledger))
    assert ledger.queue.remove(ids[1]) and not ledger.queue.remove(ids[1])
    assert [q.hypothesis for q in ledger.queue.waiting()] == ["c"]
    assert not ledger.queue.remove(ids[0])  # what was tried stays: its patch may be nowhere else
    assert ledger.queue.add("d", {}) > ids[2]


def test_adding_needs_no_lock_while_another_process_writes(ledger: Ledger, tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.sqlite") as other:
        other.queue.add("from elsewhere", {"model.depth": 6})
        experiment(ledger)
    assert [q.hypothesis for q in ledger.queue.waiting()] == ["from elsewhere"]


# What a person asks for


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    repo = tmp_path / "clone"
    (repo / "backends/gpt").mkdir(parents=True)
    (repo / RECIPE).write_text("[model]\ndepth = 4  # blocks\n")
    (repo / "backends/gpt/model.py").write_text("def f(x):\n    return x\n")
    (repo / "backends/gpt/old.py").write_text("OLD = 1\n")
    (repo / "README.md").write_text("Read me.\n")
    (repo / ".gitignore").write_text("studies/\n")
    for args in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "start")):
        subprocess.run(["git", *ID, *args], cwd=repo, check=True)
    workspace = Workspace(repo, "mar8", repo / "studies/mar8/worktree")
    workspace.create()
    return workspace


def patch_of(workspace: Workspace, **files: str | None) -> str:
    """What `git diff` says after a person edited files of the clone (`__` for /), which are then put back."""
    for name, content in files.items():
        path = workspace.repo / name.replace("__", "/").replace("_py", ".py").replace("_md", ".md")
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
    subprocess.run(["git", "add", "-N", "."], cwd=workspace.repo, check=True)
    patch = subprocess.run(["git", "diff", "HEAD"], cwd=workspace.repo, check=True, capture_output=True,
                           text=True).stdout
    subprocess.run(["git", "reset", "-q", "--hard"], cwd=workspace.repo, check=True)
    subprocess.run(["git", "clean", "-fdq", "backends"], cwd=workspace.repo, check=True)
    return patch


def queued(patch: str = "", **changes: object) -> Queued:
    return Queued(1, "an idea", {k.replace("__", "."): v for k, v in changes.items()}, patch, "")


def test_a_patch_becomes_whole_files_on_top_of_the_incumbent_of_its_time(workspace: Workspace) -> None:
    patch = patch_of(workspace, backends__gpt__model_py="def f(x):\n    return 2 * x\n", backends__gpt__old_py=None,
                     backends__gpt__new_py="NEW = 1\n")
    base = workspace.head()
    kept = workspace.propose_commit(base, {RECIPE: b"[model]\ndepth = 5\n"}, "deeper", 1)
    workspace.advance(base, kept)
    proposal = person.proposal_of(queued(patch, model__depth=6), workspace)
    assert proposal.files == {"model.py": "def f(x):\n    return 2 * x\n", "old.py": None, "new.py": "NEW = 1\n"}
    assert (proposal.changes, proposal.researcher) == ({"model.depth": 6}, "person")


def test_a_patch_that_no_longer_applies_says_so(workspace: Workspace) -> None:
    patch = patch_of(workspace, backends__gpt__model_py="def f(x):\n    return 2 * x\n")
    base = workspace.head()
    kept = workspace.propose_commit(base, {"backends/gpt/model.py": b"def f(x):\n    return 3 * x\n"}, "thrice", 1)
    workspace.advance(base, kept)
    with pytest.raises(UserError, match=r"does not apply to .*patch failed: backends/gpt/model.py:1"):
        person.proposal_of(queued(patch), workspace)


@pytest.mark.parametrize(("changes", "patch", "said"), [
    ({}, "", "nothing to try"),
    ({}, "not a patch\n", "does not apply"),
    ({"model.depht": 6}, "", "did you mean model.depth"),
    ({"model.depth": 600}, "", "must be a whole number from 1 to 48"),
])
def test_what_could_not_run_is_refused_when_it_is_asked(workspace: Workspace, changes: dict[str, object], patch: str,
                                                        said: str) -> None:
    with pytest.raises(UserError) as e:
        person.check(workspace, changes, patch)
    assert said in str(e.value)


def test_a_patch_may_only_change_the_candidate(workspace: Workspace) -> None:
    with pytest.raises(UserError, match=r"the patch changes README.md"):
        person.check(workspace, {}, patch_of(workspace, README_md="Read me twice.\n"))


def test_checking_changes_nothing(workspace: Workspace) -> None:
    before = workspace.head()
    person.check(workspace, {"model.depth": 6}, patch_of(workspace, backends__gpt__new_py="NEW = 1\n"))
    assert workspace.head() == before and not (workspace.worktree / "backends/gpt/new.py").exists()
    assert json.dumps(sorted(workspace.candidate_files(before))) == '["model.py", "old.py", "recipe.toml"]'


@pytest.mark.parametrize("code", [None, -9])
def test_a_git_that_hung_or_was_killed_says_nothing_of_the_patch(workspace: Workspace, code: int | None,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    patch, real = patch_of(workspace, backends__gpt__new_py="NEW = 1\n"), workspace._git

    def failing(*args: str, **more: object) -> bytes:
        if args[0] == "apply":
            raise GitError("git apply gave no answer", "", code=code)
        return real(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(workspace, "_git", failing)
    with pytest.raises(GitError):
        person.proposal_of(queued(patch), workspace)


# When its turn comes


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    night = Night.create(tmp_path, lambda recipe, files: 2.0)
    yield night
    night.made.study.close()


@pytest.mark.parametrize(("owner", "step", "fault"), [
    (Workspace, "propose_commit", GitError("git hangs", "")), (Ledger, "commit", LedgerError("it is locked", ""))])
def test_what_fails_for_another_reason_waits_until_that_is_mended(night: Night, monkeypatch: pytest.MonkeyPatch,
                                                                  owner: type, step: str, fault: UserError) -> None:
    ledger, loop = night.made.study.ledger, Loop(night.lab(), Playbook(), {}, Until())
    ledger.queue.add("calmer", {"optim.matrix_lr": 0.01})

    def fail(*args: object, **more: object) -> None:
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(owner, step, fail)
        with pytest.raises(type(fault)):
            loop.next_queued()
    assert [q.hypothesis for q in ledger.queue.waiting()] == ["calmer"]
    found = loop.next_queued()
    assert found is not None and found.hypothesis == "calmer" and ledger.queue.waiting() == []


def test_what_is_not_unicode_is_invalid_and_does_not_end_the_night(night: Night) -> None:
    ledger, loop = night.made.study.ledger, Loop(night.lab(), Playbook(), {}, Until())
    ledger.queue.add("a strange name", {}, '--- /dev/null\n+++ "b/backends/gpt/\\377.py"\n@@ -0,0 +1 @@\n+x = 1\n')
    ledger.queue.add("a strange word", {"data.tokenizer": "\udcff"})
    name = loop.next_queued()
    assert name is not None and loop.judge(name) is not None
    assert loop.next_queued() is None and ledger.queue.waiting() == []
    named, word = (ledger.experiment(n) for n in (name.n, name.n + 1))
    assert named.verdict == word.verdict == "invalid" and "names consist of the letters" in named.reason
