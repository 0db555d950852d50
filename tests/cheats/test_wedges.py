"""Proposals that would stop a night, or pass for the machine's fault, are refused, and are invalid where they are
committed all the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autoresearch.errors import UserError
from autoresearch.research import storage
from autoresearch.research.loop import Loop
from autoresearch.research.researchers.base import Proposal
from autoresearch.research.researchers.playbook import Playbook
from autoresearch.research.until import Until
from backends.recipe import Recipe
from backends.spec import GPTSpec
from tests.research.planted import Night

HUGE = {"model.width": 8192, "model.head_dim": 128, "model.depth": 4}
LARGE = {"model.width": 4096, "model.head_dim": 128, "model.depth": 5}


def loop_of(night: Night) -> Loop:
    return Loop(night.lab(), Playbook(), {}, Until())


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """On a machine that computes in float32 and no other precision. A larger model is a better one."""
    return Night.create(tmp_path, lambda recipe, files: 2.0 - 1e-5 * recipe.model.width)


@pytest.mark.parametrize(("changes", "why"), [
    ({"runtime.precision": "float16"}, "runtime.precision = float16: the probe found float32 usable here"),
    (HUGE, r"needs \d\d\.\d GB of disk space, and the study may take 20.0 GB \(ar loop --disk\)"),
])
def test_what_can_never_run_is_refused_and_invalid_before_it_trains(night: Night, changes: dict, why: str) -> None:
    loop, proposal = loop_of(night), Proposal("an idea", "", changes, {})
    assert re.search(why, loop.refusal(proposal)), loop.refusal(proposal)
    judged = loop.judge(loop.commit(proposal))
    assert judged is not None and (judged.verdict, judged.trials) == ("invalid", ()) and re.search(why, judged.reason)
    assert loop.refusal(Proposal("another", "", {"model.width": 64}, {})) == ""


def test_weights_for_which_there_is_no_room_any_more_are_invalid_and_the_night_goes_on(
        night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial of a promising one leaves its weights until it is decided."""
    loop = loop_of(night)
    experiment = loop.commit(Proposal("an idea", "", LARGE, {}))
    weights_bytes = 4 * GPTSpec.of(Recipe().replace(experiment.recipe), 257).params()
    monkeypatch.setattr(storage, "folder_bytes", lambda trials: weights_bytes * sum(
        t.status == "ok" for t in loop.lab.ledger.experiment(experiment.n).trials))
    judged = loop.judge(experiment)
    assert judged is not None and judged.verdict == "invalid" and "the champion's would fit" in judged.reason
    assert len(judged.trials) > 1
    monkeypatch.setattr(storage, "folder_bytes", lambda trials: 19_900_000_000)
    with pytest.raises(UserError, match=r"of the 20\.0 GB of disk space"):  # its own need is the champion's
        loop.judge(loop.commit(Proposal("another", "", {"model.width": 64}, {})))
