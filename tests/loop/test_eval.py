"""`ar eval` as it is typed: experiments, what `ar train` left, other texts, and all that can be wrong with them."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from autoresearch import models, scratch
from autoresearch.cli.eval import warnings_of
from autoresearch.data import corpus, prepare
from autoresearch.data.prepared import Prepared
from autoresearch.errors import UserError
from autoresearch.harness import checkpoint
from tests.data.texts import made_text
from tests.harness.tiny import comes_true, ours_below
from tests.loop.conftest import RECIPE_FILE, TAG, Place, make_clone


@pytest.fixture(scope="module")
def clone(text: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(make_clone(tmp_path_factory.mktemp("eval")), text)


@pytest.fixture(scope="module")
def run(clone: Place) -> dict[str, Any]:
    """What `ar train` says of a model of BPE tokens, `checkpoint` being where it is."""
    recipe = clone.clone.parent / "bpe.toml"
    recipe.write_text((clone.clone / RECIPE_FILE).read_text().replace('"byte"', '"bpe-512"'))
    return json.loads(clone.ar("train", "--steps", "5", "--backend", "mlx", "--json", "--recipe", str(recipe)).stdout)


@pytest.fixture
def own_cache(clone: Place, tmp_path: Path) -> Place:
    """The same clone with a copy of the cache that a test may spoil."""
    shutil.copytree(clone.text.root.parents[1], tmp_path / "cache")
    moved = Prepared(tmp_path / "cache" / "data" / clone.text.name, clone.text.name, clone.text.manifest)
    return Place(clone.clone, moved)


def evaluated(place: Place, *args: str) -> dict[str, Any]:
    return json.loads(place.ar("eval", *args, "--json").stdout)


def test_a_checkpoint_of_ar_train_scores_as_ar_train_said(clone: Place, run: dict[str, Any]) -> None:
    found = evaluated(clone, run["checkpoint"])
    assert (found["bpb"], found["bpc"], found["bytes"]) == (run["val_bpb"], run["val_bpc"], run["val_bytes"])
    assert found["legacy_bpb"] == run["legacy_val_bpb"]
    assert found["bpb_error"] == run["val_bpb_error"] > 0
    assert found["nats_per_token"] == pytest.approx(found["nats"] / found["tokens"])
    assert found["bpb"] == pytest.approx(found["nats"] / math.log(2) / found["bytes"])
    assert found["rows"] == clone.text.manifest.splits["val"].rows
    assert (found["split"], found["tokenizer"], found["backend"]) == ("val", "bpe-512", "mlx")


def test_it_scores_the_same_when_the_working_tree_has_changed(clone: Place, run: dict[str, Any]) -> None:
    model = clone.clone / "backends/gpt/mlx_model.py"
    good = model.read_text()
    model.write_text("raise RuntimeError('another idea, half finished')\n")
    try:
        assert evaluated(clone, run["checkpoint"] + "/weights.safetensors")["bpb"] == run["val_bpb"]
    finally:
        model.write_text(good)


def test_the_table_for_people(clone: Place, run: dict[str, Any]) -> None:
    title, *lines = clone.ar("eval", run["checkpoint"], "--rows", "1", "--legacy-bpb").stdout.splitlines()
    rows = dict(line.split(":", 1) for line in lines)
    assert "val of made" in title
    assert list(rows) == ["val_bpb", "val_bpc", "nats_per_token", "legacy_bpb", "bytes", "characters", "tokens", "rows",
                          "seed"]
    assert "±" not in rows["val_bpb"] and rows["rows"].strip() == "1", "one row has no error"
    assert rows["seed"].strip() == "1"
    assert "legacy" not in clone.ar("eval", run["checkpoint"], "--rows", "2").stdout


def test_a_checkpoint_says_where_it_comes_from_and_runs_nothing(clone: Place, run: dict[str, Any]) -> None:
    said = clone.ar("eval", run["checkpoint"], "--about").stdout
    for words in ("5 steps", "seed 1", "float32", clone.text.digest, "bpe-512, 512 ids", "model.width = 32"):
        assert words in said
    about = json.loads(clone.ar("eval", run["checkpoint"], "--about", "--json").stdout)
    assert about["code"]["params.py"] == (clone.clone / "backends/gpt/params.py").read_text()


# A person's own text


def test_on_ascii_both_numbers_are_equal_and_on_emoji_upstreams_is_lower(
        clone: Place, run: dict[str, Any], tmp_path: Path) -> None:
    texts = {"ascii.txt": b"plain words, and 12 numbers\n" * 50, "cjk.txt": "鬱蒼🦖🪐東京\n".encode() * 50}
    found = {}
    for name, content in texts.items():
        (tmp_path / name).write_bytes(content)
        found[name] = evaluated(clone, run["checkpoint"], "--text", str(tmp_path / name))
        assert found[name]["bytes"] == len(content) and found[name]["chars"] == len(content.decode())
        assert found[name]["split"] is None and found[name]["text"] == str(tmp_path / name)
    assert found["ascii.txt"]["legacy_bpb"] == found["ascii.txt"]["bpb"]
    assert found["cjk.txt"]["legacy_bpb"] < found["cjk.txt"]["bpb"]


@pytest.mark.parametrize(("args", "code", "said"), [
    (("--text", "nowhere.txt"), 1, "nowhere.txt does not exist"),
    (("--text", "x", "--split", "val"), 2, "name two different texts"),
    (("--text", "x", "--data", "made"), 2, "name two different texts"),
    (("--split", "train"), 2, "'train' is not one of"),
    (("--data", "nothing"), 1, "no prepared text is called 'nothing'"),
    (("--tag", "mar9"), 2, "is no experiment"),
])
def test_what_can_not_be_scored_is_a_sentence(
        refused: Callable[..., str], clone: Place, run: dict[str, Any], args: tuple[str, ...], code: int,
        said: str) -> None:
    assert said in refused(clone, "eval", run["checkpoint"], *args, code=code)


@pytest.mark.parametrize(("name", "said"), [
    ("champion", "there is no study"), ("#3", "there is no study"), ("3", "there is no study"),
    ("champoin", "neither an experiment nor a checkpoint"), (".", "neither an experiment nor a checkpoint"),
    ("program.md", "not a safetensors file"), ("../../../etc", "neither an experiment nor a checkpoint"),
])
def test_a_name_that_means_nothing_is_a_sentence(refused: Callable[..., str], clone: Place, name: str,
                                                 said: str) -> None:
    assert said in refused(clone, "eval", name)


# Other sets, other machines


def test_another_set_needs_the_very_tokenizer(own_cache: Place, run: dict[str, Any], tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.txt").write_bytes(made_text(80_000, 9))
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(own_cache.text.root.parents[1]))
    prepare.prepare(corpus.text([tmp_path / "other.txt"]), "other", ("byte", "bpe-512"))
    failed = own_cache.ar("eval", run["checkpoint"], "--data", "other", code=1)
    assert "the tokenizer bpe-512 of other is not the one that" in failed.stderr
    plain = json.loads(own_cache.ar("train", "--steps", "2", "--backend", "mlx", "--json", "--data", "made").stdout)
    found = evaluated(own_cache, plain["checkpoint"], "--data", "other")
    assert found["data"] == "other" and found["bytes"] != plain["val_bytes"], "bytes are the same tokens everywhere"


def test_a_text_that_is_gone_is_named_with_the_remedy(own_cache: Place, run: dict[str, Any]) -> None:
    renamed = own_cache.text.root.with_name("renamed")
    own_cache.text.root.rename(renamed)
    assert evaluated(own_cache, run["checkpoint"])["data"] == "renamed", "its content says which text it is"
    shutil.rmtree(renamed)
    failed = own_cache.ar("eval", run["checkpoint"], code=1).stderr
    assert "made (digest" in failed and "ar prepare --text PATH --name made" in failed


def test_code_from_another_machine_runs_only_when_trusted(own_cache: Place, run: dict[str, Any]) -> None:
    (own_cache.text.root.parents[1] / "checkpoint.key").unlink()
    assert evaluated(own_cache, run["checkpoint"])["bpb"] == run["val_bpb"], "the clone holds the same code"
    model = own_cache.clone / "backends/gpt/mlx_model.py"
    good = model.read_text()
    model.write_text(good + "# another idea\n")
    try:
        failed = own_cache.ar("eval", run["checkpoint"], code=1)
        assert "brings Python code of its own" in failed.stderr and "--trust-code" in failed.stderr
        assert evaluated(own_cache, run["checkpoint"], "--trust-code")["bpb"] == run["val_bpb"]
    finally:
        model.write_text(good)


def test_a_model_is_scored_on_another_backend_and_that_is_said(clone: Place, run: dict[str, Any]) -> None:
    done = clone.ar("eval", run["checkpoint"], "--backend", "cpu", "--json")
    assert "trained on mlx and is scored on cpu" in done.stderr
    assert json.loads(done.stdout)["backend"] == "cpu"


def test_weights_that_do_not_fit_their_recipe_are_a_sentence(
        clone: Place, run: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(clone.text.root.parents[1]))
    path = Path(run["checkpoint"]) / checkpoint.WEIGHTS
    about, _ = checkpoint.read(path)
    save_file(dict(list(load_file(path).items())[1:]), tmp_path / "w.safetensors")
    checkpoint.stamp(tmp_path / "w.safetensors", about)
    assert "can't be scored: crash" in clone.ar("eval", str(tmp_path / "w.safetensors"), code=1).stderr


def test_ctrl_c_ends_all_of_it(clone: Place, run: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_bytes(made_text(3_000_000))
    started = clone.start("eval", run["checkpoint"], "--text", str(tmp_path / "long.txt"))
    own = Path(tempfile.gettempdir()) / f"{scratch.PREFIX}{started.process.pid}-"  # as its scratch folder begins
    started.comes_to(lambda: len(ours_below(own)) > 1)  # the scorer, and its logits server
    started.interrupt()
    started.finish(1, within_s=10)
    assert started.stderr.strip() == "stopped" and started.stdout == ""
    assert comes_true(lambda: not ours_below(own), 3)


# Experiments of a study


def test_the_champion_is_scored_unless_another_is_named_and_the_baseline_by_number_or_name(place: Place) -> None:
    champion, zero, named = evaluated(place), evaluated(place, "#0"), evaluated(place, "baseline", "--tag", TAG)
    with place.study() as study:
        best, screened = models.of_experiment(study), study.ledger.experiment(0).screened()
    assert (champion["checkpoint"], champion["study"]) == (best.label, TAG)
    assert (zero["checkpoint"], zero["bpb"]) == (f"the baseline of {TAG}", named["bpb"])
    assert screened is not None and zero["seed"] == champion["seed"] == screened.seed
    whole = place.text.manifest.splits["val"].rows
    assert zero["rows"] == whole
    part = evaluated(place, "baseline", "--rows", str(screened.scores[0].rows))
    assert part["bpb"] == screened.bpb(), "the study's own score, row for row"


def test_looks_at_held_out_text_are_counted_and_said(place: Place) -> None:
    with place.study() as study:
        before = {split: study.ledger.reads(split) for split in ("val", "confirm", "holdout")}
        weights = study.trials / str(study.ledger.experiment(0).screens()[-1].id)
    said = [place.ar("eval", "baseline", "--split", "holdout").stderr,
            place.ar("eval", str(weights), "--split", "holdout").stderr]  # the same weights by their path
    evaluated(place, "baseline", "--split", "confirm")
    place.ar("eval", "baseline")
    status = json.loads(place.ar("status", "--json").stdout)
    assert (status["confirm_reads"], status["holdout_reads"]) == (before["confirm"] + 1, 2)
    with place.study() as study:
        after = {split: study.ledger.reads(split) for split in before}
    assert {s: after[s] - before[s] for s in before} == {"val": 0, "confirm": 1, "holdout": 2}
    assert all(f"recorded in study {TAG}" in line for line in said)
    assert before["holdout"] == 0 and "there was none before" in said[0] and "there was 1 before" in said[1]


def test_scoring_beside_a_running_study_is_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.clone)
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(place.text.root.parents[1]))
    model = models.find("baseline")
    assert warnings_of(model, "val", "mlx") == []
    with place.study() as study, study.lock():
        said = warnings_of(model, "val", "cpu")
        sampled = place.ar("sample", "baseline", "--prompt", "The ", "--tokens", "2").stderr
    assert len(said) == 2 and "scored on cpu" in said[0]
    assert said[1] == f"study {TAG} is running: scoring now takes time from its trial"
    assert f"study {TAG} is running: writing now takes time from its trial" in sampled


def test_an_experiment_that_is_not_there_is_a_sentence(refused: Callable[..., str], place: Place) -> None:
    assert "there is no experiment 987" in refused(place, "eval", "#987")
    assert "there is no study 'mar9'" in refused(place, "eval", "champion", "--tag", "mar9")


def test_a_holdout_read_by_a_model_of_no_study_is_said_to_be_unrecorded(clone: Place, run: dict[str, Any]) -> None:
    assert "belongs to no study" in clone.ar("eval", run["checkpoint"], "--split", "holdout").stderr


def test_a_link_to_a_studys_weights_is_the_studys(
        place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with place.study() as study:
        weights = study.trials / str(study.ledger.experiment(0).screens()[-1].id) / checkpoint.WEIGHTS
    (tmp_path / "mine").symlink_to(weights)
    monkeypatch.chdir(place.clone)
    assert models.find(str(tmp_path / "mine")).study == TAG
    with pytest.raises(UserError):
        models.find("nothing")
