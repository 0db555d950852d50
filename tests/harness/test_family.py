"""All that came from a process that we started ends with it, wherever it has put itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from autoresearch import scratch
from autoresearch.harness import launch
from tests.harness.tiny import comes_true

# Each writes its process id: one that left the group, one that left it and lost its parent, one that ignores a TERM.
RUNAWAYS = """
import os, signal, sys, time

def here(name):
    with open(os.path.join(sys.argv[1], name), "w") as f:
        f.write(str(os.getpid()))

def wait():
    while True:
        time.sleep(9)

if os.fork() == 0:
    os.setsid()
    here("session")
    wait()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        here("orphan")
        wait()
    os._exit(0)
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    here("deaf")
    wait()
wait()
"""


def pids(folder: Path) -> list[int]:
    names = [folder / name for name in ("session", "orphan", "deaf")]
    assert comes_true(lambda: all(n.exists() and n.read_text() for n in names), 10)
    return [int(n.read_text()) for n in names]


def start(folder: Path) -> subprocess.Popen[bytes]:
    return launch.register(subprocess.Popen([sys.executable, "-I", "-S", "-c", RUNAWAYS, str(folder)],
                                            start_new_session=True))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an orphan must have been seen before")
def test_processes_that_left_the_group_end_with_it(tmp_path: Path) -> None:
    before = len(psutil.Process().children(recursive=True))
    process = start(tmp_path)
    left = pids(tmp_path)
    launch.end(process, grace_s=0.2)
    assert not [pid for pid in left if psutil.pid_exists(pid)]
    assert len(psutil.Process().children(recursive=True)) == before, "none is left to bury"
    launch.end(process)  # a second time is nothing


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an orphan must have been seen before")
def test_a_leader_that_ended_by_itself_takes_the_others_along(tmp_path: Path) -> None:
    process = start(tmp_path)
    left = pids(tmp_path)
    process.kill()
    process.wait()
    launch.end(process)
    assert not [pid for pid in left if psutil.pid_exists(pid)]


def test_other_processes_of_ours_are_left_alone(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        process = start(tmp_path)
        pids(tmp_path)
        second = launch.register(subprocess.Popen(["sleep", "60"], start_new_session=True))
        launch.end(process, grace_s=0.1)
        assert bystander.poll() is None and second.poll() is None
        launch.end(second)
    finally:
        bystander.kill()
        bystander.wait()


def test_a_process_that_can_not_be_ended_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    process = launch.register(subprocess.Popen(["sleep", "60"], start_new_session=True))
    monkeypatch.setattr(launch, "HANGS_S", 0.2)
    with monkeypatch.context() as deaf:
        deaf.setattr(os, "killpg", lambda *a: None)
        with pytest.raises(launch.UserError, match=f"process {process.pid} can't be ended"):
            launch.end(process, grace_s=0.1)
    launch.end(process)


def test_temporary_folders_of_the_dead_are_removed_and_those_of_the_living_are_not(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = subprocess.Popen(["true"])
    dead.wait()
    left, other = tmp_path / f"autoresearch-{dead.pid}-x", tmp_path / "autoresearch-error-x.txt"
    (left / "tree").mkdir(parents=True)
    other.touch()
    with scratch.folder() as outer, scratch.folder() as inner:
        assert outer.is_dir() and inner.is_dir() and not left.exists() and other.exists()
        began = time.monotonic()
    assert not outer.exists() and not inner.exists() and time.monotonic() - began < 1
