"""`ar prepare` and `python prepare.py`, as they are typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from autoresearch.cli.prepare import command
from autoresearch.data import prepared
from autoresearch.errors import UsageError, UserError
from tests.data.texts import made_text

DOOR = Path(__file__).parents[2] / "prepare.py"


def prepare(*arguments: object):
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=True)


def test_files_and_folders_after_text_are_all_taken(tmp_path: Path, novel: Path):
    folder = tmp_path / "letters"
    folder.mkdir()
    (folder / "a.txt").write_bytes(made_text(30_000, 1))
    found = prepare("--text", novel, folder, "--name", "both", "--tokenizer", "byte", "--json")
    assert found.exit_code == 0, found.output
    summary = json.loads(found.stdout)
    assert summary["name"] == "both" and summary["new"] is True
    assert summary["bytes"] == novel.stat().st_size + (folder / "a.txt").stat().st_size
    assert sum(split["bytes"] for split in summary["splits"].values()) == summary["bytes"]
    assert list(summary["tokenizers"]) == ["byte"] == prepared.current().tokenizers()


def test_the_table_has_every_split_and_tokenizer_and_progress_is_apart(novel: Path):
    found = prepare(novel, "--tokenizer", "byte", "--tokenizer", "bpe-300")
    assert found.exit_code == 0, found.output
    first_words = [line.split()[0] for line in found.stdout.splitlines() if line]
    assert first_words[:9] == ["split", "train", "dev", "val", "confirm", "holdout", "tokenizer", "byte", "bpe-300"]
    assert "tokenizer bpe-300\n" in found.stderr and "1 document, " in found.stderr
    assert "pieces" in found.stdout and "1 document, split by pieces of the text" in found.stdout


def test_of_a_messy_folder_what_matters_stands_first_and_what_was_skipped_in_one_line(tmp_path: Path):
    folder = tmp_path / "messy"
    folder.mkdir()
    text = made_text(60_000, 1)
    for name in ("a.txt", "copy.txt"):
        (folder / name).write_bytes(text)
    (folder / "latin1.txt").write_bytes("déjà vu, encore une fois\n".encode("latin-1") * 500)
    for n in range(12):
        (folder / f"{n}.jpg").write_bytes(b"\xff\xd8\0\0")
    found = prepare("--text", folder, "--tokenizer", "byte", "--json")
    notes = [line for line in found.stderr.splitlines() if line.startswith("note: ")]
    assert "stand in train" in notes[0] and " are not UTF-8" in notes[1] and "skipped 12 paths: " in notes[2], notes
    assert len(notes) == 3 and len(json.loads(found.stdout)["skipped"]) == 12


def test_a_name_that_is_taken_and_a_text_that_is_there_already_are_said(tmp_path: Path, novel: Path):
    assert prepare("--text", novel, "--tokenizer", "byte", "--name", "docs").exit_code == 0
    other = tmp_path / "other.txt"
    other.write_bytes(made_text(60_000, 7))
    said = prepare("--text", other, "--tokenizer", "byte", "--name", "docs").stderr
    called = prepared.current().name
    assert called != "docs" and f"docs is another text, which stays; this one is called {called}" in said
    assert "already" not in said
    said = prepare("--text", novel, "--tokenizer", "byte", "--name", "again").stderr
    assert "the same text is there as docs already" in said and prepared.current().name == "again"


def test_nothing_given_means_the_standard_library_where_there_is_no_hub():
    found = prepare("--max-bytes", "400KB", "--tokenizer", "byte")
    assert found.exit_code == 0, found.output
    first = found.stderr.splitlines()[0]
    assert "can't be reached" in first and "standard library takes the place" in first
    assert prepared.current().name == "stdlib" and prepared.current().manifest.corpus.bytes <= 400_000
    assert "nothing to do" in prepare("stdlib", "--max-bytes", 400_000, "--tokenizer", "byte").stderr
    assert "nothing to do" in prepare("--max-bytes", 400_000, "--tokenizer", "byte").stderr


@pytest.mark.parametrize(("arguments", "kind", "words"), [
    (["shakespear"], UsageError, "neither a file nor one of auto, tinystories, climbmix, stdlib"),
    (["stdlib", "novel.txt"], UsageError, r"stdlib stands alone: novel.txt can't be prepared with it"),
    (["--text", ""], UsageError, "a path is empty"),
    (["stdlib", "--shards", "2"], UsageError, "--shards belongs to climbmix"),
    (["--text", "x", "--revision", "main"], UsageError, "--revision belongs to"),
    (["tinystories", "--field", "body"], UsageError, "belong to files of your own"),
    (["stdlib", "--max-bytes", "5 apples"], click.BadParameter, "no number of bytes: for example 5000000, 5MB"),
    (["stdlib", "--max-bytes", "0"], click.BadParameter, "no number of bytes"),
    (["tinystories"], UserError, "can't be reached"),
    (["--text", "nowhere.txt"], UserError, r"nowhere.txt does not exist"),
    (["--text", "/dev/null"], UserError, "/dev/null is a device"),
    (["stdlib", "--tokenizer", "gpt3"], UserError, "must be byte, char, gpt2, or bpe-<n>"),
    (["stdlib", "--max-bytes", "5000"], UserError, "at least 20,000 are needed"),
])
def test_what_cannot_be_done_is_a_sentence(arguments, kind, words):
    found = CliRunner().invoke(command, arguments, standalone_mode=False)
    with pytest.raises(kind, match=words):
        raise found.exception
    assert prepared.names() == []


def test_the_help_has_an_example():
    assert "ar prepare --text novel.txt" in prepare("--help").stdout


def test_the_door_at_the_top_does_the_same(novel: Path, tmp_path: Path):
    def door(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, DOOR, *map(str, arguments)], env=dict(os.environ), cwd=tmp_path,
                              capture_output=True, text=True, timeout=60)

    good = door("--text", novel, "--tokenizer", "byte", "--json")
    assert good.returncode == 0 and json.loads(good.stdout)["name"] == "novel"
    bad = door("--text", "nowhere")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "nowhere does not exist" in bad.stderr and "Traceback" not in bad.stderr
    assert door("--tokenise").returncode == 2


def test_the_door_names_the_remedy_when_nothing_is_installed():
    found = subprocess.run([sys.executable, "-I", "-S", DOOR], capture_output=True, text=True, timeout=60)
    assert found.returncode == 1 and "make setup" in found.stderr and "Traceback" not in found.stderr
