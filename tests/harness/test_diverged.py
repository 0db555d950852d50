"""A trial that diverges in low precision is run once more in float32; what scores it then computes in float32 too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from autoresearch.harness import checkpoint
from autoresearch.harness.runner import DIVERGED_IN, Runner
from autoresearch.harness.stranger import DIVERGED
from autoresearch.records import Experiment, Trial
from autoresearch.research.judge import again
from tests.harness.tiny import LOSS, TRAINING, tiny_recipe, with_code

NAN = ": return mx.array(float('nan')) * w['head.weight'].sum()"
LOW = " and w['head.weight'].dtype == mx.bfloat16"


def test_a_trial_that_diverges_in_bfloat16_is_run_again_in_float32(mlx: Runner, tmp_path: Path) -> None:
    files, recipe = with_code(LOSS, f"if {TRAINING}{LOW}{NAN}"), tiny_recipe(runtime__precision="bfloat16")
    told: list[str] = []
    outcome = mlx.train(files, recipe, 1, tmp_path, None, 12, lambda message: told.append(message["event"]))
    assert outcome.status == "ok" and outcome.steps == 12 and outcome.weights
    assert (outcome.facts["precision"], outcome.facts[DIVERGED_IN]) == ("float32", "bfloat16")
    assert told.count("loaded") == 2, "by which whoever listens knows that it begins anew"
    about, _ = checkpoint.read(outcome.weights)
    assert about.precision == "float32" and about.recipe["runtime.precision"] == "float32"
    job = mlx._score_job(files, recipe, tmp_path, outcome.weights, "val", 2, None)
    assert job.recipe["runtime.precision"] == "float32", "weights of float32 are not judged by bfloat16's rounding"
    assert 0 < mlx.score(files, recipe, tmp_path, outcome.weights, "val", 2).bpb < 20


def test_one_that_diverges_in_float32_too_has_crashed(mlx: Runner, tmp_path: Path) -> None:
    files = with_code(LOSS, f"if {TRAINING}{NAN}")
    outcome = mlx.train(files, tiny_recipe(runtime__precision="bfloat16"), 1, tmp_path, None, 12)
    assert (outcome.status, outcome.cause) == ("crash", DIVERGED) and outcome.facts[DIVERGED_IN] == "bfloat16"
    assert "training diverged" in outcome.reason


def test_the_verdict_says_so() -> None:
    trial = Trial(1, 3, 1, "screen", "ok", 1.0, "now")
    judged = Experiment(3, "", "", "a", "b", "", {}, {}, "done", "keep", "", "now", trials=(trial,))
    assert again(judged) == ""
    broke = replace(trial, facts={DIVERGED_IN: "bfloat16"})
    assert again(replace(judged, trials=(trial, broke))) == "; bfloat16 broke down, so it was trained again in float32"
