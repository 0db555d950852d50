"""Beginning a study: it starts from a commit, so what is not in one is not left out in silence."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from autoresearch.cli.studying import refuse_edits
from autoresearch.errors import UserError
from tests.report.made import RECIPE, repository


def test_edits_that_a_new_study_would_not_have_are_named(tmp_path: Path) -> None:
    clone = repository(tmp_path, {"params.py": b"WIDTH = 8\n"})
    (clone / "notes.md").write_text("nothing to do with it\n")
    (clone / "backends/gpt/__pycache__").mkdir()
    (clone / "backends/gpt/__pycache__/params.pyc").write_bytes(b"")
    refuse_edits(clone, None)
    (clone / RECIPE).write_text((clone / RECIPE).read_text() + "# mine\n")
    with pytest.raises(UserError, match=r"would not be in the study: backends/gpt/recipe\.toml") as e:
        refuse_edits(clone, None)
    assert "git commit" in e.value.hint and "git stash" in e.value.hint
    refuse_edits(clone, "modern")  # it has a recipe of its own
    (clone / "backends/gpt/new.py").write_text("NEW = 1\n")
    with pytest.raises(UserError, match=r"backends/gpt/new\.py"):
        refuse_edits(clone, "modern")
    subprocess.run(["git", "stash", "-u", "-q"], cwd=clone, check=True)
    refuse_edits(clone, None)
