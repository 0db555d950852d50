"""Promotion: the dial, what is trained at the larger size, and what the table says of planted gains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.cli.promote import table
from autoresearch.errors import UserError
from autoresearch.research import ablate, dial, horizon, promote, verify
from autoresearch.research.lab import Candidate, Lab
from autoresearch.research.until import Until
from backends.recipe import Recipe, parse
from backends.spec import GPTSpec
from tests.report.made import START
from tests.research.planted import Night

SMALL = Recipe().replace({"model.depth": 4, "model.width": 256, "model.head_dim": 64, "batch.tokens_per_step": 4096})


def test_one_dial_turns_everything_that_follows_from_the_depth() -> None:
    large = dial.scaled(SMALL, 3, 2048)
    assert (large.model.depth, large.model.width, large.model.width // large.model.head_dim) == (12, 768, 12)
    tokens = GPTSpec.of(large, 2048).matmul_params() / GPTSpec.of(SMALL, 2048).matmul_params()
    assert large.batch.tokens_per_step == 4 * 4096 and tokens**0.383 == pytest.approx(4, rel=0.3)
    assert large.optim.embedding_lr == pytest.approx(2 * SMALL.optim.embedding_lr)
    assert large.optim.matrix_decay == pytest.approx(0.2 * 2 / tokens)
    # What stays: batch / (rate x decay x tokens)
    before, after = (r.batch.tokens_per_step / (r.optim.matrix_lr * r.optim.matrix_decay) for r in (SMALL, large))
    assert after / tokens == pytest.approx(before)
    assert dial.scaled(SMALL, 1, 2048) == SMALL


@given(st.integers(1, 24), st.sampled_from([0, 1, 2, 4]), st.sampled_from(["byte", "bpe"]))
def test_every_turn_of_the_dial_is_a_recipe_that_can_run(depth: int, kv_heads: int, tokenizer: str) -> None:
    vocab = 257 if tokenizer == "byte" else 4096
    large = dial.scaled(SMALL.replace({"model.kv_heads": kv_heads}), depth / 4, vocab)
    assert large.model.depth == depth and large.model.width == 64 * depth
    assert GPTSpec.of(large, vocab).kv_heads <= GPTSpec.of(large, vocab).heads


def test_memory_is_met_by_fewer_rows_at_a_time_then_by_checkpointing() -> None:
    large = dial.scaled(SMALL, 3, 2048)
    spec = GPTSpec.of(large, 2048)
    whole, row = (spec.training_bytes(rows, 4) / dial.MEMORY_SHARE for rows in (large.rows_per_step, 1))
    assert dial.fitted(large, 2048, 1.01 * whole) == large and dial.fitted(large, 2048, None) == large
    half = dial.fitted(large, 2048, 0.6 * whole)
    assert half.micro_rows < large.rows_per_step and not half.runtime.checkpoint
    least = dial.fitted(large, 2048, 0.99 * row)
    assert least.runtime.checkpoint
    with pytest.raises(UserError, match=r"depth 12, width 768 does not fit into 0\.1 GiB"):
        dial.fitted(large, 2048, 1e8)


def test_the_larger_model_gets_as_many_tokens_for_each_weight() -> None:
    large = dial.scaled(SMALL, 2, 2048)
    small, big = GPTSpec.of(SMALL, 2048), GPTSpec.of(large, 2048)
    flops_per_s = 1e6 * small.flops_per_token() / 300
    tokens = flops_per_s * dial.seconds(SMALL, large, 2048, 300.0) / big.flops_per_token()
    assert tokens / big.matmul_params() == pytest.approx(1e6 / small.matmul_params())


# What is trained and what is said


def rule(recipe: Recipe, files: dict[str, bytes]) -> float:
    """The scale gains 0.03 at every size, beta 0.02 that is gone at depth 2."""
    is_large = recipe.model.depth > 1
    gains = 0.03 * (recipe.model.qk_scale == 1.2) + 0.02 * (recipe.optim.adam_beta2 == 0.9) * (not is_large)
    return 2.0 - gains - 0.3 * is_large


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    night = Night.create(tmp_path, rule)
    night.keep("A sharper scale", model__qk_scale=1.2)
    night.keep("A shorter memory", optim__adam_beta2=0.9)
    yield night
    night.made.study.close()


def arms(lab: Lab, size: promote.Size, leave_out: bool) -> list[Candidate]:
    return promote.arms(lab, promote.drafts(lab, size, leave_out))


def test_to_plan_writes_nothing(night: Night) -> None:
    lab = night.lab()
    before = lab.ledger.experiments()
    assert len(promote.drafts(lab, promote.plan(lab, 2, 600.0), True)) == 4
    assert lab.ledger.experiments() == before and not any(e.n < 0 for e in before)


def test_gains_small_and_large_and_whether_they_add_up(night: Night) -> None:
    lab = night.lab()
    verify.verify(lab, None, 3, Until())
    ablate.run(lab, Until())
    size = promote.plan(lab, 2, 600.0)
    models = arms(lab, size, True)
    assert [a.name for a in models] == ["The baseline at depth 2", "The champion at depth 2", "Without #1 at depth 2",
                                        "Without #2 at depth 2"]
    assert all(a.recipe.model.depth == 2 and a.recipe.model.width == 64 for a in models)
    promote.run(replace(lab, budget_s=600.0), size, models, 3, Until())
    horizon.run(replace(lab, budget_s=600.0), promote.race(lab, models, size), Until())
    told = promote.found(lab, size, models)
    assert told.target is not None and told.target.seconds == pytest.approx(600 * 2**-0.6, rel=0.02)
    scale, beta = told.rows
    assert (scale.verdict, beta.verdict) == ("transfers", "not shown")
    assert scale.small is not None and scale.small.mean_bpb == pytest.approx(0.03, abs=1e-3)
    assert beta.small is not None and beta.small.mean_bpb == pytest.approx(0.02, abs=1e-3)
    assert told.small is not None and told.small.mean_bpb == pytest.approx(0.05, abs=1e-3)
    assert told.large is not None and told.large.mean_bpb == pytest.approx(0.03, abs=1e-3)
    assert told.additivity() == (pytest.approx(1.0, abs=0.05), pytest.approx(1.0, abs=0.05))
    page = "\n".join(table(told))
    assert "small: the changes' gains sum to" in page and "A shorter memory" in page and "not shown" in page


def test_a_stopped_promotion_goes_on_and_trains_nothing_twice(night: Night) -> None:
    until = Until()
    lab = night.lab(until=until, stop_after=5)
    size = promote.plan(lab, 2, 600.0)
    large = replace(lab, budget_s=600.0)
    promote.run(large, size, arms(lab, size, True), 2, until)
    assert len(night.trials("promote")) == 5
    before = arms(lab, size, True)
    again = replace(night.lab(), budget_s=600.0)
    promote.run(again, size, arms(again, size, True), 2, Until())
    assert [a.n for a in arms(again, size, True)] == [a.n for a in before], "the same models, not new ones"
    trials = night.trials("promote")
    assert len(trials) == len(set(trials)) == 8
    ideas = [e for e in night.made.study.ledger.experiments() if e.n >= 0]
    assert [e.n for e in ideas] == [0, 1, 2], "what is trained here is nobody's idea"


def test_the_champions_own_depth_changes_nothing(night: Night) -> None:
    lab = night.lab()
    size = promote.plan(lab, 1, None)
    assert size.budget_s == lab.budget_s and size.recipe == parse(START).replace(
        {"model.qk_scale": 1.2, "optim.adam_beta2": 0.9})


def test_a_depth_that_the_baseline_can_not_have_is_a_sentence(night: Night) -> None:
    lab = night.lab()
    beyond = replace(promote.plan(lab, 1, None), depth=60, factor=60.0)
    with pytest.raises(UserError, match=r"at depth 60 of the champion a recipe can't be run: model.depth") as e:
        arms(lab, beyond, False)
    assert "smaller --depth" in e.value.hint
