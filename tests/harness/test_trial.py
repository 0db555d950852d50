"""A trial of an honest candidate: its clock, its data, its seeds, and what is left when it is over."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from autoresearch.data import prepare, prepared
from autoresearch.data.batches import dev_rows, training_rows
from autoresearch.data.corpus import Corpus
from autoresearch.data.prepared import Prepared
from autoresearch.harness import jobs, launch
from autoresearch.harness.channel import Closed, Ring, RingShape
from autoresearch.harness.runner import Runner
from autoresearch.harness.scorer import longest_row
from autoresearch.harness.supervise import Outcome, plumbing
from backends.recipe import load, preset_file
from tests.data.texts import made_text
from tests.harness.tiny import LOSS, comes_true, edited, gone, honest, ours_below, tiny_recipe, with_code

# The feeder


class Fed:
    """The trial's side of a feeder process."""

    def __init__(self, owner: Runner, seed: int):
        self.shape = RingShape(rows=8, dev_rows=3, seq_len=64)
        self._plumbing = plumbing(self.shape)
        self.pipes = self._plumbing.__enter__()
        self.ring = Ring(self.pipes.ring, self.shape)
        job = jobs.dump(owner._feeder_job(tiny_recipe(), seed, self.shape, self.pipes, lambda m: None))
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
    assert (fed.ring.dev == dev_rows(text.tokens("dev", "byte")[0], bos, 64, 3)).all()
    out, _ = fed.process.communicate(timeout=10)  # closes its input
    assert int(out) == 11
    with pytest.raises(Closed):
        fed.take()


def test_no_token_is_there_before_the_clock_starts(fed: Fed) -> None:
    assert select.select([fed.process.stdout], [], [], 30)[0], "it is ready, and has the text"
    assert not comes_true(lambda: fed.ring.steps.any() or fed.ring.dev.any(), 0.5)
    fed.process.stdin.write(b"\0")
    fed.process.stdin.flush()
    assert comes_true(lambda: fed.ring.steps[-1].any(), 5)


def test_a_feeder_ends_with_its_supervisor(fed: Fed) -> None:
    fed.process.stdin.close()
    assert fed.process.wait(10) == 0


# Trials


def test_learned_positions_that_end_before_the_scored_rows_are_refused_before_anything_runs(
        mlx: Runner, tmp_path: Path) -> None:
    short = tiny_recipe(model__positions="learned")
    outcome = mlx.train(honest(), short, 1, tmp_path, None, steps=2)
    assert outcome.status == "invalid" and not (tmp_path / "log.txt").exists()
    assert "model.seq_len = 64: with model.positions = learned it must be at least 1024" in outcome.reason
    longest = longest_row(str(mlx.prepared.root), "bpe-512")
    assert 64 < longest < 1024
    for length, refused in ((longest - 16, True), (longest, False)):
        recipe = short.replace({"data.tokenizer": "bpe-512", "model.seq_len": length, "batch.tokens_per_step": length})
        assert bool(mlx.too_short(recipe)) == refused
    assert not mlx.too_short(tiny_recipe())


def test_the_gpt2_preset_trains_and_is_scored_and_audited(mlx: Runner, tmp_path: Path) -> None:
    small = {"data.tokenizer": "byte", "model.depth": 1, "model.width": 32, "model.head_dim": 16,
             "batch.tokens_per_step": 1024, "runtime.precision": "float32", "runtime.compile": False}
    recipe = load(preset_file("gpt2")).replace(small)
    outcome = mlx.train(honest(), recipe, 1, tmp_path, None, steps=8)
    assert outcome.status == "ok" and outcome.weights, outcome.reason
    score = mlx.score(honest(), recipe, tmp_path, outcome.weights, "val", 32)
    assert score.bpb < 8
    assert mlx.audit(honest(), recipe, tmp_path, outcome.weights, "val", 32, "float32")


@pytest.mark.parametrize("backend", ["mlx", pytest.param("cpu", marks=pytest.mark.slow)])
def test_a_seed_decides_every_bit_of_a_run_and_another_seed_is_another_run(
        backend: str, text: Prepared, caches: Path, tmp_path: Path) -> None:
    runs = Runner(text, backend, caches)
    files = {}
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        outcome = runs.train(honest(), tiny_recipe(), seed, tmp_path / name, None, steps=6)
        assert (outcome.status, outcome.steps, outcome.tokens) == ("ok", 6, 6 * 512), outcome.reason
        assert [p.step for p in outcome.curve if p.dev_bpb is not None] == [3, 4, 5, 6]
        files[name] = {k: v.tobytes() for k, v in load_file(outcome.weights).items()}  # its header tells the time
    assert files["first"] == files["again"]
    assert files["first"] != files["other"]


def test_a_budget_is_kept_and_begins_after_the_warm_up(mlx: Runner, tmp_path: Path) -> None:
    heard: list[str] = []
    slow_to_warm_up = with_code(LOSS, "if len(_calls) <= 3: time.sleep(0.4)")
    outcome = mlx.train(slow_to_warm_up, tiny_recipe(), 1, tmp_path, 1.0, listen=lambda m: heard.append(m["event"]))
    assert outcome.status == "ok", outcome.reason
    assert outcome.facts["warmup_s"] > 1.2
    assert 0.5 < outcome.train_s <= 2.0
    assert outcome.steps > 1 and outcome.tokens == outcome.steps * 512
    assert outcome.total_s > outcome.train_s + outcome.facts["warmup_s"]
    assert heard[:2] == ["loaded", "ready"] and heard[-1] == "done"
    points = outcome.curve
    assert [p.step for p in points] == sorted(p.step for p in points)
    assert points[-1].step == outcome.steps
    dev = [p for p in points if p.dev_bpb is not None]
    assert dev and all(0.5 < p.dev_bpb < 20 for p in dev)
    assert outcome.facts["precision"] == "float32" and outcome.params > 10_000 and outcome.peak_memory_bytes > 10_000
    assert outcome.utilisation is not None and 0 < outcome.utilisation < 1


RUINED = "lr_multiplier(recipe, progress) * (1.0 if progress < 0.5 else -1.0)"  # uphill from half-way on


def test_the_weights_of_the_best_dev_measurement_are_saved_where_the_recipe_says_so(
        mlx: Runner, tmp_path: Path) -> None:
    files = edited("schedule.py", "lr = lr_multiplier(recipe, progress)", f"lr = {RUINED}")
    scores, best = {}, {}
    for keep in (False, True):
        recipe, folder = tiny_recipe(schedule__keep_best_dev=keep), tmp_path / str(keep)
        outcome = mlx.train(files, recipe, 1, folder, None, steps=40)
        assert outcome.status == "ok" and outcome.weights, outcome.reason
        dev = [(p.dev_bpb, p.step) for p in outcome.curve if p.dev_bpb is not None]
        assert (dev[-1][1] == 40) == keep  # measured at the end too, or the last weights could not be the best
        best[keep] = min(dev)
        scores[keep] = mlx.score(files, recipe, folder, outcome.weights, "dev", None).bpb
    assert best[False] == best[True] and best[True][1] < 30
    assert abs(scores[True] - best[True][0]) < 0.5 < scores[False] - scores[True]


def test_keeping_the_best_weights_stays_within_the_budget(mlx: Runner, tmp_path: Path) -> None:
    outcome = mlx.train(honest(), tiny_recipe(schedule__keep_best_dev=True), 1, tmp_path, 1.0)
    assert outcome.status == "ok", outcome.reason
    assert outcome.curve[-1].dev_bpb is not None and outcome.train_s < 2.0


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
    code = "import subprocess; print('pid', subprocess.Popen(['sleep', '600']).pid); raise ValueError"
    mlx.train(with_code(LOSS, code), tiny_recipe(), 1, tmp_path, None, steps=1)
    pid = next(int(x.split()[1]) for x in (tmp_path / "log.txt").read_text().splitlines() if x.startswith("pid "))
    assert comes_true(lambda: gone(pid), 3)


def test_a_study_trains_on_its_own_shards_and_encodes_those_that_a_tokenizer_lacks(
        caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a later `ar prepare` would change what a seed means in the middle of a study."""
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare, "SHARD_BYTES", 30_000)
    corpus = Corpus("text", "made up", "made", lambda: (made_text(10_000, seed) for seed in range(12)))
    few = prepare.prepare(corpus, "made", ("byte",), shards=1).prepared
    assert len(few.tokens("train", "byte")) == 1 and len(few.manifest.shards) == 3
    seen = list[list[str]]()

    class Watched(Runner):
        def _feeder_job(self, *args: Any) -> jobs.FeederJob:
            job = super()._feeder_job(*args)
            seen.append([Path(shard).name for shard in job.shards])
            return job

    def told(shards: int | None) -> None:
        """What the feeder of a trial would be told."""
        shape = RingShape(rows=8, dev_rows=3, seq_len=64)
        with plumbing(shape) as pipes:
            Watched(few, "mlx", caches, shards)._feeder_job(tiny_recipe(), 1, shape, pipes, lambda m: None)

    told(None)
    trained = Watched(few, "mlx", caches, 3).train(honest(), tiny_recipe(), 1, tmp_path / "trained", None, steps=1)
    assert trained.status == "ok", trained.reason
    told(2)
    files = [f"train-{shard:04}.byte.tokens" for shard in range(3)]
    assert seen == [files[:1], files[:3], files[:2]]
    assert len(prepared.load(few.root).tokens("train", "byte")) == 3
