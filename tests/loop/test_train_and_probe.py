"""`ar train` and `ar probe` in a clone: numbers for machines, sentences for people, and never more than fits."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch import probe
from autoresearch.data.prepared import Prepared
from autoresearch.errors import UserError
from autoresearch.harness import runner
from backends.recipe import Recipe, parse
from backends.spec import GPTSpec
from tests.harness.tiny import comes_true, honest, ours_below, tiny_recipe
from tests.loop.conftest import Place, make_clone


@pytest.fixture(scope="module")
def clone(text: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(make_clone(tmp_path_factory.mktemp("train")), text)


def trained(clone: Place, *args: str) -> dict[str, Any]:
    return json.loads(clone.ar("train", "--steps", "3", "--json", "--backend", "mlx", *args).stdout)


def test_training_for_steps_reports_numbers_that_follow_from_the_seed(clone: Place, tmp_path: Path) -> None:
    before = clone.checkout()
    first = trained(clone, "--seed", "7", "--out", str(tmp_path / "kept"))
    again, other = trained(clone, "--seed", "7"), trained(clone, "--seed", "8")
    facts = clone.text.manifest.splits["val"]
    assert (first["steps"], first["tokens"], first["seed"]) == (3, 3 * 512, 7)
    assert first["val_bytes"] == facts.bytes and 1 < first["val_bpb"] < 20
    assert first["val_bpc"] == pytest.approx(first["val_bpb"] * facts.bytes / facts.chars)
    assert first["val_bpb"] == again["val_bpb"] != other["val_bpb"]
    assert first["recipe"]["model.width"] == 32 and first["curve"][-1][0] == 3 and first["precision"] == "float32"
    assert {p.name for p in (tmp_path / "kept").iterdir()} >= {"weights.safetensors", "log.txt"}
    assert clone.checkout() == before


def test_the_block_of_numbers_has_upstreams_names(clone: Place) -> None:
    out = clone.ar("train", "--steps", "2", "--backend", "mlx").stdout
    block = dict(line.split(":", 1) for line in out.partition("---\n")[2].splitlines())
    assert {"val_bpb", "training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent", "total_tokens_M",
            "num_steps", "num_params_M", "depth"} <= {k.strip() for k in block}
    assert int(block["num_steps"]) == 2 and 1 < float(block["val_bpb"]) < 20


@pytest.mark.parametrize(("recipe", "said"), [
    ("[model]\nwidht = 3\n", "did you mean model.width?"),
    ("[model]\nwidth = 'wide'\n", "model.width = 'wide': must be a whole number from 16 to 8192"),
    ("[data]\ntokenizer = 'bpe-4096'\n", "the recipe wants the tokenizer bpe-4096; made has byte, bpe-512"),
    ("width = [\n", "not valid TOML"),
])
def test_a_recipe_that_can_not_be_run_is_a_sentence(clone: Place, tmp_path: Path, recipe: str, said: str) -> None:
    (tmp_path / "mine.toml").write_text(recipe)
    failed = clone.ar("train", "--steps", "1", "--backend", "mlx", "--recipe", str(tmp_path / "mine.toml"), code=1)
    assert said in failed.stderr and failed.stdout == ""


def test_a_folder_that_exists_is_not_written_into(clone: Place, tmp_path: Path) -> None:
    assert "exists already" in clone.ar("train", "--steps", "1", "--out", str(tmp_path), code=1).stderr
    assert not list(tmp_path.iterdir())


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


# The probe


def test_the_probe_proposes_a_recipe_that_can_be_run(clone: Place) -> None:
    plan = json.loads(clone.ar("probe", "--budget", "1", "--backend", "cpu", "--json").stdout)
    assert plan.keys() == {"backend", "device", "budget_s", "changes", "why", "table"}
    assert plan["backend"] == "cpu" and plan["budget_s"] == 1
    assert plan["device"].keys() >= {"name", "memory_bytes", "precisions", "ceiling_flops"}
    assert plan["table"] and all(row["tokens_per_s"] > 0 and row["memory_bytes"] > 0 for row in plan["table"])
    recipe = parse((clone.clone / "backends/gpt/recipe.toml").read_text()).replace(plan["changes"])
    assert (recipe.model.depth, recipe.model.width) in [(row["depth"], row["width"]) for row in plan["table"]]
    assert comes_true(lambda: not ours_below(clone.clone), 2)


class FastMachine:
    """Stands in for the measuring process: a device of some memory on which every size is fast."""

    def __init__(self, memory_bytes: int, tokens_per_s: float):
        self.memory_bytes, self.tokens_per_s = memory_bytes, tokens_per_s
        self.measured: list[Recipe] = []

    def __call__(self, candidate: object, backend: str, recipes: list[Recipe], *rest: Any) -> Iterator[dict[str, Any]]:
        yield {"event": "device", "name": "fast", "memory_bytes": self.memory_bytes, "precisions": ["float32"],
               "ceiling_flops": {"float32": 1e12}}
        for recipe in recipes:
            self.measured.append(recipe)
            yield {"event": "measured", "index": 0, "step_s": recipe.batch.tokens_per_step / self.tokens_per_s,
                   "peak_memory_bytes": 1}


@pytest.mark.parametrize(("gib", "seq_len"), [(0.25, 64), (1, 64), (1, 8192), (80, 64), (80, 8192)])
def test_the_probe_never_measures_or_proposes_what_does_not_fit_into_memory(
        text: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gib: float, seq_len: int) -> None:
    machine = FastMachine(int(gib * 2**30), tokens_per_s=1e7)
    monkeypatch.setattr(runner, "measure", machine)
    base = tiny_recipe(model__seq_len=seq_len, batch__tokens_per_step=seq_len)
    plan = probe.probe(honest(), base, "cpu", text, 3600, tmp_path)
    recipe, vocab = base.replace(plan.changes), text.tokenizer("byte").vocab
    for each in (recipe, *machine.measured[1:]):
        assert GPTSpec.of(each, vocab).training_bytes(each.micro_rows, 4) <= gib * 2**30
    assert recipe.batch.tokens_per_step >= 8192  # a fast machine's steps are not small


def test_a_machine_on_which_nothing_fits_is_told_so(
        text: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "measure", FastMachine(1 << 28, tokens_per_s=1e7))
    base = tiny_recipe(model__seq_len=8192, batch__tokens_per_step=8192)
    with pytest.raises(UserError, match=r"fits into this device's memory of 0\.2 GiB"):
        probe.probe(honest(), base, "cpu", text, 3600, tmp_path)


def test_the_probe_stops_at_the_first_size_that_the_budget_can_not_feed(
        text: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FastMachine(80 << 30, tokens_per_s=1e5)
    monkeypatch.setattr(runner, "measure", machine)
    plan = probe.probe(honest(), tiny_recipe(), "cpu", text, 30, tmp_path)
    sizes = [row.tokens_per_weight for row in plan.table]
    assert all(s >= probe.TOKENS_PER_WEIGHT for s in sizes[:-1]) and sizes[-1] < probe.TOKENS_PER_WEIGHT
    chosen = plan.table[-2]
    assert (plan.changes["model.depth"], plan.changes["model.width"]) == (chosen.depth, chosen.width)
    steps = 30 * chosen.tokens_per_s / tiny_recipe().replace(plan.changes).batch.tokens_per_step
    assert abs(math.log2(steps / probe.STEPS_WANTED)) <= 1
