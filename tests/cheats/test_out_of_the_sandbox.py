"""Candidates that turn on the processes around them: their supervisor, and those that should end with them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autoresearch.harness import sandbox
from tests.cheats.cheats import in_loss
from tests.cheats.edits import Edit, write
from tests.harness.tiny import comes_true, ours_below
from tests.loop.conftest import TAG, Command, Place, result_of

pytestmark = pytest.mark.slow
CopyOf = Callable[[str], Place]


def tried(place: Place, edit: Edit, code: int = 0) -> Command:
    write(edit, place.worktree / "backends/gpt", "mlx", place.text, {})
    return place.ar("try", "--tag", TAG, "-m", "an edit", "--ratchet", "greedy", code=code)


def test_a_candidate_can_not_kill_its_supervisor(copy_of: CopyOf, monkeypatch: pytest.MonkeyPatch) -> None:
    edit = in_loss("import signal\nos.kill(os.getppid(), signal.SIGKILL)")
    result = result_of(tried(copy_of("mlx"), edit))
    assert result["verdict"] == "crash" and "PermissionError" in result["reason"]
    monkeypatch.setenv(sandbox.SWITCH, "off")
    place = copy_of("mlx")
    tried(place, edit, code=-9)
    monkeypatch.delenv(sandbox.SWITCH)
    place.ar("loop", "--tag", TAG, "--experiments", "1", "--verify-seeds", "0")  # finishes what was killed, shut in
    assert (place.last().state, place.last().verdict) == ("done", "crash")


def test_a_process_that_goes_on_after_the_clock_ends_with_the_trial(copy_of: CopyOf,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """It would train on, and replace the weights when nobody looks."""
    code = "if os.fork() == 0:\n    {leave}\n    time.sleep(60)\n    os._exit(0)"
    result = result_of(tried(copy_of("mlx"), in_loss(code.format(leave="os.setsid()"))))
    assert result["verdict"] == "crash" and "PermissionError" in result["reason"]
    stayed = copy_of("mlx")
    assert result_of(tried(stayed, in_loss(code.format(leave="pass"))))["verdict"] in ("keep", "discard")
    assert not ours_below(stayed.root)
    monkeypatch.setenv(sandbox.SWITCH, "off")
    left = copy_of("mlx")
    tried(left, in_loss(code.format(leave="os.setsid()")))
    assert comes_true(lambda: not ours_below(left.root), 3), "the supervisor ends those that left, too"
