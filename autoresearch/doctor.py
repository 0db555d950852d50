"""The doctor: whether this machine can run a night, one finding after another.

    Finding   what was looked at, how it is, and the remedy
    Patient   the clone, its candidate and the backend that are asked about
    examine   the findings, each made when it is asked for
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import backends
from autoresearch import machine, paths, scratch
from autoresearch.data import prepared
from autoresearch.errors import UserError
from autoresearch.harness import awake, conditions, sandbox, selfcheck
from autoresearch.harness.measuring import Measuring
from autoresearch.harness.supervise import TrialFailed
from autoresearch.research import fair
from autoresearch.research.git import GitError, git
from autoresearch.research.workspace import Workspace
from backends.base import Device
from backends.recipe import parse

OK, WARNING, FAILURE = "ok", "warning", "failure"
KEY = "ANTHROPIC_API_KEY"
GIB = 1 << 30
STUDY_BYTES, EASY_BYTES = 2 * GIB, 10 * GIB  # what a study asks for to begin; what a night of them fits into
COMPILER_TIMEOUT_S = 60.0
DRIFT_S, LOOKED_S = 0.05, 0.5  # of the wall clock against the steady one
PROGRAM = "#include <vector>\nint main() { return std::vector<int>(0).size(); }\n"
MIND_THE_STUDY = "Studies are kept in the clone, prepared text in AUTORESEARCH_CACHE: free some space on their disks."


@dataclass(frozen=True)
class Finding:
    name: str
    state: str  # ok, warning: works, with something missing; failure: nothing can be trained until it is mended
    said: str
    remedy: str = ""


Found = tuple[str, str, str]  # state, said, remedy


@dataclass(frozen=True)
class Patient:
    """`clone` is None outside of one; `backend` None means the best that is installed."""

    clone: Path | None
    files: dict[str, bytes]
    backend: str | None = None

    @cached_property
    def chosen(self) -> str:
        try:
            return self.backend or backends.detect(machine.has_nvidia())
        except RuntimeError as e:
            raise UserError(str(e), "Install both at once: make setup") from None

    @cached_property
    def device(self) -> Device:
        """As a measuring process sees it, from where a trial would: inside the sandbox."""
        if self.clone is None:
            raise UserError("not looked at: this is not a clone of autoresearch", "Change into the clone.")
        try:
            with Measuring(self.files, self.chosen) as process:
                return process.device
        except TrialFailed as e:
            raise UserError(f"{self.chosen} can't be used: {e.reason.strip()[-300:]}",
                            "Name another one, such as --backend cpu, or mend the driver and install again.") from None


def examine(patient: Patient) -> Iterator[Finding]:
    checks: dict[str, Callable[[Patient], Found]] = {
        "python": python, "framework": framework, "device": device, "precision": precision, "compiler": compiler,
        "sandbox": the_sandbox, "sleep": sleep, "load": load, "disk": disk, "data": data,
        "tokenizer": tokenizer, "git": repository, "git identity": identity, "key": key, "clock": clock}
    for name, check in checks.items():
        try:
            found = check(patient)
        except UserError as e:
            found = FAILURE, e.message, e.hint
        except Exception as e:  # a doctor who faints helps nobody
            found = FAILURE, f"could not be looked at: {type(e).__name__}: {e}", "Please report this."
        yield Finding(name, *found)


def python(patient: Patient) -> Found:
    said = f"{platform.python_implementation()} {platform.python_version()} in {sys.prefix}"
    if sys.maxsize < 1 << 32:
        return FAILURE, f"{said}, of 32 bits", "No framework runs there: make setup PYTHON=/path/to/a/64-bit/python"
    return OK, said, ""


def framework(patient: Patient) -> Found:
    names = backends.installed()
    packages = [p for p, name in (("torch", "cpu"), ("mlx", "mlx")) if name in names]
    said = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
    if patient.chosen not in names:
        return FAILURE, f"{patient.chosen} is not installed; there is {said or 'none'}", "Install it: make setup"
    return OK, f"{said}; trains on {patient.chosen}", ""


def device(patient: Patient) -> Found:
    found = patient.device
    said = f"{found.name}, {found.memory_bytes / GIB:.1f} GiB"
    if found.memory_bytes < 2 * GIB:
        return WARNING, said, "Only the smallest models fit: keep model.seq_len and batch.tokens_per_step low."
    if patient.chosen == "cpu" and machine.has_nvidia():
        return WARNING, said, "There is an NVIDIA card that this installation does not use: ar doctor --backend cuda"
    return OK, said, ""


def precision(patient: Patient) -> Found:
    return OK, f"{', '.join(patient.device.precisions)}; `ar probe` measures which of them pays", ""


def compiler(patient: Patient) -> Found:
    """Torch and MLX on a CPU write C++ for a compiled step; Triton links with a C compiler; Metal has its own."""
    if patient.chosen == "mlx" and sys.platform == "darwin":
        return OK, "none needed: Metal has its own", ""
    found = machine.cxx()
    remedy = "Install one. Debian, Ubuntu, WSL: sudo apt install g++. macOS: xcode-select --install"
    if not found:
        named = os.environ.get("CXX")
        missing = f"CXX names {named}, which is not there" if named else "no C++ compiler"
        return WARNING, f"{missing}: recipes with runtime.compile = true can't be trained", remedy
    with scratch.folder() as folder:
        done = subprocess.run([found, "-x", "c++", "-", "-o", f"{folder}/a"], input=PROGRAM, capture_output=True,
                              text=True, timeout=COMPILER_TIMEOUT_S)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return WARNING, f"{found} can't compile an empty program: {said}", remedy
    return OK, found, ""


def the_sandbox(patient: Patient) -> Found:
    if not sandbox.wanted():
        return WARNING, f"switched off by {sandbox.SWITCH}: candidates' code can do whatever you can", \
            f"Unset {sandbox.SWITCH} unless you trust all code that will run."
    if lacking := sandbox.missing():
        return FAILURE, lacking, "Use a newer kernel, or run code that you trust with --no-sandbox."
    tried = selfcheck.self_check()
    if held := [t.name for t in tried if not t.refused]:
        return FAILURE, f"it does not hold: a candidate could {', '.join(held)}", \
            "Please report this. To run code that you trust all the same: --no-sandbox"
    return OK, f"{sandbox.describe()}; {len(tried)} forbidden things tried, all refused", ""


def sleep(patient: Patient) -> Found:
    """Whether there is something that keeps this machine awake for a night."""
    if "microsoft" in platform.release().lower():
        return WARNING, "WSL can't keep Windows awake", "In Windows: Settings, System, Power: never sleep."
    if sys.platform != "darwin" and not can_sleep():
        return OK, "this machine does not sleep by itself", ""
    keeper = awake.command(os.getpid())
    if keeper and sys.platform == "darwin":
        return OK, "caffeinate keeps this Mac awake; on battery with a closed lid nothing does", ""
    if keeper and Path("/run/systemd/system").is_dir():
        return OK, f"{keeper[0]} keeps it awake", ""
    return WARNING, "nothing here can keep the machine awake", "Switch suspending off in the system settings."


def can_sleep() -> bool:
    try:
        return bool({"mem", "standby"} & set(Path("/sys/power/state").read_text(encoding="ascii").split()))
    except OSError:
        return False


def load(patient: Patient) -> Found:
    """Whether other programs leave a trial what it needs, by the limits that trials are judged by."""
    seen = fair.looked()
    if seen.outside_cores is None:
        return OK, "this system does not tell what other programs use", ""
    said, most = f"{seen.others} use {seen.outside_cores:.2f} of {seen.cores:g} cores", conditions.LIMITS.outside_frac
    if conditions.unfair(seen, accelerated=fair.accelerated(patient.chosen)):
        return WARNING, f"{said}, more than the {most * seen.cores:.2f} that a trial allows", \
            "A study waits until they are done, unless `ar loop` is given --busy-ok: scores are noisier then."
    return OK, said, ""


def disk(patient: Patient) -> Found:
    places = {"studies": patient.clone or Path.cwd(), "cache": paths.cache()}
    free = {name: shutil.disk_usage(existing(place)).free for name, place in places.items()}
    said = ", ".join(f"{size / GIB:.1f} GiB free for {name}" for name, size in free.items())
    if min(free.values()) < STUDY_BYTES:
        return FAILURE, said, MIND_THE_STUDY
    if min(free.values()) < EASY_BYTES:
        return WARNING, said, MIND_THE_STUDY
    return OK, said, ""


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that there is."""
    return next(p for p in (folder, *folder.parents) if p.is_dir())


def data(patient: Patient) -> Found:
    try:
        found = prepared.current()
    except UserError as e:
        return WARNING, e.message, e.hint
    facts = found.manifest.corpus
    return OK, f"{found.name}, {facts.bytes / 1e6:,.1f} MB, digest {found.digest}", ""


def tokenizer(patient: Patient) -> Found:
    try:
        found = prepared.current()
    except UserError:
        return WARNING, "none: no text is prepared", "Prepare some: ar prepare"
    names = found.tokenizers()
    for name in names:
        found.tokenizer(name)  # raises UserError where its file is not what was prepared
    asked = parse(patient.files["recipe.toml"].decode()).data.tokenizer if "recipe.toml" in patient.files else ""
    said = ", ".join(f"{name} ({found.manifest.tokenizers[name].vocab:,})" for name in names)
    if asked and asked not in names:
        return WARNING, f"{said}; the recipe asks for {asked}", \
            f"`ar loop` chooses one that is there. For `ar train`: ar prepare ... --tokenizer {asked}"
    return OK, said, ""


def repository(patient: Patient) -> Found:
    if patient.clone is None:
        return FAILURE, f"{Path.cwd()} is not inside a clone of autoresearch", \
            "Change into the folder you cloned, the one with program.md."
    sha = Workspace(patient.clone, "doctor", patient.clone / "studies").resolve()
    version = git(patient.clone, "version").decode().split()[2]
    return OK, f"git {version}, {patient.clone} at {sha[:7]}", ""


def identity(patient: Patient) -> Found:
    names = []
    for what in ("name", "email"):
        variable = os.environ.get(f"GIT_AUTHOR_{what.upper()}")
        try:
            names.append(variable or git(existing(patient.clone or Path.cwd()), "config", f"user.{what}").decode())
        except GitError:
            return WARNING, f"git knows no user.{what}: kept changes will be by autoresearch@localhost", \
                "git config --global user.name 'Your Name'; git config --global user.email you@example.org"
    return OK, "{} <{}>".format(*(name.strip() for name in names)), ""


def key(patient: Patient) -> Found:
    value = os.environ.get(KEY, "")
    if not value:
        return OK, f"{KEY} is not set; the keyless researchers need none", ""
    if value != value.strip() or not value.isascii():
        return WARNING, f"{KEY} is set, with blanks or other characters that no key has", \
            "Copy it again, without the line's end."
    return OK, f"{KEY} is set (it is never shown, and no candidate sees it)", ""


def clock(patient: Patient) -> Found:
    """Deadlines follow the wall clock, and a trial during which it moves against the steady one is run again."""
    now = time.strftime("%Y-%m-%d %H:%M %Z")
    if patient.clone is not None:
        made_s = float(git(patient.clone, "log", "-1", "--format=%ct").decode())
        if made_s > time.time() + 86400:
            return WARNING, f"{now}, which is before this clone's last commit", "Set the time: --until needs it."
    wall, steady = time.time(), time.monotonic()
    time.sleep(LOOKED_S)
    drift_s = abs((time.time() - wall) - (time.monotonic() - steady))
    if drift_s > DRIFT_S:
        return WARNING, f"{now}; it moved by {drift_s:.2f} s while {LOOKED_S:g} s passed", \
            "Something sets the time over and over: leave it to one time service."
    return OK, now, ""
