"""A morning with trained models: verify, ablate, replay, promote, adopt and export, as they are typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch.data.prepared import Prepared
from tests.harness.tiny import RECIPE
from tests.loop.conftest import MODEL_FILE, RECIPE_FILE, RIGHT, SLOW, TAG, Place, begin, make_clone, result_of


@pytest.mark.slow
def test_what_a_night_found_is_verified_taken_apart_and_handed_on(text: Prepared, tmp_path: Path) -> None:
    place = Place(make_clone(tmp_path, RECIPE.replace('"byte"', '"bpe-512"')), text)
    begin(place, "mlx", 1.0)
    place.ar("loop", "--tag", TAG, "--experiments", "0", "--verify-seeds", "0")
    model, recipe = place.worktree / MODEL_FILE, place.worktree / RECIPE_FILE
    model.write_text(model.read_text().replace(SLOW, RIGHT))
    assert result_of(place.ar("try", "-m", "Let the model speak"))["verdict"] == "keep"
    recipe.write_text(recipe.read_text() + "\n[schedule]\nwarmup_frac = 0.001\n")
    place.ar("try", "-m", "A touch of warm-up", "--ratchet", "greedy")  # kept or not
    with place.study() as study:
        assert study.ledger.fact("ratchet") in (None, "careful"), "one try does not change how the study decides"

    said = place.start("verify", "--seeds", "5", "--no-reference", "--time-to-target", "--json").finish(within_s=280)
    found = json.loads(said.stdout)
    assert found["splits"]["confirm"]["low_bpb"] > 0 and found["splits"]["holdout"]["seeds"] == 5
    assert found["target"] and "minutes" in said.stderr
    card = Path(place.ar("export").stdout.strip(), "README.md").read_text()
    assert "| holdout |" in card and "below the baseline on the confirm split, 5 fresh seeds" in card

    ablated = place.start("ablate", "--json").finish(within_s=280)
    lines = [json.loads(line) for line in ablated.stdout.splitlines()]
    assert lines[0]["verdict"] == "earns" and lines[0]["mean_bpb"] > 0.1

    assert "local" in place.ar("replay").stdout and "To be ported to torch" in place.ar("replay").stdout
    assert "there is nothing of it on cpu" in place.ar("replay", "1", "--backend", "cpu", code=1).stderr
    again = place.start("replay", "1", "--backend", "mlx", "--seeds", "2", "--json").finish(within_s=90)
    assert json.loads(again.stdout)["gain"]["mean_bpb"] > 0.1

    larger = place.start("promote", "--depth", "2", "--budget", "1.5", "--seeds", "1", "--json").finish(within_s=200)
    assert "depth 2: width 64, 4 heads" in larger.stderr
    promoted = json.loads(larger.stdout)
    assert promoted["large"]["mean_bpb"] > 0 and promoted["recipe"]["model.depth"] == 2

    place.git("config", "user.name", "A Person")
    place.git("config", "user.email", "person@example.org")
    assert "#1 Let the model speak" in place.ar("adopt").stdout
    assert RIGHT in (place.clone / MODEL_FILE).read_text() and place.git("status", "--porcelain") == ""
    folder = place.ar("export").stdout.strip()
    assert place.ar("sample", folder, "--prompt", "The", "--tokens", "5").stdout.startswith("The")
    for backend in ("mlx", "cpu"):
        command = [sys.executable, f"{folder}/generate.py", "The", backend]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("The")
