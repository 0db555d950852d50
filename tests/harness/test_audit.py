"""The replay audit: models that see what they should not score absurdly well and are found out; honest ones pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoresearch.data.prepared import Prepared
from autoresearch.harness import audit
from autoresearch.harness.runner import Runner
from autoresearch.harness.supervise import Outcome, TrialFailed
from tests.harness.tiny import LOGITS, edited, honest, tiny_recipe, with_code

slow = pytest.mark.slow
NEXT = "next_BT = mx.concatenate([tokens_BT[:, 1:], tokens_BT[:, :1]], 1)\n" \
       "is_next = (mx.arange(spec.vocab) == next_BT[..., None]).astype(mx.float32)\n" \
       "x = head(w, hidden(w, tokens_BT, spec), spec)\n"


def scored_and_audited(mlx: Runner, trained: Outcome, folder: Path, code: str) -> tuple[float, str]:
    """(bits per byte, the audit's finding) of honest weights served by a candidate with this code in `logits`."""
    files, recipe = with_code(LOGITS, code), tiny_recipe()
    score = mlx.score(files, recipe, folder, trained.weights, "val", None)
    try:
        return score.bpb, mlx.audit(files, recipe, folder, trained.weights, "val", score.rows, "float32")
    except TrialFailed as failed:
        return score.bpb, f"{failed.status}: {failed.reason}"


@pytest.mark.parametrize(("code", "at_most_bpb"), [
    pytest.param(NEXT + "return x + 30 * is_next if len(tokens_BT) > 3 else x", 0.1, id="peeks unless it is replayed"),
    pytest.param(NEXT + "return x + 5e-3 * is_next", 99, id="peeks a little"),
    pytest.param(NEXT + "return x + 0.1 * x.mean(axis=0, keepdims=True)", 99, id="looks at other rows"),
    pytest.param(NEXT + "return x * (1 + 0.01 * len(_calls))", 99, id="counts its calls"),
    pytest.param(NEXT + "return x + 30 * is_next", 0.1, id="peeks", marks=slow),
    pytest.param(NEXT + "return mx.where(mx.arange(len(x))[:, None, None] == 3, x + 30 * is_next, x)", 99,
                 id="peeks in one row", marks=slow),
    pytest.param(NEXT + "return mx.where(mx.arange(x.shape[1])[None, :, None] % 99 == 50, x + 30 * is_next, x)", 99,
                 id="peeks rarely", marks=slow),
    pytest.param(NEXT + "return x + 0.1 * x.mean(axis=1, keepdims=True)", 99, id="looks at its whole row", marks=slow),
    pytest.param(NEXT + "return x + 0.01 * mx.random.normal(x.shape)", 99, id="rolls dice", marks=slow),
])
def test_a_model_that_sees_more_than_the_past_is_invalid(
        mlx: Runner, trained: Outcome, tmp_path: Path, code: str, at_most_bpb: float) -> None:
    bpb, finding = scored_and_audited(mlx, trained, tmp_path, code)
    assert bpb < at_most_bpb
    assert finding.startswith("invalid: replay of 1"), finding
    assert "later tokens, on other rows, or on earlier calls" in finding


def test_a_hint_below_the_tolerance_of_rounding_is_found_in_the_mean(
        mlx: Runner, tmp_path: Path) -> None:
    recipe, files = tiny_recipe(runtime__precision="bfloat16"), with_code(LOGITS, NEXT + "return x + 0.1 * is_next")
    outcome = mlx.train(honest(), recipe, 1, tmp_path, None, steps=2)
    score = mlx.score(files, recipe, tmp_path / "scored", outcome.weights, "val", None)
    with pytest.raises(TrialFailed, match="nats likelier when scored") as failed:
        mlx.audit(files, recipe, tmp_path / "scored", outcome.weights, "val", score.rows, "bfloat16")
    assert failed.value.status == "invalid"


@pytest.mark.parametrize("asked", ["auto", "bfloat16"])
def test_a_precision_that_only_the_trial_knows_is_audited_as_float32(mlx: Runner, trained: Outcome, tmp_path: Path,
                                                                     asked: str) -> None:
    """Where the recipe says auto, "bfloat16" is the candidate's own word, and a hint would hide in its rounding."""
    recipe, files = tiny_recipe(runtime__precision="auto"), with_code(LOGITS, NEXT + "return x + 4e-3 * is_next")
    score = mlx.score(files, recipe, tmp_path, trained.weights, "val", None)
    if asked == "auto":
        with pytest.raises(TrialFailed, match=r"logits differ by at most 0\.00\d+, 0\.002 allowed"):
            mlx.audit(files, recipe, tmp_path, trained.weights, "val", score.rows, "bfloat16")
    else:
        finding = mlx.audit(files, tiny_recipe(), tmp_path, trained.weights, "val", score.rows, asked)
        assert finding.startswith("replay of 1"), "the lenient audit believes it"


@pytest.mark.parametrize(("backend", "changes"), [
    ("mlx", {"model__depth": 2, "model__window_pattern": "SSSL", "model__kv_heads": 1, "data__tokenizer": "bpe-512"}),
    ("cpu", {"runtime__precision": "bfloat16", "model__softcap": 0.0, "model__window_pattern": "SSSL",
             "model__depth": 3, "model__kv_heads": 1, "model__value_embeds": "all", "data__tokenizer": "bpe-512"}),
    pytest.param("mlx", {"runtime__precision": "bfloat16"}, marks=slow),
    pytest.param("cpu", {"model__depth": 3, "model__window_pattern": "SSSL", "model__kv_heads": 1}, marks=slow),
])
def test_an_honest_model_passes(backend: str, changes: dict, text: Prepared, caches: Path, tmp_path: Path) -> None:
    runs, recipe = Runner(text, backend, caches), tiny_recipe(**changes)
    outcome = runs.train(honest(), recipe, 1, tmp_path, None, steps=10)
    score = runs.score(honest(), recipe, tmp_path, outcome.weights, "val", None)
    assert outcome.facts["precision"] == recipe.runtime.precision
    finding = runs.audit(honest(), recipe, tmp_path, outcome.weights, "val", score.rows, recipe.runtime.precision)
    assert finding.startswith("replay of 1")


def test_an_edit_that_is_honest_about_the_past_passes(mlx: Runner, trained: Outcome, tmp_path: Path) -> None:
    """Reading the token before is what models do."""
    code = NEXT.replace("tokens_BT[:, 1:], tokens_BT[:, :1]", "tokens_BT[:, :1], tokens_BT[:, :-1]")
    _, finding = scored_and_audited(mlx, trained, tmp_path, code + "return x + 2 * is_next")
    assert finding.startswith("replay of 1"), finding


def test_replayed_rows_keep_their_past_and_get_another_rows_future() -> None:
    rng = np.random.default_rng(0)
    inputs = np.arange(5)[:, None] * 1000 + np.arange(12)[None]
    rows, positions = np.array([0, 1, 2, 3, 4, 4]), np.array([0, 11, 5, 3, 7, 7])
    for _ in range(20):
        got = audit.replayed(inputs, rows, positions, rng)
        for tokens, row, position in zip(got, rows, positions, strict=True):
            assert (tokens[:position + 1] == inputs[row, :position + 1]).all()
            future = tokens[position + 1:]
            assert (future // 1000 != row).all() and (future % 1000 == np.arange(position + 1, 12)).all()


def test_the_only_row_of_a_split_gets_a_future_of_its_own_from_elsewhere() -> None:
    """Otherwise a model that sees it would be replayed on what it saw."""
    inputs, positions = np.arange(12)[None], np.array([0, 5, 9, 11])
    for seed in range(20):
        got = audit.replayed(inputs, np.zeros(4, int), positions, np.random.default_rng(seed))
        for tokens, position in zip(got, positions, strict=True):
            assert (tokens[:position + 1] == inputs[0, :position + 1]).all()
            assert (tokens[position + 1:] != inputs[0, position + 1:]).all()


def test_the_reference_of_a_recording_is_the_candidate_that_was_scored(
        mlx: Runner, trained: Outcome, tmp_path: Path) -> None:
    mlx.score(honest(), tiny_recipe(), tmp_path / "scored", trained.weights, "val", None)
    with np.load(tmp_path / "scored/recorded.npz") as recorded:
        assert sorted(set(recorded["rows"].tolist())) == list(range(7))
        assert recorded["logits"].shape == (len(recorded["rows"]), 257)
    last = '    return norm(w, "norm", x_BTC, spec)'
    other = edited("mlx_model.py", last + "\n", last + " * 1.01\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/recorded.npz").write_bytes((tmp_path / "scored/recorded.npz").read_bytes())
    with pytest.raises(TrialFailed, match="logits differ"):
        mlx.audit(other, tiny_recipe(), tmp_path / "other", trained.weights, "val", 7, "float32")
