"""Real trials, and a kill at every named point between a proposal and the end of what it led to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch.data.prepared import Prepared
from tests.chaos.points import POINTS
from tests.harness.tiny import ROOT, comes_true, ours_below
from tests.loop.conftest import TAG, Place, begin, make_clone
from tests.loop.test_loop import LOOP, agrees, same

pytestmark = pytest.mark.slow
SHARED = ("torch_", "psm_", "sem.")  # what PyTorch and multiprocessing call shared memory that has a name
KEEPS = ("before the branch moves", "after the branch moved", "after the worktree followed")  # only with a keep


def killed(place: Place, point: str, nth: int, *args: str) -> None:
    """`ar` as a process that dies at a point, and all of its processes with it."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "AUTORESEARCH_CACHE": str(place.text.root.parents[1])}
    command = [sys.executable, "-m", "tests.chaos.doomed", point, str(nth), *args]
    shared = set(Path("/dev/shm").glob("*"))
    done = subprocess.run(command, cwd=place.clone, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, f"{done.stdout}\n{done.stderr}"
    assert comes_true(lambda: not ours_below(place.root), 4), ours_below(place.root)
    assert not [p for p in set(Path("/dev/shm").glob("*")) - shared if p.name.startswith(SHARED)]


@pytest.mark.parametrize(("point", "nth"), [
    *((point, 1) for point in POINTS if point not in KEEPS), ("inside a row", 2), ("inside a row", 4),
    ("inside a checkpoint", 2)])
def test_an_experiment_killed_at_a_point_is_finished_and_everything_agrees(place: Place, point: str, nth: int) -> None:
    before = place.experiments()
    killed(place, point, nth, *LOOP, "--experiments", "2")
    place.ar(*LOOP, "--experiments", "1")
    after = place.experiments()
    assert same(after, [e for e in before if e.state == "done"])
    assert all(e.state == "done" for e in after) and len(after) > len(before)
    agrees(place)


@pytest.mark.parametrize("point", KEEPS)
def test_a_baseline_killed_while_it_is_kept_is_kept(text: Prepared, tmp_path: Path, point: str) -> None:
    place = Place(make_clone(tmp_path), text)
    begin(place, "mlx", 1.0)
    killed(place, point, 1, *LOOP, "--experiments", "0")
    trials = place.experiments()[0].trials
    place.ar(*LOOP, "--experiments", "0")
    [baseline] = place.experiments()
    assert (baseline.verdict, baseline.state, baseline.trials) == ("keep", "done", trials)
    assert place.git("rev-parse", f"autoresearch/{TAG}").strip() == baseline.sha
