"""A recipe is refused with key, value, what is allowed and the nearest valid name; a good one means one run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.recipe import PRESETS, Recipe, RecipeError, edit, keys, load, parse, preset_file
from backends.spec import GPTSpec

ROOT = Path(__file__).resolve().parents[2]

BAD = {
    "[model]\ndepht = 3": ["model.depht", "did you mean model.depth?"],
    "[modle]\ndepth = 3": ["modle", "did you mean model?"],
    "[model]\ndepth = 0": ["model.depth = 0", "a whole number from 1 to 48"],
    "[model]\ndepth = 3.5": ["model.depth = 3.5", "a whole number"],
    "[model]\ndepth = true": ["model.depth = True", "a whole number"],
    '[model]\ndepth = "3"': ["model.depth = '3'", "a whole number"],
    "[optim]\nmatrix_lr = nan": ["optim.matrix_lr = nan", "a number from 1e-05 to 1"],
    "[optim]\nmatrix_lr = inf": ["optim.matrix_lr = inf"],
    "[optim]\nmatrix_lr = 1e308": ["optim.matrix_lr = 1e+308"],
    f"[optim]\nmatrix_lr = {'9' * 400}": ["optim.matrix_lr = 999"],
    "[runtime]\nprecision = 'fp8'": ["runtime.precision = 'fp8'", "one of auto, float32, bfloat16"],
    "[runtime]\ncompile = 1": ["runtime.compile = 1", "true or false"],
    "[model]\nwidth = 100": ["model.width = 100", "multiple of model.head_dim = 64"],
    "[model]\nkv_heads = 3": ["model.kv_heads = 3", "divide the 4 query heads"],
    "[model]\nwindow_pattern = 'SX'": ["model.window_pattern = 'SX'", "letters S and L"],
    "[batch]\ntokens_per_step = 1000": ["batch.tokens_per_step = 1000", "multiple of model.seq_len = 256"],
    "[batch]\nmicro_rows = 5": ["batch.micro_rows = 5", "divide the 32 rows"],
    "[schedule]\nseq_parts = 3": ["schedule.seq_parts = 3", "power of two"],
    "[model]\nseq_len = 1028\n[batch]\ntokens_per_step = 1028\n[schedule]\nseq_parts = 8": [
        "schedule.seq_parts = 8", "must divide model.seq_len = 1028"],
    "[model]\nactivation = 'geglu'": ["model.activation = 'geglu'", "one of relu2, gelu, silu, swiglu"],
    "[model]\ndropout = 1.0": ["model.dropout = 1.0", "a number from 0 to 0.9"],
    "[model]\nhead_dim = 37\nwidth = 74": ["model.head_dim = 37", "must be even"],
    "[schedule]\nwarmup_frac = 0.8": ["warmup_frac + warmdown_frac = 1.3", "at most 1"],
    "[extra]\nx = 'y'": ["extra.x = 'y'", "finite number"],
    "[extra]\nx = inf": ["extra.x = inf", "finite number"],
    "model = 3": ["model = 3", "must be a table"],
    "[model]\ndepth = 1\ndepth = 2": ["not valid TOML"],
    "[model": ["not valid TOML"],
}


@pytest.mark.parametrize(("text", "words"), BAD.items())
def test_a_bad_recipe_is_refused_naming_key_value_and_what_is_allowed(text: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        parse(text)
    for word in words:
        assert word in str(refused.value)


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(RecipeError) as refused:
        parse("[model]\ndepth = 0\nwidht = 64\n[optim]\nmatrix_lr = -1")
    assert len(refused.value.problems) == 3


@given(st.text(max_size=200))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        recipe = parse(text)
    except RecipeError:
        return
    assert isinstance(recipe, Recipe)


@given(st.dictionaries(st.sampled_from([k.name for k in keys()] + ["model.x", "x.y", "extra.z"]),
                       st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
                                 st.lists(st.integers(), max_size=2)), max_size=4))
def test_no_change_does_anything_but_apply_or_be_refused(changes: dict[str, object]) -> None:
    try:
        changed = Recipe().replace(changes).flat()
    except RecipeError:
        return
    assert all(changed[name] == value for name, value in changes.items())


def test_the_shipped_recipes_and_every_default_are_valid() -> None:
    assert parse("") == Recipe()
    for path in (ROOT / "backends/gpt/recipe.toml", ROOT / "backends/reference.toml", *map(preset_file, PRESETS)):
        assert load(path).model.depth == 4
    assert all(key.check(key.default) is None for key in keys())


def test_the_modern_preset_is_what_the_defaults_say() -> None:
    assert load(preset_file("modern")) == Recipe().replace(
        {"data.tokenizer": "bpe-4096", "model.seq_len": 512, "model.key_shift": True, "model.token_shift": True,
         "batch.tokens_per_step": 4096})


def test_the_gpt2_preset_is_gpt2() -> None:
    spec = GPTSpec.of(load(preset_file("gpt2")).replace({"model.depth": 12, "model.width": 768}), 50257)
    key_biases = 12 * 768  # left out: softmax cancels what is added to every key
    assert spec.params() == 124_439_808 - key_biases and spec.max_positions == 1024


def test_editing_keeps_comments_and_order_and_changes_only_what_was_asked() -> None:
    text = "# mine\n[model]\ndepth = 2 # shallow\nwidth = 128\n"
    edited = edit(text, {"model.depth": 3, "optim.matrix_lr": 0.02})
    assert edited.startswith("# mine\n[model]\ndepth = 3 # shallow\nwidth = 128\n")
    assert parse(edited) == parse(text).replace({"model.depth": 3, "optim.matrix_lr": 0.02})
    with pytest.raises(RecipeError):
        edit(text, {"model.depth": 99})


def test_equal_runs_have_equal_digests_however_they_were_written() -> None:
    assert parse("[model]\nrope_base = 10000").digest() == parse("").digest()
    assert parse("[model]\ndepth = 3").digest() != parse("").digest()
    assert parse("[extra]\na = 1").digest() != parse("").digest()


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load(tmp_path / "binary.toml")
