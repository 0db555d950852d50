"""All that came from a process that we started ends with it, wherever it has put itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from autoresearch import scratch
from autoresearch.harness import family, launch
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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an orphan must have been seen before")
def test_orphans_that_are_there_before_they_could_be_counted_are_of_the_family(tmp_path: Path) -> None:
    """On a busy machine the supervisor may look only after a process that it started has left orphans."""
    first = launch.register(subprocess.Popen(["true"], start_new_session=True))  # from now on orphans come to us
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", RUNAWAYS, str(tmp_path)], start_new_session=True)
    left = pids(tmp_path)
    assert comes_true(lambda: psutil.Process(left[1]).ppid() == os.getpid(), 5)
    launch.register(process)
    launch.end(process, grace_s=0.1)
    assert not [pid for pid in left if psutil.pid_exists(pid)]
    launch.end(first)


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


def test_ps_tells_when_a_process_was_started() -> None:
    me = next(p for p in family._by_ps() if p.pid == os.getpid())
    assert (me.parent, me.group, me.dead) == (os.getppid(), os.getpgrp(), False) and me.memory_bytes > 1 << 20
    assert re.fullmatch(r"\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4}", me.started), me.started


def test_a_later_process_with_the_number_of_one_of_ours_is_a_strangers(monkeypatch: pytest.MonkeyPatch,
                                                                       tmp_path: Path) -> None:
    """By `ps`, as on macOS: it must not be ended."""
    ours = "70 1 70 900 Ss Sat Nov 22 09:00:00 2025\n"
    (tmp_path / "ps").write_text(f"#!/bin/sh\ncat {tmp_path}/said\n")
    (tmp_path / "ps").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(family, "listed", family._by_ps)
    monkeypatch.setattr(family, "_older", lambda leader: set())
    (tmp_path / "said").write_text(ours)
    whole, members = family.Family(70), list[list[int]]()
    for left_the_group in ("77 70 77 900 S Sat Nov 22 09:00:01 2025\n78 1 78 0 Z\n",  # below ours, seen there
                           "77 1 77 900 S Sat Nov 22 09:00:01 2025\n",  # its parent has died
                           "77 1 77 900 S Sat Nov 22 09:05:00 2025\n"):
        (tmp_path / "said").write_text(ours + left_the_group)
        members.append([p.pid for p in whole.members()])
    assert members == [[70, 77], [70, 77], [70]]


def test_a_process_that_is_stopped_acts_on_its_term_and_costs_no_grace() -> None:
    process = launch.register(subprocess.Popen(["sleep", "60"], start_new_session=True))
    process.send_signal(signal.SIGSTOP)
    launch.end(process, grace_s=10)
    assert process.returncode == -signal.SIGTERM, "and not by the KILL that follows"


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
    assert not outer.exists() and not inner.exists()


def test_what_is_nested_deeper_than_python_follows_is_removed_too(tmp_path: Path) -> None:
    """A candidate that does this would end the study otherwise, and every later run of it."""
    top = tmp_path / "deep"
    top.mkdir()
    inside = os.open(top, os.O_RDONLY)
    for _ in range(3 * sys.getrecursionlimit()):
        os.mkdir("d", dir_fd=inside)
        outer, inside = inside, os.open("d", os.O_RDONLY, dir_fd=inside)
        os.close(outer)
    os.close(inside)
    scratch.remove(top)
    assert not top.exists()
