"""PyTorch's precompiled header: made once by a process of ours, read by candidates, written by none of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch import machine
from autoresearch.harness import assemble, headers, launch
from tests.harness.tiny import ROOT, comes_true, gone

MADE = f"""
import os, sys
print("made", file=open({{count!r}}, "a"))
place = os.path.join(os.environ["TMPDIR"], {launch.HEADERS!r})
os.makedirs(os.path.join(place, "locks"))
for name in ("a.h", "a.h.gch", "note"):
    open(os.path.join(place, name), "w").write(name)
sys.exit({{code}})
"""
LOOK = f"""
import os
def main(job):
    for name in ("a.h.gch", "own.h"):
        path = os.path.join(os.environ["TMPDIR"], {launch.HEADERS!r}, name)
        try:
            print(name, open(path, "w").write("changed"))
        except OSError as e:
            print(name, type(e).__name__, open(path).read())
"""

SUPERVISOR = """
import sys
from pathlib import Path
from autoresearch import machine
from autoresearch.harness import headers
machine.cxx = lambda: sys.executable
headers.PROGRAM = sys.argv[2]
headers.made(Path(sys.argv[1]))
"""
COMPILES = """
import os, subprocess, time
compiler = subprocess.Popen(["sleep", "600"])
open({path!r} + ".new", "w").write(f"{{os.getpid()}} {{compiler.pid}}")
os.rename({path!r} + ".new", {path!r})
time.sleep(600)
"""


@pytest.fixture
def count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each time that they were made; they are, by a program of the test's."""
    monkeypatch.setattr(machine, "cxx", lambda: sys.executable)
    monkeypatch.setattr(headers, "PROGRAM", MADE.format(count=str(tmp_path / "count"), code=0))
    return tmp_path / "count"


def test_it_is_made_once_and_nothing_else_is_kept(count: Path, tmp_path: Path) -> None:
    first, again = headers.made(tmp_path / "home"), headers.made(tmp_path / "home")
    assert first is not None and first == again and count.read_text() == "made\n"
    assert sorted(p.name for p in first.iterdir()) == ["a.h", "a.h.gch"]
    assert list((tmp_path / "home").iterdir()) == [first], "nothing unfinished"


def test_where_it_can_not_be_made_it_is_tried_once_and_trials_do_without(
        count: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "PROGRAM", MADE.format(count=str(count), code=1))
    assert headers.made(tmp_path / "home") is None and headers.made(tmp_path / "home") is None
    assert count.read_text() == "made\n" and list((tmp_path / "home").iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    assert headers.made(tmp_path / "file") is None
    monkeypatch.setattr(machine, "cxx", lambda: None)
    assert headers.made(tmp_path / "elsewhere") is None and not (tmp_path / "elsewhere").exists()


def test_what_compiles_it_ends_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    """The compiler too, that PyTorch has started."""
    pids = tmp_path / "pids"
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(tmp_path / "home"),
                                   COMPILES.format(path=str(pids))], cwd=ROOT)
    try:
        assert comes_true(pids.exists, 20)
    finally:
        supervisor.kill()
        supervisor.wait()
    left = [int(pid) for pid in pids.read_text().split()]
    assert len(left) == 2 and comes_true(lambda: all(gone(pid) for pid in left), 5)


def test_a_candidate_reads_what_is_lent_to_it_and_can_not_change_it(count: Path, tmp_path: Path) -> None:
    lent = headers.made(tmp_path / "home")
    assert lent is not None
    assemble.assemble(tmp_path / "tree", {})
    (tmp_path / "tree/autoresearch/harness/look.py").write_text(LOOK)
    process = launch.candidate("look", "", tmp_path / "tree", tmp_path / "folder", (), headers=lent)
    try:
        assert process.wait(30) == 0
    finally:
        launch.end(process)
    assert (tmp_path / "folder/log.txt").read_text() == "a.h.gch PermissionError a.h.gch\nown.h 7\n"
    assert (lent / "a.h.gch").read_text() == "a.h.gch" and not (lent / "own.h").exists()
