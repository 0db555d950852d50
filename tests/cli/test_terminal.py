"""What a study shows in a terminal: a panel that fits any width and says what happens; plain lines elsewhere."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch.cli import panel, shell
from autoresearch.cli import run as run_command
from autoresearch.cli.terminal import TerminalView, lines
from autoresearch.records import Point
from autoresearch.research.events import Event, Teller
from autoresearch.research.now import PHASES, Now
from tests.report.made import Made, repository

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    made = Made.create(repository(tmp_path))
    made.baseline(2.4, 2.41)
    monkeypatch.chdir(tmp_path)
    yield made
    made.study.close()


def half_a_trial(made: Made) -> list[Event]:
    found: list[Event] = []
    made.idea("keep", 2.3, "Sharper attention", changes={"model.qk_scale": 1.2})
    teller = Teller(made.study, found.append)
    teller.began(deadline=time.time() + 7200, experiments=12)
    teller.proposed(2, "Half the batch gives twice the updates, which this study has been short of from the start",
                    {"batch.tokens_per_step": 64})
    teller.trial_started("#2", 1, 300.0)
    teller.trial_event("ready", None)
    teller.trial_event("step", Point(240, 241.0, 3.21, 2.4))
    return found


def now_of(found: list[Event]) -> Now:
    now = Now()
    for event in found:
        now.take(event)
    return now


@pytest.mark.parametrize("width", [20, 38, 80, 200])
def test_the_panel_fits_its_width(width: int, made: Made) -> None:
    now = now_of(half_a_trial(made))
    found = list(panel.rows(now, width, now.at))
    assert len(found) == 9
    for row in found:
        lines_of_it = 2 if row.plain.startswith("#2 Half") else 1
        assert row.cell_len <= lines_of_it * width, row.plain


def test_the_panel_says_what_happens(made: Made) -> None:
    now = now_of(half_a_trial(made))
    text = "\n".join(row.plain for row in panel.rows(now, 100, now.at + 9.0))
    for said in ("mar8", "letters · cpu", "1 tried, 1 kept · 12 more", "2 h 00 min left",
                 "best 2.3000 bits per byte, #1, 4.2% lower than the baseline's 2.4000", "#2 Half the batch",
                 "batch.tokens_per_step = 64", "#2, seed 1: training", "54 s left", "step 240", "loss 3.210", "2.4000"):
        assert said in text, f"{said!r} is not in\n{text}"
    bars = [line for line in text.splitlines() if "━" in line]
    assert len(bars) == 1
    ahead = next(row for row in panel.rows(now, 100, now.at) if row.plain.startswith("#2  "))
    assert any(span.style == "green" for span in ahead.spans), "better than the incumbent at the same share"


def test_the_panel_counts_down_what_this_run_was_asked_for(made: Made) -> None:
    found = half_a_trial(made)
    n = made.idea("discard", 2.5)
    Teller(made.study, found.append).decided(made.study.ledger.experiment(n), -0.2)
    now = now_of([event for event in found if event["event"] != "began" or event["experiments"]])
    assert "2 tried, 1 kept · 11 more to try" in "\n".join(row.plain for row in panel.rows(now, 100, now.at))


def test_the_panel_says_which_run_of_how_many_it_is(made: Made) -> None:
    found = half_a_trial(made)
    Teller(made.study, found.append).trial_started("baseline", 1002, 300.0, "verification, run 5 of 15, seed 2 of 5")
    now = now_of(found)
    said = "verification, run 5 of 15, seed 2 of 5: baseline, seed 1002"
    assert said + ": starting" in "\n".join(row.plain for row in panel.rows(now, 100, now.at))
    assert lines(found[-1]) == [f"     {said}, 300 s of training"]


def test_a_baseline_that_is_not_finished_shows_the_score_that_it_has(tmp_path: Path) -> None:
    made, found = Made.create(repository(tmp_path / "new"), "new"), list[Event]()
    teller = Teller(made.study, found.append)
    teller.began(None, None)
    assert "no score yet" in "\n".join(row.plain for row in panel.rows(now_of(found), 100, 0.0))
    with made.study as study:
        study.ledger.propose(n=0, parent=study.workspace.head(), researcher="probe", hypothesis="Baseline", evidence="",
                             changes={}, recipe={})
        made.trial(0, 2.4)
        teller.trial_started("baseline", 1, 300.0)
        teller.trial_ended(study.ledger.experiment(0).trials[0])
        assert "2.4000 bits per byte on its first seed" in "\n".join(
            row.plain for row in panel.rows(now_of(found), 100, 0.0))
        found.clear()
        Teller(study, found.append).began(None, 5)
        assert "2.4000 bits per byte on its first seed" in "\n".join(
            row.plain for row in panel.rows(now_of(found), 100, 0.0)), "and when it is continued"


def test_the_panel_keeps_the_scores_that_no_verdict_follows(made: Made) -> None:
    n, found = made.idea("keep", 2.3), list[Event]()
    teller = Teller(made.study, found.append)
    screened = made.study.ledger.experiment(n).trials[0]
    for purpose in ("screen", "repeat", "verify"):
        teller.trial_started(f"#{n}", 1, 300.0)
        teller.trial_ended(replace(screened, purpose=purpose))
    lines = [[text.plain for text in panel.above(e, 100)] for e in found if e["event"] == "trial_ended"]
    assert lines == [[], [], [f"#{n}, seed 1: val_bpb 2.3000"]]


def test_a_silent_trial_does_not_count_down_for_ever(made: Made) -> None:
    now = now_of(half_a_trial(made))
    assert now.trained_s(now.at + 3) == 244.0
    assert now.trained_s(now.at + 3600) == 246.0, "whoever writes the events may have died"
    assert now.trained_s(now.at - 3600) == 241.0, "or the clock was set"


def test_plain_lines_are_those_of_a_log(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    view = TerminalView()
    for event in half_a_trial(made):
        view.show(event)
    view.note("a note")
    for phase in (*PHASES, "another process is preparing text in this cache; waiting for it"):
        Teller(made.study, view.show).trial_event(phase, None)
    n = made.idea("discard", 2.5, reason="worse")
    experiment = made.study.ledger.experiment(n)
    teller = Teller(made.study, view.show)
    teller.trial_started("#2", 1, 300.0)
    teller.trial_ended(experiment.trials[0])
    teller.decided(experiment, -0.2)
    view.close()
    out, err = capsys.readouterr()
    assert out == "" and "\x1b" not in err
    assert [line[8:] for line in err.splitlines()] == [
        "#2  Half the batch gives twice the updates, which this study has been short of from the start",
        "     batch.tokens_per_step = 64", "     #2, seed 1, 300 s of training", "a note",
        "     another process is preparing text in this cache; waiting for it",
        "     #2, seed 1, 300 s of training", "     #2, seed 1: val_bpb 2.5000, 701 steps, 299 tokens/s",
        "     discard: worse"]


def test_a_failure_is_one_plain_line_though_it_is_the_verdict_too(capsys: pytest.CaptureFixture[str]) -> None:
    view = TerminalView(0.0)
    ended = {"at": 1.0, "event": "trial_ended", "label": "#2", "seed": 1, "status": "crash", "reason": "out of memory",
             "split": None, "bpb": None, "steps": 0, "tokens_per_s": 0.0}
    view.show(ended)
    view.show({"at": 1.0, "event": "decided", "n": 2, "verdict": "crash", "reason": "out of memory",
               "gain_bpb": None})
    assert capsys.readouterr().err == "  0:01       crash: out of memory\n"


def test_watch_of_a_study_that_does_not_run_is_a_sentence(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(shell.command, ["watch"], "ar") == 1
    assert "error: study 'mar8' is not running" in capsys.readouterr().err


# In a real terminal

LOOP = """
import sys, time
from pathlib import Path
from autoresearch.cli.terminal import TerminalView
from autoresearch.records import Point
from autoresearch.research.events import Teller
from autoresearch.research.study import Study

with Study.open(Path(sys.argv[1])) as study, study.lock():
    view = TerminalView()
    teller = Teller(study, view.show)
    teller.began(time.time() + 3600, 3)
    print("locked", flush=True)
    teller.proposed(1, "Half the batch", {"batch.tokens_per_step": 64})
    teller.trial_started("#1", 1, 300.0)
    sys.stdin.readline()
    teller.trial_event("step", Point(7, 61.0, 3.5, 2.25))
    sys.stdin.readline()
    teller.note("that is all")
    view.close()
"""


def seen(terminal: int, until: str, within_s: float = 20) -> str:
    """What has been written to a terminal, once `until` is in it or the time is over."""
    end, found = time.monotonic() + within_s, b""
    while until.encode() not in found and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                found += os.read(terminal, 65536)
            except OSError:  # the other side is closed
                break
    return found.decode("utf-8", "replace")


def test_watch_in_a_terminal_follows_a_study_that_runs_elsewhere(made: Made) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "90", "LINES": "30",
                        "NO_COLOR": "1"}
    loop = subprocess.Popen([sys.executable, "-c", LOOP, str(made.study.clone)], env=env, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    ours, theirs = pty.openpty()
    try:
        assert loop.stdout and loop.stdin and loop.stderr
        assert loop.stdout.readline() == b"locked\n"
        watch = subprocess.Popen([sys.executable, "-m", "autoresearch", "watch"], cwd=made.study.clone, env=env,
                                 stdin=theirs, stdout=subprocess.PIPE, stderr=theirs)
        assert "Half the batch" in seen(ours, "Half the batch")
        loop.stdin.write(b"\n")
        loop.stdin.flush()
        panel_text = seen(ours, "2.2500")
        assert "step 7" in panel_text and "2.2500" in panel_text
        loop.communicate(b"\n")
        out, _ = watch.communicate(timeout=20)
        assert "study mar8 has stopped" in out.decode() and watch.returncode == 0
        rest = seen(ours, "that is all", 1)
        assert "that is all" in rest
        assert "\x1b[3" not in panel_text + rest, "NO_COLOR"
        assert "\x1b[?25h" in rest, "the cursor is back"
    finally:
        loop.kill()
        loop.wait()
        os.close(ours)
        os.close(theirs)
