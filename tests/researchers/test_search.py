"""Numeric search: its axes, what it learns from whom, and how quickly."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoresearch.errors import UserError
from autoresearch.research.optuna_export import export
from autoresearch.research.researchers.base import Context
from autoresearch.research.researchers.moves import SCHEMA, UP
from autoresearch.research.researchers.search import SAMPLERS, Search, known, told
from autoresearch.research.researchers.space import (
    FAILED,
    REACH,
    Axis,
    importance,
    single_moves,
)
from backends.recipe import Recipe
from benchmarks.proposing import recorded
from benchmarks.simulated import START, Study, Trainer
from tests.researchers.made import calls
from tests.researchers.test_playbook import FLAT, HIDDEN, noisy

EVERY = [move.keys[0] for move in single_moves()]


def empty() -> Context:
    return Study(Recipe(), FLAT).context()


def axis_of(key: str, start: Recipe | None = None) -> Axis:
    """Any key's axis: those of lesser interest join when they were once kept."""
    study = Study(start or Recipe(), FLAT)
    if found := [axis for axis in known(study.context())[0] if axis.key == key]:
        return found[0]
    flat = study.recipe.flat()
    move = next(m for m in single_moves() if m.keys[0] == key)
    turned = move.turn(study.context(), flat, UP, move.stride) or move.turn(study.context(), flat, -UP, move.stride)
    study.objective = lambda r: 1.4
    study.record(turned)
    return next(axis for axis in known(study.context())[0] if axis.key == key)


@pytest.mark.parametrize("key", EVERY)
def test_a_value_and_its_place_are_the_same_thing(key: str) -> None:
    axis = axis_of(key)
    assert axis.at(Recipe().flat()[key]) == pytest.approx(0, abs=1e-9)
    for place in np.linspace(axis.low, axis.high, 9):
        value = axis.value(float(place))
        assert axis.low <= axis.at(value) <= axis.high
        again = axis.value(axis.at(value))
        assert again == (pytest.approx(value, rel=0.01) if type(value) is float else value)


@pytest.mark.parametrize("key", EVERY)
def test_an_axis_lies_within_the_schema_and_within_reach(key: str) -> None:
    axis = axis_of(key)
    assert [SCHEMA[key].check(axis.value(place)) for place in (axis.low, axis.high)] == [None, None]
    assert axis.low <= 0 <= axis.high and axis.low < axis.high
    assert axis.places or axis.move.start or (axis.low >= -REACH and axis.high <= REACH)


@pytest.mark.parametrize("key", ["optim.matrix_lr", "batch.tokens_per_step", "schedule.warmdown_frac",
                                 "optim.muon_momentum", "model.mlp_ratio"])
def test_one_along_an_axis_is_one_stride_of_the_playbook(key: str) -> None:
    axis, flat = axis_of(key), Recipe().flat()
    assert axis.value(1.0) == axis.move.turn(empty(), flat, UP, axis.move.stride)[key]


def test_off_is_a_place_from_which_one_comes_back() -> None:
    axis = axis_of("optim.value_embedding_decay")
    assert axis.value(axis.low) == 0.0 and axis.at(0.0) == axis.low
    assert axis.value(axis.high) >= axis.move.start


def test_keys_that_mattered_join_those_searched_from_the_start() -> None:
    study = Study(Recipe(), lambda r: 1.5 - 0.1 * (r.model.dropout > 0))
    keys = {a.key for a in known(study.context())[0]}
    assert "model.dropout" not in keys >= {"optim.matrix_lr", "model.value_embeds"}
    study.record({"model.dropout": 0.1})
    assert "model.dropout" in {a.key for a in known(study.context())[0]}


def values(study: Study) -> dict[int, float]:
    return {p.n: p.value for p in known(study.context())[1]}


def test_values_add_up_paired_differences_and_code_moves_the_level_for_all() -> None:
    study = Study(Recipe(), lambda r: 1.5 - 0.01 * (r.optim.matrix_lr > 0.05))
    study.record({"optim.matrix_lr": 0.08})
    numbers = study.objective
    study.objective = lambda r: numbers(r) - 0.2  # type: ignore[operator]
    study.record({"optim.matrix_lr": 0.081}, facts={"kind": "code"})  # kept for its code
    study.record({"optim.matrix_lr": 0.02})
    assert values(study) == {0: 0.0, 1: pytest.approx(-0.01), 3: pytest.approx(0.0)}


def test_failures_count_as_worst_unless_the_machine_or_the_code_is_to_blame() -> None:
    study = Study(Recipe(), lambda r: "crash: out of memory" if r != Recipe() else 1.5)
    study.record({"model.depth": 8})
    study.record({"model.depth": 9}, facts={"cause": "machine"})
    study.record({"model.depth": 10}, facts={"kind": "code"})
    assert values(study) == {0: 0.0, 1: FAILED}


def test_an_experiment_that_turned_other_keys_too_says_nothing_about_the_axes() -> None:
    study = Study(Recipe(), FLAT)
    study.record({"optim.matrix_lr": 0.08, "model.activation": "gelu"})
    assert list(values(study)) == [0]


def taught_by_others(count: int = 60) -> Study:
    """Somebody else's experiments on a bowl: rates that are too low score badly."""
    rng, study = random.Random(0), Study(Recipe(), HIDDEN)
    for _ in range(count):
        study.record({"optim.matrix_lr": round(0.04 * 2 ** rng.uniform(-2, 2), 4),
                      "batch.tokens_per_step": 256 * rng.randint(2, 60)}, researcher="person")
    return study


@pytest.mark.parametrize("sampler", ["cma", "tpe"])
def test_it_learns_from_experiments_that_others_proposed(sampler: str) -> None:
    along, points = known(taught_by_others().context())
    state = Search(sampler).sampler.state(along, points, 0)
    rate = next(i for i, axis in enumerate(along) if axis.key == "optim.matrix_lr")
    batch = next(i for i, axis in enumerate(along) if axis.key == "batch.tokens_per_step")
    assert state.mean_A[rate] > 0.3 and state.mean_A[batch] < -0.3  # the best: 0.11 against 0.04, 1,024 against 8,192
    assert state.learned > 40


def test_what_mattered_is_found() -> None:
    found = importance(*known(taught_by_others().context()))
    assert list(found)[:2] == ["batch.tokens_per_step", "optim.matrix_lr"] or list(found)[:2] == [
        "optim.matrix_lr", "batch.tokens_per_step"]
    assert found["optim.matrix_lr"] > 0 > found["batch.tokens_per_step"]
    assert found["model.qk_scale"] == 0  # never turned


@pytest.mark.parametrize("sampler", ["cma", "tpe"])
def test_its_state_in_words_names_ranges_best_points_and_what_matters(sampler: str) -> None:
    study = taught_by_others()
    words = Search(sampler).state(study.context())
    best = min(study.ledger, key=lambda e: e.bpb() or 9)
    assert f"#{best.n} " in words and "optim.matrix_lr: " in words and " to " in words
    assert "differs from the rest most in: " in words and "batch.tokens_per_step lower" in words


def test_an_injected_point_far_away_does_not_blow_the_steps_up() -> None:
    """Without its limit a single point ten strides out doubles CMA-ES's step."""
    study = taught_by_others(40)
    study.record({"optim.matrix_lr": 0.6, "optim.embedding_lr": 9.0, "model.qk_scale": 9.0, "model.mlp_ratio": 15.0})
    while len(study.ledger) % 12:
        study.record({"optim.matrix_lr": 0.1 + 0.0001 * len(study.ledger)})
    state = Search("cma").sampler.state(*known(study.context()), 0)
    assert np.all(np.isfinite(state.step_A)) and state.step_A.max() < 2


def reached(sampler: str) -> float:
    """After a night, the mean of five machines."""
    trainers = [Trainer(n) for n in range(1, 6)]
    return statistics.fmean(trainer.level(Study(START, trainer, Search(sampler), fits=trainer.fits).run(60).recipe)
                            for trainer in trainers)


def test_both_get_further_than_random_search() -> None:
    luck = reached("random")
    assert max(reached("cma"), reached("tpe")) < luck - 0.01


@pytest.mark.parametrize("sampler", ["cma", "tpe", "random"])
def test_any_ending_is_taken_in(sampler: str) -> None:
    study = Study(Recipe(), noisy, Search(sampler)).run(25)
    assert len({Recipe().replace(e.recipe).digest() for e in study.ledger}) == 26, "none is run twice"
    unscored, found = {e.n for e in study.ledger if e.bpb() is None}, values(study)
    assert unscored and len(found) > 1
    assert all((value == FAILED) == (n in unscored) for n, value in found.items() if n)
    assert not any(study.ledger[n].verdict == "interrupted" for n in found), "evidence of nothing"


def test_with_nothing_left_to_sample_the_playbook_proposes() -> None:
    study = Study(Recipe(), FLAT, Search("cma"))
    search = Search("cma")
    context = replace(study.context(), fits=lambda r: r == Recipe() or r.model.dropout > 0)
    proposal = search.propose(context)
    assert proposal.researcher == "playbook" and proposal.changes.keys() == {"model.dropout"}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_work_of_a_proposal_grows_no_faster_than_the_ledger(sampler: str) -> None:
    """Milliseconds are printed by benchmarks/proposing.py."""
    counted = []
    for experiments in (200, 800):
        context, search = recorded(experiments).context(), Search(sampler)
        search.propose(context)  # imports, and TPE is taught
        counted.append(calls(search.propose, context))
    assert counted[1] < 5 * counted[0], counted


def test_tpe_is_taught_only_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    study, search, made = recorded(200), Search("tpe"), list[float]()
    search.propose(study.context())
    create = optuna.create_trial

    def counting(**given: Any) -> optuna.trial.FrozenTrial:
        made.append(given.get("value"))
        return create(**given)

    monkeypatch.setattr(optuna, "create_trial", counting)
    study.record({"optim.matrix_lr": 0.0123})
    search.propose(study.context())
    assert len([value for value in made if value is not None]) == 1


def test_words_for_a_state_with_one_result() -> None:
    along, points = known(empty())
    assert "#0 +0.0000: the baseline" in told(Search("tpe").sampler.state(along, points, 0), along, points)


def test_optuna_reads_what_is_exported(tmp_path: Path) -> None:
    import optuna

    study = Study(Recipe(), noisy, Search("tpe")).run(15)
    path = tmp_path / "study.db"
    assert export(study.ledger, path, "mar8") == 16
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    found = optuna.load_study(study_name="mar8", storage=storage)
    assert found.best_value == pytest.approx(min(e.bpb() or 9 for e in study.ledger))
    assert [t.user_attrs["experiment"] for t in found.trials] == list(range(16))
    for trial, e in zip(found.trials, study.ledger, strict=True):
        assert all(trial.params[key] == e.recipe[key] for key in trial.params) and "optim.matrix_lr" in trial.params
        assert (trial.value is None) == (e.bpb() is None)
    storage.engine.dispose()
    with pytest.raises(UserError, match="exists already"):
        export(study.ledger, path, "mar8")
    assert [p.name for p in tmp_path.iterdir()] == ["study.db"]


def test_an_export_to_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        export([], tmp_path / "missing" / "night.db", "mar8")
