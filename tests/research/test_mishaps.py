"""What a night does about memory that ran out, machines that fail and disks that fill."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoresearch import sizes
from autoresearch.cli import loop, run, shell
from autoresearch.errors import UserError
from autoresearch.harness.supervise import Outcome
from autoresearch.harness.text import cut
from autoresearch.records import BASELINE, Experiment, Trial
from autoresearch.research import storage, verify
from autoresearch.research.storage import Storage
from autoresearch.research.study import Study
from backends.recipe import Recipe, parse
from tests.research import planted
from tests.research.nights import RATES, failing, make, night, nursery

ROWS = Recipe().rows_per_step


@pytest.fixture(scope="module", autouse=True)
def one_nursery() -> Iterator[None]:
    with nursery():
        yield


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return make(tmp_path / "clone")


def test_a_recipe_that_ran_out_of_memory_is_run_once_more_in_smaller_parts_and_is_that_recipe(clone: Path) -> None:
    baseline, first = night(clone, experiments=1, rows_that_fit=ROWS // 2)
    assert [(t.status, t.facts.get("cause")) for t in baseline.trials[:2]] == [("crash", "memory"), ("ok", None)]
    assert baseline.recipe["batch.micro_rows"] == ROWS // 2 and baseline.verdict == "keep"
    with Study.open(clone, readonly=True) as study:
        committed = parse(study.workspace.read(baseline.sha, "backends/gpt/recipe.toml").decode())
        assert committed.micro_rows == ROWS // 2 and committed.rows_per_step == ROWS
        assert b"micro_rows" in study.workspace.read(study.workspace.head(), "backends/gpt/recipe.toml")
        assert {t.facts["recipe"] for t in baseline.trials if t.status == "ok"} == {committed.digest()}
    assert first.trials[0].status == "ok", "what is built on it does not run out again"


def test_an_experiment_that_ran_out_of_memory_keeps_its_hypothesis_and_its_number(clone: Path) -> None:
    changes = {"batch.tokens_per_step": 2 * Recipe().batch.tokens_per_step}
    _, first = night(clone, experiments=1, rows_that_fit=ROWS, script=[{"changes": changes}])
    assert [t.status for t in first.trials[:2]] == ["crash", "ok"] and first.verdict in ("keep", "discard")
    assert first.changes == changes and first.recipe["batch.micro_rows"] == ROWS
    with Study.open(clone, readonly=True) as study:
        ref = study.workspace.read(f"refs/autoresearch/{study.tag}/1", "backends/gpt/recipe.toml")
        assert ref == study.workspace.read(first.sha, "backends/gpt/recipe.toml") and b"micro_rows" in ref


def test_memory_that_halves_do_not_save_is_a_crash_after_two_trials(clone: Path) -> None:
    changes = {"batch.tokens_per_step": 8 * Recipe().batch.tokens_per_step}
    _, first = night(clone, experiments=1, rows_that_fit=ROWS, script=[{"changes": changes}])
    assert [t.status for t in first.trials] == ["crash", "crash"]
    assert (first.verdict, first.reason) == ("crash", "out of memory: a test")


@pytest.mark.parametrize("dies", ["before", "after"])
@pytest.mark.parametrize(("n", "fit"), [(BASELINE, ROWS // 2), (1, ROWS)])
def test_a_night_that_dies_as_it_halves_a_recipe_has_it_halved_once(clone: Path, n: int, fit: int, dies: str) -> None:
    changes = {"batch.tokens_per_step": 2 * Recipe().batch.tokens_per_step}
    told = {"experiments": n, "rows_that_fit": fit, "script": [{"changes": changes}]}
    before = night(clone, killed=True, dies_easing=dies, **told)[n]
    assert [t.facts.get("cause") for t in before.trials] == ["memory"]
    after = night(clone, **told)[n]
    assert [t.status for t in after.trials[:2]] == ["crash", "ok"] and after.recipe["batch.micro_rows"] == fit
    assert after.verdict in ("keep", "discard")


@pytest.mark.parametrize(("rows", "micro", "half"), [(8, 0, 4), (8, 4, 2), (6, 3, 1), (12, 0, 6), (9, 0, 3), (7, 7, 1),
                                                     (8, 1, None)])
def test_half_of_the_rows_is_the_largest_part_that_divides_a_step(rows: int, micro: int, half: int | None) -> None:
    T = Recipe().model.seq_len
    change = sizes.halved(Recipe().replace({"batch.tokens_per_step": rows * T, "batch.micro_rows": micro}))
    assert change == ({} if half is None else {"batch.micro_rows": half})
    recipe = Recipe().replace({"batch.tokens_per_step": rows * T} | change)
    assert recipe.rows_per_step == rows


def test_three_crashes_in_a_row_that_are_the_machines_pause_the_study(clone: Path) -> None:
    said = failing(clone, faults=[4, 5, 6])
    assert "3 experiments in a row crashed" in said and "its device hangs" in said and "goes on with #3" in said
    with Study.open(clone, readonly=True) as study:
        *_, first, second, third = study.ledger.experiments()
    assert [e.verdict for e in (first, second, third)] == ["crash", "crash", ""] and third.state == "committed"
    after = night(clone, experiments=1)
    assert after[-1].n == third.n and after[-1].verdict in ("keep", "discard")


def test_crashes_of_candidates_never_pause_a_study(clone: Path) -> None:
    crashes = {str(idea["changes"]["optim.matrix_lr"]): 1 for idea in RATES[:4]}
    after = night(clone, experiments=5, crashes=crashes)
    assert [e.verdict for e in after[1:5]] == ["crash"] * 4
    after = night(clone, experiments=2, script=[*RATES, *RATES[:2]], faults=[1])
    assert len(after) == 8, "one fault of the machine is none"


# Disk

def experiment(n: int, verdict: str, trial: int) -> Experiment:
    return Experiment(n, "p", "s", "r", "h", "", {}, {}, "done" if verdict else "committed", verdict, "", "",
                      (Trial(trial, n, 1, "screen", "ok", 30.0, ""),))


@pytest.fixture
def shelf(tmp_path: Path) -> tuple[Path, list[Experiment]]:
    """Weights of a baseline, seven kept experiments and one that is not decided, a million bytes each."""
    experiments = [experiment(BASELINE, "keep", 1), *(experiment(n, "keep", n + 1) for n in range(1, 8)),
                   experiment(8, "", 9)]
    for e in experiments:
        folder = tmp_path / str(e.trials[0].id)
        folder.mkdir()
        (folder / "weights.safetensors").write_bytes(os.urandom(1_000_000))
        (folder / "log.txt").write_text("a log\n")
    return tmp_path, experiments


def left(trials: Path) -> list[int]:
    """Experiments that have weights; their logs are all there."""
    assert all((folder / "log.txt").is_file() for folder in trials.iterdir())
    return sorted(int(p.parent.name) - 1 for p in trials.glob("*/weights.safetensors"))


def test_the_weights_of_champion_baseline_and_the_last_three_before_stay(shelf: tuple[Path, list[Experiment]]) -> None:
    Storage(shelf[0]).make_room(shelf[1], 7, 1000)
    assert left(shelf[0]) == [0, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(("megabytes", "stay"), [(6.5, [0, 4, 5, 6, 7, 8]), (5.5, [0, 5, 6, 7, 8]), (4.5, [0, 6, 7, 8]),
                                                 (3.5, [0, 7, 8]), (2.5, [7, 8])])
def test_what_is_worth_least_goes_first_where_the_budget_is_small(shelf: tuple[Path, list[Experiment]],
                                                                 megabytes: float, stay: list[int]) -> None:
    Storage(shelf[0], int(megabytes * 1e6)).make_room(shelf[1], 7, 1000)
    assert left(shelf[0]) == stay


def test_a_budget_that_is_used_up_is_a_sentence_and_the_champion_stays(shelf: tuple[Path, list[Experiment]]) -> None:
    with pytest.raises(UserError, match=r"takes 2.0 MB of the 1.5 MB of disk space") as e:
        Storage(shelf[0], 1_500_000).make_room(shelf[1], 7, 1000)
    assert "--disk" in e.value.hint and left(shelf[0]) == [7, 8]


def test_the_disk_space_that_ar_loop_is_given_is_the_studys_and_bounds_its_trials(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made = planted.Night.create(tmp_path, lambda recipe, files: 2.0)
    lab, pages = made.lab(), list[object]()
    made.made.study.ledger.set_fact("plan", {"changes": {}, "why": ""})
    made.made.study.close()
    monkeypatch.setattr(loop, "begin_or_continue", lambda wanted, view: (Study.open(tmp_path), None))
    monkeypatch.setattr(loop, "lab_of", lambda study, *_: replace(lab, study=study, ledger=study.ledger))
    monkeypatch.setattr("autoresearch.report.write_report", lambda *args, **kwargs: pages.append(args))
    for more in (["--disk", "40MB"], []):
        assert run(shell.command, ["loop", "--experiments", "1", "--verify-seeds", "0", *more], "ar") == 1
        assert "of the 40.0 MB of disk space that it may" in capsys.readouterr().err
    assert len(pages) == 2, "the morning's page is written all the same"
    assert run(shell.command, ["loop", "--experiments", "1", "--verify-seeds", "0", "--disk", "40GB"], "ar") == 0
    with Study.open(tmp_path, readonly=True) as study:
        assert study.ledger.fact(storage.FACT) == 40 * 10**9 and study.ledger.experiments()[-1].verdict


def test_a_full_disk_is_a_sentence_before_the_trial(shelf: tuple[Path, list[Experiment]],
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: SimpleNamespace(free=4 * 10**8))
    with pytest.raises(UserError, match=r"400.0 MB of disk space are free at .*; the next trial needs 1.0 GB") as e:
        Storage(shelf[0]).make_room(shelf[1], 7, storage.needed_bytes(1000))
    assert "the same command continues" in e.value.hint


class Talkative(planted.Planted):
    def train(self, candidate: dict[str, bytes], recipe: Recipe, seed: int, folder: Path, *args: Any,
              **more: Any) -> Outcome:
        outcome = super().train(candidate, recipe, seed, folder, *args, **more)
        (folder / "log.txt").write_bytes(b"begin" + b"x" * (3 << 20) + b"the end")
        return outcome


def test_of_a_trials_log_the_last_megabyte_stays(tmp_path: Path) -> None:
    made = planted.Night.create(tmp_path, lambda recipe, files: 2.0)
    lab = replace(made.lab(), runner=Talkative(made.rule))  # type: ignore[arg-type]
    trial = lab.screen(verify.candidate(lab, lab.ledger.experiment(BASELINE)), 4)
    log = (lab.folder(trial.id) / "log.txt").read_bytes()
    assert trial.status == "ok" and len(log) == 1 << 20 and log.endswith(b"xxx" + b"the end")
    made.made.study.close()


def test_only_a_file_that_is_longer_is_cut_and_never_what_a_link_leads_to(tmp_path: Path) -> None:
    persons, link, short = tmp_path / "persons", tmp_path / "link", tmp_path / "short"
    persons.write_text("0123456789")
    link.symlink_to(persons)
    short.write_text("0123")
    for path in (link, short, tmp_path / "missing"):
        cut(path, 4)
    assert (persons.read_text(), short.read_text()) == ("0123456789", "0123")
    cut(persons, 4)
    assert persons.read_text() == "6789" and not (tmp_path / "missing").exists()
