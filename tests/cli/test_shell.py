"""Whatever goes wrong in a command, a person reads sentences and a script reads an exit code."""

from __future__ import annotations

import errno
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from autoresearch.cli import VERBS, run, shell
from autoresearch.errors import UsageError, UserError

ROOT = Path(__file__).resolve().parents[2]


def command_that(action: object) -> click.Command:
    """A command whose callback raises `action`, or calls it."""
    @click.command()
    @click.option("--count", type=int, default=1)
    def made(count: int) -> object:
        if isinstance(action, BaseException):
            raise action
        return action() if callable(action) else action

    return made


def ar(*args: str, program: str = "-m autoresearch", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *program.split(), *args], cwd=ROOT, env=os.environ | environ, text=True,
                          capture_output=True, timeout=60)


def test_a_command_that_ends_well_is_0() -> None:
    assert run(command_that(None), []) == 0
    assert run(command_that(True), []) == 0


def test_ctx_exit_and_sys_exit_keep_their_code() -> None:
    assert run(command_that(lambda: click.get_current_context().exit(1)), []) == 1
    assert run(command_that(SystemExit(2)), []) == 2
    assert run(command_that(SystemExit(None)), []) == 0


@pytest.mark.parametrize(("error", "code"), [
    (UserError("the text is empty", "Give a file with text.\nOr `stdlib`."), 1),
    (UsageError("the text is empty", "Give a file with text.\nOr `stdlib`."), 2),
])
def test_a_user_error_is_a_message_an_indented_hint_and_its_code(
    error: UserError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command_that(error), []) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "error: the text is empty\n  Give a file with text.\n  Or `stdlib`.\n"


@pytest.mark.parametrize("args", [["--count", "many"], ["--cuont", "3"], ["extra"]])
def test_a_wrong_command_line_is_2_and_points_to_the_help(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command_that(None), args, "ar made") == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert "`ar made --help`" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort(), EOFError()])
def test_an_interrupt_is_one_line_and_1(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command_that(error), []) == 1
    assert capsys.readouterr().err.strip() == "stopped"


def test_an_unexpected_error_says_where_its_traceback_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run(command_that(ZeroDivisionError("division by zero\nsecond line")), []) == 1
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert "ZeroDivisionError: division by zero\n" in printed
    named = re.search(r"details are in (\S+\.txt)", printed)
    assert named is not None
    assert "Traceback" in Path(named[1]).read_text()


def test_an_unexpected_error_stays_a_sentence_when_nothing_can_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert run(command_that(ZeroDivisionError()), []) == 1
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert shell.DEBUG in printed


def test_debugging_shows_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(shell.DEBUG, "1")
    assert run(command_that(ZeroDivisionError()), []) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "says"), [
    (OSError(errno.ENOSPC, "No space left on device", "/a/shard.bin"), "no space left on device: /a/shard.bin"),
    (PermissionError(errno.EACCES, "Permission denied", "/a/book.txt"), "permission denied: /a/book.txt"),
    (sqlite3.OperationalError("database or disk is full"), "ledger can't be written"),
    (MemoryError(), "memory ran out"),
])
def test_what_the_system_refuses_is_a_sentence_with_what_to_do(
    error: Exception, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command_that(error), []) == 1
    message, hint = capsys.readouterr().err.splitlines()
    assert message.startswith("error: ")
    assert says in message
    assert re.match(r"  [A-Z].+[.)]$", hint)


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    script = tmp_path / "talk.py"
    script.write_text(
        "import sys, click\nfrom autoresearch.cli import run\n\n"
        "@click.command()\n@click.argument('lines', type=int)\n"
        "def talk(lines):\n    for i in range(lines):\n        print(i)\n\n"
        "sys.exit(run(talk))\n"
    )
    for lines in (100, 100_000):  # one that fits the buffer, one that doesn't
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run([sys.executable, script, str(lines)], stdout=writer, stderr=subprocess.PIPE, timeout=60,
                              env=os.environ | {"PYTHONPATH": str(ROOT)})
        os.close(writer)
        assert (done.returncode, done.stderr) == (1, b"")


def test_ctrl_c_in_a_running_command_is_one_line(tmp_path: Path) -> None:
    script = tmp_path / "wait.py"
    script.write_text(
        "import signal, sys, time, click\nfrom autoresearch.cli import run\n\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background\n\n"
        "@click.command()\ndef wait():\n    print('here', flush=True)\n    time.sleep(30)\n\nsys.exit(run(wait))\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}) as waiter:
        assert waiter.stdout is not None
        waiter.stdout.readline()
        time.sleep(0.1)
        waiter.send_signal(signal.SIGINT)
        _, err = waiter.communicate(timeout=60)
    assert (waiter.returncode, err.strip()) == (1, "stopped")


def test_output_that_the_terminal_cannot_spell_does_not_end_a_command() -> None:
    done = ar("--help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0


@pytest.mark.parametrize(("typed", "meant"), [
    ("trian", "train"), ("stauts", "status"), ("LOG", "log"), ("lop", "loop"),
])
def test_a_misspelt_verb_gets_the_nearest(typed: str, meant: str) -> None:
    done = ar(typed)
    assert done.returncode == 2
    assert f"did you mean `{meant}`?" in done.stderr
    assert done.stdout == ""


def test_a_verb_like_no_other_gets_the_list() -> None:
    done = ar("xyzzy")
    assert done.returncode == 2
    assert all(verb in done.stderr for verb in VERBS)


def test_no_arguments_and_help_show_every_verb_with_its_summary() -> None:
    for args in ([], ["--help"], ["-h"]):
        done = ar(*args)
        text = " ".join(done.stdout.split())
        assert done.returncode == 0
        assert all(f"{verb} {summary}" in text for verb, summary in VERBS.items())


def test_version_is_printed() -> None:
    import autoresearch

    assert ar("--version").stdout == f"autoresearch {autoresearch.__version__}\n"


def test_native_windows_is_sent_to_wsl2(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from autoresearch.cli import main

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "argv", ["autoresearch", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "WSL2" in capsys.readouterr().err
