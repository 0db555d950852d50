"""Nights that train for real, with a scripted model; and what `ar context` prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoresearch.data.prepared import Prepared
from tests.loop.conftest import RIGHT, SLOW, TAG, Place, begin, decided, make_clone
from tests.researchers.messages_server import KEY, Reply, failure, message, serving, tool


def edit(backend: str, old: str, new: str, hypothesis: str) -> Reply:
    file = "mlx_model.py" if backend == "mlx" else "torch_model.py"
    return message(tool("replace_in_file", path=file, old=old, new=new),
                   tool("submit", hypothesis=hypothesis, evidence="#0"))


def test_the_context_is_printed_as_researchers_get_it(place: Place) -> None:
    (place.worktree / "guidance.md").write_text("Only schedules tonight.\n")
    told = place.ar("context").stdout
    assert "Make it better." in told and "Only schedules tonight." in told and "## mlx_model.py" in told
    assert "#0 the baseline" in told and "backend mlx" in told
    (place.worktree / "guidance.md").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["mlx", "cpu"])
def test_a_model_drives_a_study_that_trains_with_code_edits(backend: str, text: Prepared, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(make_clone(tmp_path / "clone"), text)
    begin(place, backend, 1.0)
    rate = tool("set_recipe", changes=[{"key": "optim.matrix_lr", "value": 1e-5}], extra=[])
    script = [
        message(rate, tool("submit", hypothesis="hardly any learning", evidence="#0")),
        edit(backend, "def logits(", "raise RuntimeError('as scripted')\n\n\ndef logits(", "it can't be imported"),
        edit(backend, "def logits(", "import socket\n\n\ndef logits(", "an import that nothing uses"),
        message(tool("replace_in_file", path="params.py", old="no such text", new="")),
        edit("mlx", SLOW, RIGHT, "the normalisation that it lacked"),
        failure(401, "authentication_error", "invalid x-api-key")]
    with serving(*script) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        done = place.start("loop", "--tag", TAG, "--experiments", "5", "--verify-seeds", "0", "--researcher", "claude")
        done.finish(within_s=280)
        monkeypatch.delenv("ANTHROPIC_API_KEY")
    tried = [e for e in place.experiments() if e.n > 0]
    assert [e.researcher for e in tried] == ["claude"] * 4 + ["playbook"]
    assert tried[0].verdict == "discard" and tried[1].verdict in ("crash", "invalid")
    assert decided(tried[2]), "the lint is a courtesy: what it remarks on is judged by its score"
    assert tried[3].verdict == "keep" or backend == "cpu", "the other framework's file is no news to it"
    assert KEY not in done.stdout + done.stderr
    cost = place.ar("cost").stdout
    assert "claude-opus-5-5" in cost and "playbook" in cost
