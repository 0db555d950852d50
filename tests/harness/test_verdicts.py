"""What goes wrong in a candidate becomes a verdict with a reason, in bounded time, and leaves no process behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from autoresearch.harness import child, launch, runner, supervise
from autoresearch.harness.runner import Runner
from autoresearch.harness.supervise import Outcome, TrialFailed
from autoresearch.harness.text import tail
from tests.harness.tiny import LOGITS, LOSS, TRAINING, comes_true, edited, honest, ours_below, tiny_recipe, with_code

slow = pytest.mark.slow


def train(mlx: Runner, folder: Path, code: str, budget_s: float | None = None, steps: int | None = 12,
          listen: supervise.Listener = lambda m: None) -> Outcome:
    """A short run of a candidate that does something before each loss. Its processes are gone when it returns."""
    outcome = mlx.train(with_code(LOSS, code), tiny_recipe(), 1, folder, budget_s, steps, listen)
    assert comes_true(lambda: not ours_below(folder), 2), ours_below(folder)
    return outcome


@pytest.mark.parametrize(("code", "reason"), [
    ("raise RuntimeError('no such layer')", "RuntimeError: no such layer"),
    ("if " + TRAINING + ": raise RuntimeError('no such layer')", "RuntimeError: no such layer"),
    pytest.param("raise SystemExit(0)", "SystemExit: 0", marks=slow),
    ("raise MemoryError", "out of memory: MemoryError"),
    ("if " + TRAINING + ": return mx.array(float('nan')) * w['head.weight'].sum()",
     r"training diverged: the loss was nan at step \d"),
    pytest.param("if " + TRAINING + ": return 1e6 + 0 * w['head.weight'].sum()",
                 r"training diverged: the loss was 1e\+06 at", marks=slow),
    ("if " + TRAINING + ": os._exit(3)", "ended by itself with exit code 3"),
    ("os.kill(os.getpid(), signal.SIGKILL)", "ended by itself with signal 9|out of memory: the system killed"),
    pytest.param("os.kill(os.getpid(), signal.SIGTERM)", "ended by itself with signal 15", marks=slow),
    pytest.param("class Rude(Exception):\n    def __str__(self): raise ValueError\nraise Rude", "exit code 1",
                 marks=slow),
])
def test_a_candidate_that_fails_has_crashed_and_the_reason_says_how(mlx: Runner, tmp_path: Path, code: str,
                                                                    reason: str) -> None:
    outcome = train(mlx, tmp_path, code)
    assert outcome.status == "crash"
    assert re.search(reason, outcome.reason), outcome.reason
    assert outcome.weights is None
    if "raise" in code:
        assert "Traceback" in outcome.log_tail and "mlx_model.py" in outcome.log_tail


@pytest.mark.parametrize(("error", "kind"), [
    (MemoryError(), "out_of_memory"), (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
    (RuntimeError("[metal::malloc] Unable to allocate 8 bytes"), "out_of_memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory"),
    (RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008:k)"), "out_of_memory"),
    (RuntimeError("[METAL] Command buffer execution failed: Caused GPU Hang Error"), "device"),
    (RuntimeError("CUDA error: unspecified launch failure"), "device"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out_of_memory"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasCreate(handle)`"), "device"),
    (RuntimeError("CUDA error: an illegal memory access was encountered"), "error"),
    (RuntimeError("CUDA error: invalid argument"), "error"),
    (RuntimeError("Triton Error [CUDA]: CUDA driver error: invalid argument"), "error"),
    (RuntimeError("CUDA error: invalid device function"), "error"),
    (RuntimeError("CUDA error: too many resources requested for launch"), "error"),
    (ValueError("memory"), "error"), (SystemExit(0), "error"), (KeyboardInterrupt(), "error"),
])
def test_running_out_of_memory_is_told_from_other_errors(error: BaseException, kind: str) -> None:
    found = child.failure(error)
    assert found["kind"] == kind and found["message"].startswith(f"{type(error).__name__}: {error}".strip())
    assert len(child.failure(ValueError("x" * 10**6))["message"]) == 2000


@pytest.mark.parametrize(("code", "reason"), [
    pytest.param("while True: pass", "warm-up took longer than 2 s", id="in warm-up", marks=slow),
    pytest.param("while " + TRAINING + ": pass", "training did not stop at its budget", id="in a step"),
    pytest.param("if len(_calls) == 6: time.sleep(2.1)", "its last step took longer", id="past the budget"),
])
def test_a_candidate_that_does_not_stop_is_stopped(mlx: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   code: str, reason: str) -> None:
    monkeypatch.setattr(supervise, "WARMUP_TIMEOUT_S", 2.5)
    if "last step" not in reason:
        monkeypatch.setattr(supervise.Supervised, "_grace_s", lambda self: 1.0)
    outcome = train(mlx, tmp_path, code, budget_s=1.0, steps=None)
    assert (outcome.status, reason in outcome.reason) == ("timeout", True), outcome.reason
    assert outcome.total_s < 12


@pytest.mark.parametrize("budget_s", [None, 300.0])
def test_silence_ends_a_trial_with_a_budget_and_without(tmp_path: Path, budget_s: float | None) -> None:
    class Silent:
        def receive(self, timeout_s: float | None) -> None:
            assert timeout_s is not None and 0 < timeout_s <= supervise.SILENT_S

    supervised = supervise.Supervised(Silent(), None, tmp_path, tmp_path, budget_s, 1.0, 0, lambda m: None)
    with pytest.raises(TrialFailed, match="no sign of life") as failed:
        supervised._until_stopped(time.monotonic(), Outcome(), None)
    assert (failed.value.status, failed.value.cause) == ("crash", "machine")


def test_a_trial_that_gives_no_sign_of_life_has_crashed_long_before_its_time_is_over(
        mlx: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "SILENT_S", 0.5)
    monkeypatch.setattr(supervise, "SLOWER", 2.0)
    outcome = train(mlx, tmp_path, "if len(_calls) > 8: time.sleep(600)", 300.0, None)
    assert (outcome.status, outcome.cause) == ("crash", "machine"), outcome.reason
    assert "no sign of life" in outcome.reason and outcome.total_s < 30


def test_a_trial_that_never_stops_talking_is_late_all_the_same(tmp_path: Path) -> None:
    class Talkative:
        def receive(self, timeout_s: float | None) -> dict:
            return {"event": "hello"}

    supervised = supervise.Supervised(Talkative(), None, tmp_path, tmp_path, None, 1.0, 0, lambda m: None)
    with pytest.raises(TrialFailed, match="warm-up took longer than 0 s") as failed:
        supervised._await("ready", 0.2, "warm-up")
    assert failed.value.status == "timeout"


def test_work_after_the_budget_is_not_waited_for(mlx: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise an optimizer could go on training while it hands over its weights."""
    monkeypatch.setattr(supervise, "HAND_OVER_S", 1.0)
    busy = "    import sys, time\n    if sys._getframe(1).f_code.co_name == 'weights':\n        time.sleep(60)\n"
    end = '''returns the average here."""\n    return weights\n'''
    more = edited("mlx_optim.py", end, end.replace("    return", f"{busy}    return"))
    outcome = mlx.train(more, tiny_recipe(), 1, tmp_path, None, 3)
    assert (outcome.status, "handing over the weights took longer" in outcome.reason) == ("timeout", True)
    assert outcome.weights is None and outcome.total_s < 12


def test_a_size_that_is_only_declared_gives_no_time_to_hand_over(mlx: Runner, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "HAND_OVER_S", 0.5)
    monkeypatch.setattr(supervise, "SLOW_DISK_BYTES_PER_S", 1000.0)  # so the recipe's 80 kB are a minute's writing
    busy = "    import sys, time\n    if sys._getframe(1).f_code.co_name == 'weights':\n        time.sleep(3)\n"
    end = '''returns the average here."""\n    return weights\n'''
    more = edited("mlx_optim.py", end, end.replace("    return", f"{busy}    return"))
    outcome = mlx.train(more, tiny_recipe(), 1, tmp_path, None, 3)
    assert (outcome.status, "handing over the weights took longer" in outcome.reason) == ("timeout", True)
    assert outcome.weights is None


IN_DIAGNOSTICS = "import traceback\nif any(f.name == 'diagnostics' for f in traceback.extract_stack()): "


def test_a_trial_stands_still_while_its_weights_are_copied(mlx: Runner, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    take, stood_still = supervise.take_weights, list[bool]()

    def watched(folder: Path, most_bytes: int) -> Path:
        trial = next(p for p in ours_below(folder) if p.ppid() == os.getpid())
        stood_still.append(comes_true(lambda: trial.status() == psutil.STATUS_STOPPED, 5))
        (folder / launch.SCRATCH / "seen").touch()
        return take(folder, most_bytes)

    monkeypatch.setattr(supervise, "take_weights", watched)
    code = IN_DIAGNOSTICS + "\n    while not os.path.exists('seen'): time.sleep(0.01)"
    outcome = train(mlx, tmp_path, code, steps=2)
    assert outcome.status == "ok" and stood_still == [True], outcome.reason
    assert outcome.facts["diagnostics"], "and then goes on"


@pytest.mark.parametrize("code", ["raise MemoryError", "raise SystemExit(1)", "os._exit(1)", "time.sleep(600)"])
def test_a_trial_that_fails_at_its_diagnostics_counts(mlx: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                      code: str) -> None:
    """Its weights have been taken, and nothing else is scored."""
    monkeypatch.setattr(supervise, "FINISH_S", 1.0)
    outcome = train(mlx, tmp_path, IN_DIAGNOSTICS + code)
    assert outcome.status == "ok" and outcome.weights and outcome.steps == 12, outcome.reason
    assert outcome.params > 10_000 and outcome.peak_memory_bytes > 10_000 and outcome.conditions
    assert not outcome.facts.get("diagnostics")


@pytest.mark.parametrize(("line", "reason"), [
    ("[" * 30000, "nested too deeply"),
    ("x" * 200_000, "longer than the protocol allows"),
    ('{"event": "step", "step": 1' + 400 * "0" + ', "train_nats": 1}', "step = '1000"),
], ids=["deep", "long", "huge"])
def test_a_trial_that_breaks_the_protocol_is_invalid(mlx: Runner, tmp_path: Path, line: str, reason: str) -> None:
    outcome = train(mlx, tmp_path, f"if {TRAINING}: _tell({line!r})")
    assert (outcome.status, reason in outcome.reason) == ("invalid", True), outcome.reason


@pytest.mark.parametrize("line", [
    pytest.param('{"event": "step", "step": 1, "train_nats": 1, "dev_nats": 1}', id="dev"),
    pytest.param('{"event": "step", "step": 1, "train_nats": 1}', id="train"),
])
def test_a_trial_that_tells_more_than_training_has_to_tell_is_invalid(mlx: Runner, tmp_path: Path, line: str) -> None:
    """Every point is held in memory and kept in the ledger."""
    outcome = train(mlx, tmp_path, f"while {TRAINING}: _tell({line!r})", budget_s=60.0, steps=None)
    assert (outcome.status, "reported its progress" in outcome.reason) == ("invalid", True), outcome.reason
    assert len(outcome.curve) < 2000 and sum(p.dev_bpb is not None for p in outcome.curve) < 10


def test_a_file_of_holes_in_place_of_weights_is_not_copied(mlx: Runner, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "MOST_WEIGHTS_BYTES", 1 << 20)
    told = '{"event": "stopped", "step": 1, "train_nats": 1}\n{"event": "saved"}'
    outcome = train(mlx, tmp_path, f"if {TRAINING}: open('weights.safetensors', 'wb').truncate(1 << 30); "
                                   f"_tell({told!r}); time.sleep(9)")
    assert (outcome.status, "left weights of more than" in outcome.reason) == ("invalid", True), outcome.reason
    assert (tmp_path / "weights.safetensors").stat().st_size < 8 << 20


@pytest.mark.parametrize("value", ["3", None, True, [1], {}, float("nan"), float("inf"), -1e30, 10**400])
def test_a_measurement_is_a_number_that_can_be(value: object) -> None:
    with pytest.raises(TrialFailed, match="steps = ") as failed:
        supervise.number({"steps": value}, "steps")
    assert failed.value.status == "invalid"
    assert supervise.number({"steps": 3}, "steps") == 3.0


def test_numbers_that_no_ledger_could_hold_are_invalid(mlx: Runner, tmp_path: Path) -> None:
    lies = '{"event": "stopped", "step": 1, "train_nats": 1}\n{"event": "saved", "params": 1e30}'
    outcome = train(mlx, tmp_path, f"if {TRAINING}: open('weights.safetensors', 'w'); _tell({lies!r}); time.sleep(9)")
    assert (outcome.status, "params = '1e+30'" in outcome.reason) == ("invalid", True), outcome.reason


def test_diagnostics_are_finite_numbers_or_left_out(mlx: Runner, tmp_path: Path) -> None:
    facts = {"a\x1b[31m": 1.5, "b": "words", "c": [1], "d": True, "e": float("inf"), "f": float("nan")}
    lies = "".join(json.dumps(told) + "\n" for told in (
        {"event": "stopped", "step": 1, "train_nats": 1}, {"event": "saved", "params": 1, "peak_memory_bytes": 1},
        {"event": "done", "diagnostics": facts}))
    outcome = train(mlx, tmp_path, f"if {TRAINING}: open('weights.safetensors', 'w'); _tell({lies!r}); os._exit(0)")
    assert outcome.facts["diagnostics"] == {"a": 1.5}


def test_a_precision_other_than_the_recipes_is_invalid(mlx: Runner, tmp_path: Path) -> None:
    """It decides how far logits may differ in the audit, so a trial can't choose it."""
    lie = '{"event": "loaded", "device": "x", "precision": "bfloat16"}'
    files = with_code(LOSS, "")
    files["mlx_model.py"] += f"\n_tell({lie!r})\n".encode()
    outcome = mlx.train(files, tiny_recipe(), 1, tmp_path, None, 2)
    assert (outcome.status, outcome.reason) == (
        "invalid", "the trial reported the precision 'bfloat16'; the recipe says float32")


def test_freeing_more_slots_than_were_filled_does_not_count_as_steps(mlx: Runner, tmp_path: Path) -> None:
    code = "if len(_calls) == 6: os.write(json.loads(sys.argv[3])['free'], b'x' * 4000)"
    outcome = train(mlx, tmp_path, code)
    assert outcome.status == "ok", outcome.reason
    assert outcome.steps <= 12 + 4  # what the ring holds


def test_what_a_candidate_prints_is_shown_clean_and_bounded(mlx: Runner, tmp_path: Path) -> None:
    code = ("print('\\x1b[2J\\x1b]0;title\\x07' + 'x' * 10_000_000)\nos.write(1, b'\\xff\\x00\\x9b31m' * 9)\n"
            "print('\\u202e the last line \\x1b[31m\\r')\nraise ValueError('\\x1b[31mred\\x1b]0;title\\x07\\x00')")
    outcome = train(mlx, tmp_path, code)
    assert outcome.status == "crash" and outcome.reason == "ValueError: red"
    assert len(outcome.log_tail) <= 4000 and " the last line " in outcome.log_tail
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", outcome.log_tail)


def test_a_log_that_was_replaced_by_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.txt")
    assert tail(tmp_path / "log.txt") == ""


def test_a_feeder_that_can_not_read_its_text_is_named(mlx: Runner, tmp_path: Path) -> None:
    class Damaged(Runner):
        def _feeder_job(self, *args: object):
            job = super()._feeder_job(*args)
            return type(job)(**{**vars(job), "shards": [str(tmp_path / "gone")]})

    outcome = Damaged(mlx.prepared, "mlx", mlx.caches).train(honest(), tiny_recipe(), 1, tmp_path, None, 3)
    assert (outcome.status, outcome.cause) == ("crash", "machine") and "the feeder died" in outcome.reason
    assert re.search(rf"FileNotFoundError: .*{tmp_path}/gone", outcome.reason), outcome.reason
    assert "\n" not in outcome.reason, "the last line of what it said"


LATE_FEEDER = """
import os, sys, time
from autoresearch.harness import feeder
rows, supervisor, may_begin = feeder.training_rows, os.getppid(), sys.argv.pop()
def late(*given):
    while not os.path.exists(may_begin) and os.getppid() == supervisor:
        time.sleep(0.02)
    return rows(*given)
feeder.training_rows = late
feeder.main()
"""


@pytest.fixture
def late_feeder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A feeder that does not begin to shuffle before this file is there."""
    trusted, may_begin = launch.trusted, tmp_path / "may begin"

    def started(module: str, *arguments: str, descriptors: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        if module != "feeder":
            return trusted(module, *arguments, descriptors=descriptors)
        return launch.register(subprocess.Popen(
            [sys.executable, "-c", LATE_FEEDER, *arguments, str(may_begin)], pass_fds=descriptors,
            start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE))

    monkeypatch.setattr(launch, "trusted", started)
    return may_begin


def test_the_clock_starts_when_the_feeder_has_shuffled(mlx: Runner, tmp_path: Path, late_feeder: Path) -> None:
    shuffled, began = list[float](), list[float]()

    def shuffle() -> None:
        shuffled.append(time.monotonic())
        late_feeder.touch()

    def listen(message: dict) -> None:
        if message["event"] == "ready":  # the trial has warmed up
            threading.Timer(0.3, shuffle).start()
        elif message["event"] == "step":
            began.append(time.monotonic() - message["point"].elapsed_s)

    outcome = train(mlx, tmp_path, "", steps=3, listen=listen)
    assert outcome.status == "ok" and outcome.steps == 3, outcome.reason
    assert min(began) >= shuffled[0]


@pytest.mark.usefixtures("late_feeder")
def test_a_feeder_that_is_never_ready_is_the_machines_fault(mlx: Runner, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "FEEDER_TIMEOUT_S", 0.1)
    outcome = train(mlx, tmp_path, "", steps=3)
    assert (outcome.status, outcome.cause) == ("crash", "machine") and "the feeder had no row" in outcome.reason


# Scoring, on honest weights

def scored(mlx: Runner, trained: Outcome, folder: Path, code: str) -> object:
    return mlx.score(with_code(LOGITS, code), tiny_recipe(), folder, trained.weights, "val", None)


@pytest.mark.parametrize(("code", "status", "reason"), [
    ("return head(w, hidden(w, tokens_BT, spec), spec)[..., :-1]", "crash", r"logits of shape \(4, 1024, 256\)"),
    ("return head(w, hidden(w, tokens_BT, spec), spec) * float('nan')", "invalid", "not finite"),
    ("raise MemoryError", "crash", "out of memory"),
    ("os._exit(0)", "crash", "the logits server ended by itself with exit code 0"),
    ("if len(_calls) > 1: _tell('{\"event\": \"served\"}'); time.sleep(1); os._exit(1)", "invalid", "not finite"),
    ("_tell('what?')", "invalid", "broke the protocol"),
    pytest.param("return head(w, hidden(w, tokens_BT, spec), spec)[:, :1]", "crash", "logits of shape", marks=slow),
    pytest.param("x = head(w, hidden(w, tokens_BT, spec), spec); return mx.where(x > x.max() - 1e-6, mx.inf, x)",
                 "invalid", "not finite", marks=slow),
    pytest.param("raise KeyError('head.weight')", "crash", "KeyError: 'head.weight'", marks=slow),
])
def test_a_model_that_can_not_be_scored_fails_with_its_verdict(mlx: Runner, trained: Outcome, tmp_path: Path,
                                                               code: str, status: str, reason: str) -> None:
    with pytest.raises(TrialFailed) as failed:
        scored(mlx, trained, tmp_path, code)
    assert failed.value.status == status
    assert re.search(reason, failed.value.reason), failed.value.reason
    assert comes_true(lambda: not ours_below(tmp_path), 2), ours_below(tmp_path)


def test_a_model_that_hangs_while_scored_is_stopped_with_its_processes(
        mlx: Runner, trained: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "SCORE_TIMEOUT_S", 1.5)
    with pytest.raises(TrialFailed, match="longer than 2 s") as failed:
        scored(mlx, trained, tmp_path, "while True: pass")
    assert failed.value.status == "timeout"
    assert comes_true(lambda: not ours_below(tmp_path), 3), ours_below(tmp_path)
