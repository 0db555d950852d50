"""`ar train` in a clone: numbers for machines, sentences for people, and nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoresearch.cli.studying import shards_for
from autoresearch.data.prepared import Prepared
from tests.harness.tiny import comes_true, ours_below
from tests.loop.conftest import Place, make_clone


@pytest.fixture(scope="module")
def clone(text: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(make_clone(tmp_path_factory.mktemp("train")), text)


def trained(clone: Place, *args: str) -> dict[str, Any]:
    return json.loads(clone.ar("train", "--steps", "3", "--json", "--backend", "mlx", *args).stdout)


def test_training_for_steps_reports_numbers_that_follow_from_the_seed(clone: Place, tmp_path: Path) -> None:
    before = clone.checkout()
    first = trained(clone, "--seed", "7", "--out", str(tmp_path / "kept"))
    other = trained(clone, "--seed", "8")
    facts = clone.text.manifest.splits["val"]
    assert (first["steps"], first["tokens"], first["seed"]) == (3, 3 * 512, 7)
    assert first["val_bytes"] == facts.bytes and 1 < first["val_bpb"] < 20
    assert first["val_bpc"] == pytest.approx(first["val_bpb"] * facts.bytes / facts.chars)
    assert first["val_bpb"] != other["val_bpb"]
    assert first["recipe"]["model.width"] == 32 and first["curve"][-1][0] == 3 and first["precision"] == "float32"
    assert {p.name for p in (tmp_path / "kept").iterdir()} >= {"weights.safetensors", "log.txt"}
    assert clone.checkout() == before


def test_the_block_of_numbers_has_upstreams_names(clone: Place) -> None:
    out = clone.ar("train", "--steps", "2", "--backend", "mlx", "--legacy-bpb").stdout
    block = dict(line.split(":", 1) for line in out.partition("---\n")[2].splitlines())
    assert {"val_bpb", "training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent", "total_tokens_M",
            "num_steps", "num_params_M", "depth"} <= {k.strip() for k in block}
    assert int(block["num_steps"]) == 2 and 1 < float(block["val_bpb"]) < 20
    facts = clone.text.manifest.splits["val"]
    assert float(block["val_bpc"]) == pytest.approx(float(block["val_bpb"]) * facts.bytes / facts.chars, rel=1e-5)
    assert float(block["legacy_val_bpb"]) < float(block["val_bpb"]), "the text has letters of several bytes"
    kept = Path(block["checkpoint"].strip())
    assert kept.parent == clone.clone / "checkpoints" and {p.name for p in kept.iterdir()} == {"weights.safetensors",
                                                                                               "log.txt"}
    assert "checkpoints" not in clone.git("status", "--porcelain")


@pytest.mark.parametrize(("recipe", "said"), [
    ("[model]\nwidht = 3\n", "did you mean model.width?"),
    ("[model]\nwidth = 'wide'\n", "model.width = 'wide': must be a whole number from 16 to 8192"),
    ("[data]\ntokenizer = 'bpe-4096'\n", "the recipe wants the tokenizer bpe-4096; made has byte, bpe-512"),
    ("width = [\n", "not valid TOML"),
])
def test_a_recipe_that_can_not_be_run_is_a_sentence(refused: Callable[..., str], clone: Place, tmp_path: Path,
                                                    recipe: str, said: str) -> None:
    (tmp_path / "mine.toml").write_text(recipe)
    assert said in refused(clone, "train", "--steps", "1", "--backend", "mlx", "--recipe", str(tmp_path / "mine.toml"))


def test_a_preset_is_a_recipe_to_start_from(refused: Callable[..., str], clone: Place, tmp_path: Path) -> None:
    said = refused(clone, "train", "--steps", "1", "--backend", "mlx", "--preset", "gpt2")
    assert "the recipe wants the tokenizer bpe-2048; made has byte, bpe-512" in said
    both = refused(clone, "train", "--preset", "gpt2", "--recipe", str(tmp_path / "mine.toml"), code=2)
    assert "--recipe and --preset both name a recipe" in both


def test_keys_can_be_set_for_one_run(clone: Place) -> None:
    before = clone.checkout()
    said = trained(clone, "--set", "model.depth=2", "--set", "data.tokenizer = bpe-512",
                   "--set", "batch.tokens_per_step=1_024")
    assert {k: said["recipe"][k] for k in ("model.depth", "data.tokenizer", "batch.tokens_per_step")} == {
        "model.depth": 2, "data.tokenizer": "bpe-512", "batch.tokens_per_step": 1024}
    assert clone.checkout() == before


@pytest.mark.parametrize(("change", "said"), [
    ("model.depth", "the change 'model.depth' has no '='"),
    ("model.dept=2", "did you mean model.depth?"),
    ("model.depth=two", "model.depth = 'two': must be a whole number"),
    ("depth=2", "no such table"),
    ("=", "no such table"),
])
def test_a_key_that_can_not_be_set_is_a_sentence(refused: Callable[..., str], clone: Place, change: str,
                                                 said: str) -> None:
    assert said in refused(clone, "train", "--steps", "1", "--backend", "mlx", "--set", change, code=2)


def test_a_folder_that_exists_is_not_written_into(refused: Callable[..., str], clone: Place, tmp_path: Path) -> None:
    assert "exists already" in refused(clone, "train", "--steps", "1", "--out", str(tmp_path))
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("mine")
    assert "file is a file" in refused(clone, "train", "--steps", "1", "--out", str(tmp_path / "file" / "x"))


def test_a_run_that_is_stopped_leaves_no_folder(clone: Place, tmp_path: Path) -> None:
    started = clone.start("train", "--budget", "60", "--backend", "mlx", "--out", str(tmp_path / "a"))
    started.comes_to(lambda: ours_below(tmp_path / "a"))
    started.interrupt()
    started.finish(1)
    assert list(tmp_path.iterdir()) == []
    assert comes_true(lambda: not ours_below(tmp_path), 3)


def test_a_model_that_can_not_be_scored_is_kept_all_the_same(clone: Place, tmp_path: Path) -> None:
    """Five minutes of training are not lost to a fault that only scoring shows."""
    model = clone.clone / "backends/gpt/mlx_model.py"
    good, line = model.read_text(), "    return head(w, hidden(w, tokens_BT, spec, salt), spec)\n"
    assert good.count(line) == 1
    model.write_text(good.replace(line, "    assert tokens_BT.shape[1] <= 64, 'too long for me'\n" + line))
    try:
        failed = clone.ar("train", "--steps", "1", "--backend", "mlx", "--out", str(tmp_path / "kept"), code=1)
    finally:
        model.write_text(good)
    assert "crash while scoring: AssertionError: too long for me" in failed.stderr
    assert f"ar eval {tmp_path / 'kept'}" in failed.stderr
    assert (tmp_path / "kept" / "weights.safetensors").is_file()


def test_a_run_that_crashes_shows_the_end_of_its_log(clone: Place) -> None:
    model = clone.clone / "backends/gpt/mlx_model.py"
    good = model.read_text()
    model.write_text(good + "\nraise KeyError('mine')\n")
    try:
        failed = clone.ar("train", "--steps", "1", "--backend", "mlx", code=1)
    finally:
        model.write_text(good)
    assert "error: crash: KeyError: 'mine'" in failed.stderr and "| KeyError: 'mine'" in failed.stderr
    assert failed.stdout == ""


# How much text


@pytest.mark.parametrize(("encoded", "trial_tokens", "shards"), [
    ((1000,), 10, 1), ((1000,), 500, 1), ((1000,), 501, 2), ((1000, 900), 10, 2), ((1000,), 10**9, 7),
])
def test_a_study_sees_as_much_text_as_a_trial_can_read(text: Prepared, encoded: tuple[int, ...], trial_tokens: int,
                                                       shards: int) -> None:
    facts = replace(text.manifest.tokenizers["byte"], shards=encoded)
    large = replace(text, manifest=replace(text.manifest, shards=tuple(range(7)), tokenizers={"byte": facts}))
    assert shards_for(large, {"tokenizer": "byte", "trial_tokens": trial_tokens}) == shards
