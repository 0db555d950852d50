"""`ar bench`: interleaved rounds as numbers that can be repeated, and a reason for whatever is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoresearch import bench, bench_pages
from autoresearch.bench import Entry, Row
from autoresearch.data.prepared import Prepared
from autoresearch.errors import UserError
from backends.base import Device
from backends.recipe import Recipe
from tests.harness.tiny import comes_true, honest, ours_below, tiny_recipe
from tests.loop.conftest import Place, make_clone
from tests.loop.machines import Machine

CPU = Device("a processor", 8 << 30, ("bfloat16", "float32"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(CPU)
    monkeypatch.setattr(bench, "Measuring", machine)
    return machine


def entries(*precisions: str, recipe: Recipe | None = None) -> list[Entry]:
    base = recipe or tiny_recipe()
    return [Entry("cpu", p, base.replace({"runtime.precision": p})) for p in precisions]


def test_every_entry_is_timed_in_every_round(machine: Machine) -> None:
    rows = bench.run(honest(), entries("float32", "bfloat16"), 4, 0.1, None, lambda text: None)
    assert [len(row.round_s) for row in rows] == [4, 4] and not any(row.failed for row in rows)
    slow, quick = rows
    median, slowest, fastest = quick.tokens_per_s()
    assert slowest <= median <= fastest and median == pytest.approx(1.6 * slow.tokens_per_s()[0])
    used = slow.utilisation()
    assert used == pytest.approx(slow.tokens_per_s()[0] * slow.flops_per_token / 2e11)


def test_one_that_fails_says_why_and_the_others_go_on(machine: Machine) -> None:
    machine.really_bytes = 1 << 28
    large = bench.sized(tiny_recipe(), 8, 1024)
    both = [*entries("float32", recipe=large), *entries("float32")]
    rows = bench.run(honest(), both, 2, 0.1, None, lambda text: None)
    assert "out of memory" in rows[0].failed and rows[1].round_s
    said = bench_pages.table(rows)
    assert "cpu float32, 8 x 1024: out of memory" in said and said.count("\n") == 3


def test_a_file_of_results_is_read_as_it_was_written(machine: Machine, tmp_path: Path) -> None:
    rows = bench.run(honest(), entries("float32"), 2, 0.1, None, lambda text: None)
    (tmp_path / "mine.json").write_text(json.dumps(bench.record(honest(), rows, 2, 0.1, False)))
    found, again = bench.read(tmp_path / "mine.json")
    assert again == rows and found["machine"]["processor"] and found["trainer"]["code"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 99}', '{"format": 1, "rows": [{"speed": 3}]}'])
def test_a_file_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(UserError, match=r"bad\.json is not a file of results"):
        bench.read(tmp_path / "bad.json")


def test_files_of_results_become_a_page(machine: Machine, tmp_path: Path) -> None:
    assert "None has been sent in yet" in bench_pages.page([])
    rows = bench.run(honest(), entries("float32", "bfloat16"), 3, 0.1, None, lambda text: None)
    rows.append(Row("mlx", "float32", 2, 128, 64, 257, 512, True, 1, 1.0, failed="no Metal here"))
    (tmp_path / "one-machine.json").write_text(json.dumps(bench.record(honest(), rows, 3, 0.1, False)))
    page = bench_pages.page([tmp_path / "one-machine.json"])
    assert "## one-machine" in page and "3 rounds of 0.1 s" in page and page.count("| cpu |") == 2
    assert "- mlx float32, 2 x 128: no Metal here" in page and "None has been sent" not in page


def test_the_picture_is_drawn_with_what_could_be_measured(machine: Machine, tmp_path: Path) -> None:
    rows = bench.run(honest(), entries("float32"), 2, 0.1, None, lambda text: None)
    for name, shown in (("some", rows), ("none", [])):
        bench_pages.plot(shown, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_heads_stay_as_they_are_where_they_divide_the_width() -> None:
    base = Recipe().replace({"model.width": 256, "model.head_dim": 128})
    assert bench.sized(base, 4, 512).model.head_dim == 128 and bench.sized(base, 4, 320).model.head_dim == 64


# The command


@pytest.fixture(scope="module")
def clone(text: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(make_clone(tmp_path_factory.mktemp("bench")), text)


def test_a_bench_of_this_machine(clone: Place, tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    done = clone.ar("bench", "--backend", "mlx", "--backend", "cuda", "--precision", "float32", "--rounds", "2",
                    "--seconds", "0.01", "--out", str(out), "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    [row] = found["rows"]
    assert (row["backend"], row["precision"], row["depth"], row["width"]) == ("mlx", "float32", 1, 32)
    assert len(row["round_s"]) == 2 and row["ceiling_flops"] > 0 and row["peak_memory_bytes"] > 0
    assert row["start_s"] > 0 and row["first_step_s"] > 0
    assert json.loads(out.read_text()) == found and bench.read(out)
    assert found["absent"].get("cuda", "") or any(r["backend"] == "cuda" for r in found["rows"])
    assert comes_true(lambda: not ours_below(clone.clone), 2)
    again = clone.ar("bench", "--out", str(out), code=1)
    assert "exists already" in again.stderr and json.loads(out.read_text()) == found


@pytest.mark.parametrize(("args", "said", "code"), [
    (("--size", "big"), "--size 'big' is not a size", 2),
    (("--size", "4x100"), "must be a multiple of model.head_dim", 2),
    (("--set", "model.depth"), "has no '='", 2),
    (("--preset", "gpt2", "--recipe", "x.toml"), "both name a recipe", 2),
    (("--plot", "/nowhere/at/all.png"), "there is no folder /nowhere/at", 1),
])
def test_what_can_not_be_meant_is_a_sentence(
        refused: Callable[..., str], clone: Place, args: tuple[str, ...], said: str, code: int) -> None:
    assert said in refused(clone, "bench", "--backend", "mlx", *args, code=code)
