"""A logits server's time counts from its weights on; warming up without them is free."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autoresearch.harness import checkpoint, serving
from autoresearch.harness.runner import Runner
from autoresearch.harness.serving import LogitsServer, Served, ServerFailed, allowed_s
from autoresearch.harness.supervise import Outcome
from tests.harness.tiny import LOGITS, honest, tiny_recipe, with_code


@pytest.fixture(scope="module")
def in_a_second(mlx: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a trial with a budget."""
    outcome = mlx.train(honest(), tiny_recipe(), 1, tmp_path_factory.mktemp("in_a_second"), 1.0)
    assert outcome.status == "ok" and outcome.weights, outcome.reason
    return outcome.weights


@pytest.fixture
def asked(mlx: Runner, tmp_path: Path) -> Callable[..., None]:
    """asked(weights, code, timed): a server with this code in `logits`, asked twice."""
    def ask(weights: Path, code: str, timed: bool = True) -> None:
        job = mlx._score_job(with_code(LOGITS, code), tiny_recipe(), tmp_path, weights, "val", None, None)
        served = Served("mlx", job.recipe, 257, job.weights, job.tree, job.folder, timed)
        with LogitsServer(served, length=16, max_batch=2) as server:
            first = server.ask(np.zeros((2, 16), np.int32))
            assert np.abs(server.ask(np.zeros((1, 16), np.int32)) - first[:1]).max() == 0
        assert not (tmp_path / "tree" / checkpoint.WEIGHTS).exists()

    return ask


def test_a_server_has_its_weights_when_it_has_warmed_up_without_them(in_a_second: Path,
                                                                     asked: Callable[..., None]) -> None:
    there = "here = os.path.exists(json.loads(sys.argv[3])['weights'])\nassert here == (len(_calls) > 1), len(_calls)"
    asked(in_a_second, there)


@pytest.mark.parametrize(("slow_call", "late"), [(1, False), (2, True), (3, True)])
def test_time_counts_from_the_weights_on(in_a_second: Path, asked: Callable[..., None], slow_call: int, late: bool,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call warms up, as a compiler would need it."""
    monkeypatch.setattr(serving, "REPLY_S", 1.0)
    slow = f"if len(_calls) == {slow_call}: time.sleep(2)"
    if not late:
        return asked(in_a_second, slow)
    with pytest.raises(ServerFailed, match=r"within 1\.\d s: .* 2 rows of 16 tokens, and more time could be more") as e:
        asked(in_a_second, slow)
    assert e.value.status == "timeout"
    asked(in_a_second, slow, timed=False)


def test_an_answer_that_came_while_we_were_stopped_is_in_time(in_a_second: Path, asked: Callable[..., None],
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """By SIGSTOP, say: the server, in a session of its own, goes on."""
    reply = LogitsServer._reply

    def stopped(self: LogitsServer, expected: str, timeout_s: float, why: str = "") -> None:
        if expected == "served":
            time.sleep(1)
            timeout_s = 0.0
        reply(self, expected, timeout_s, why)

    monkeypatch.setattr(LogitsServer, "_reply", stopped)
    asked(in_a_second, "pass")


def test_a_reply_may_take_what_training_took_some_times_over_and_no_large_share_of_the_budget(
        in_a_second: Path, trained: Outcome, tmp_path: Path) -> None:
    def allowed(budget_s: float | None, tokens: int) -> float | None:
        path = tmp_path / checkpoint.WEIGHTS
        path.write_bytes(in_a_second.read_bytes())
        about = vars(checkpoint.read(path)[0]) | {"budget_s": budget_s, "tokens": tokens, "train_s": 300.0}
        checkpoint.stamp(path, checkpoint.Record(**about))
        return allowed_s(path, 4096)

    loading_s = in_a_second.stat().st_size / serving.LOADED_BYTES_PER_S
    assert allowed(300.0, 300 * 20_480) == pytest.approx(3 + 3 + 5 * 0.2 + loading_s, rel=1e-3)
    slowly = allowed(300.0, 300 * 100)
    assert slowly == pytest.approx(3 + 3 + 30 + loading_s, rel=1e-3), "more, and it would pay to train slowly"
    assert allowed(None, 300) is None and trained.weights and allowed_s(trained.weights, 4096) is None
    (tmp_path / "none").write_bytes(b"not whole")
    assert allowed_s(tmp_path / "none", 4096) is None
