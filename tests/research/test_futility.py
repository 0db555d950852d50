"""Stopping early: what is compared with what, how much is forgiven, and where nothing is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.harness.jobs import DEV_FRACTIONS
from autoresearch.harness.supervise import Outcome, TrialFailed
from autoresearch.records import BASELINE, Experiment, Pair, Point, Score, Trial
from autoresearch.research import futility
from autoresearch.research.futility import LOOKS, Hope, applies, margin
from autoresearch.research.lab import Candidate
from backends.recipe import Recipe
from tests.research.planted import Night, Planted

THEIRS = [2.6, 2.4, 2.3, 2.2, 2.15]


def trial(number: int, experiment: int, dev: list[float], seed: int = 1, purpose: str = "screen") -> Trial:
    curve = tuple(Point(k, 10 * f, None, d) for k, (f, d) in enumerate(zip(DEV_FRACTIONS, dev, strict=False)))
    return Trial(number, experiment, seed, purpose, "ok", 10.0, "", curve=curve,
                 scores=(Score("val", 1.0, 1, 1, 1, 1),) if len(dev) == len(DEV_FRACTIONS) else ())


def experiment(n: int, *trials: Trial, **changes: object) -> Experiment:
    return Experiment(n, "", "", "", "", "", changes, {}, "done", "keep", "", "", trials)


BASE = experiment(0, trial(1, 0, THEIRS))


def hope(changes: dict[str, object], files: tuple[str, ...] = ("backends/gpt/recipe.toml",), n: int = 1,
         past: tuple[Experiment, ...] = (), pairs: tuple[Pair, ...] = (), seed: int = 1) -> Hope:
    candidate = replace(experiment(n), changes=changes)
    return Hope.of([BASE, *past, candidate], pairs, BASE, n, files, seed)


def told(h: Hope, dev: list[float]) -> list[str]:
    """What is said at each point of a curve, plain training reports in between."""
    said = []
    for k, d in enumerate(dev):
        assert h.lost(Point(k, 1.0, 3.0)) == ""
        said.append(h.lost(Point(k, 10 * DEV_FRACTIONS[k], None, d)))
    return said


def test_a_trial_far_behind_is_stopped_at_the_first_look_that_says_so() -> None:
    said = told(hope({"model.depth": 2}), [THEIRS[0] + 0.5])
    assert said[0].startswith("stopped at 20% of its budget: 0.5000 bits per byte behind the incumbent on dev")
    assert told(hope({"model.depth": 2}), [2.6, 2.4, 2.3, 2.2, 2.15]) == [""] * 5
    late = told(hope({"model.depth": 2}), [2.6, 2.4, 2.3, 2.3])
    assert late[:3] == [""] * 3 and late[3].startswith("stopped at 80%")


def test_a_trial_that_diverged_and_is_run_again_is_judged_from_its_new_beginning(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both runs of it tell the same listener. What the second has at 20% is not compared with the incumbent's 40%."""
    monkeypatch.delenv(futility.OFF, raising=False)
    curve = [Point(k, 300 * f, None, d) for k, (f, d) in enumerate(zip(DEV_FRACTIONS, THEIRS, strict=True))]

    def train(*args: Any, listen: Callable[[dict[str, Any]], None], **more: Any) -> Outcome:
        try:
            for run in (curve[:1], curve):  # the first diverges after its first dev loss
                for event in ("loaded", "ready"):
                    listen({"event": event})
                for point in run:
                    listen({"event": "step", "point": point})
        except TrialFailed as e:
            return Outcome(status=e.status, reason=e.reason)
        return Outcome()

    monkeypatch.setattr(Planted, "train", train)
    night = Night.create(tmp_path, lambda recipe, files: 2.0)
    with night.made.study as study:
        ledger = study.ledger
        ledger.set_fact("val_rows", 1)
        ledger.end_trial(ledger.start_trial(BASELINE, 7, "screen", 300.0, {}), "ok", curve=curve,
                         scores=[Score("val", 1.0, 1, 1, 1, 1)])
        n = ledger.propose(parent=study.workspace.head(), researcher="test", hypothesis="", evidence="",
                           changes={"model.depth": 2}, recipe={})
        trial = night.lab().screen(Candidate(n, {}, Recipe()), 7)
    assert (trial.status, trial.reason) == ("ok", "")


def test_the_last_measurement_stops_nothing() -> None:
    assert told(hope({"model.depth": 2}), [*THEIRS[:4], 9.0])[-1] == ""


@pytest.mark.parametrize(("changes", "files", "judged"), [
    ({"model.depth": 2}, ["backends/gpt/recipe.toml"], True),
    ({"optim.matrix_lr": 0.1}, ["backends/gpt/recipe.toml"], True),
    ({}, ["backends/gpt/torch_model.py"], True),
    ({"schedule.warmdown_frac": 0.9}, ["backends/gpt/recipe.toml"], False),
    ({"model.depth": 2, "schedule.seq_parts": 2}, ["backends/gpt/recipe.toml"], False),
    ({"data.tokenizer": "byte"}, ["backends/gpt/recipe.toml"], False),
    ({"model.seq_len": 512}, ["backends/gpt/recipe.toml"], False),
    ({"model.dropout": 0.1}, ["backends/gpt/recipe.toml"], False),
    ({"extra.anything": 1}, ["backends/gpt/recipe.toml"], False),
    ({}, ["backends/gpt/schedule.py", "backends/gpt/torch_model.py"], False),
    ({}, [], False),
])
def test_changes_whose_curves_cross_are_run_to_their_end(changes: dict, files: list[str], judged: bool) -> None:
    assert applies(list(changes), files) == judged
    assert bool(told(hope(changes, tuple(files)), [9.0])[0]) == judged


def test_without_an_incumbents_curve_on_that_seed_nothing_is_judged() -> None:
    assert told(hope({"model.depth": 2}, seed=2), [9.0]) == [""]
    torn = experiment(0, trial(1, 0, THEIRS[:3]))
    assert not Hope.of([torn, replace(experiment(1), changes={"model.depth": 2})], [], torn, 1, (), 1).theirs
    assert told(hope({"model.depth": 2}, n=0), [9.0]) == [""]


def test_trials_that_caught_up_make_the_rule_more_patient_and_steady_ones_less() -> None:
    """Of the same study: candidates that were 0.1 behind all along, and ones that made up for it."""
    def margins(caught: float) -> list[float]:
        past = tuple(experiment(n, trial(10 + n, n, [t + caught * (t - THEIRS[-1]) for t in THEIRS]),
                                **{"model.width": n}) for n in range(2, 22))
        pairs = tuple(Pair(e.n, e.trials[0].id, 1, 0.0) for e in past)
        h = hope({"model.depth": 2}, past=past, pairs=pairs)
        assert len(h.past) == 20 and h.past[0] == pytest.approx([caught] * len(LOOKS))
        return [margin(k, 1.0, [c[k] for c in h.past]) for k in range(len(LOOKS))]

    unknown = [margin(k, 1.0, []) for k in range(len(LOOKS))]
    assert all(a < b < c for a, b, c in zip(margins(0.0), unknown, margins(1.0), strict=True))


@given(st.integers(0, len(LOOKS) - 1), st.floats(0, 10), st.lists(st.floats(-3, 3), max_size=30))
def test_a_margin_is_never_negative_and_grows_with_what_is_left_to_gain(look: int, left: float,
                                                                        past: list[float]) -> None:
    assert 0 <= margin(look, left, past) <= margin(look, left + 1, past)


def test_the_switch_is_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(futility.OFF, raising=False)
    assert futility.wanted()
    monkeypatch.setenv(futility.OFF, "1")
    assert not futility.wanted()
