"""Two studies or experiments side by side, and the leaderboard: only scores that compare are compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch.cli import run, shell
from autoresearch.report import leaderboard
from autoresearch.report.story import tell
from tests.report.made import FACTS, Made, repository


def make(clone: Path) -> tuple[Made, Made]:
    """Two studies of one clone on equal terms; the second found more."""
    made = Made.create(clone, "mar8"), Made.create(clone, "mar9")
    for study, best in zip(made, (2.35, 2.30), strict=True):
        study.baseline(2.4, 2.41)
        study.idea("keep", best, "Sharper attention", changes={"model.qk_scale": 1.2})
        study.idea("discard", 2.45, "Louder", changes={"optim.matrix_lr": 0.08})
    return made


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Made, Made]]:
    made = make(repository(tmp_path_factory.mktemp("two")))
    yield made
    for study in made:
        study.study.close()


@pytest.fixture
def read(unchanged: tuple[Made, Made], monkeypatch: pytest.MonkeyPatch) -> tuple[Made, Made]:
    """The two, to be left as they are."""
    monkeypatch.chdir(unchanged[0].study.clone)
    return unchanged


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Made, Made]]:
    """The two, to be added to."""
    made = make(repository(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield made
    for study in made:
        study.study.close()


def ar(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> str:
    assert run(shell.command, args, "ar") == code
    return capsys.readouterr().out


def test_studies_are_compared_by_their_champions(read: tuple[Made, Made], capsys: pytest.CaptureFixture[str]) -> None:
    text = ar(capsys, "compare", "mar8", "mar9")
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert "mar8 mar9" in lines
    assert "champion, val 2.3500 2.3000" in lines
    assert "mar9 is 0.0500 bits per byte (2.1%) below mar8 on val, 1 seed; one seed has no interval." in lines
    record = json.loads(ar(capsys, "compare", "mar8", "mar9", "--json"))
    assert record["gain"]["mean_bpb"] == pytest.approx(0.05) and record["gain"]["low_bpb"] is None
    assert record["unlike"] == [] and record["recipe"] == {}


def test_experiments_show_what_their_recipes_have_different(read: tuple[Made, Made],
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(ar(capsys, "compare", "1", "2", "--tag", "mar8", "--json"))
    assert (record["a"]["name"], record["b"]["name"]) == ("1", "2")
    assert record["recipe"] == {"optim.matrix_lr": [0.04, 0.08]}, "both have the kept change"
    assert record["gain"]["mean_bpb"] == pytest.approx(-0.1)
    text = ar(capsys, "compare", "mar8:0", "mar9:1")
    assert "model.qk_scale" in text and "mar9:1 is 0.1000 bits per byte (4.2%) below mar8:0" in text
    assert "mar8:2" in ar(capsys, "compare", "mar9", "mar8:2"), "a study stands for its champion there"


def test_of_one_that_was_stopped_early_it_says_what_is_known_and_why(two: tuple[Made, Made],
                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    why = "stopped at 40% of its budget: 0.2000 bits per byte behind the incumbent on dev"
    n = two[0].idea("discard", None, "A very long hypothesis, " * 12, why, {"model.depth": 2})
    text = ar(capsys, "compare", "1", str(n), "--tag", "mar8")
    cells = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert all(cells[name][-1] == "-" for name in ("steps", "parameters", "peak memory", "val, screening seed"))
    assert f"{n} has no score: {why}." in text and "no seed in common" not in text
    assert max(map(len, text.splitlines())) <= 120 and text.count("very long") > 3 and "…" in text
    record = json.loads(ar(capsys, "compare", "1", str(n), "--tag", "mar8", "--json"))
    assert record["b"]["unscored"] == why and record["a"]["unscored"] == "" and record["b"]["steps"] == ""


def test_seeds_that_both_have_give_an_interval(two: tuple[Made, Made], capsys: pytest.CaptureFixture[str]) -> None:
    for seed, score in ((2, 2.32), (3, 2.33)):
        two[1].trial(1, score, seed, "repeat")
        two[0].trial(1, score + 0.04 + seed / 1000, seed, "repeat")
    gain = json.loads(ar(capsys, "compare", "mar8", "mar9", "--json"))["gain"]
    assert gain["seeds"] == 3
    assert gain["low_bpb"] < gain["mean_bpb"] < gain["high_bpb"]
    assert "95% interval of the difference" in ar(capsys, "compare", "mar8", "mar9")


@pytest.mark.parametrize(("fact", "value", "name"), [
    ("budget_s", 60.0, "training budget"), ("data_digest", "other", "text"), ("frozen_digest", "other", "trainer"),
    ("val_rows", 7, "scored rows"), ("device", {"name": "another"}, "device")])
def test_scores_under_other_terms_are_not_compared(fact: str, value: object, name: str, read: tuple[Made, Made],
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    ledger = read[1].study.ledger
    before = ledger.fact(fact)
    ledger.set_fact(fact, value)
    try:
        assert f"Their scores don't compare: {name} differs." in ar(capsys, "compare", "mar8", "mar9")
        record = json.loads(ar(capsys, "compare", "mar8:1", "mar9:1", "--json"))
    finally:
        ledger.set_fact(fact, before)
    assert record["gain"] is None and record["unlike"] == [name]


@pytest.mark.parametrize(("args", "code", "said"), [
    (("nope", "mar8"), 1, "there is no study 'nope'"), (("mar8:77", "mar8"), 1, "there is no experiment 77"),
    (("mar8:x", "mar8"), 2, "neither a study nor an experiment"), ((":3", "mar8"), 2, "neither a study nor")])
def test_what_does_not_exist_is_a_sentence(args: tuple[str, str], code: int, said: str, read: tuple[Made, Made],
                                           capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shell.command, ["compare", *args], "ar") == code
    assert said in capsys.readouterr().err


def test_the_leaderboard_sets_only_equal_terms_into_one_table(two: tuple[Made, Made]) -> None:
    clone = two[0].study.clone
    other = Made.create(clone, "short", **FACTS | {"budget_s": 60.0})
    other.baseline(2.9, 2.91)
    other.study.close()
    older = Made.create(clone, "older", **FACTS | {"frozen_digest": "0" * 64})
    older.baseline(2.2, 2.21)
    older.study.close()
    two[0].verify(0, 2.50, 2.51, 2.49)
    two[0].verify(1, 2.44, 2.46, 2.45)
    text = leaderboard.write(clone).read_text(encoding="utf-8")
    tables = {table.splitlines()[0].rpartition(" · ")[2]: table for table in text.split("\n## ")[1:]
              if "trainer 000" not in table}
    assert set(tables) == {"300 s a trial", "60 s a trial"} and text.count("\n## ") == 3
    rows = [row for row in tables["300 s a trial"].splitlines() if row.startswith("| mar")]
    assert [row.split(" | ")[0] for row in rows] == ["| mar8", "| mar9"], "verified ones first, whatever they claim"
    assert "| 2.4500 | 0.0500 (" in rows[0] and "not verified" in rows[1]
    assert "| short | the baseline |" in tables["60 s a trial"]


def test_the_leaderboard_shows_strangers_text_as_text(two: tuple[Made, Made]) -> None:
    two[0].idea("keep", 2.2, "a | b [x](http://evil.example) <script>\n\n# no")
    board = leaderboard.board([tell(two[0].study)])
    assert len(board.split("\n## ")) == 2
    [row] = [row for row in board.splitlines() if row.startswith("| mar8")]
    assert "<script" not in row and "](http" not in row and len(row.split(" | ")) == 7
