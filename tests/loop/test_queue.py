"""`ar queue`, and what would only run again: both before anything is trained."""

from __future__ import annotations

import pytest

from autoresearch.research.study import Study
from tests.loop.conftest import MODEL_FILE, TAG, Place, decided, result_of
from tests.loop.test_loop import LOOP, agrees
from tests.loop.test_try import attempt, edit, is_clean


@pytest.mark.slow
def test_a_persons_own_experiment_comes_next_and_one_that_only_repeats_costs_no_trial(place: Place) -> None:
    before = place.last().n
    queue = ("queue", "--tag", TAG)
    place.ar(*queue, "-m", "spelled otherwise", "--set", "model.window_pattern=LLL")
    with Study.open(place.clone, TAG) as study:
        study.ledger.queue.add("stale", {}, "--- a/backends/gpt/params.py\n+++ b/backends/gpt/params.py\n"
                                            "@@ -1 +1 @@\n-long gone\n+new\n")  # it applied once
        study.ledger.queue.add("calmer", {"optim.matrix_lr": 0.0123})
    place.ar(*LOOP, "--experiments", "2")
    repeat, stale, calmer = (e for e in place.experiments() if e.n > before)
    assert (repeat.verdict, repeat.trials, repeat.researcher) == ("invalid", (), "person")
    assert repeat.reason.startswith("it is #") and "again" in repeat.reason
    assert (stale.verdict, stale.trials, stale.sha) == ("invalid", (), "") and "does not apply" in stale.reason
    assert (calmer.researcher, calmer.hypothesis, calmer.changes) == ("person", "calmer", {"optim.matrix_lr": 0.0123})
    assert calmer.trials and decided(calmer)
    assert place.ar(*queue).stdout == "nothing is queued\n"
    agrees(place)


def test_an_edit_that_says_nothing_new_is_invalid_without_training(place: Place) -> None:
    edit(place, MODEL_FILE, "def logits(", "# the same in other words\n\n\ndef logits(")
    result = result_of(attempt(place, "a comment"))
    assert result["verdict"] == "invalid" and result["reason"].startswith("it is #")
    assert place.last().trials == () and is_clean(place)
    agrees(place)
