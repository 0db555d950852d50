"""The sandbox: what it forbids is refused to a real child, and works in the same child without it."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import click
import psutil
import pytest
from click.testing import CliRunner

from autoresearch.cli import VERBS, machine, shell
from autoresearch.data import manifest, prepared
from autoresearch.errors import UserError
from autoresearch.harness import assemble, confine, landlock, launch, sandbox, seccomp, watch
from autoresearch.harness.selfcheck import Tried, self_check
from autoresearch.harness.watch import Watch
from tests.data.texts import made_text
from tests.harness.tiny import ROOT, comes_true, gone

linux = pytest.mark.skipif(sys.platform != "linux", reason="by Linux's means")
ELDER = range(1, landlock.version())  # the newest is tried below as it is


@pytest.fixture(scope="module", autouse=True)
def complete() -> None:
    """A machine that lacks the sandbox fails here rather than passing by skipping."""
    assert sandbox.missing() == ""


@pytest.fixture(scope="module")
def inside() -> dict[str, Tried]:
    return {t.name: t for t in self_check()}


@pytest.fixture(scope="module")
def outside() -> dict[str, Tried]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(sandbox.SWITCH, "off")
        return {t.name: t for t in self_check()}


def test_everything_forbidden_is_refused(inside: dict[str, Tried]) -> None:
    assert [t.name for t in inside.values() if not t.refused] == []
    assert len(inside) > (35 if sys.platform == "linux" else 20)


@linux
def test_the_same_attempts_work_without_the_sandbox(outside: dict[str, Tried], inside: dict[str, Tried]) -> None:
    """Else they would prove nothing. Some need root, or a kernel that lets people do them."""
    assert outside.keys() == inside.keys()
    refused = {t.name for t in outside.values() if t.refused}
    may_be = {"make a namespace", "set up io_uring", "trace another process", "copy its supervisor's memory",
              "take another process's descriptor", "read another process's memory", "make a key"}
    assert refused <= may_be, refused


@linux
@pytest.mark.parametrize("version", ELDER)
def test_every_elder_version_of_landlock_refuses_the_same(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an elder kernel's Landlock leaves open, seccomp closes."""
    monkeypatch.setattr(landlock, "version", lambda: version)
    assert [t.name for t in self_check() if not t.refused] == []


# What a candidate's process is, once inside

def ran(folder: Path, code: str, **given: object) -> str:
    """What a candidate's process printed that runs this code, with `job` as given and a watch over it."""
    assemble.assemble(folder / "tree", {})
    body = "".join(f"    {line}\n" for line in code.splitlines())
    (folder / "tree/autoresearch/harness/attempt.py").write_text(f"import json, os, sys\ndef main(job):\n"
                                                                 f"    job = json.loads(job)\n{body}")
    process = launch.candidate("attempt", json.dumps(given), folder / "tree", folder, ())
    looking = Watch(process.pid, folder)
    try:
        process.wait(30)
    finally:
        launch.end(process)
        looking.stop()
    return (folder / "log.txt").read_text() + looking.reason


@linux
def test_privileges_are_gone_and_cannot_come_back(tmp_path: Path) -> None:
    status = ran(tmp_path, "print(open('/proc/self/status').read())")
    found = dict(re.findall(r"^(\w+):\s*(\S+)$", status, re.M))
    assert found["NoNewPrivs"] == "1" and found["Seccomp"] == "2"
    only = 1 << confine.CAP_DAC_OVERRIDE if os.geteuid() == 0 else 0
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == only and int(found["CapAmb"], 16) == 0


def test_the_walls_hold_in_processes_and_threads_that_it_starts(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a decoy")
    code = ("import subprocess, threading\n"
            "print(subprocess.run(['cat', job['secret']], capture_output=True, text=True))\n"
            "t = threading.Thread(target=lambda: print(open(job['secret']).read())); t.start(); t.join()")
    said = ran(tmp_path / "in", code, secret=str(secret))
    assert len(re.findall("Permission denied|Operation not permitted", said)) == 2 and "decoy" not in said


def test_a_compiler_works_inside_and_its_library_can_be_loaded(tmp_path: Path) -> None:
    code = ("import ctypes, subprocess\n"
            "open('a.cpp', 'w').write('#include <vector>\\nextern \"C\" int f() "
            "{ return std::vector<int>(42, 1).size(); }')\n"
            "subprocess.run(['g++', '-shared', '-fPIC', '-O2', '-o', 'a.so', 'a.cpp'], check=True)\n"
            "print('found', ctypes.CDLL('./a.so').f())")
    assert "found 42" in ran(tmp_path, code)


def test_the_inherited_channel_and_pipes_between_own_processes_work(tmp_path: Path) -> None:
    code = ("import multiprocessing as m, socket\n"
            "a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1))\n"
            "r, w = m.Pipe(); p = m.get_context('fork').Process(target=lambda: w.send('said')); p.start()\n"
            "print(r.recv()); p.join(); print('code', p.exitcode)")
    said = ran(tmp_path, code)
    assert "b'x'\nsaid\ncode 0" in said, said


@linux
@pytest.mark.skipif(platform.machine() != "x86_64", reason="an older door of this architecture")
def test_the_doors_of_other_architectures_are_shut(tmp_path: Path) -> None:
    """32-bit calls have other numbers: 359 is socket() there. x32 numbers carry one more bit."""
    code = ("import ctypes, mmap\n"
            "print('x32', ctypes.CDLL(None, use_errno=True).syscall(0x40000000 | 41, 1, 1, 0), ctypes.get_errno())\n"
            "m = mmap.mmap(-1, 4096, prot=7)\n"
            "m.write(b'\\x53\\xb8\\x67\\x01\\x00\\x00\\xbb\\x01\\x00\\x00\\x00\\xb9\\x01\\x00\\x00\\x00\\x31\\xd2"
            "\\xcd\\x80\\x5b\\xc3')  # socket(1, 1, 0) by int 0x80\n"
            "got = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()\n"
            "print('not killed', got)")
    said = ran(tmp_path, code)
    assert "x32 -1" in said and "not killed" not in said


def test_a_process_that_is_left_behind_ends_with_the_trial(tmp_path: Path) -> None:
    code = "if os.fork() == 0:\n    print('pid', os.getpid(), flush=True)\n    import time; time.sleep(600)"
    said = ran(tmp_path, code)
    pid = int(said.split()[1])
    assert comes_true(lambda: gone(pid), 1)


@linux
def test_a_process_that_leaves_its_session_ends_with_the_trial_without_the_sandbox_too(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sandbox.SWITCH, "off")
    code = ("if os.fork() == 0:\n    os.setsid()\n    print('pid', os.getpid(), flush=True)\n"
            "    import time; time.sleep(30)\nelse:\n    import time; time.sleep(0.5)")
    assert not psutil.pid_exists(int(ran(tmp_path, code).split()[1]))


@linux
def test_a_child_that_cannot_be_shut_in_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "limits", lambda scratch: {"NO_SUCH": 1})
    said = ran(tmp_path, "print('it ran')")
    assert "it ran" not in said and "RLIMIT_NO_SUCH" in said


# Bounds

@linux
def test_memory_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "try:\n    print('took', len(bytearray(1 << 30)))\nexcept MemoryError:\n    print('refused')"
    monkeypatch.setattr(sandbox, "memory_bytes", lambda: 600 << 20)
    assert "refused" in ran(tmp_path / "in", code)
    monkeypatch.setenv(sandbox.SWITCH, "off")
    monkeypatch.setattr(watch, "MEMORY_SHARE", 100)
    assert "took" in ran(tmp_path / "out", code)


@linux
def test_two_hundred_gigabytes_are_refused(tmp_path: Path) -> None:
    if sandbox.memory_bytes() > 200 << 30:
        pytest.skip("this machine has them")
    code = "try:\n    print('took', len(bytearray(200 << 30)))\nexcept MemoryError:\n    print('refused')"
    assert "refused" in ran(tmp_path, code)


def test_memory_taken_by_many_processes_ends_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each keeps to its own limit, together they do not."""
    monkeypatch.setattr(sandbox, "memory_bytes", lambda: 600 << 20)
    code = ("import time\nfor _ in range(3): os.fork()\nhave = bytearray(os.urandom(1 << 20) * 100)\n"
            "time.sleep(20)\nprint('done')")
    began = time.monotonic()
    said = ran(tmp_path, code)
    assert "done" not in said and re.search(r"out of memory: it took [01]\.\d GiB, 0\.5 GiB are there", said), said
    assert time.monotonic() - began < 15


@linux
def test_a_file_that_fills_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "try:\n    print('wrote', open('big', 'wb').write(bytes(30 << 20)))\nexcept OSError as e:\n    print(e)"
    monkeypatch.setattr(sandbox, "disk_bytes", lambda folder: 20 << 20)
    assert "File too large" in ran(tmp_path / "in", code)
    monkeypatch.setenv(sandbox.SWITCH, "off")
    assert "wrote" in ran(tmp_path / "out", code)


def test_many_files_that_fill_the_disk_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "disk_bytes", lambda folder: 20 << 20)
    code = ("import time\nfor i in range(30):\n    with open(str(i), 'wb') as f:\n"
            "        f.write(os.urandom(1 << 20))\n"
            "        os.fsync(f.fileno())\ntime.sleep(20)\nprint('done')")
    said = ran(tmp_path, code)
    assert "done" not in said and "to disk, 0.0 GiB are allowed" in said


def test_a_fork_bomb_is_ended_with_all_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "TASKS", 60)
    monkeypatch.setattr(watch, "TASKS_PER_CORE", 0)
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.05)
    code = "import time\nfor _ in range(9):\n    time.sleep(0.02)\n    os.fork()\ntime.sleep(60)"
    said = ran(tmp_path, code)
    assert re.search(r"it ran \d+ processes and threads, 60 are allowed", said), said
    mine = str(tmp_path)
    assert comes_true(lambda: not [p for p in psutil.process_iter(["cmdline"])
                                   if mine in " ".join(p.info["cmdline"] or [])], 3)


# Where it is missing

def test_a_machine_without_it_is_told_what_that_means_and_refused(monkeypatch: pytest.MonkeyPatch,
                                                                  tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox, "missing", lambda: "this system lacks Landlock")
    monkeypatch.delenv(sandbox.SWITCH, raising=False)
    with pytest.raises(UserError, match="no sandbox: this system lacks Landlock") as refused:
        launch.candidate("trial", "{}", tmp_path, tmp_path, ())
    assert "--no-sandbox" in refused.value.hint and not list(tmp_path.iterdir())
    monkeypatch.setenv(sandbox.SWITCH, "off")
    assert sandbox.require() is False and sandbox.describe() == "off"


def test_every_command_that_runs_candidates_asks_for_the_sandbox_first(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those that have the switch, which are those that docs/threat-model.md names."""
    commands = {verb: shell.load(verb) for verb in VERBS}
    confined = {verb for verb, command in commands.items() if any("--no-sandbox" in p.opts for p in command.params)}
    section = (ROOT / "docs/threat-model.md").read_text().partition("\n### Where it is missing\n")[2]
    assert confined == set(re.findall(r"`(?:ar )?(\w+)`", section.partition("stop and")[0]))
    monkeypatch.chdir(tmp_path)  # no study is here: without the switch it fails later, for that reason
    monkeypatch.setattr(sandbox, "missing", lambda: "this system lacks Landlock")
    monkeypatch.setenv(sandbox.SWITCH, "")
    for verb in confined:
        refused = CliRunner().invoke(commands[verb], {"try": ["-m", "x"], "promote": ["--depth", "2"]}.get(verb, []))
        assert isinstance(refused.exception, UserError), (verb, refused.output)
        assert "no sandbox: this system" in refused.exception.message, verb


def test_the_switch_lets_candidates_out_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "missing", lambda: "this system lacks Landlock")
    monkeypatch.setenv(sandbox.SWITCH, "")
    monkeypatch.setattr(machine.click, "echo", lambda text, **_: said.append(text))
    said: list[str] = []

    @click.command()
    @machine.sandbox_option
    def nothing() -> None:
        pass

    assert CliRunner().invoke(nothing, ["--no-sandbox"]).exit_code == 0
    assert len(said) == 1 and said[0].startswith("warning: no sandbox") and os.environ[sandbox.SWITCH] == "off"


@linux
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    monkeypatch.setattr(seccomp, "available", lambda: False)
    said = sandbox.missing.__wrapped__()
    assert "Landlock" in said and "seccomp" in said
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "a table of system calls for riscv64" in sandbox.missing.__wrapped__()


# The tables

def run_filter(code: list[seccomp.Instruction], architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel's interpreter makes of a call."""
    data = {seccomp.NUMBER_AT: number, seccomp.ARCH_AT: architecture}
    for i, value in enumerate((*arguments, *[0] * (6 - len(arguments)))):
        data[seccomp.ARGUMENTS_AT + 8 * i] = value & 0xFFFFFFFF
        data[seccomp.ARGUMENTS_AT + 8 * i + 4] = value >> 32 & 0xFFFFFFFF
    at = held = 0
    while True:
        operation, yes, no, operand = code[at]
        at += 1
        if operation == seccomp.RETURN:
            return operand
        if operation == seccomp.LOAD:
            held = data[operand]
        elif operation == seccomp.MASK:
            held &= operand
        else:
            true = held == operand if operation == seccomp.EQUAL else held >= operand
            at += yes if true else no


@linux
@pytest.mark.parametrize("machine", list(seccomp.ARCHITECTURES))
@pytest.mark.parametrize("version", [1, 2, 3, 6, 7])
def test_the_filter_decides_every_call_on_both_architectures(machine: str, version: int) -> None:
    column, architecture = seccomp.ARCHITECTURES[machine]
    code = seccomp.program(machine, version, pid=77)
    assert len(code) < 4096 and all(yes < 256 and no < 256 for _, yes, no, _ in code)

    def said(name: str, *arguments: int) -> int:
        return run_filter(code, architecture, seccomp.NUMBERS[name][column], arguments)

    for name in " ".join(seccomp.REFUSED.values()).split():
        if seccomp.NUMBERS[name][column] >= 0:
            assert said(name) == seccomp.ERRNO | 1, name
    assert said("clone3") == seccomp.ERRNO | 38
    assert said("socketpair", 1, 1 | 0o2000000) == said("socketpair", 1, 1) == seccomp.ALLOW
    assert said("socketpair", 1, 2) == said("socketpair", 2, 1) == seccomp.ERRNO | 1
    assert said("sendto", 3, 0, 0, 0, 0) == seccomp.ALLOW
    assert said("sendto", 3, 0, 0, 0, 1 << 40) == said("sendto", 3, 0, 0, 0, 8) == seccomp.ERRNO | 1
    assert said("clone", 0x3D0F00) == seccomp.ALLOW and said("clone", 0x10000000) == seccomp.ERRNO | 1
    assert said("prctl", 15) == seccomp.ALLOW and said("prctl", 1 << 40 | 1) == seccomp.ERRNO | 1
    assert said("ioctl", 1, 0x5401) == seccomp.ALLOW and said("ioctl", 1, 0x5412) == seccomp.ERRNO | 1
    assert said("fcntl", 3, 1030) == seccomp.ALLOW and said("fcntl", 3, 15) == seccomp.ERRNO | 1
    assert said("kill", 77) == seccomp.ALLOW
    assert said("kill", 78) == (seccomp.ALLOW if version >= 6 else seccomp.ERRNO | 1)
    assert said("truncate") == (seccomp.ALLOW if version >= 3 else seccomp.ERRNO | 1)
    assert said("openat", 0, 0, os.O_WRONLY | os.O_TRUNC) == said("openat", 0, 0, os.O_RDONLY) == seccomp.ALLOW
    assert said("openat", 0, 0, os.O_TRUNC) == (seccomp.ALLOW if version >= 3 else seccomp.ERRNO | 1)
    assert run_filter(code, architecture, seccomp.NEWEST + 1) == seccomp.ERRNO | 38
    assert run_filter(code, architecture, seccomp.X32 | 41) == seccomp.ERRNO | 38
    assert run_filter(code, 0x40000003, 1) == seccomp.KILL
    assert run_filter(code, architecture, {"x86_64": 1, "aarch64": 64}[machine]) == seccomp.ALLOW  # write


@pytest.mark.parametrize(("column", "header"), [(0, "x86_64-linux-gnu/asm/unistd_64.h"), (1, "asm-generic/unistd.h")])
def test_the_numbers_are_the_kernels(column: int, header: str) -> None:
    path = Path("/usr/include", header)
    if not path.exists():
        pytest.skip("the kernel's headers are not installed")
    kernel = {name: int(number) for name, number
              in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text())}
    ours = {name: numbers[column] for name, numbers in seccomp.NUMBERS.items() if numbers[column] >= 0}
    assert {name: number for name, number in ours.items() if kernel.get(name, number) != number} == {}
    assert len(ours.keys() & kernel.keys()) > 110


def test_every_call_has_one_rule_and_a_number() -> None:
    names = " ".join([*seccomp.REFUSED.values(), seccomp.IGNORED, seccomp.UNKNOWN]).split()
    rules = [*names, *seccomp.ONLY_IF, *seccomp.NEVER_IF]
    assert len(rules) == len(set(rules)) and set(rules) <= seccomp.NUMBERS.keys()


@pytest.mark.parametrize(("version", "words"), [(1, 1), (3, 1), (4, 2), (5, 2), (6, 3), (9, 3)])
def test_a_ruleset_is_as_long_as_its_version_knows(version: int, words: int) -> None:
    assert len(landlock.ruleset(version)) == 8 * words
    fs = int.from_bytes(landlock.ruleset(version)[:8], sys.byteorder)
    assert fs.bit_count() == {1: 13, 3: 15, 4: 15, 5: 16, 6: 16, 9: 16}[version]
    devices = 1 << 6 | 1 << 11
    assert landlock.WRITE & (landlock.EXECUTE | landlock.IOCTL_DEV | devices) == 0


def test_the_persons_home_is_never_part_of_the_toolchain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}:{tmp_path / 'somebody'}:relative:/usr/local/cuda/lib64:")
    folders = sandbox.toolchain()
    assert "/usr/local/cuda/lib64" in folders and sys.prefix in folders
    assert not {str(tmp_path), str(tmp_path / "somebody"), "relative", "/"} & set(folders)


# macOS, as text

def test_the_profile_for_macos_denies_by_default_and_names_what_is_allowed(tmp_path: Path) -> None:
    odd = tmp_path / 'a "quoted" folder'
    odd.mkdir()
    (tmp_path / "link").symlink_to(odd)
    text = sandbox.profile([str(tmp_path / "link")], ["/scratch"])
    assert text.startswith("(version 1)\n(deny default)\n")
    assert text.count("(") == text.count(")") and text.count('"') % 2 == 0
    quoted = f'(subpath "{tmp_path}/a \\"quoted\\" folder")'
    assert any(quoted in line and line.startswith("(allow file-read* ") for line in text.splitlines())
    writes = [line for line in text.splitlines() if "file-write*" in line]
    assert writes == ['(allow file-write* (subpath "/scratch"))']
    mapped = [line for line in text.splitlines() if "file-map-executable" in line]  # read and write don't imply it
    assert mapped == [f'(allow file-map-executable {quoted} (subpath "/scratch"))']
    assert "network" not in text and "com.apple.MTLCompilerService" in text and "AGXDeviceUserClient" in text


def test_on_a_mac_the_child_is_started_by_sandbox_exec(tmp_path: Path) -> None:
    command = sandbox.wrapper([tmp_path / "tree"], tmp_path / "tmp")
    assert command[:2] == ["sandbox-exec", "-p"] and f'"{tmp_path}/tmp"' in command[2]


@linux
def test_a_process_starts_in_little_time(tmp_path: Path) -> None:
    """Of the sandbox alone; the interpreter takes its own. Measured at 1.2 ms, with room for a busy machine."""
    walls = sandbox.walls([tmp_path], tmp_path).dump()
    code = ("import sys, time\nfrom autoresearch.harness import confine\nbegan = time.perf_counter()\n"
            "confine.enter(sys.argv[1])\nprint(time.perf_counter() - began)")
    taken = [float(subprocess.run([sys.executable, "-c", code, walls], cwd=assemble.PACKAGE, capture_output=True,
                                  check=True, text=True).stdout) for _ in range(3)]
    assert min(taken) < 0.05


@linux
def test_a_cache_below_the_toolchain_is_not_granted_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lib", "src/app/cache/prepared", "src/other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "src/app/cache")
    monkeypatch.setattr(sandbox, "SYSTEM", (str(tmp_path),))
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "src/app/cache"))
    run = {Path(p) for p in sandbox.walls([], tmp_path / "lib").run if Path(p).is_relative_to(tmp_path)}
    assert run == {tmp_path / "lib", tmp_path / "src/other"}


@linux
def test_what_a_text_was_prepared_from_is_not_granted_with_the_toolchain(tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation text would be there to look up. A link in a folder leads to text elsewhere."""
    system = tmp_path / "opt"
    for name in ("texts/novel.txt", "more/linked.txt", "lib/tool.txt"):
        (system / name).parent.mkdir(parents=True)
        (system / name).write_bytes(made_text(40_000, len(name)))
    (system / "texts/link.txt").symlink_to(system / "more/linked.txt")
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sandbox, "SYSTEM", (*sandbox.SYSTEM, str(system), str(system / "more")))
    code = ("for path in job['paths']:\n    try: print('got', path, len(open(path).read(9)))\n"
            "    except PermissionError: print('refused', path)")
    given = [str(system / name) for name in ("texts/novel.txt", "more/linked.txt", "lib/tool.txt")]
    assert ran(tmp_path / "before", code, paths=given).count("got") == 3
    done = CliRunner().invoke(shell.load("prepare"), ["--text", str(system / "texts"), "--tokenizer", "byte"])
    assert done.exit_code == 0 and prepared.sources() == [system / "texts", system / "more/linked.txt"], done.output
    said = ran(tmp_path / "after", code, paths=given).splitlines()
    assert said == [f"refused {given[0]}", f"refused {given[1]}", f"got {given[2]} 9"]


def test_a_set_that_does_not_say_where_it_came_from_is_read_and_says_it_when_it_is_prepared_again(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "novel.txt").write_bytes(made_text(40_000, 1))
    command = ["--text", str(tmp_path / "novel.txt"), "--tokenizer", "byte"]
    assert CliRunner().invoke(shell.load("prepare"), command).exit_code == 0
    place = prepared.current().root / prepared.MANIFEST
    content = json.loads(place.read_text())
    del content["corpus"]["paths"], content[manifest.CHECK]
    place.write_text(json.dumps(content | {manifest.CHECK: manifest._digest(content)}))
    before = prepared.current()
    assert before.manifest.corpus.paths == () and prepared.sources() == []
    assert CliRunner().invoke(shell.load("prepare"), command).exit_code == 0
    assert prepared.sources() == [tmp_path / "novel.txt"] and prepared.current().digest == before.digest


def test_where_the_hub_keeps_its_files_is_not_granted_with_the_toolchain(tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hub", "lib"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sandbox, "SYSTEM", (str(tmp_path),))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    assert [p for p in sandbox._apart(sandbox.SYSTEM) if Path(p).is_relative_to(tmp_path)] == [str(tmp_path / "lib")]


def test_a_text_among_what_a_candidate_runs_with_can_not_be_kept_apart_and_that_is_said(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    library = Path(os.__file__).resolve().parent / "json"
    before = sandbox._apart(sandbox.SYSTEM)
    for source, said in ((["--text", str(library)], f"note: candidates can read {library}, among what they run with"),
                         (["stdlib", "--max-bytes", "400KB"], "note: candidates can read this text, which is their")):
        done = CliRunner().invoke(shell.load("prepare"), [*source, "--tokenizer", "byte"])
        assert done.exit_code == 0 and said in done.stderr, done.output
    assert prepared.sources() == [library] and sandbox._apart(sandbox.SYSTEM) == before, "or nothing would run"
