"""Benchmarks of whole studies: settings that are not mixed, folders however they are named, going on after a stop."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoresearch.harness.checkpoint import WEIGHTS
from autoresearch.records import SCORED_S, Trial
from autoresearch.research.lab import SCORED_ROWS
from benchmarks import clones, overhead, shakespeare, soak


def test_results_of_other_settings_are_refused_by_name_and_new_settings_are_added(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    clones.settle(folder, {"budget_s": 30.0, "arm a": "x"})
    clones.settle(folder, {"budget_s": 30.0, "arm b": "y"})
    assert json.loads((folder / clones.SETTINGS).read_text()) == {"budget_s": 30.0, "arm a": "x", "arm b": "y"}
    with pytest.raises(SystemExit, match=r"budget_s was 30\.0 and is 60 now; arm a was 'x' and is 'z' now\n.*--folder"):
        clones.settle(folder, {"budget_s": 60, "arm a": "z", "arm c": "z"})
    assert "arm c" not in json.loads((folder / clones.SETTINGS).read_text())
    assert [path.name for path in folder.iterdir()] == [clones.SETTINGS]


def test_a_text_is_known_by_its_content_and_one_that_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    (tmp_path / "b").write_text("text")
    assert clones.digest(tmp_path / "a") == clones.digest(tmp_path / "b")
    with pytest.raises(SystemExit, match="there is no file"):
        clones.digest(tmp_path / "c")


def test_a_relative_folder_is_the_same_place_for_the_command_in_the_clone(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[dict[str, Any]] = []
    monkeypatch.setattr(clones.subprocess, "run", lambda command, **how: ran.append(how) or SimpleNamespace(stdout=""))
    monkeypatch.chdir(tmp_path)
    clones.ar(Path("f/clone"), Path("f/cache"), "log")
    here = tmp_path.resolve() / "f"
    environment = ran[0]["env"]
    assert ran[0]["cwd"] == here / "clone" and environment["PYTHONPATH"] == str(here / "clone")
    assert environment["AUTORESEARCH_CACHE"] == str(here / "cache")


class Told:
    """Plays `ar` for the walk-through. `stop` ends it while it scores."""

    def __init__(self) -> None:
        self.verbs: list[str] = []
        self.stop = False

    def __call__(self, folder: Path, verb: str, *arguments: str) -> dict[str, Any]:
        self.verbs.append(verb)
        if verb == "eval" and self.stop:
            raise KeyboardInterrupt
        if verb == "train":
            assert arguments[arguments.index("--data") + 1] == "mb1-0123abcd"
            place = Path(arguments[arguments.index("--out") + 1])
            place.mkdir()  # there is none, as `ar train` asks
            (place / WEIGHTS).write_bytes(b"w")
        return {"bpc": 2.0, "bpb_error": 0.01, "params": 1, "steps": 2, "tokens": 3,
                "curve": [[1, 0.5, 5.0, None], [2, 1.0, 4.0, 2.5]]}


def test_a_run_of_the_walk_through_goes_on_where_it_was_stopped(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    monkeypatch.setattr(shakespeare, "told", told)
    run = next(run for run in shakespeare.RUNS if "." in run.name)
    asked = (run, "mb1-0123abcd", tmp_path, tmp_path / "tail.txt", 30.0)
    (tmp_path / "dropout-0.3-twice-the-time").mkdir()  # stopped while it trained
    told.stop = True
    with pytest.raises(KeyboardInterrupt):
        shakespeare.result(*asked)
    told.stop = False
    found = shakespeare.result(*asked)
    assert told.verbs == ["train", "eval", "eval"] and found["dev"] == [[1.0, 2.5]]
    assert shakespeare.result(*asked) == found and len(told.verbs) == 3
    assert (tmp_path / "dropout-0.3-twice-the-time.json").is_file()


def test_each_line_of_the_walk_through_says_what_it_changes() -> None:
    best = [run for run in shakespeare.RUNS if shakespeare.BEST in run.changes]
    assert "best dev weights" in best[0].name


def trial(n: int, began_s: float, rows: int) -> Trial:
    started = datetime.fromtimestamp(began_s, UTC).isoformat(timespec="milliseconds")
    return Trial(n, 0, 1, "screen", "ok", 20.0, started, train_s=20.0, total_s=25.0,
                 facts={"warmup_s": 2.0, SCORED_S: 2.0, SCORED_ROWS: rows})


def test_scoring_is_scaled_to_what_the_longer_budget_allows_and_to_no_more_than_there_is() -> None:
    found = [trial(1, 0.0, 100), trial(2, 30.0, 100), trial(3, 61.0, 500)]
    assert overhead.scoring_s(found, 20.0, 10**6) == pytest.approx([8.0, 8.0, 2.0])  # 12 s instead of 3
    assert overhead.scoring_s(found, 20.0, 150) == pytest.approx([3.0, 3.0, 2.0])
    assert overhead.scoring_s(found, 300.0, 10**6) == pytest.approx([2.0, 2.0, 2.0])
    assert overhead.between(found) == pytest.approx([3.0, 4.0])
    said = overhead.table(found, 20.0, 10**6)
    assert "| scoring, as many rows as 300 s allow | 8.00 | 8.00 | 2.7 |" in said
    assert "| **in all** | **16.50** |" in said  # 3 around it, 2 to warm up, 8 to score, 3.5 between


def test_a_night_too_short_for_quarters_is_told_from_one_that_is_not() -> None:
    looks = [soak.Look(done, done / 2, 1 << 20, 3, 1, 0, 1000 * done) for done in range(0, 81, 4)]
    assert soak.is_short([]) and soak.is_short(looks[:2]) and soak.is_short(looks[:1] * 9) and not soak.is_short(looks)
    assert "| seconds an experiment | 0.50 | 0.50 |" in soak.table(looks)
