"""A trial of an honest candidate: its clock, its data, its seeds, and what is left when it is over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from autoresearch.data.batches import dev_rows, training_rows
from autoresearch.data.prepared import Prepared
from autoresearch.harness import jobs, launch, runner
from autoresearch.harness.channel import Closed, Ring, RingShape
from autoresearch.harness.runner import Outcome, Runner
from tests.harness.test_verdicts import LOSS, with_code
from tests.harness.tiny import comes_true, honest, ours_below, tiny_recipe

# The feeder


class Fed:
    """The trial's side of a feeder process."""

    def __init__(self, owner: Runner, seed: int):
        self.shape = RingShape(rows=8, dev_rows=3, seq_len=64)
        self._plumbing = runner._plumbing(self.shape)
        self.pipes = self._plumbing.__enter__()
        self.ring = Ring(self.pipes.ring, self.shape)
        job = jobs.dump(owner._feeder_job(tiny_recipe(), seed, self.shape, self.pipes))
        given = (self.pipes.ring, self.pipes.filled_write, self.pipes.free_read)
        self.process = launch.trusted("feeder", job, descriptors=given)
        self.filled, self.free = os.dup(self.pipes.filled_read), os.dup(self.pipes.free_write)
        self.pipes.keep_ours()

    def take(self) -> np.ndarray:
        return self.ring.take(self.filled, self.free)

    def close(self) -> None:
        launch.end(self.process)
        os.close(self.filled)
        os.close(self.free)
        self._plumbing.__exit__(None, None, None)


@pytest.fixture
def fed(mlx: Runner) -> Iterator[Fed]:
    feeder = Fed(mlx, seed=5)
    yield feeder
    feeder.close()


def test_the_feeder_hands_out_the_seeds_rows_and_counts_the_steps_that_were_taken(fed: Fed, text: Prepared) -> None:
    fed.process.stdin.write(b"\0")
    fed.process.stdin.flush()
    bos = text.tokenizer("byte").bos
    expected = training_rows(text.tokens("train", "byte"), bos, 64, seed=5)
    for _ in range(11):
        assert (fed.take() == [next(expected)[0] for _ in range(8)]).all()
    assert (fed.ring.dev == dev_rows(text.tokens("dev", "byte"), bos, 64, 3)).all()
    out, _ = fed.process.communicate(timeout=10)  # closes its input
    assert int(out) == 11
    with pytest.raises(Closed):
        fed.take()


def test_no_token_is_there_before_the_clock_starts(fed: Fed) -> None:
    assert not comes_true(lambda: fed.ring.steps.any() or fed.ring.dev.any(), 0.5)
    fed.process.stdin.write(b"\0")
    fed.process.stdin.flush()
    assert comes_true(lambda: fed.ring.steps[-1].any(), 5)


def test_a_feeder_ends_with_its_supervisor(fed: Fed) -> None:
    fed.process.stdin.close()
    assert fed.process.wait(10) == 0


# Trials


@pytest.mark.parametrize("backend", ["cpu", pytest.param("mlx", marks=pytest.mark.slow)])
def test_a_seed_decides_every_bit_of_a_run_and_another_seed_is_another_run(
        backend: str, text: Prepared, caches: Path, tmp_path: Path) -> None:
    runs = Runner(text, backend, caches)
    files = {}
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        outcome = runs.train(honest(), tiny_recipe(), seed, tmp_path / name, None, steps=6)
        assert (outcome.status, outcome.steps, outcome.tokens) == ("ok", 6, 6 * 512), outcome.reason
        assert [p.step for p in outcome.curve if p.dev_bpb is not None] == [3, 4, 5, 6]
        files[name] = outcome.weights.read_bytes()
    assert files["first"] == files["again"]
    assert files["first"] != files["other"]


def test_a_budget_is_kept_and_begins_after_the_warm_up(mlx: Runner, tmp_path: Path) -> None:
    heard: list[str] = []
    slow_to_warm_up = with_code(LOSS, "if len(_calls) <= 3: time.sleep(0.5)")
    outcome = mlx.train(slow_to_warm_up, tiny_recipe(), 1, tmp_path, 2.0, listen=lambda m: heard.append(m["event"]))
    assert outcome.status == "ok", outcome.reason
    assert outcome.facts["warmup_s"] > 1.5
    assert 0.5 < outcome.train_s <= 3.0
    assert outcome.steps > 1 and outcome.tokens == outcome.steps * 512
    assert outcome.total_s > outcome.train_s + outcome.facts["warmup_s"]
    assert heard[:2] == ["loaded", "ready"] and heard[-1] == "done"
    points = outcome.curve
    assert [p.step for p in points] == sorted(p.step for p in points)
    assert points[-1].step == outcome.steps
    dev = [p for p in points if p.dev_bpb is not None]
    assert dev and all(0.5 < p.dev_bpb < 20 for p in dev)
    assert outcome.facts["precision"] == "float32" and outcome.params > 10_000 and outcome.peak_memory_bytes > 10_000
    assert outcome.utilisation is None or 0 < outcome.utilisation < 1


def test_training_learns(trained: Outcome) -> None:
    points = [p for p in trained.curve if p.dev_bpb is not None]
    assert len(points) == 5
    assert points[-1].dev_bpb < points[0].dev_bpb - 0.3


def test_runs_leave_no_process_no_descriptor_and_no_scratch_files(mlx: Runner, tmp_path: Path) -> None:
    me = psutil.Process()
    mlx.train(honest(), tiny_recipe(), 1, tmp_path / "warm", None, steps=1)
    before = me.num_fds(), len(me.children(recursive=True))
    for number, code in enumerate(["", "raise ValueError", "os._exit(1)"]):
        mlx.train(with_code(LOSS, code), tiny_recipe(), 1, tmp_path / str(number), None, steps=1)
        assert not (tmp_path / str(number) / "tmp").exists()
    assert (me.num_fds(), len(me.children(recursive=True))) == before
    assert comes_true(lambda: not ours_below(tmp_path), 2)


def test_a_process_that_a_candidate_started_ends_with_the_trial(mlx: Runner, tmp_path: Path) -> None:
    code = "import subprocess; open('pid', 'w').write(str(subprocess.Popen(['sleep', '600']).pid)); raise ValueError"
    mlx.train(with_code(LOSS, code), tiny_recipe(), 1, tmp_path, None, steps=1)
    pid = int((tmp_path / "pid").read_text())
    assert comes_true(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", 3)
