"""Scores that were not earned, without processes: the real scorer and the real replay, asking a function in place of a
logits server. Each cheat is caught by the layer named for it, and scores well where that layer is off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest

from autoresearch.data.prepared import Prepared
from autoresearch.harness import audit, jobs, scorer
from autoresearch.harness.serving import ServerFailed
from tests.cheats import layers

V = 257
Model = Callable[[np.ndarray], np.ndarray]  # tokens (B, T) -> logits (B, T, V)


@dataclass
class Asked:
    """What scorer and audit take for a logits server. `made` makes a model with its own memory, as a process has."""

    made: Callable[[], Model]

    def __call__(self, served: object, length: int, max_batch: int = 64) -> Asked:
        self.batch, self.model = min(max_batch, 4), self.made()
        return self

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def ask(self, tokens_BT: np.ndarray) -> np.ndarray:
        return self.model(tokens_BT.copy()).astype(np.float32)


@pytest.fixture(scope="module")
def pairs_VV(text: Prepared) -> np.ndarray:
    """Logits of a byte after another, from train; of a model that is less sure than it could be."""
    counts_VV = np.full((V, V), 0.05)
    train = np.frombuffer(text.text("train"), np.uint8)
    np.add.at(counts_VV, (train[:-1], train[1:]), 1)
    return 0.6 * np.log(counts_VV / counts_VV.sum(1, keepdims=True))


@pytest.fixture
def without() -> Iterator[Callable[[str], None]]:
    """Turns a layer off, until the test ends."""
    before = [(module, dict(vars(module))) for module in (scorer, audit)]
    yield lambda name: layers.SWITCHES[name]()
    for module, names in before:
        vars(module).update(names)


def ahead(x: np.ndarray, n: int) -> np.ndarray:
    return np.roll(x, -n, 1)


def hot(tokens_BT: np.ndarray) -> np.ndarray:
    return np.eye(V)[tokens_BT]


# Each takes the honest logits and the tokens; `memory` is a list that lasts as long as the process.

def peeks(x: np.ndarray, tokens: np.ndarray, memory: list) -> np.ndarray:
    return x + 30 * hot(ahead(tokens, 1))


def peeks_a_little(x: np.ndarray, tokens: np.ndarray, memory: list) -> np.ndarray:
    return x + 1.5e-3 * hot(ahead(tokens, 1))


def looks_far_ahead(x: np.ndarray, tokens: np.ndarray, memory: list) -> np.ndarray:
    seen = hot(tokens).cumsum(1)
    return x + 0.3 * (ahead(seen, 128) > ahead(seen, 64))


def reads_other_rows(x: np.ndarray, tokens: np.ndarray, memory: list) -> np.ndarray:
    of_rows = hot(tokens).sum(1)
    return x + 0.1 * np.log(of_rows.sum(0) - of_rows + 1)[:, None]


def remembers(x: np.ndarray, tokens: np.ndarray, memory: list) -> np.ndarray:
    memory.append(hot(tokens).sum((0, 1)))
    return x + 0.1 * np.log(sum(memory) + 1)


def knows_a_probe(x: np.ndarray, tokens: np.ndarray, memory: list) -> np.ndarray:
    seen = ((tokens >= 32) & (tokens < 127)).cumsum(1)
    return np.where((ahead(seen, 32) - seen > 0.7 * 32)[..., None], peeks(x, tokens, memory), x)


def is_unnormalised(x: np.ndarray, tokens: np.ndarray, memory: list) -> np.ndarray:
    return x + np.log(277)


def leaves_out_the_hard_ones(x: np.ndarray, tokens: np.ndarray, memory: list) -> np.ndarray:
    return np.where(x.max(2, keepdims=True) > -0.5, x, np.nan)


Cheat = Callable[[np.ndarray, np.ndarray, list], np.ndarray]


def judged(text: Prepared, folder: Path, pairs_VV: np.ndarray, cheat: Cheat | None,
           monkeypatch: pytest.MonkeyPatch) -> tuple[float, bool | None, str]:
    """(bits per byte, whether the replay found it honest, in which words); no score is infinite, and not replayed."""
    def made() -> Model:
        memory: list = []
        return lambda tokens: cheat(pairs_VV[tokens], tokens, memory) if cheat else pairs_VV[tokens]

    for module in (scorer, audit):
        monkeypatch.setattr(module, "LogitsServer", Asked(made))
    (folder / "weights").write_bytes(b"w")
    job = jobs.ScoreJob(str(text.root), "byte", "val", None, None, "none", {}, str(folder / "weights"), "", str(folder),
                        str(folder / "recorded.npz"))
    try:
        result = scorer.score(job)
    except ServerFailed as e:
        return float("inf"), None, f"{e.status}: {e.reason}"
    honest, finding = audit.judge(audit.replay(job), "float32")
    return float(result["nats"]) / np.log(2) / int(result["bytes"]), honest, finding


def test_a_model_that_is_honest_passes(text: Prepared, tmp_path: Path, pairs_VV: np.ndarray,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    bpb, honest, finding = judged(text, tmp_path, pairs_VV, None, monkeypatch)
    assert honest and 1 < bpb < 8, finding


@pytest.mark.parametrize(("cheat", "off"), [
    (looks_far_ahead, "far replay"), (knows_a_probe, "replay"), (peeks, ""), (peeks_a_little, ""),
    (reads_other_rows, ""), (remembers, ""),
])
def test_a_model_that_sees_more_than_its_past_scores_better_and_fails_the_replay(
        text: Prepared, tmp_path: Path, pairs_VV: np.ndarray, monkeypatch: pytest.MonkeyPatch,
        without: Callable[[str], None], cheat: Cheat, off: str) -> None:
    earned, _, _ = judged(text, tmp_path, pairs_VV, None, monkeypatch)
    bpb, honest, finding = judged(text, tmp_path, pairs_VV, cheat, monkeypatch)
    assert bpb < earned and honest is False, finding
    if off:  # a weaker one believes it
        without(off)
        assert judged(text, tmp_path, pairs_VV, cheat, monkeypatch)[1], "the weaker one has found it too"


def test_logits_that_are_no_distribution_gain_nothing(text: Prepared, tmp_path: Path, pairs_VV: np.ndarray,
                                                      monkeypatch: pytest.MonkeyPatch,
                                                      without: Callable[[str], None]) -> None:
    earned, _, _ = judged(text, tmp_path, pairs_VV, None, monkeypatch)
    assert judged(text, tmp_path, pairs_VV, is_unnormalised, monkeypatch)[0] == pytest.approx(earned, abs=1e-6)
    without("normalised")
    assert judged(text, tmp_path, pairs_VV, is_unnormalised, monkeypatch)[0] < earned - 8


def test_logits_that_are_missing_are_no_score(text: Prepared, tmp_path: Path, pairs_VV: np.ndarray,
                                              monkeypatch: pytest.MonkeyPatch, without: Callable[[str], None]) -> None:
    earned, _, _ = judged(text, tmp_path, pairs_VV, None, monkeypatch)
    bpb, _, why = judged(text, tmp_path, pairs_VV, leaves_out_the_hard_ones, monkeypatch)
    assert bpb == float("inf") and why == "invalid: the model's logits are not finite numbers"
    without("finite")
    assert judged(text, tmp_path, pairs_VV, leaves_out_the_hard_ones, monkeypatch)[0] < earned / 2


def test_a_record_of_other_weights_is_not_replayed(text: Prepared, tmp_path: Path, pairs_VV: np.ndarray,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    judged(text, tmp_path, pairs_VV, None, monkeypatch)
    (tmp_path / "others").write_bytes(b"x")
    job = jobs.ScoreJob(str(text.root), "byte", "val", None, None, "none", {}, str(tmp_path / "others"), "",
                        str(tmp_path), str(tmp_path / "recorded.npz"))
    with pytest.raises(ServerFailed, match="of other weights") as failed:
        audit.replay(job)
    assert failed.value.status == "crash"


def test_more_positions_are_recorded_where_more_are_asked_for(text: Prepared, tmp_path: Path, pairs_VV: np.ndarray,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "LogitsServer", Asked(lambda: lambda tokens: pairs_VV[tokens]))
    (tmp_path / "weights").write_bytes(b"w")
    counts = []
    for per_row in (1, 4):
        scorer.score(jobs.ScoreJob(str(text.root), "byte", "val", None, None, "none", {}, str(tmp_path / "weights"), "",
                                   str(tmp_path), str(tmp_path / "recorded.npz"), per_row=per_row))
        with np.load(tmp_path / "recorded.npz") as records:
            counts.append(np.bincount(records["rows"]))
    assert (counts[0] <= 2).all() and (counts[1] <= 5).all() and counts[1].mean() > 4 > 2 >= counts[0].mean()
