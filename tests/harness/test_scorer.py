"""Bits per byte with answers known beforehand, over exactly the bytes of the split."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from autoresearch.data.prepared import Prepared
from autoresearch.data.yardstick import sampling_error_bpb
from autoresearch.harness.runner import Runner
from autoresearch.harness.scorer import Recorder, Rows, load_rows, save_rows, surprise
from autoresearch.harness.serving import LogitsServer, Served, ServerFailed
from autoresearch.harness.supervise import Outcome
from tests.harness.tiny import LOGITS, edited, honest, tiny_recipe, with_code

HEAD = "    return head(w, hidden(w, tokens_BT, spec, salt), spec)\n"
UNIGRAM = "    return mx.broadcast_to(w['head.weight'][:, 0], (*tokens_BT.shape, spec.vocab)).astype(mx.float32)\n"


@pytest.mark.parametrize("tokenizer", ["byte", "bpe-512"])
def test_uniform_logits_cost_the_logarithm_of_the_vocabulary_for_each_token(
        mlx: Runner, text: Prepared, tmp_path: Path, tokenizer: str) -> None:
    recipe, vocab = tiny_recipe(data__tokenizer=tokenizer), text.tokenizer(tokenizer).vocab
    uniform = edited("mlx_model.py", HEAD, UNIGRAM)
    weights = mlx.train(honest(), recipe, 1, tmp_path, None, steps=1).weights
    save_file({k: 0 * v for k, v in load_file(weights).items()}, weights)
    score = mlx.score(uniform, recipe, tmp_path / "scored", weights, "val", None)
    rows = text.rows("val")
    tokens = sum(len(text.tokenizer(tokenizer).encode(row)) for row in rows)
    facts = text.manifest.splits["val"]
    assert (score.tokens, score.bytes, score.chars, score.rows) == (tokens, facts.bytes, facts.chars, facts.rows)
    assert score.bpb == pytest.approx(tokens * math.log2(vocab) / facts.bytes, rel=1e-6)
    found = mlx.evaluate(uniform, recipe, tmp_path / "again", weights, "val")
    assert found.score == score
    ids = [text.tokenizer(tokenizer).encode(row).tolist() for row in rows]
    legacy = [text.tokenizer(tokenizer).legacy_token_bytes[i].sum() for i in ids]
    assert found.legacy_bytes == sum(legacy) >= facts.bytes
    assert tokenizer != "byte" or sum(legacy) > facts.bytes, "the text has letters of several bytes"
    assert found.legacy_bpb == pytest.approx(tokens * math.log2(vocab) / sum(legacy), rel=1e-6)


def test_a_persons_own_rows_are_scored_like_those_of_a_split(
        mlx: Runner, text: Prepared, trained: Outcome, tmp_path: Path) -> None:
    own = [b"abc" * 50, "東京🙂".encode(), b"\xff\x00", b"\n"]
    save_rows(tmp_path / "rows.npz", own)
    assert load_rows(str(tmp_path / "rows.npz")) == own
    found = mlx.evaluate(honest(), tiny_recipe(), tmp_path / "own", trained.weights, "val",
                         own_rows=tmp_path / "rows.npz")
    assert (found.score.rows, found.score.bytes, found.score.chars) == (4, 163, 156)
    save_rows(tmp_path / "val.npz", text.rows("val"))
    same = mlx.evaluate(honest(), tiny_recipe(), tmp_path / "same", trained.weights, "val",
                        own_rows=tmp_path / "val.npz")
    assert same == mlx.evaluate(honest(), tiny_recipe(), tmp_path / "same", trained.weights, "val")


def test_the_error_of_a_score_is_how_far_scores_of_other_rows_lie_apart() -> None:
    rng = np.random.default_rng(0)
    bytes_NR = rng.integers(400, 1024, (3000, 60))
    nats_NR = bytes_NR * rng.normal(1.2, 0.2, bytes_NR.shape) + rng.normal(0, 30, bytes_NR.shape)
    scores_N = nats_NR.sum(1) / bytes_NR.sum(1) / math.log(2)
    errors_N = [sampling_error_bpb(n, b) for n, b in zip(nats_NR, bytes_NR, strict=True)]
    assert np.mean(errors_N) == pytest.approx(scores_N.std(), rel=0.05)
    assert sampling_error_bpb(np.ones(1), np.ones(1)) is None
    assert sampling_error_bpb(2.0 * bytes_NR[0], bytes_NR[0]) == pytest.approx(0), "every row at the same rate"


def test_a_model_of_byte_frequencies_scores_their_cross_entropy_on_any_prefix_of_rows(
        mlx: Runner, text: Prepared, trained: Outcome, tmp_path: Path) -> None:
    frequency = np.bincount(np.frombuffer(text.text("train"), np.uint8), minlength=257) + 1.0
    log_p = np.log(frequency / frequency.sum())
    weights = load_file(trained.weights)
    weights["head.weight"] = np.repeat(log_p[:, None].astype(np.float32), 32, axis=1) + np.float32(3)
    save_file(weights, tmp_path / "weights.safetensors")
    model = edited("mlx_model.py", HEAD, UNIGRAM)
    for split, count in (("val", None), ("val", 3), ("confirm", 1)):
        rows = text.rows(split)[:count]
        read = np.frombuffer(b"".join(rows), np.uint8)
        score = mlx.score(model, tiny_recipe(), tmp_path / f"{split}{count}", tmp_path / "weights.safetensors", split,
                          count)
        assert (score.split, score.rows, score.bytes) == (split, len(rows), len(read))
        assert score.bpb == pytest.approx(-log_p[read].mean() / math.log(2), rel=1e-6)


def test_without_a_number_of_rows_scoring_stops_in_time_but_not_before_it_means_something(
        mlx: Runner, text: Prepared, trained: Outcome, tmp_path: Path) -> None:
    model = edited("mlx_model.py", HEAD, UNIGRAM)
    score = mlx.score(model, tiny_recipe(), tmp_path, trained.weights, "train", None, seconds=0.0)
    assert 32 <= score.rows < len(text.rows("train"))
    assert score.bytes == sum(map(len, text.rows("train")[:score.rows]))


def test_every_byte_is_a_target_once_and_is_never_in_its_own_input(text: Prepared) -> None:
    for name in ("byte", "bpe-512"):
        tokenizer = text.tokenizer(name)
        rows = Rows.of(text.rows("val"), tokenizer)
        decoded = [tokenizer.decode(t[:n].tolist()) for t, n in zip(rows.targets_RT, rows.lengths_R, strict=True)]
        assert decoded == text.rows("val")
        assert b"".join(sorted(decoded)) == b"".join(sorted(text.rows("val")))
        assert (rows.inputs_RT[:, 0] == tokenizer.bos).all()
        for inputs, targets, length in zip(rows.inputs_RT, rows.targets_RT, rows.lengths_R, strict=True):
            assert (inputs[1:length] == targets[:length - 1]).all()
            assert (inputs[length:] == tokenizer.bos).all()


def test_surprise_is_the_log_softmax_and_takes_any_finite_logits() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 5, (3, 4, 7)).astype(np.float32)
    targets = rng.integers(0, 7, (3, 4))
    p = np.exp(logits.astype(np.float64))
    expected = -np.log(np.take_along_axis(p, targets[..., None], 2)[..., 0] / p.sum(2))
    np.testing.assert_allclose(surprise(logits, targets), expected, rtol=1e-5)
    np.testing.assert_allclose(surprise(logits + np.float32(1e4), targets), expected, atol=1e-2)
    extreme = np.zeros((1, 1, 3), np.float32)
    extreme[..., 0] = 1e30
    assert surprise(extreme, np.array([[0]]))[0, 0] == 0
    assert surprise(extreme, np.array([[1]]))[0, 0] == pytest.approx(1e30)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("target", [0, 1])
def test_logits_that_are_not_finite_are_no_score(bad: float, target: int) -> None:
    logits = np.zeros((1, 1, 3), np.float32)
    logits[..., 1] = bad
    if bad == -np.inf and target == 0:  # another token is impossible: that costs nothing
        assert surprise(logits, np.array([[0]]))[0, 0] == pytest.approx(math.log(2))
        return
    with pytest.raises(ServerFailed, match="not finite") as failed:
        surprise(logits, np.array([[target]]))
    assert failed.value.status == "invalid"


def test_what_is_scored_can_no_longer_be_changed_by_the_server(
        mlx: Runner, trained: Outcome, tmp_path: Path) -> None:
    """Else it could show one thing to the scorer and another to the audit's recorder."""
    job = mlx._score_job(with_code(LOGITS, ""), tiny_recipe(), tmp_path, trained.weights, "val", None, None)
    served = Served("mlx", job.recipe, 257, job.weights, job.tree, job.folder)
    with LogitsServer(served, length=16, max_batch=2) as server:
        first = server.ask(np.zeros((2, 16), np.int32))
        before = first.copy()
        server.ask(np.ones((1, 16), np.int32))
        assert (first == before).all()
        assert not np.shares_memory(first, server._logits)


def test_recorded_positions_are_a_sample_of_all_rows_even_where_few_fit() -> None:
    recorder = Recorder(np.zeros(5), limit=40, rng=np.random.default_rng(0))
    for row in range(2000):
        logits = np.full((6, 5), row, np.float32) + np.arange(6)[:, None] / 8
        recorder.see(row, 6, logits, np.ones(6), np.zeros(6, int))
    assert len(recorder.rows) == len(recorder.positions) == len(recorder.logits) == 40
    assert min(recorder.rows) < 500 and max(recorder.rows) > 1500 and 700 < np.mean(recorder.rows) < 1300
    for row, position, logits in zip(recorder.rows, recorder.positions, recorder.logits, strict=True):
        assert (logits == row + position / 8).all()


def test_the_position_predicted_best_for_its_rarity_is_recorded_and_padding_never() -> None:
    rarity = np.array([1.0, 9.0])
    recorder = Recorder(rarity, limit=1000)
    targets = np.array([0, 1, 0, 1, 1, 1])
    nats = np.array([0.0, 8.0, 0.5, 2.0, 0.0, 0.0])  # the last two are padding
    for row in range(200):
        recorder.see(row, 4, np.zeros((6, 2), np.float32), nats, targets)
    assert recorder.positions.count(3) >= 200
    assert set(recorder.positions) == {0, 1, 2, 3}
