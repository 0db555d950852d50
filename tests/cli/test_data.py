"""`ar data`: lists, shows, chooses, checks and deletes what is prepared, and touches nothing else."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoresearch.cli import run, shell
from autoresearch.data import corpus, disk, prepare, prepared, shelf
from autoresearch.errors import UserError
from autoresearch.research.ledger import Ledger
from tests.data.texts import made_text
from tests.report.made import Made, repository

ROOT = Path(__file__).resolve().parents[2]
STEERING = "red \x1b[31m and \x9b31m back \u202e wards\n".encode()


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two texts, and a cache with a set of each, the second one current."""
    folder = tmp_path_factory.mktemp("pristine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTORESEARCH_CACHE", str(folder / "cache"))
        for seed, name in enumerate(("novel", "letters")):
            text = folder / f"{name}.txt"
            text.write_bytes(STEERING + made_text(30_000, seed))
            prepare.prepare(corpus.text([text]), name, ("byte",))
    return folder


@pytest.fixture
def cache(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that cache; the current folder is in no clone."""
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "cache" / "data"


@pytest.fixture
def study(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """A study on the novel, in a clone that is the current folder."""
    found = prepared.find("novel")
    clone = repository(tmp_path / "clone")
    made = Made.create(clone, data_name="novel", data_digest=found.digest, data_root=str(found.root))
    monkeypatch.chdir(clone)
    yield made
    made.study.close()


def ar(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> str:
    """stdout of `ar data args`."""
    capsys.readouterr()
    assert run(shell.command, ["data", *args], "ar") == code
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *args: str, code: int = 1) -> str:
    """stderr of `ar data args`, which fails without a word on stdout."""
    capsys.readouterr()
    assert run(shell.command, ["data", *args], "ar") == code
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads(ar(capsys, "--json"))}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 8
    path.write_bytes(data)


def test_the_list_has_every_set_and_marks_the_current_one(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys)
    assert [(name, each["current"]) for name, each in found.items()] == [("letters", True), ("novel", False)]
    novel, facts = found["novel"], prepared.find("novel")
    assert novel["digest"] == facts.digest and list(novel["tokenizers"]) == ["byte"]
    assert novel["bytes"] == sum(split["bytes"] for split in novel["splits"].values())
    assert novel["disk_bytes"] >= sum(file.bytes for file in facts.manifest.files.values())
    assert novel["studies"] == [] and novel["problem"] is None and novel["path"] == str(cache / "novel")
    heading, *rows = ar(capsys).splitlines()
    assert heading.split()[:3] == ["name", "text", "disk"]
    assert [row.split()[:2] for row in rows] == [["*", "letters"], ["novel", "30.0"]]


def test_the_list_names_the_studies_of_this_clone(study: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert {name: each["studies"] for name, each in listed(capsys).items()} == {"letters": [], "novel": ["mar8"]}
    assert any("novel" in row and "mar8" in row for row in ar(capsys).splitlines())


def test_an_empty_cache_is_an_empty_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "none"))
    assert ar(capsys, "--json") == "[]\n"
    assert ar(capsys) == ""
    for verb in ("show", "verify"):
        assert "no text has been prepared" in refused(capsys, verb)
    assert not (tmp_path / "none").exists(), "looking makes nothing"


def test_showing_a_text_tells_all_of_it_and_steers_no_terminal(
        cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = ar(capsys, "show", "novel", "--samples", "2")
    facts = prepared.find("novel").manifest
    for words in (facts.corpus.sha256, facts.digest(), "not recorded", "none of this clone", "rows of val",
                  facts.tokenizers["byte"].digest, "| red  and 31m back  wards"):
        assert words in page
    assert not set(page) & {"\x1b", "\x9b", "\u202e"}
    shown = json.loads(ar(capsys, "show", "--json", "--samples", "1"))
    assert shown["name"] == "letters" and len(shown["samples"]) == 1 and shown["licence"] == ""
    assert "|" not in ar(capsys, "show", "--samples", "0")


def test_a_text_is_chosen_by_name(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "novel" in ar(capsys, "use", "novel")
    assert prepared.current().name == "novel" and listed(capsys)["novel"]["current"]
    assert json.loads(ar(capsys, "use", "letters", "--json"))["name"] == "letters" == prepared.current().name
    assert "no prepared text is called 'novels': there are letters, novel" in refused(capsys, "use", "novels")
    flip(cache / "novel" / "manifest.json", 40)
    assert "damaged" in refused(capsys, "use", "novel")
    assert prepared.current().name == "letters"


# Checking


def test_what_is_whole_is_said_to_be(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = len(prepared.find("novel").manifest.files)
    assert ar(capsys, "verify") == f"letters: whole, {files} files\nnovel: whole, {files} files\n"
    assert json.loads(ar(capsys, "verify", "novel", "--json")) == [{"name": "novel", "whole": True, "faults": []}]


def test_a_flipped_bit_in_any_file_is_found_and_named(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted((cache / "novel").iterdir()):
        good = path.read_bytes()
        flip(path, len(good) // 2)
        faults = json.loads(ar(capsys, "verify", "novel", "--json", code=1))[0]["faults"]
        assert len(faults) == 1 and path.name in faults[0]
        path.write_bytes(good)
    assert ar(capsys, "verify", "novel")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_flipped_bit_of_a_manifest_goes_unnoticed_or_changes_what_it_says(cache: Path, data) -> None:
    path = cache / "novel" / "manifest.json"
    good = path.read_bytes()
    before = prepared.described(path.parent).manifest
    damaged = bytearray(good)
    damaged[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged)
    try:
        assert prepared.described(path.parent).manifest == before, "only white space may differ"
    except UserError:
        pass
    finally:
        path.write_bytes(good)


def test_every_fault_is_named_with_the_remedy(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(cache / "novel" / "val.txt", 10)
    (cache / "novel" / "dev.txt").unlink()
    (cache / "novel" / "holdout.ends").write_bytes(b"")
    out = ar(capsys, "verify", code=1)
    assert out.splitlines()[0].startswith("letters: whole")
    assert {line.split()[1] for line in out.splitlines()[1:]} == {"val.txt", "dev.txt", "holdout.ends"}
    assert run(shell.command, ["data", "verify", "novel"], "ar") == 1
    assert "ar data delete novel" in capsys.readouterr().err
    assert listed(capsys)["novel"]["problem"]


def test_a_set_of_a_newer_version_is_not_advised_to_be_deleted(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cache / "novel" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    assert run(shell.command, ["data", "verify"], "ar") == 1
    said = capsys.readouterr()
    assert "newer version" in said.out and "Update autoresearch" in said.err and "delete" not in said.err
    assert "newer version" in ar(capsys) and listed(capsys)["novel"]["problem"]


# Deleting


def test_deleting_asks_and_an_answer_other_than_yes_deletes_nothing(
        cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for answer in ("", "\n", "n\n", "no\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        refused(capsys, "delete", "novel")
    assert prepared.names() == ["letters", "novel"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert ar(capsys, "delete", "novel").startswith("deleted novel")
    assert prepared.names() == ["letters"] and not (cache / "novel").exists()


def test_deleting_the_current_text_leaves_none_current(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    freed = listed(capsys)["letters"]["disk_bytes"]
    assert json.loads(ar(capsys, "delete", "letters", "--yes", "--json")) == {
        "name": "letters", "freed_bytes": freed, "studies": []}
    with pytest.raises(UserError, match="no prepared text is the current one; there are novel") as failed:
        prepared.current()
    assert "ar data use" in failed.value.hint


def test_a_text_that_a_study_uses_is_kept_unless_forced(study: Made, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "delete", "novel", "--yes")
    assert "in use by study mar8" in said and "--force" in said
    assert "novel" in prepared.names()
    flip(prepared.folder() / "novel" / "manifest.json", 60)  # what it was can't be told: its name counts
    refused(capsys, "delete", "novel", "--yes")
    assert json.loads(ar(capsys, "delete", "novel", "--yes", "--force", "--json"))["studies"] == ["mar8"]
    assert prepared.names() == ["letters"]


def test_a_study_whose_ledger_is_damaged_hides_no_other(study: Made, capsys: pytest.CaptureFixture[str]) -> None:
    broken = study.study.clone / "studies" / "zzz"
    broken.mkdir()
    (broken / "ledger.sqlite").write_bytes(b"not a ledger at all, but long enough to be looked at" * 50)
    assert listed(capsys)["novel"]["studies"] == ["mar8"]


@pytest.mark.parametrize("name", ["../x", "..", ".", "", "/", "./novel", "novel/", "letters/../novel", "current",
                                  ".lock", "*", "novel\n", "stray", "stray.txt"])
def test_only_a_set_of_the_cache_can_be_deleted(cache: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (cache / "stray").mkdir()
    (cache / "stray.txt").write_text("mine")
    (cache.parent / "x").mkdir()
    (cache.parent / "x" / "manifest.json").write_text("{}")
    before = sorted(cache.parent.rglob("*"))
    assert "no prepared text is called" in refused(capsys, "delete", "--yes", "--", name)
    assert sorted(cache.parent.rglob("*")) == before


def test_of_a_link_only_the_link_is_deleted(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache / "novel").rename(tmp_path / "moved")
    (cache / "novel").symlink_to(tmp_path / "moved")
    ar(capsys, "delete", "novel", "--yes")
    assert prepared.names() == ["letters"] and (tmp_path / "moved" / "manifest.json").is_file()


def test_a_delete_that_is_killed_leaves_no_half_set(
        cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shelf.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            shelf.delete("novel")
    assert prepared.names() == ["letters"] and list(cache.glob(".tmp-deleted-novel/*"))
    again = tmp_path / "novel.txt"
    prepare.prepare(corpus.text([again]), "novel", ("byte",))
    assert prepared.names() == ["letters", "novel"] and not list(cache.glob(".tmp-*")), "the next prepare sweeps"
    prepared.find("novel").verify()


def test_a_delete_waits_for_a_prepare_that_is_running(cache: Path) -> None:
    code = "from autoresearch.data import disk, prepared\n" \
           "with disk.lock(prepared.folder(), print):\n    print('locked', flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        said: list[str] = []

        def end(line: str) -> None:
            said.append(line)
            assert other.stdin is not None
            other.stdin.write(b"\n")
            other.stdin.flush()

        shelf.delete("novel", progress=end)
        assert len(said) == 1 and "waiting" in said[0]
    assert prepared.names() == ["letters"]
    with disk.lock(cache, pytest.fail):
        pass


def test_ctrl_c_at_the_question_deletes_nothing(cache: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "autoresearch", "data", "delete", "novel"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                               env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"})
    with process:
        assert process.stderr is not None and process.stdin is not None
        os.set_blocking(process.stderr.fileno(), False)
        asked, end = b"", time.monotonic() + 30
        while b"[y/N]" not in asked:
            assert time.monotonic() < end and process.poll() is None, asked
            asked += process.stderr.read() or b""
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 1
        os.set_blocking(process.stderr.fileno(), True)
        assert process.stderr.read().decode().strip() == "stopped"
    assert prepared.names() == ["letters", "novel"]
    prepared.find("novel").verify()


def test_a_ledger_is_only_read(study: Made, capsys: pytest.CaptureFixture[str]) -> None:
    path = study.study.root / "ledger.sqlite"
    os.chmod(path, 0o444)
    try:
        assert listed(capsys)["novel"]["studies"] == ["mar8"]
    finally:
        os.chmod(path, 0o644)
    with Ledger.open(path, readonly=True) as ledger:
        assert ledger.fact("data_name") == "novel"
