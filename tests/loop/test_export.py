"""`ar export`: a folder that our commands, a plain script and the Hugging Face Hub can read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from autoresearch import card, export, models
from autoresearch.errors import UserError
from autoresearch.harness import checkpoint
from backends.recipe import parse
from tests.harness.tiny import ROOT
from tests.loop.conftest import TAG, Place


@pytest.fixture(scope="module")
def folder(shared_place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "my-model"
    assert shared_place.ar("export", "baseline", "--out", str(out)).stdout == f"{out}\n"
    return out


def test_the_folder_holds_all_that_it_takes_and_no_more(place: Place, folder: Path) -> None:
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert {"README.md", "model.safetensors", "vocabulary.json", "recipe.toml", "config.json", "generate.py",
            "backends/__init__.py", "backends/gpt/mlx_model.py", "backends/mlx_backend.py"} <= names
    assert not any(name.startswith(("autoresearch", "studies", ".")) for name in names)
    with place.study() as study:
        model = models.of_experiment(study, 0)
    ours, theirs = load_file(model.weights), load_file(folder / "model.safetensors")
    assert all((ours[name] == theirs[name]).all() for name in ours) and ours.keys() == theirs.keys()
    assert parse((folder / "recipe.toml").read_text()) == model.recipe()
    config = json.loads((folder / "config.json").read_text())
    assert config["params"] == sum(w.size for w in ours.values()) and "code" not in config["record"]


def test_our_own_commands_take_it_from_anywhere(place: Place, folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    with place.study() as study:
        n = study.ledger.experiment(0).bpb()
    found = json.loads(place.ar("eval", str(moved), "--json").stdout)
    assert found["bpb"] == pytest.approx(n)
    assert place.ar("sample", str(moved), "--prompt", "The ", "--tokens", "5").stdout.startswith("The ")
    vocabulary = moved / "vocabulary.json"
    vocabulary.write_text(vocabulary.read_text().replace('"name": "byte"', '"name": "another"'))
    assert "is not the tokenizer that" in place.ar("sample", str(moved), "--prompt", "x", code=1).stderr


def test_a_plain_script_runs_it_with_nothing_of_ours_but_the_folder(folder: Path, tmp_path: Path) -> None:
    """The script is the one in the docs. Twice the same, and what it writes follows the prompt."""
    script = (ROOT / "examples/generate.py").read_text()
    assert (folder / "generate.py").read_text() == script
    shown = (ROOT / "docs/models.md").read_text()
    assert f"```python\n{script}```" in shown
    lines = [line for line in script.splitlines() if line and not line.startswith(("import", "from", '"""'))]
    assert len(lines) <= 22
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, str(folder / "generate.py"), "Once upon", "mlx"]
    first, second = (subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
                     for _ in range(2))
    assert first.returncode == 0, first.stderr
    bad = subprocess.run([*command[:-1], "gpu"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert (bad.returncode, bad.stderr) == (2, "backend 'gpu': must be one of mlx, cuda, cpu\n")
    assert first.stdout.startswith("Once upon") and len(first.stdout) > 150 and first.stdout == second.stdout


def test_the_card_is_one_that_the_hub_reads_and_says_how_it_came_to_be(place: Place, folder: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "autoresearch" and card.data.pipeline_tag == "text-generation"
    with place.study() as study:
        trial = study.ledger.experiment(0).screened()
    assert trial is not None
    assert [(r.metric_type, r.dataset_split, r.metric_value) for r in card.data.eval_results] \
        == [("bits_per_byte", "val", pytest.approx(trial.bpb(), abs=1e-5))]
    for words in (place.text.manifest.corpus.sha256, place.text.digest, f"{trial.bpb():.4f}", f"seed {trial.seed}",
                  f"{trial.steps:,} steps", "mlx, float32", "so its score is optimistic", "generate.py"):
        assert words in card.text, words


def test_the_card_does_not_say_where_a_persons_files_lie(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made to be published."""
    monkeypatch.chdir(place.clone)
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(place.text.root.parents[1]))
    facts = export.gather(models.find("baseline", TAG), "my-model")
    assert facts.text is not None and facts.text.kind == "text"
    text = replace(facts.text, source="/home/someone/diary.txt and 3 more")
    written = card.card(replace(facts, text=text))
    assert "someone" not in written and "diary" not in written
    assert text.sha256 in written and facts.model.about.data_name in written
    published = replace(text, kind="tinystories", source="roneneldan/TinyStories")
    assert "roneneldan/TinyStories" in card.card(replace(facts, text=published))


@pytest.mark.slow
def test_of_a_verified_champion_the_card_has_scores_that_selected_nothing(
        place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification's weights are taken, and the card tells the gain with its interval."""
    monkeypatch.chdir(place.clone)
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(place.text.root.parents[1]))
    place.ar("verify", "--tag", TAG, "--seeds", "1")
    model = export.chosen("champion", TAG)
    assert model.about.seed == 1001
    export.write(model, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| confirm, which selected nothing |" in card and "so its score is optimistic" not in card
    assert "too few seeds for an interval" in card
    assert re.search(r"seed 1001", card)


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(
        place: Place, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "exists already" in place.ar("export", "baseline", "--out", str(folder), code=1).stderr
    monkeypatch.chdir(place.clone)
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(place.text.root.parents[1]))

    def full(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError):
        export.write(models.find("baseline", TAG), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_strangers_code_is_not_run_unasked(place: Place, folder: Path, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    moved = shutil.copytree(folder, tmp_path / "theirs")
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))  # another machine's key
    monkeypatch.chdir(place.clone)
    about, is_ours = checkpoint.read(moved / "model.safetensors")
    assert not is_ours
    models.check_code(models.find(str(moved)), False)  # its code is what this clone has
    changed = {**about.code, "mlx_model.py": "import os"}
    model = models.Model("theirs", moved / "model.safetensors", checkpoint.Record(**{**vars(about), "code": changed}),
                         False)
    with pytest.raises(UserError, match="written on another machine"):
        models.check_code(model, False)
    models.check_code(model, True)
