"""`ar probe`: a plan that fits into memory and that the budget can feed, from a cost model that is checked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoresearch import costs, probe, probing, settle, sizes
from autoresearch.costs import Costs, Measured
from autoresearch.data.prepared import Prepared
from autoresearch.errors import UserError
from autoresearch.probe import Plan
from backends.base import Device
from backends.cards import Card, abilities
from backends.recipe import Recipe, parse
from backends.spec import GPTSpec
from tests.harness.tiny import comes_true, honest, ours_below, tiny_recipe
from tests.loop.conftest import Place, make_clone
from tests.loop.machines import GOOD, SPEED, Machine

GIB = 1 << 30
FAST = Costs(tuple(w / 100 for w in SPEED.weights), 0.7)  # a hundred times a small CPU
SERVER = Device("a server", 24 * GIB, ("bfloat16", "float32"))


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing that another test measured."""
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))


def planned(monkeypatch: pytest.MonkeyPatch, text: Prepared, machine: Machine, budget_s: float = 300.0,
            backend: str = "cuda", fresh: bool = False, patient: bool = False, times: int = 10**6,
            **changes: Any) -> tuple[Plan, Recipe]:
    """`times`: how many times as long the text is said to be."""
    monkeypatch.setattr(probing, "Measuring", machine)
    monkeypatch.setattr(settle, "Measuring", machine)
    train = text.manifest.splits["train"]
    splits = text.manifest.splits | {"train": replace(train, bytes=times * train.bytes)}
    text = replace(text, manifest=replace(text.manifest, splits=splits))
    base = tiny_recipe(**({"model__seq_len": 256, "batch__tokens_per_step": 256} | changes))
    plan = probe.probe(honest(), base, backend, text, budget_s, fresh, patient)
    return plan, base.replace(plan.changes)


# The cost model


def runs(speed: Costs, shapes: tuple[tuple[int, int, int], ...], vocab: int = 2048) -> list[Measured]:
    recipes = [sizes.sized(Recipe(), *shape) for shape in shapes]
    return [Measured(r, vocab, speed.step_s(r, vocab), speed.memory_bytes(r, vocab)) for r in recipes]


def test_a_machine_that_costs_what_the_model_says_is_predicted_exactly() -> None:
    fitted = costs.fit(runs(SPEED, ((2, 128, 1024), (2, 128, 8192), (3, 192, 4096), (4, 256, 4096), (4, 256, 1024))))
    others = runs(SPEED, ((8, 512, 16384), (2, 192, 2048)))
    assert costs.errors(fitted, others) == pytest.approx([0, 0], abs=1e-4)
    assert fitted.memory_factor == pytest.approx(0.7, rel=1e-3)


def test_costs_are_never_negative_and_survive_noise() -> None:
    measured = runs(SPEED, ((2, 128, 1024), (2, 128, 8192), (3, 192, 4096), (4, 256, 4096), (4, 256, 1024)))
    noisy = [replace(m, step_s=m.step_s * f) for m, f in zip(measured, (1.1, 0.9, 1.08, 0.93, 1.1), strict=True)]
    fitted = costs.fit(noisy)
    assert all(w >= 0 for w in fitted.weights) and max(map(abs, costs.errors(fitted, measured))) < 0.15


@pytest.mark.parametrize("seed", range(20))
def test_weights_that_are_not_negative_are_the_best_there_are(seed: int) -> None:
    """By the conditions of Karush, Kuhn and Tucker: no weight could fall, and none that is used could change, for the
    better."""
    rng = np.random.default_rng(seed)
    a, b = rng.random((9, 4)), rng.normal(size=9)
    x = costs.not_negative(a, b)
    slope = a.T @ (a @ x - b)
    assert np.all(x >= 0) and np.all(slope > -1e-9) and np.abs(slope[x > 0]).max(initial=0.0) < 1e-9


def test_one_run_is_enough_for_a_model_that_meets_it() -> None:
    [only] = runs(SPEED, ((2, 128, 1024),))
    assert costs.errors(costs.fit([only]), [only]) == pytest.approx([0], abs=1e-6)


# The plan


def test_the_plan_says_what_was_measured_and_why(monkeypatch: pytest.MonkeyPatch, text: Prepared) -> None:
    plan, recipe = planned(monkeypatch, text, Machine(SERVER))
    found, s = plan.found, plan.chosen
    assert found.held_out_error() is not None and found.held_out_error() < 0.01  # type: ignore[operator]
    assert (recipe.model.depth, recipe.model.width) == (s.depth, s.width) and s in plan.table
    assert recipe.runtime.precision == "bfloat16" and recipe.runtime.compile
    assert found.gain == pytest.approx(2, rel=0.05)
    same = [r for r in plan.table if r.tokenizer == s.tokenizer]
    assert s.score == min(r.score for r in same) and {r.tokenizer for r in plan.table} == set(text.tokenizers())
    assert min(r.params for r in same) < s.params < max(r.params for r in same), "it stands between others"
    for said in ("score best of what fits", "2.0 times as fast (measured)", "bfloat16", f"{s.steps:,} steps"):
        assert said in plan.why


def test_memory_is_known_from_runs_that_raised_its_peak(monkeypatch: pytest.MonkeyPatch, text: Prepared) -> None:
    """A small run after a larger one has that one's peak, and some pages more."""
    plan, _ = planned(monkeypatch, text, Machine(SERVER))
    assert plan.found.memory_factor == pytest.approx(1, rel=0.01)  # the test's machine takes what is estimated


def test_steps_are_predicted_as_they_then_take(monkeypatch: pytest.MonkeyPatch, text: Prepared) -> None:
    machine = Machine(SERVER)
    plan, recipe = planned(monkeypatch, text, machine)
    assert plan.chosen.step_s == pytest.approx(machine.step_s(recipe, text.tokenizer("byte").vocab), rel=0.05)


@pytest.mark.parametrize(("gib", "seq_len"), [(0.25, 64), (1, 64), (1, 8192), (80, 64), (80, 8192)])
def test_nothing_is_measured_or_proposed_that_does_not_fit_into_memory(
        text: Prepared, monkeypatch: pytest.MonkeyPatch, gib: float, seq_len: int) -> None:
    machine = Machine(Device("fast", int(gib * GIB), ("float32",)), FAST)
    plan, recipe = planned(monkeypatch, text, machine, 3600, model__seq_len=seq_len, batch__tokens_per_step=seq_len)
    vocab = text.tokenizer("byte").vocab
    for each in (recipe, *machine.begun[1:]):
        assert GPTSpec.of(each, vocab).training_bytes(each.micro_rows, 4) <= gib * GIB
    assert all(row.memory_bytes <= gib * GIB for row in plan.table)
    assert recipe.batch.tokens_per_step >= 8192  # a fast machine's steps are not small


def test_a_model_that_runs_out_of_memory_when_tried_is_not_proposed(
        monkeypatch: pytest.MonkeyPatch, text: Prepared) -> None:
    """Other programs hold what the device says it has."""
    machine = Machine(Device("shared", 8 * GIB, ("float32",)), FAST, really_bytes=GIB)
    plan, recipe = planned(monkeypatch, text, machine, 3600)
    vocab = text.tokenizer("byte").vocab
    assert max(costs.estimated_bytes(r, vocab) for r in machine.begun) > GIB, "the test's machine was never filled"
    assert costs.estimated_bytes(recipe, vocab) <= GIB and plan.device["memory_bytes"] < 8 * GIB


def test_a_machine_on_which_nothing_fits_is_told_so(text: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(Device("tiny", 1 << 26, ("float32",)), FAST)
    with pytest.raises(UserError, match=r"fits into this device's memory of 0\.1 GiB"):
        planned(monkeypatch, text, machine, model__seq_len=8192, batch__tokens_per_step=8192)


def test_a_slow_machine_gets_the_smallest_size(text: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Costs(tuple(100 * w for w in SPEED.weights), 0.7)
    plan, recipe = planned(monkeypatch, text, Machine(SERVER, slow), 30)
    assert (recipe.model.depth, recipe.model.width) == sizes.SHAPES[0] and plan.chosen.steps > 0


@pytest.mark.parametrize("budget_s", [5.0, 60.0, 3600.0])
def test_a_longer_budget_never_gets_a_smaller_model(text: Prepared, monkeypatch: pytest.MonkeyPatch,
                                                    budget_s: float) -> None:
    machine = Machine(SERVER)
    short, long = (planned(monkeypatch, text, machine, b)[0].chosen for b in (budget_s, 3 * budget_s))
    assert short.params <= long.params


def test_a_text_that_is_read_many_times_keeps_its_best_weights_and_a_long_one_its_last(
        text: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    short, recipe = planned(monkeypatch, text, Machine(SERVER), times=1)
    assert short.chosen.readings > 5 and recipe.schedule.keep_best_dev and "learns it by heart" in short.why
    long, recipe = planned(monkeypatch, text, Machine(SERVER))
    assert long.chosen.readings < 1 and not recipe.schedule.keep_best_dev and "by heart" not in long.why
    assert short.chosen.params <= long.chosen.params, "what is memorised anyway is no larger"


# Precision


SM_75 = Device("GTX 1660 Ti", 6 * GIB, abilities(Card("GTX 1660 Ti", (7, 5))).precisions)


@pytest.mark.parametrize(("device", "change", "chosen"), [
    (SM_75, {"flushed_frac": 0.93}, "float32"), (SM_75, {"speed_ratio": 0.5}, "float32"), (SM_75, {}, "float16"),
    (SERVER, {}, "bfloat16"), (SERVER, {"worst_cosine": 0.1}, "float32"),
])
def test_low_precision_is_proposed_only_where_it_is_faithful_and_faster(
        text: Prepared, monkeypatch: pytest.MonkeyPatch, device: Device, change: dict[str, Any], chosen: str) -> None:
    machine = Machine(device, faithful=replace(GOOD, **change))
    plan, recipe = planned(monkeypatch, text, machine)
    assert recipe.runtime.precision == chosen and plan.device["precisions"][0] == chosen
    low = device.precisions[0] if device is SERVER else "float16"
    assert (low in plan.device["precisions"]) == (chosen == low), "what was refused is not offered to researchers"
    vocab = text.tokenizer("byte").vocab
    assert plan.chosen.step_s == pytest.approx(machine.step_s(recipe, vocab), rel=0.1)
    assert [v["allowed"] for v in plan.found.verdicts] == [chosen == low]


def test_slow_products_are_not_even_compared(text: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(SERVER, products=0.1)
    plan, recipe = planned(monkeypatch, text, machine)
    assert recipe.runtime.precision == "float32" and "products are slower" in plan.found.verdicts[0]["reason"]


@pytest.mark.parametrize("unknown", ["float32", "bfloat16"])
def test_products_that_were_not_measured_allow_nothing_and_are_measured_again(
        monkeypatch: pytest.MonkeyPatch, unknown: str) -> None:
    machine = Machine(SERVER)
    monkeypatch.setattr(Machine, "ceiling", lambda self, precision, *_: [2e11] * 3 + [2e11 * (precision != unknown)])
    monkeypatch.setattr(settle, "Measuring", machine)
    found = [settle.settled(honest(), "cuda", tiny_recipe(runtime__precision="auto"), 257) for _ in range(2)]
    assert found[0] == found[1] and machine.starts == 2
    assert found[0].precision == "float32" and "was not measured" in found[0].verdicts[0].reason


def test_auto_is_settled_once_for_recipes_of_a_kind(text: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(SM_75, faithful=replace(GOOD, flushed_frac=0.9))
    monkeypatch.setattr(settle, "Measuring", machine)
    base = tiny_recipe(runtime__precision="auto")
    first = settle.settled(honest(), "cuda", base, 257)
    assert first.precision == "float32" and "90% of gradients" in first.verdicts[0].reason
    larger = base.replace({"model.depth": 3, "batch.tokens_per_step": 4096})
    assert settle.settled(honest(), "cuda", larger, 257) == first and machine.starts == 1
    settle.settled(honest(), "cuda", base.replace({"model.activation": "silu"}), 257)
    assert machine.starts == 2


def test_a_card_before_triton_is_not_told_to_compile(text: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    pascal = abilities(Card("GTX 1080 Ti", (6, 1)))
    machine = Machine(Device("GTX 1080 Ti", 11 * GIB, pascal.precisions, pascal.compiles))
    plan, recipe = planned(monkeypatch, text, machine)
    assert not recipe.runtime.compile and "not compiled" in plan.why
    assert not any(r.runtime.compile for r in machine.begun)


def test_a_gain_that_could_not_be_measured_is_called_assumed(text: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, recipe = planned(monkeypatch, text, Machine(SERVER, compiling_s=100))
    assert recipe.runtime.compile and plan.found.gain == probing.COMPILE_GAIN and "assumed" in plan.why


def test_a_study_waits_for_the_compiler(text: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was assumed in a minute before is measured then, and nothing else is again."""
    machine = Machine(SERVER, compiled=2.5, compiling_s=100)
    quick, _ = planned(monkeypatch, text, machine)
    starts = machine.starts
    plan, _ = planned(monkeypatch, text, machine, patient=True)
    assert plan.found.gain == pytest.approx(2.5, rel=0.05) and "(measured)" in plan.why
    assert plan.found.runs == quick.found.runs and 0 < machine.starts - starts <= probing.COMPILED_SIZES
    assert plan.chosen.params >= quick.chosen.params and plan.chosen.steps > 0
    starts = machine.starts
    assert planned(monkeypatch, text, machine)[0] == plan and machine.starts == starts, "a quick look knows it then"
    assert planned(monkeypatch, text, Machine(SERVER, compiling_s=1000), 60, patient=True)[0].found.is_assumed


# What was measured before


def test_what_was_measured_is_measured_once(text: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(SERVER)
    first, _ = planned(monkeypatch, text, machine)
    starts = machine.starts
    assert planned(monkeypatch, text, machine)[0] == first and machine.starts == starts
    assert planned(monkeypatch, text, machine, model__depth=7)[0].changes | {"model.depth": 0} \
        == first.changes | {"model.depth": 0} and machine.starts == starts, "a recipe's own size is no matter"
    planned(monkeypatch, text, machine, fresh=True)
    assert machine.starts > starts
    for change in ({"budget_s": 60.0}, {"backend": "cpu"}, {"model__activation": "gelu"}):
        before = machine.starts
        planned(monkeypatch, text, machine, **change)  # type: ignore[arg-type]
        assert machine.starts > before, change


def test_a_damaged_record_is_measured_again(text: Prepared, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(SERVER)
    first, _ = planned(monkeypatch, text, machine)
    [record] = (tmp_path / "cache/probed").glob("*.json")
    record.write_text(record.read_text()[:100])
    assert planned(monkeypatch, text, machine)[0].chosen == first.chosen
    assert json.loads(record.read_text())["gain_how"] == "measured"


# The command


@pytest.mark.slow
def test_the_probe_of_this_machine_proposes_a_recipe_that_can_be_run(text: Prepared, tmp_path: Path) -> None:
    clone = Place(make_clone(tmp_path), text)
    plan = json.loads(clone.ar("probe", "--budget", "1", "--backend", "cpu", "--json").stdout)
    assert plan.keys() == {"backend", "device", "budget_s", "changes", "why", "tokenizer", "trial_tokens", "chosen",
                           "table", "found"}
    assert plan["backend"] == "cpu" and plan["budget_s"] == 1 and plan["device"]["precisions"]
    recipe = parse((clone.clone / "backends/gpt/recipe.toml").read_text()).replace(plan["changes"])
    assert (recipe.model.depth, recipe.model.width) == (plan["chosen"]["depth"], plan["chosen"]["width"])
    assert all(run["step_s"] > 0 for run in plan["found"]["runs"]) and plan["found"]["verdicts"]
    said = clone.ar("probe", "--budget", "1", "--backend", "cpu").stdout
    assert "<- proposed" in said and plan["found"]["measured_at"] in said, "the second call measures nothing"
    assert comes_true(lambda: not ours_below(clone.clone), 2)
