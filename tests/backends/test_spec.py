"""Sizes, FLOPs, initial weights and schedules: plain arithmetic that every backend shares."""

from __future__ import annotations

import numpy as np
import pytest

from backends.gpt import params, schedule
from backends.recipe import Recipe
from backends.spec import GPTSpec

VARIANTS: list[dict[str, object]] = [
    {}, {"model.kv_heads": 2}, {"model.value_embeds": "none"}, {"model.value_embeds": "all", "model.depth": 3},
    {"model.mlp_ratio": 2.5, "model.width": 128},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_parameter_counts_are_those_of_the_table(changes: dict[str, object]) -> None:
    spec = GPTSpec.of(Recipe().replace(changes), 1000)
    sizes = {p.name: int(np.prod(p.shape)) for p in params.table(spec)}
    assert spec.params() == sum(sizes.values())
    matmuls = sum(n for name, n in sizes.items() if "embed" not in name and "lambdas" not in name)
    assert spec.matmul_params() == matmuls


def test_flops_are_six_for_each_matmul_weight_and_causal_attention() -> None:
    spec = GPTSpec.of(Recipe().replace({"model.depth": 1, "model.seq_len": 16, "batch.tokens_per_step": 16}), 300)
    contexts = sum(range(1, 17)) / 16
    assert spec.flops_per_token() == 6 * spec.matmul_params() + 12 * spec.width * contexts


def test_a_short_window_costs_less_and_the_last_block_is_always_long() -> None:
    short = GPTSpec.of(Recipe().replace({"model.window_pattern": "S", "model.short_window_frac": 0.25}), 300)
    assert short.windows == (64, 64, 64, 256)
    assert short.flops_per_token() < GPTSpec.of(Recipe(), 300).flops_per_token()


def test_alternate_value_embeddings_always_include_the_last_block() -> None:
    for depth in (1, 2, 5):
        assert GPTSpec.of(Recipe().replace({"model.depth": depth}), 300).has_value_embed[-1]


def test_the_memory_estimate_grows_with_everything_that_takes_memory() -> None:
    base = GPTSpec.of(Recipe(), 2000).training_bytes(8, 4)
    assert GPTSpec.of(Recipe(), 2000).training_bytes(16, 4) > base
    for changes in ({"model.depth": 8}, {"model.width": 512}, {"model.seq_len": 512}):
        assert GPTSpec.of(Recipe().replace(changes), 2000).training_bytes(8, 4) > base


def test_initial_weights_follow_the_seed_and_the_recipe() -> None:
    recipe = Recipe().replace({"model.depth": 1, "model.width": 64})
    spec = GPTSpec.of(recipe, 300)
    first, same, other = (params.initial(recipe, spec, np.random.default_rng(s)) for s in (1, 1, 2))
    assert all(np.array_equal(first[k], same[k]) and first[k].dtype == np.float32 for k in first)
    assert not np.array_equal(first["embed.weight"], other["embed.weight"])
    assert not first["blocks.0.attn.o_proj.weight"].any() and not first["blocks.0.mlp.down_proj.weight"].any()
    q = first["blocks.0.attn.q_proj.weight"]
    assert np.abs(q).max() <= 3**0.5 / 8 and abs(q.std() - 1 / 8) < 0.01
    assert abs(first["head.weight"].std() / 0.001 - 1) < 0.1 and abs(first["embed.weight"].std() - 1) < 0.1


def test_the_learning_rate_rises_stays_and_falls() -> None:
    recipe = Recipe().replace({"schedule.warmup_frac": 0.2, "schedule.warmdown_frac": 0.4,
                               "schedule.final_lr_frac": 0.1})
    rates = [schedule.lr_multiplier(recipe, p) for p in (0.0, 0.1, 0.2, 0.6, 0.8, 1.0, 1.5)]
    assert rates == pytest.approx([0, 0.5, 1, 1, 0.55, 0.1, 0.1])
    assert schedule.lr_multiplier(Recipe().replace({"schedule.warmdown_frac": 0.0}), 1.0) == 1.0


def test_width_scaling_bias_correction_and_decay_of_one_step() -> None:
    h = schedule.hyper(Recipe().replace({"model.width": 192}), 0.25, 3)
    assert h["embedding_lr"] == pytest.approx(0.6 * 2)
    assert h["matrix_decay"] == pytest.approx(0.2 * 0.75)
    assert h["bias1"] == pytest.approx(1 - 0.8**3) and h["bias2"] == pytest.approx(1 - 0.95**3)
    assert 0.85 < h["momentum"] < 0.95 and schedule.hyper(Recipe(), 0.5, 9)["momentum"] == pytest.approx(0.95)
