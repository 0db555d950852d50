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
    assert "tokenizer bpe-300\n" in found.stderr and "1 documents" in found.stderr


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
