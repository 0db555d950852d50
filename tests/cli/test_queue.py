"""`ar queue`: adding, listing, removing, and what it says to a wish that can't run."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoresearch.cli import run, shell
from autoresearch.research.study import Study
from tests.report.made import Made, repository


@pytest.fixture
def ar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`ar queue` in a clone with an empty study: (stdout, stderr) by its arguments."""
    Made.create(repository(tmp_path)).study.close()
    monkeypatch.chdir(tmp_path)

    def queue(*args: str, code: int = 0) -> tuple[str, str]:
        assert run(shell.command, ("queue", *args), "ar") == code
        said = capsys.readouterr()
        return said.out, said.err

    return queue


def test_wishes_wait_in_order_until_they_are_taken_out(ar) -> None:
    assert ar()[0] == "nothing is queued\n"
    out, err = ar("-m", "  deeper,\n but calmer ", "--set", "model.depth=6", "--set", "model.norm=layer")
    assert out == "queued as 1: deeper, but calmer\n" and "it runs when the study goes on: ar loop --tag" in err
    assert "it runs after 1 other when" in ar("-m", "calmer", "--set", "optim.matrix_lr=0.01")[1]
    assert ar()[0] == ("  1  deeper, but calmer  (model.depth = 6, model.norm = layer)\n"
                       "  2  calmer  (optim.matrix_lr = 0.01)\n")
    assert ar("--remove", "1")[0] == "removed 1\n"
    assert ar()[0].startswith("  2  calmer")


def test_a_patch_is_kept_with_its_lines_counted(ar, tmp_path: Path) -> None:
    (tmp_path / "my.patch").write_text(
        "--- /dev/null\n+++ b/backends/gpt/extra.py\n@@ -0,0 +1,2 @@\n+TWO = 2\n+THREE = 3\n")
    ar("-m", "two more numbers", "--patch", "my.patch")
    assert ar()[0] == "  1  two more numbers  (a patch of 5 lines)\n"


@pytest.mark.parametrize(("args", "said", "code"), [
    (("-m", "x"), "nothing to try", 1),
    (("--set", "model.depth=2"), "has no message", 2),
    (("-m", "x", "--set", "model.depht=2"), "did you mean model.depth", 1),
    (("-m", "x", "--set", "model.depth"), "has no '='", 2),
    (("-m", "x", "--patch", "no.patch"), "No such file", 2),
    (("--remove", "77"), "nothing waits as 77", 1),
    (("--remove", "1", "--set", "model.depth=2"), "--remove takes an entry out", 2),
    (("--remove", "9" * 20), f"nothing waits as {'9' * 20}", 1),
    (("-m", "x", "--set", "data.tokenizer=\udcff"), "is not UTF-8 text", 1),
])
def test_a_wrong_wish_is_a_sentence(ar, args: tuple[str, ...], said: str, code: int) -> None:
    out, err = ar(*args, code=code)
    assert said in err and out == "" and ar()[0] == "nothing is queued\n"


def test_a_patch_stays_as_its_lines_end_and_must_be_text(ar, tmp_path: Path) -> None:
    patch = b"--- /dev/null\n+++ b/backends/gpt/extra.py\n@@ -0,0 +1 @@\n+TWO = 2\r\n"
    (tmp_path / "my.patch").write_bytes(patch)
    ar("-m", "two \udcff", "--patch", "my.patch")
    with Study.open(tmp_path, readonly=True) as study:
        [queued] = study.ledger.queue.waiting()
    assert (queued.hypothesis, queued.patch.encode()) == ("two ?", patch)
    (tmp_path / "my.patch").write_bytes(patch.replace(b"TWO", b"\xff"))
    assert "my.patch is not UTF-8 text" in ar("-m", "x", "--patch", "my.patch", code=1)[1]
