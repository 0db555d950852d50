"""`ar doctor`: every line tells the truth about the machine, carries its remedy, and never shows a key."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from autoresearch import doctor
from autoresearch.cli.doctor import command
from autoresearch.doctor import FAILURE, OK, WARNING, Finding, Patient
from autoresearch.harness import sandbox, selfcheck, sensors
from autoresearch.harness.selfcheck import Tried
from autoresearch.research import fair
from backends.base import Device

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-ant-a-secret"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    clone = tmp_path / "clone"
    (clone / "backends/gpt").mkdir(parents=True)
    (clone / "backends/gpt/recipe.toml").write_text('[data]\ntokenizer = "byte"\n')
    for args in (("init", "-q"), ("add", "-A"),
                 ("-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-q", "-m", "start")):
        subprocess.run(["git", *args], cwd=clone, check=True)
    return clone


@pytest.fixture
def patient(clone: Path) -> Patient:
    """One whose device was looked at already."""
    patient = Patient(clone, {"recipe.toml": b'[data]\ntokenizer = "byte"\n'}, "cpu")
    patient.__dict__["device"] = Device("a chip", 8 << 30, ("bfloat16", "float32"))
    return patient


def findings(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> dict[str, Finding]:
    """All but the child process of the sandbox's check."""
    monkeypatch.setattr(selfcheck, "self_check", lambda: [Tried("read the home", True, "EACCES")])
    monkeypatch.setattr(fair, "_pause", lambda seconds, stop: time.sleep(0.05))
    return {f.name: f for f in doctor.examine(patient)}


def test_a_machine_that_lacks_nothing_is_found_well(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_AUTHOR_NAME", "A Person")
    monkeypatch.setenv("GIT_AUTHOR_EMAIL", "person@example.org")
    monkeypatch.setenv(doctor.KEY, KEY)
    found = findings(patient, monkeypatch)
    assert list(found) == ["python", "framework", "device", "precision", "compiler", "sandbox", "sleep", "load", "disk",
                           "data", "tokenizer", "git", "git identity", "key", "clock"]
    assert found["device"].said == "a chip, 8.0 GiB"
    assert found["precision"].said.startswith("bfloat16, float32; ")
    assert found["git identity"].said == "A Person <person@example.org>"
    assert found["git"].state == OK and str(patient.clone) in found["git"].said
    assert all(f.state != FAILURE for f in found.values()), found
    assert all(f.remedy for f in found.values() if f.state != OK), "what is not well says what to do"
    assert found["key"].state == OK and not any(KEY in f"{f.said}{f.remedy}" for f in found.values())


@pytest.mark.parametrize(("name", "state", "words"), [
    ("compiler", WARNING, "no C++ compiler"), ("sandbox", FAILURE, "this system lacks Landlock"),
    ("disk", FAILURE, "1.0 GiB free for studies"), ("data", WARNING, "prepare"), ("tokenizer", WARNING, "no text"),
    ("git identity", WARNING, "autoresearch@localhost"), ("key", WARNING, "blanks"), ("clock", WARNING, "before"),
])
def test_what_is_missing_is_named_with_its_remedy(patient: Patient, monkeypatch: pytest.MonkeyPatch, name: str,
                                                  state: str, words: str) -> None:
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda what: None if "++" in what else real(what))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(sandbox, "missing", lambda: "this system lacks Landlock")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 30))
    monkeypatch.setenv(doctor.KEY, KEY + "\n")
    monkeypatch.setattr(doctor.time, "time", lambda: 1e9)
    found = findings(patient, monkeypatch)[name]
    assert (found.state, words in found.said, bool(found.remedy)) == (state, True, True), found


def test_a_compiler_that_does_not_compile_is_not_called_well(patient: Patient, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho 'fatal error: vector: No such file' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    state, said, _ = doctor.compiler(patient)
    assert state == WARNING and "can't compile an empty program: fatal error: vector" in said


def test_a_sandbox_that_leaks_is_a_failure(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "missing", lambda: "")
    monkeypatch.setattr(selfcheck, "self_check", lambda: [Tried("read the home", False, "")])
    state, said, _ = doctor.the_sandbox(patient)
    assert state == FAILURE and "a candidate could read the home" in said


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(patient: Patient,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    patient.__dict__["device"] = None
    found = findings(patient, monkeypatch)
    assert found["device"].state == FAILURE and "AttributeError" in found["device"].said
    assert found["clock"].state == OK


@pytest.mark.parametrize(("backend", "others", "state"), [
    ("cpu", 0.02, OK), ("cpu", 1.0, WARNING), ("cuda", 1.0, OK), ("cuda", 3.5, WARNING), ("cpu", None, OK)])
def test_load_is_judged_as_a_trial_would_be(patient: Patient, monkeypatch: pytest.MonkeyPatch, backend: str,
                                            others: float | None, state: str) -> None:
    """Of four cores: CUDA leaves them to others as long as one is idle."""
    at = iter((0.0, 10.0))  # seconds of a clock that the counters follow
    seen = sensors.counters()
    monkeypatch.setattr(doctor.time, "monotonic", lambda: next(at))
    monkeypatch.setattr(sensors, "cores", lambda: 4.0)
    busy = iter((0.0, None if others is None else 10.0 * others))
    monkeypatch.setattr(sensors, "counters", lambda: replace(seen, busy_s=next(busy), own_s=0.0))
    monkeypatch.setattr(fair, "_pause", lambda seconds, stop: None)
    found, said, remedy = doctor.load(replace(patient, backend=backend))
    assert found == state and ("--busy-ok" in remedy) == (state == WARNING)
    assert "does not tell" in said if others is None else f"other programs use {others:.2f} of 4 cores" in said


def test_a_failure_is_exit_code_1_and_a_warning_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for state, code in ((WARNING, 0), (FAILURE, 1)):
        monkeypatch.setattr(doctor, "examine", lambda patient, state=state: iter([Finding("disk", state, "x", "y")]))
        done = CliRunner().invoke(command, [], standalone_mode=False)
        assert (done.return_value, done.output.split()) == (code, [state, "disk", "x", "y"])


def test_a_real_machine_is_looked_at_from_inside_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT), doctor.KEY: KEY}
    done = subprocess.run([sys.executable, "-m", "autoresearch", "doctor", "--backend", "mlx", "--json"], cwd=ROOT,
                          env=env, capture_output=True, text=True, timeout=120)
    found = {f["name"]: f for f in json.loads(done.stdout)}
    assert found["device"]["state"] == OK and "GiB" in found["device"]["said"], found["device"]
    assert found["sandbox"]["state"] == OK and "all refused" in found["sandbox"]["said"], found["sandbox"]
    assert done.returncode == int(any(f["state"] == FAILURE for f in found.values()))
    assert KEY not in done.stdout + done.stderr and done.stderr == ""
