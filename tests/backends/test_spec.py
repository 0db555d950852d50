"""Sizes, FLOPs, initial weights and schedules: plain arithmetic that every backend shares."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend

from autoresearch import costs
from backends.base import fastest_s, micro_batches
from backends.gpt import params, schedule, torch_model
from backends.recipe import Recipe, load, preset_file
from backends.spec import GPTSpec

GAINS: dict[str, object] = {"model.norm_gain": True, "model.biases": True}
VARIANTS: list[dict[str, object]] = [
    {}, {"model.kv_heads": 2}, {"model.value_embeds": "none"}, {"model.value_embeds": "all", "model.depth": 3},
    {"model.mlp_ratio": 2.5, "model.width": 128}, {"model.value_gate": False}, {"model.resid_lambdas": False},
    {"model.input_lambdas": False}, {"model.positions": "learned"}, {"model.tied_embeddings": True},
    {"model.biases": True, "model.kv_heads": 1}, GAINS, GAINS | {"model.norm": "layer"}, {"model.norm": "layer"},
    GAINS | {"model.qk_norm": "none", "model.embed_norm": False}, GAINS | {"model.activation": "swiglu"},
    {"model.activation": "swiglu", "model.mlp_ratio": 8 / 3}, {"model.token_shift": True, "model.key_shift": True},
    load(preset_file("gpt2")).flat(),
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_parameter_counts_are_those_of_the_table(changes: dict[str, object]) -> None:
    spec = GPTSpec.of(Recipe().replace(changes), 1000)
    sizes = {p.name: int(np.prod(p.shape)) for p in params.table(spec)}
    assert spec.params() == sum(sizes.values())
    products = {p.name for p in params.table(spec) if p.role in ("matrix", "unembedding")}
    products |= {"embed.weight"} if spec.tied_embeddings else set()
    assert spec.matmul_params() == sum(n for name, n in sizes.items() if name in products)


@pytest.mark.parametrize("changes", VARIANTS)
def test_flops_are_those_that_the_oracle_does(changes: dict[str, object]) -> None:
    """Counted in the forward pass by torch, which counts attention to all tokens, the future's included."""
    from torch.utils.flop_counter import FlopCounterMode

    small = {"model.depth": 2, "model.width": 128, "model.head_dim": 32, "model.seq_len": 16, "model.kv_heads": 0}
    spec = GPTSpec.of(Recipe().replace(changes | small | {"batch.tokens_per_step": 32}), 300)
    w = {p.name: torch.randn(p.shape) for p in params.table(spec)}
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(SDPBackend.MATH):
        torch_model.logits(w, torch.zeros(2, 16, dtype=torch.long), spec)
    causal = sum(4 * spec.width * (spec.seq_len + 1) / 2 for _ in spec.windows)
    future = sum(4 * spec.width * (spec.seq_len - 1) / 2 for _ in spec.windows)
    assert spec.flops_per_token() == 3 * (2 * spec.matmul_params() + causal)
    assert counter.get_total_flops() == 32 * (2 * spec.matmul_params() + causal + future)


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
    for changes in ({"model.depth": 8}, {"model.width": 512}, {"model.seq_len": 512}, {"model.dropout": 0.1},
                    {"model.activation": "swiglu"}, {"model.positions": "learned"}, {"model.value_embeds": "all"},
                    {"model.token_shift": True}):
        assert GPTSpec.of(Recipe().replace(changes), 2000).training_bytes(8, 4) > base
    for changes in ({"runtime.checkpoint": True}, {"model.tied_embeddings": True}, {"model.kv_heads": 1}):
        assert GPTSpec.of(Recipe().replace(changes), 2000).training_bytes(8, 4) < base


def test_the_memory_estimate_of_float16_has_room_for_taking_an_update_back() -> None:
    """Copies of weights and moments, 12 bytes a weight, when the activations are gone."""
    plain, low = (GPTSpec.of(Recipe().replace({"runtime.precision": p}), 2000) for p in ("float32", "float16"))
    assert low.training_bytes(0, 4) - plain.training_bytes(0, 4) == pytest.approx(1.3 * 12 * low.params(), abs=2)
    assert low.training_bytes(4096, 4) == plain.training_bytes(4096, 4)


@pytest.mark.parametrize("change", [{"model.token_shift": True}, {"model.dropout": 0.1}, {"model.kv_heads": 4}])
def test_seconds_and_bytes_count_the_same_activations(change: dict[str, object]) -> None:
    recipe = Recipe().replace(change)
    spec, tokens = GPTSpec.of(recipe, 2000), recipe.batch.tokens_per_step
    per_byte = 1.3 * recipe.model.seq_len * 4
    kept = (spec.training_bytes(2, 4) - spec.training_bytes(1, 4)) / per_byte - 4 * spec.vocab
    assert costs.counts(recipe, 2000)[2] / tokens - 4 * spec.vocab == pytest.approx(kept, abs=1)


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


def test_short_rows_come_first_and_whole_ones_last() -> None:
    recipe = Recipe().replace({"schedule.seq_parts": 4, "schedule.seq_warmup_frac": 0.4})
    assert [schedule.row_parts(recipe, p) for p in (0, 0.1, 0.2, 0.39, 0.4, 1.0)] == [4, 4, 2, 2, 1, 1]
    assert {schedule.row_parts(Recipe(), p / 10) for p in range(11)} == {1}
    never = recipe.replace({"schedule.seq_warmup_frac": 0.0})
    assert schedule.row_parts(never, 0.0) == 1


def test_cutting_rows_keeps_every_target_and_the_tokens_before_it() -> None:
    recipe = Recipe().replace({"model.seq_len": 16, "batch.tokens_per_step": 64, "batch.micro_rows": 2})
    rows = np.arange(4 * 17).reshape(4, 17)
    parts = micro_batches(recipe, rows, 4)
    assert parts.shape == (2, 8, 5)
    assert np.array_equal(parts[..., 1:].reshape(4, 16), rows[:, 1:])
    assert np.array_equal(parts[..., :-1].reshape(4, 16), rows[:, :-1])
    assert np.array_equal(micro_batches(recipe, rows), rows.reshape(2, 2, 17))


def test_a_batch_is_one_micro_batch_only_where_their_rows_do_not_divide_it() -> None:
    recipe = Recipe().replace({"model.seq_len": 16, "batch.tokens_per_step": 64, "batch.micro_rows": 2})
    shapes = [micro_batches(recipe, np.zeros((rows, 17), np.int32)).shape for rows in (3, 4, 6)]
    assert shapes == [(1, 3, 17), (2, 2, 17), (3, 2, 17)]


@pytest.mark.parametrize("seconds", [0.0, 0.02])
def test_a_first_call_that_takes_longer_than_there_is_time_is_not_what_is_timed(seconds: float) -> None:
    calls: list[float] = []

    def work() -> None:
        calls.append(time.perf_counter())
        time.sleep(0.001 if len(calls) > 1 else 0.1)

    assert 0.001 <= fastest_s(work, seconds) < 0.1 and len(calls) > 1


def test_dropout_differs_from_step_to_step_and_from_seed_to_seed() -> None:
    salts = {schedule.salt(seed, step) for seed in range(20) for step in range(500)}
    assert len(salts) > 9980 and all(0 <= s < 2**23 and s == int(s) for s in salts)


def test_the_decay_of_matrices_ends_where_the_recipe_says() -> None:
    for end, last in ((0.0, 0.0), (1.0, 0.2), (0.5, 0.1)):
        recipe = Recipe().replace({"schedule.final_decay_frac": end})
        assert schedule.hyper(recipe, 0.0, 1)["matrix_decay"] == 0.2
        assert schedule.hyper(recipe, 1.0, 1)["matrix_decay"] == pytest.approx(last)


@pytest.mark.parametrize("width", [128, 256, 512])
def test_the_matrices_of_gpt2_have_its_std_at_every_width(width: int) -> None:
    recipe = load(preset_file("gpt2")).replace({"model.width": width})
    first = params.initial(recipe, GPTSpec.of(recipe, 300), np.random.default_rng(1))
    assert first["blocks.1.mlp.up_proj.weight"].std() == pytest.approx(0.02, rel=0.01)
    assert first["blocks.1.mlp.down_proj.weight"].std() == pytest.approx(0.02 / 8**0.5, rel=0.01)
    larger = recipe.replace({"init.matrix_scale": 2.0})
    twice = params.initial(larger, GPTSpec.of(larger, 300), np.random.default_rng(1))
    assert twice["blocks.1.mlp.up_proj.weight"].std() == pytest.approx(0.04, rel=0.01)


def test_projections_start_at_zero_or_as_in_gpt2() -> None:
    recipe = Recipe().replace({"init.projection_scale": 1.0, "model.width": 512, "init.matrix_scale": 0.5})
    first = params.initial(recipe, GPTSpec.of(recipe, 300), np.random.default_rng(1))
    for name in ("attn.o_proj", "mlp.down_proj"):
        assert first[f"blocks.0.{name}.weight"].std() == pytest.approx(0.5 / 512**0.5 / 8**0.5, rel=0.01)
