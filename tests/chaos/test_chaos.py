"""Nights that are hurt in every way, and what is true after each: no acknowledged result is lost or counted twice, the
branch and the ledger agree, and no process or file is left behind.

`make chaos` runs all of it; without what is slow it takes some seconds.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from autoresearch.research.git import git
from tests.chaos.fast import ROOT, TAG
from tests.chaos.place import CONT, KILL, STOP, TERM, Place, lives, send
from tests.chaos.points import POINTS
from tests.harness.tiny import comes_true

SIGNALS = int(os.environ.get("CHAOS_SIGNALS", "500"))
slow = pytest.mark.slow
linux = pytest.mark.skipif(sys.platform != "linux", reason="what is armed are limits and capabilities of Linux")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Place(tmp_path) as place:
        yield place


def storm(place: Place, signals: int, chance: random.Random) -> int:
    """Nights are started and signals sent to them and to their children, at random. How many nights there were."""
    sent = nights = 0
    while sent < signals:
        night, nights = place.start(), nights + 1
        while lives(night) and sent < signals:
            time.sleep(chance.uniform(0.0, 0.5))
            own = [p for p in children(night) if lives(p)]
            target = chance.choice(own) if own and chance.random() < 0.5 else night
            kind = chance.choice((KILL, TERM, STOP))
            send(target, kind)
            sent += 1
            if kind == STOP:
                time.sleep(chance.uniform(0.0, 0.1))
                send(target, chance.choice((CONT, KILL)))
        send(night, CONT)
        send(night, KILL)
        code = place.wait(night)
        assert code in (0, 1, -KILL, -TERM), f"exit code {code}\n{place.said()}"
        place.check()
    return nights


def children(night: psutil.Process) -> list[psutil.Process]:
    """But for the sleeping fork that ends a trial's group: that and its night can't both be gone."""
    try:
        return [p for p in night.children(recursive=True) if p.ppid() == night.pid or os.getsid(p.pid) != p.pid]
    except (psutil.NoSuchProcess, ProcessLookupError):
        return []


def goes_on(place: Place) -> None:
    """An undisturbed night afterwards decides what it is asked to."""
    before = len(place.check())
    assert place.run(experiments=2) == 0, place.said()
    after = place.check()
    assert sum(e.state == "done" for e in after) >= 2 and len(after) >= before
    assert all(e.state == "done" for e in after)
    lines = (place.clone / "studies" / TAG / "results.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines[1:]] == [e.sha[:7] or "0" * 7 for e in after if e.verdict]
    git(place.clone, "fsck", "--connectivity-only")


def test_signals_at_random_moments_lose_nothing(place: Place) -> None:
    storm(place, 8, random.Random(1))
    goes_on(place)


@slow
def test_a_storm_of_signals_loses_nothing(place: Place) -> None:
    nights = storm(place, SIGNALS, random.Random(2))
    told = [words for words in place.told() if words[0] == "decided"]
    print(f"{SIGNALS} signals in {nights} nights; {len(told)} verdicts acknowledged")
    assert len(told) > nights / 4, "nights came to something"
    goes_on(place)


def killed_at(place: Place, point: str, nth: int) -> bool:
    """Whether the night came to it so often."""
    code = place.run(point=point, nth=nth, experiments=6)
    assert code in (-KILL, 0), f"exit code {code}\n{place.said()}"
    place.check()
    return code == -KILL


@linux
def test_a_kill_at_the_steps_of_a_keep_loses_nothing(place: Place) -> None:
    for point in ("after the commit", "inside a checkpoint", "after the verdict", "after the branch moved"):
        assert killed_at(place, point, 2), point
    goes_on(place)


@slow
@linux
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_named_point_loses_nothing(place: Place, point: str) -> None:
    assert killed_at(place, point, 1)
    for nth in (2, 3, 5, 8):
        killed_at(place, point, nth)
    goes_on(place)


# Faults that do not kill

@linux
@pytest.mark.parametrize("fault", [
    "few descriptors", pytest.param("no large files", marks=slow), pytest.param("the clock jumps", marks=slow)])
def test_a_fault_ends_in_a_sentence_or_not_at_all(place: Place, fault: str) -> None:
    code = place.run(fault=fault, experiments=60)
    assert code in (0, 1), place.said()
    assert (code == 0) == (fault == "the clock jumps"), "a limit was met"
    assert "Traceback" not in place.said() and place.said().count("error: ") == code, place.said()
    goes_on(place)


@slow
def test_git_that_fails_now_and_then_stops_a_night_with_a_reason(tmp_path: Path) -> None:
    """One in forty of its calls fails, is killed, or hangs."""
    shim = tmp_path / "bin" / "git"
    shim.parent.mkdir()
    shim.write_text(f"#!{sys.executable}\n"
                    "import os, random, sys, time\n"
                    f"chance = random.Random() if os.path.exists({str(tmp_path / 'hurt')!r}) else None\n"
                    "luck = chance.random() * 40 if chance else 40\n"
                    "if luck < 0.5: sys.exit('fatal: out of luck')\n"
                    "if luck < 0.8: os.kill(os.getpid(), 9)\n"
                    "if luck < 1.0: time.sleep(60)\n"
                    f"os.execv({shutil.which('git')!r}, ['git', *sys.argv[1:]])\n")
    shim.chmod(0o755)
    with Place(tmp_path / "place", env={"PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}"}) as place:
        (tmp_path / "hurt").touch()
        codes = []
        for _ in range(3):
            codes.append(place.run(experiments=30))
            place.check()
        assert set(codes) <= {0, 1} and 1 in codes, place.said()
        assert "error: git " in place.said() and "Traceback" not in place.said()
        (tmp_path / "hurt").unlink()
        goes_on(place)


def lock_the_ledger(place: Place, seconds: float) -> None:
    """As another program would, which also reads it."""
    path = place.clone / "studies" / TAG / "ledger.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as db:
        db.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        db.execute("ROLLBACK")


@slow
def test_a_ledger_that_others_lock_for_a_moment_is_waited_for(place: Place) -> None:
    night = place.start(experiments=20)
    for held_s in (0.2, 0.5, 0.2):
        time.sleep(0.5)
        lock_the_ledger(place, held_s)
        assert lives(night), place.said()
    assert place.wait(night) == 0, place.said()
    goes_on(place)


@slow
def test_a_ledger_that_stays_locked_stops_a_night_with_a_reason(place: Place) -> None:
    night = place.start(experiments=60)
    time.sleep(0.5)
    lock_the_ledger(place, 3.0)  # a night of these tests waits for a second
    assert place.wait(night) == 1 and "Traceback" not in place.said()
    assert "error: " in place.said() and "in use by another program" in place.said(), place.said()
    goes_on(place)


def test_a_second_night_is_refused_and_a_dead_ones_lock_is_taken_over(place: Place) -> None:
    first, lock = place.start(), place.clone / "studies" / TAG / "lock"
    assert comes_true(lambda: lock.exists() and lock.read_text() == f"{first.pid}\n", 10)
    assert place.run(experiments=1) == 1
    assert f"in use by process {first.pid}" in place.said()
    first.kill()
    place.wait(first)
    goes_on(place)


@slow
def test_weights_that_were_damaged_are_measured_again(place: Place) -> None:
    """The newest, of an experiment that a kill left undecided: an honest model must not be called a cheat."""
    assert place.run(point="before the verdict", nth=4) == -KILL
    found = (place.clone / "studies" / TAG / "trials").glob("*/weights.safetensors")
    newest = max(found, key=lambda path: int(path.parent.name))
    content = newest.read_bytes()
    newest.write_bytes(content[:-7] + b"garbage")
    assert place.run(experiments=1) == 0, place.said()
    with place.study() as study:
        hurt = next(e for e in study.ledger.experiments() if any(t.id == int(newest.parent.name) for t in e.trials))
    assert hurt.verdict in ("keep", "discard") and [t.status for t in hurt.trials] == ["ok", "ok"]


def test_a_worktree_that_was_removed_comes_back(place: Place) -> None:
    assert place.run(experiments=1) == 0, place.said()
    shutil.rmtree(place.clone / "studies" / TAG / "worktree")
    goes_on(place)


@slow
def test_a_worktree_that_is_removed_under_a_night_stops_it_with_a_reason(place: Place) -> None:
    night = place.start(experiments=60)
    time.sleep(1.0)
    shutil.rmtree(place.clone / "studies" / TAG / "worktree", ignore_errors=True)
    assert place.wait(night) == 1 and "Traceback" not in place.said()
    assert "error: " in place.said() and "is gone" in place.said(), place.said()
    goes_on(place)


@slow
@linux
@pytest.mark.parametrize("which", ["trials", ".", "../../.git/refs/autoresearch/mar8"])
def test_rights_that_are_revoked_stop_a_night_with_a_reason(place: Place, which: str) -> None:
    folder = (place.clone / "studies" / TAG / which).resolve()
    night = place.start(experiments=60, fault="no privileges")
    time.sleep(1.0)
    mode = stat.S_IMODE(folder.stat().st_mode)
    folder.chmod(0o500)
    try:
        assert place.wait(night) == 1, place.said()
    finally:
        folder.chmod(mode)
    assert "error: " in place.said() and "Traceback" not in place.said(), place.said()
    goes_on(place)


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(65536))


@slow
@linux
def test_a_disk_that_fills_up_stops_a_night_with_a_reason(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True).returncode != 0:
        pytest.skip("may not mount; `no large files` stands for it")
    try:
        with Place(disk / "place") as place:
            (disk / "place/err").symlink_to(tmp_path / "err")  # what it says must not be lost for want of room
            night = place.start(experiments=200, needs_room=False)
            time.sleep(1.0)
            fill(disk / "ballast")
            assert place.wait(night) == 1, place.said()
            assert "error: " in place.said() and "Traceback" not in place.said(), place.said()
            (disk / "ballast").unlink()
            assert place.run(experiments=2, needs_room=False) == 0, place.said()
            place.check()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_every_named_point_is_still_there() -> None:
    """The tests that kill there are slow, so that a renamed method would be found late."""
    code = "from tests.chaos.points import POINTS, arm\nfor name in POINTS: arm(name, 10**9)\nprint(len(POINTS))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{len(POINTS)}\n", done.stderr
