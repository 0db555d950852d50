"""How a process with a candidate's code failed is told alike of a trial, a logits server and a measuring process."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoresearch.harness import watch
from autoresearch.harness.channel import Channel
from autoresearch.harness.measuring import Measuring
from autoresearch.harness.runner import Runner
from autoresearch.harness.stranger import DIVERGED, Failed, Stranger
from autoresearch.harness.supervise import Outcome, TrialFailed
from autoresearch.records import MACHINE, MEMORY
from tests.harness.tiny import LOGITS, LOSS, tiny_recipe, with_code

UNWATCHED = SimpleNamespace(reason="", starved=lambda: False)
LOST = "raise RuntimeError('CUDA error: unspecified launch failure')"


def heard(said: bytes) -> Failed:
    """What becomes of a process that says this."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(said)
        with pytest.raises(Failed) as failed:
            Stranger("the process", None, Channel(ours), UNWATCHED, Failed).receive(5)
    return failed.value


@pytest.mark.parametrize(("said", "status", "reason", "cause"), [
    (b'{"kind": "out_of_memory", "message": "tried 2 GiB"}', "crash", "out of memory: tried 2 GiB", MEMORY),
    (b'{"kind": "device", "message": "CUDA error: lost"}', "crash", "CUDA error: lost", MACHINE),
    (b'{"kind": "unusable", "message": "no bfloat16"}', "crash", "no bfloat16", MACHINE),
    (b'{"kind": "diverged", "message": "nan"}', "crash", "nan", DIVERGED),
    (b'{"kind": "error", "message": "\\u001b[31mred"}', "crash", "red", ""),
    (b'{"kind": ["device"]}', "crash", "the process failed, and did not say why", ""),
    (b"3", "invalid", "the process broke the protocol: a message that is not an object", ""),
])
def test_a_failure_that_is_told_has_a_verdict_a_reason_and_a_cause(said: bytes, status: str, reason: str,
                                                                   cause: str) -> None:
    failed = heard(said.replace(b"{", b'{"event": "failed", ', 1) + b"\n")
    assert (failed.status, failed.reason, failed.cause) == (status, reason, cause)


@pytest.mark.parametrize(("code", "said", "starved", "reason", "cause"), [
    (-9, "", True, "out of memory: the system killed the process", MEMORY),
    (-9, "", False, "the process ended by itself with signal 9", MACHINE),
    (-6, "", True, "the process ended by itself with signal 6", MACHINE),
    (3, "", True, "the process ended by itself with exit code 3", ""),
    (-9, "out of memory: it took 7 GiB", False, "the process was stopped: out of memory: it took 7 GiB", MEMORY),
    (-9, "it ran 9,000 processes and threads", False, "the process was stopped: it ran 9,000 processes", ""),
])
def test_the_kernels_killer_is_told_from_others(code: int, said: str, starved: bool, reason: str, cause: str) -> None:
    seen = SimpleNamespace(reason=said, starved=lambda: starved)
    failed = Stranger("the process", SimpleNamespace(wait=lambda timeout_s: code), None, seen, Failed).death()
    assert failed.status == "crash" and failed.reason.startswith(reason) and failed.cause == cause


def test_the_last_words_of_a_process_that_died_belong_to_the_reason(tmp_path: Path) -> None:
    """Of a measuring process nobody reads the log: its folder is gone with it."""
    (tmp_path / "log.txt").write_text("a\nb\nc\nImportError: no \x1b[31mlibrary\n")
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    failed = Stranger("the process", process, None, UNWATCHED, Failed, tmp_path / "log.txt").death()
    assert failed.reason == "the process ended by itself with exit code 1:\nb\nc\nImportError: no library"


def test_nothing_in_time_is_no_failure_and_a_closed_channel_is_a_death() -> None:
    ours, theirs = socket.socketpair()
    seen = SimpleNamespace(reason="it wrote too much", starved=lambda: False)
    stranger = Stranger("the process", None, Channel(ours), seen, TrialFailed)
    assert stranger.receive(0.01) is None
    theirs.close()
    for meet in (lambda: stranger.receive(5), lambda: stranger.send(go=1)):
        with pytest.raises(TrialFailed, match="the process was stopped: it wrote too much"):
            meet()
    ours.close()


@pytest.mark.parametrize(("code", "status", "reason", "cause"), [
    (LOST, "crash", "RuntimeError: CUDA error", MACHINE), ("raise MemoryError", "crash", "out of memory", MEMORY),
    ("raise ValueError('no')", "crash", "ValueError: no", ""),
    ("os.kill(os.getpid(), signal.SIGSEGV)", "crash", "the logits server ended by itself with signal 11", MACHINE),
])
def test_a_score_that_the_machine_has_spoilt_is_not_the_candidates_fault(
        mlx: Runner, trained: Outcome, tmp_path: Path, code: str, status: str, reason: str, cause: str) -> None:
    with pytest.raises(TrialFailed) as failed:
        mlx.score(with_code(LOGITS, code), tiny_recipe(), tmp_path, trained.weights, "val", None)
    assert (failed.value.status, failed.value.cause) == (status, cause) and reason in failed.value.reason


def test_an_audit_says_what_it_failed_of_too(mlx: Runner, trained: Outcome, tmp_path: Path) -> None:
    score = mlx.score(with_code(LOGITS, ""), tiny_recipe(), tmp_path, trained.weights, "val", 2)
    (tmp_path / "tree/backends/gpt/mlx_model.py").write_bytes(with_code(LOGITS, LOST)["mlx_model.py"])
    with pytest.raises(TrialFailed, match="CUDA error") as failed:
        mlx.audit({}, tiny_recipe(), tmp_path, trained.weights, "val", score.rows, "float32")
    assert failed.value.cause == MACHINE


@pytest.mark.parametrize(("code", "reason", "cause"), [
    ("os.kill(os.getpid(), signal.SIGKILL)", "out of memory: the system killed the measuring process", MEMORY),
    ("raise MemoryError", "out of memory: MemoryError", MEMORY), (LOST, "RuntimeError: CUDA error", MACHINE),
    ("print('the last word', flush=True); os._exit(3)", "exit code 3:\nthe last word", ""),
])
def test_a_measurement_that_ran_out_of_memory_says_so_however_it_ended(
        monkeypatch: pytest.MonkeyPatch, code: str, reason: str, cause: str) -> None:
    monkeypatch.setattr(watch, "oom_kills", lambda: None)  # a kernel that doesn't count whom it has killed
    with pytest.raises(TrialFailed) as failed, Measuring(with_code(LOSS, code), "mlx") as process:
        process.begin(tiny_recipe(), 257, 60.0)
    assert (failed.value.status, failed.value.cause) == ("crash", cause) and reason in failed.value.reason
