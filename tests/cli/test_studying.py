"""Beginning a study, which one is gone on with, and what stops it. It starts from a commit, so what is not in one is
not left out in silence."""

from __future__ import annotations

import datetime
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from autoresearch.cli import loop, run, shell, studying
from autoresearch.cli.loop import deadline, remedy
from autoresearch.cli.studying import Wanted, begin_or_continue, interruptible, refuse_edits
from autoresearch.cli.terminal import TerminalView
from autoresearch.errors import UsageError, UserError
from autoresearch.research.loop import BaselineFailed
from autoresearch.research.study import Study
from autoresearch.research.until import Until
from tests.report.made import RECIPE, repository


def test_edits_that_a_new_study_would_not_have_are_named(tmp_path: Path) -> None:
    clone = repository(tmp_path, {"params.py": b"WIDTH = 8\n"})
    (clone / "notes.md").write_text("nothing to do with it\n")
    (clone / "backends/gpt/__pycache__").mkdir()
    (clone / "backends/gpt/__pycache__/params.pyc").write_bytes(b"")
    refuse_edits(clone, None)
    (clone / RECIPE).write_text((clone / RECIPE).read_text() + "# mine\n")
    with pytest.raises(UserError, match=r"would not be in the study: backends/gpt/recipe\.toml") as e:
        refuse_edits(clone, None)
    assert "git commit" in e.value.hint and "git stash" in e.value.hint
    refuse_edits(clone, "modern")  # it has a recipe of its own
    (clone / "backends/gpt/new.py").write_text("NEW = 1\n")
    with pytest.raises(UserError, match=r"backends/gpt/new\.py"):
        refuse_edits(clone, "modern")
    subprocess.run(["git", "stash", "-u", "-q"], cwd=clone, check=True)
    refuse_edits(clone, None)


def test_where_the_machine_can_not_train_it_no_study_is_left_behind(tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    clone = repository(tmp_path)
    text = SimpleNamespace(name="letters", digest="d", root=tmp_path)
    monkeypatch.chdir(clone)
    monkeypatch.setattr(studying.prepared, "current", lambda: text)

    def no_card(*args: object, **options: object) -> None:
        raise UserError("the cuda backend needs an NVIDIA card")

    monkeypatch.setattr(studying, "choose_backend", lambda name: name)
    monkeypatch.setattr(studying, "sized", no_card)
    with pytest.raises(UserError, match="NVIDIA"):
        begin_or_continue(Wanted("x1", backend="cuda"), TerminalView())
    assert Study.tags(clone) == [] and not (clone / "studies").exists()
    assert "x1" not in subprocess.run(["git", "branch", "-a"], cwd=clone, capture_output=True, text=True).stdout


def test_the_demo_is_gone_on_with_only_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    clone, began = repository(tmp_path), list[str]()
    text = SimpleNamespace(name="letters", digest="d", root=tmp_path)
    monkeypatch.chdir(clone)
    monkeypatch.setattr(studying.prepared, "current", lambda: text)
    monkeypatch.setattr(Study, "text", lambda study: text)
    monkeypatch.setattr(studying, "_begin", lambda clone, tag, wanted, say: began.append(tag))
    Study.create(clone, "demo", facts={"plan": {}, "budget_s": 8.0}).close()
    begin_or_continue(Wanted(), TerminalView())
    assert len(began) == 1 and began != ["demo"], "its eight seconds a trial are no night"
    begin_or_continue(Wanted("demo"), TerminalView())[0].close()
    assert "continuing study demo on letters, 8 s a trial" in capsys.readouterr().err
    Study.create(clone, "mar8", facts={"plan": {}, "budget_s": 300.0}).close()
    begin_or_continue(Wanted(), TerminalView())[0].close()
    assert "continuing study mar8 on letters, 300 s a trial" in capsys.readouterr().err and len(began) == 1


def test_another_text_begins_another_study_unless_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    clone, began = repository(tmp_path), list[str]()
    letters, novels = (SimpleNamespace(name=name, digest=name, root=tmp_path) for name in ("letters", "novels"))
    monkeypatch.chdir(clone)
    monkeypatch.setattr(studying.prepared, "current", lambda: novels)
    monkeypatch.setattr(studying.prepared, "find", lambda name: {"letters": letters, "novels": novels}[name])
    monkeypatch.setattr(Study, "text", lambda study: letters)
    monkeypatch.setattr(studying, "_begin", lambda clone, tag, wanted, say: began.append(tag))
    Study.create(clone, "mar8", facts={"plan": {}, "budget_s": 300.0, "data_name": "letters"}).close()
    begin_or_continue(Wanted(), TerminalView())
    assert len(began) == 1 and began != ["mar8"]
    assert "study mar8 is on letters; the text now is novels: starting a new study" in capsys.readouterr().err
    for wanted in (Wanted("mar8"), Wanted(data="letters")):
        begin_or_continue(wanted, TerminalView())[0].close()
        assert "continuing study mar8 on letters" in capsys.readouterr().err and len(began) == 1


@pytest.mark.parametrize("verb", ["loop", "train", "replay", "promote"])
def test_a_budget_that_is_no_number_says_what_is_wanted(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--depth", "2"] if verb == "promote" else []
    assert run(shell.command, [verb, *more, "--budget", "5m"], "ar") == 2
    assert "'5m' is not a number of seconds: write seconds, such as 300" in capsys.readouterr().err


def test_whoever_is_stopped_at_once_is_told_what_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with interruptible(Until(), TerminalView()):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        work()
    said = capsys.readouterr().err
    assert "press Ctrl-C again to stop now" in said
    assert "stopped; nothing that was decided is lost, the same command continues" in said


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_term_stops_a_study_as_ctrl_c_twice_does(signals: list[signal.Signals],
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    until, before, went_on = Until(), signal.getsignal(signal.SIGTERM), list[str]()

    @click.command()
    def work() -> None:
        with interruptible(until, TerminalView()):
            for each in signals:
                signal.raise_signal(each)
            went_on.append("to the end")

    assert run(work, []) == 1 and went_on == []
    said = capsys.readouterr().err
    assert "stopped; nothing that was decided is lost, the same command continues" in said
    assert ("press Ctrl-C again" in said) == (len(signals) == 2)
    assert signal.getsignal(signal.SIGTERM) == before


# When a night ends


class Evening(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Evening:
        return cls(2026, 5, 4, 22, 0, tzinfo=tz)


@pytest.mark.parametrize(("hours", "clock", "ends"), [
    (None, None, None), (1.5, None, (4, 23, 30)), (None, "23:30", (4, 23, 30)), (None, "07:30", (5, 7, 30)),
    (None, "22:00", (5, 22, 0)), (1.0, "23:30", (4, 23, 0)), (9.0, "23:30", (4, 23, 30)), (9.0, "08:00", (5, 7, 0))])
def test_a_night_ends_at_the_earlier_of_its_limits_and_an_hour_that_is_past_is_tomorrows(
        hours: float | None, clock: str | None, ends: tuple[int, int, int] | None,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "datetime", SimpleNamespace(datetime=Evening, timedelta=datetime.timedelta))
    monkeypatch.setattr(loop, "time", SimpleNamespace(time=lambda: Evening.now().timestamp()))
    assert deadline(hours, clock) == (ends and datetime.datetime(2026, 5, *ends).timestamp())


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "CET-1CEST,M3.5.0/2,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(("now", "clock", "minutes"), [
    ("10-25T00:10", "02:30", 20), ("10-25T01:10", "02:30", 20),  # 02:10 in summer time, and an hour later once more
    ("10-25T01:10", "02:05", 24 * 60 - 5), ("10-25T00:10", "03:30", 140), ("10-24T21:00", "02:30", 210),
    ("03-29T01:10", "02:30", 24 * 60 - 40), ("03-29T00:10", "03:30", 80)])
def test_a_night_ends_at_its_hour_where_the_clocks_are_changed(now: str, clock: str, minutes: int, berlin: None,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    real = datetime.datetime
    moment = real.fromisoformat(f"2026-{now}+00:00").timestamp()
    changing = SimpleNamespace(now=lambda: real.fromtimestamp(moment), strptime=real.strptime, combine=real.combine)
    monkeypatch.setattr(loop, "datetime", SimpleNamespace(datetime=changing, timedelta=datetime.timedelta))
    assert deadline(None, clock) == moment + 60 * minutes


@pytest.mark.parametrize("clock", ["7h30", "24:00", "07:30 pm", "half past seven"])
def test_a_time_of_day_that_is_none_says_how_it_is_written(clock: str) -> None:
    with pytest.raises(UsageError, match=f"--until '{clock}' is not a time of day") as e:
        deadline(None, clock)
    assert "HH:MM" in e.value.hint


def test_a_baseline_that_was_never_left_alone_says_what_can_be_done() -> None:
    assert "--busy-ok" in remedy(BaselineFailed("interrupted", "other programs used 1.4 of 2 cores", ""))
    assert remedy(BaselineFailed("crash", "it broke", "KeyError: 'a'")) == "The end of its log:\n| KeyError: 'a'"
