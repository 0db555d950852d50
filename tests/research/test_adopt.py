"""Adopting: what a study kept becomes commits of the person's, or nothing happens at all."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch.cli import run, shell
from autoresearch.research.study import Study
from backends.recipe import parse
from tests.report.made import RECIPE, Made, repository

CODE = b"a = 1\n\n\ndef f():\n    return a\n\n\ndef g():\n    return 2\n"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """A study with three keeps: #1 turns a rate, #2 changes code, #4 turns the same rate further."""
    made = Made.create(repository(tmp_path, {"torch_optim.py": CODE}))
    git(tmp_path, "config", "user.name", "A Person")
    git(tmp_path, "config", "user.email", "person@example.org")
    made.baseline(2.4, 2.41)
    made.idea("keep", 2.35, "Half the rate", "better by 0.05 on fresh seeds", {"optim.matrix_lr": 0.02})
    made.idea("keep", 2.33, "Three is better", files={"torch_optim.py": CODE.replace(b"return 2", b"return 3")})
    made.idea("discard", 2.5, changes={"optim.adam_beta2": 0.9})
    made.idea("keep", 2.30, "Half again", changes={"optim.matrix_lr": 0.01})
    monkeypatch.chdir(tmp_path)
    yield made
    made.study.close()


def git(clone: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=clone, check=True, capture_output=True, text=True).stdout


def adopt(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> str:
    assert run(shell.command, ["adopt", *args], "ar") == code
    said = capsys.readouterr()
    return said.out if code == 0 else said.err


def state(clone: Path) -> tuple[str, ...]:
    return (git(clone, "rev-parse", "HEAD"), git(clone, "status", "--porcelain"), git(clone, "diff"),
            (clone / RECIPE).read_text())


def test_all_that_led_to_the_champion_becomes_one_commit_each(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    clone, before = made.study.clone, git(made.study.clone, "rev-parse", "HEAD").strip()
    said = adopt(capsys).splitlines()
    log = git(clone, "log", "--reverse", "--format=%h|%an|%s|%(trailers:key=Experiment,valueonly,separator=)",
              f"{before}..").splitlines()
    assert [line.split("|")[1:] for line in log] == [
        ["A Person", "Half the rate", "mar8/1"], ["A Person", "Three is better", "mar8/2"],
        ["A Person", "Half again", "mar8/4"]]
    assert "better by 0.05 on fresh seeds" in git(clone, "log", "--format=%B", f"{before}..")
    assert said[0].startswith("(already there)") and said[1].split()[0].startswith(log[0].split("|")[0])
    assert said[-1] == "3 commits on your branch main"
    assert git(clone, "status", "--porcelain") == "" and git(clone, "symbolic-ref", "HEAD") == "refs/heads/main\n"
    champion = made.study.ledger.incumbent()
    assert champion is not None
    assert git(clone, "rev-parse", "HEAD:backends/gpt") == git(clone, "rev-parse", f"{champion.sha}:backends/gpt")
    assert b"return 3" in (clone / "backends/gpt/torch_optim.py").read_bytes(), "the files of the checkout follow"
    assert all(line.startswith("(already there)") for line in adopt(capsys).splitlines())


def test_where_nothing_was_kept_nothing_is_adopted_unless_the_sizing_is_asked_for(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made = Made.create(repository(tmp_path))
    made.baseline(2.4, 2.41)
    made.idea("discard", 2.5)
    made.study.close()
    monkeypatch.chdir(tmp_path)
    before = state(tmp_path)
    said = adopt(capsys, code=1)
    assert "nothing was kept in study mar8" in said and "ar adopt 0" in said and state(tmp_path) == before
    adopt(capsys, "0")


def test_chosen_ones_are_put_beside_what_the_person_has_done_meanwhile(
        made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    clone = made.study.clone
    (clone / "backends/gpt/torch_optim.py").write_bytes(CODE.replace(b"a = 1", b"a = 5"))
    (clone / "notes.md").write_text("mine\n")
    git(clone, "add", "-A")
    git(clone, "commit", "-qm", "My own work")
    (clone / "untracked.txt").write_text("also mine\n")
    adopt(capsys, "2")
    assert (clone / "backends/gpt/torch_optim.py").read_bytes() \
        == CODE.replace(b"a = 1", b"a = 5").replace(b"return 2", b"return 3")
    assert parse((clone / RECIPE).read_text()).optim.matrix_lr == 0.04
    assert git(clone, "log", "-2", "--format=%s").splitlines() == ["Three is better", "My own work"]
    assert (clone / "untracked.txt").read_text() == "also mine\n"


def test_what_stands_on_another_change_names_it_and_nothing_happens(
        made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(made.study.clone)
    said = adopt(capsys, "2", "4", code=1)
    assert "#4 does not fit on main: it turns optim.matrix_lr from 0.02 to 0.01, which is 0.04 here" in said
    assert "It stands on #1; adopt these too: ar adopt 1 2 4" in said and "git cherry-pick" in said
    assert state(made.study.clone) == before
    adopt(capsys, "1", "2", "4")


def test_code_that_the_person_changed_too_is_a_conflict_and_nothing_happens(
        made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    clone = made.study.clone
    (clone / "backends/gpt/torch_optim.py").write_bytes(CODE.replace(b"return 2", b"return 9"))
    git(clone, "commit", "-qam", "My own work")
    before = state(clone)
    assert "the same lines of torch_optim.py were changed" in adopt(capsys, code=1)
    assert state(clone) == before


@pytest.mark.parametrize("stage", [False, True])
def test_a_checkout_with_edits_is_left_alone(made: Made, capsys: pytest.CaptureFixture[str], stage: bool) -> None:
    clone = made.study.clone
    (clone / RECIPE).write_text((clone / RECIPE).read_text() + "# thinking\n")
    if stage:
        git(clone, "add", "-A")
    before = state(clone)
    said = adopt(capsys, code=1)
    assert "edits that are not committed: backends/gpt/recipe.toml" in said and "git stash" in said
    assert state(clone) == before


def test_a_file_in_the_way_is_not_overwritten(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.idea("keep", 2.2, "A new file", files={"ideas.py": b"x = 1\n"})
    mine = made.study.clone / "backends/gpt/ideas.py"
    mine.write_text("y = 2\n")
    before = state(made.study.clone)
    assert "backends/gpt/ideas.py" in adopt(capsys, code=1)
    assert state(made.study.clone) == before and mine.read_text() == "y = 2\n"


def test_without_a_branch_or_with_a_number_that_was_not_kept_there_is_nothing_to_do(
        made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert "#3 is not among what led to the champion of mar8: #0, #1, #2, #4" in adopt(capsys, "3", code=1)
    git(made.study.clone, "checkout", "-q", "--detach")
    assert "no branch is checked out here" in adopt(capsys, code=1)


def test_the_studys_own_branch_and_refs_stay_as_they_are(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    refs = git(made.study.clone, "for-each-ref", "refs/autoresearch", "refs/heads/autoresearch")
    adopt(capsys)
    assert git(made.study.clone, "for-each-ref", "refs/autoresearch", "refs/heads/autoresearch") == refs
    with Study.open(made.study.clone, "mar8") as study, study.lock():
        study.reconcile()


def test_another_study_of_the_same_tag_is_not_taken_for_this_one(
        made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    git(made.study.clone, "commit", "-q", "--allow-empty", "-m", "Something else\n\nExperiment: mar8/1")
    said = adopt(capsys, "1")
    assert "(already there)" not in said and parse((made.study.clone / RECIPE).read_text()).optim.matrix_lr == 0.02
    assert adopt(capsys, "1").startswith("(already there)")
