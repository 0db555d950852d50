"""`ar delete`: all of a study goes, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from autoresearch.cli import run, shell
from autoresearch.research.study import Study
from tests.report.made import Made, repository


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two studies, the first with an experiment."""
    made = Made.create(repository(tmp_path))
    made.baseline(2.4, 2.41)
    made.idea("keep", 2.3, changes={"optim.matrix_lr": 0.02})
    made.study.close()
    Made.create(tmp_path, "mar9").study.close()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def git(clone: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=clone, check=True, capture_output=True, text=True).stdout


def test_nothing_of_a_deleted_study_is_left_and_its_tag_is_free_again(
        clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, others = git(clone, "rev-parse", "HEAD"), [ref for ref in git(clone, "for-each-ref").splitlines()
                                                     if "mar8" not in ref]
    assert run(shell.command, ["delete", "mar8", "--yes"], "ar") == 0
    assert "deleted study mar8" in capsys.readouterr().out
    assert Study.tags(clone) == ["mar9"] and not (clone / "studies" / "mar8").exists()
    assert git(clone, "for-each-ref").splitlines() == others and "mar8" not in git(clone, "worktree", "list")
    assert (git(clone, "rev-parse", "HEAD"), git(clone, "status", "--porcelain")) == (head, "")
    with Made.create(clone).study as study:
        assert study.ledger.experiments() == []


def test_a_study_that_is_worked_on_or_not_there_or_not_named_again_is_not_deleted(
        clone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with Study.open(clone, "mar8") as study, study.lock():
        assert run(shell.command, ["delete", "mar8", "--yes"], "ar") == 1
        assert "in use by process" in capsys.readouterr().err
    assert run(shell.command, ["delete", "mar7", "--yes"], "ar") == 1
    assert "there is no study 'mar7'" in capsys.readouterr().err
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda text: "yes")
    assert run(shell.command, ["delete", "mar8"], "ar") == 1
    assert "study mar8 was not deleted" in capsys.readouterr().err and "mar8" in Study.tags(clone)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda text: "mar8")
    assert run(shell.command, ["delete", "mar8"], "ar") == 0 and "mar8" not in Study.tags(clone)
