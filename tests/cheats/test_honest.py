"""Honest edits pass every layer that a cheat is caught by: gate, sandbox, clock, scorer, replay audit, quarantine."""

from __future__ import annotations

import pytest

from autoresearch.research.lint import lint
from tests.cheats.conftest import Attempt
from tests.cheats.edits import BACKENDS, PRELUDE, Edit
from tests.cheats.honest import HONEST

slow = pytest.mark.slow
FAST = {("several things at once", "mlx")}
CASES = [pytest.param(edit, backend, id=f"{name}, {backend}", marks=() if (name, backend) in FAST else slow)
         for name, edit in HONEST.items() for backend in BACKENDS]


@pytest.mark.parametrize(("edit", "backend"), CASES)
def test_an_honest_edit_passes_every_layer(attempt: Attempt, edit: Edit, backend: str) -> None:
    """Whether it is better is another question: here every score is, so that every one is replayed."""
    ended = attempt(edit, backend, {"off": ["ratchet"]})
    assert ended.verdict == "keep", ended
    assert "replay of" in ended.reason and ended.trial.steps > 0


def test_the_lint_finds_nothing_to_say_about_them() -> None:
    assert len(HONEST) >= 15
    for name, edit in HONEST.items():
        optim = edit.optim if isinstance(edit.optim, str) else "".join(edit.optim.values())
        code = "\n".join([PRELUDE["mlx"], edit.model, optim, edit.params, edit.schedule])
        assert lint({"a.py": code.encode()}) == [], name
