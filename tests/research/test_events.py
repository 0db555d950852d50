"""The event stream: what a study does can be followed from another process, whatever tears or fills."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoresearch.cli.panel import above, rows
from autoresearch.cli.terminal import lines
from autoresearch.records import Point
from autoresearch.research import events
from autoresearch.research.events import Event, Follower, Teller
from autoresearch.research.now import Now, columns
from tests.report.made import Made, repository


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    made = Made.create(repository(tmp_path))
    made.baseline(2.4, 2.41)
    yield made
    made.study.close()


def told(made: Made) -> tuple[Teller, list[Event]]:
    shown: list[Event] = []
    return Teller(made.study, shown.append), shown


def stream(made: Made) -> Path:
    return made.study.root / events.FILE


def folded(found: list[Event]) -> Now:
    now = Now()
    for event in found:
        now.take(event)
    return now


def notes(found: list[Event]) -> list[str]:
    return [event["text"] for event in found if event["event"] == "note"]


def trial(teller: Teller, label: str = "#1") -> None:
    """Half a trial of 300 s."""
    teller.proposed(1, "Half the batch", {"batch.tokens_per_step": 64})
    teller.trial_started(label, 1, 300.0)
    teller.trial_event("loaded", None)
    teller.trial_event("ready", None)
    for second in range(151):
        teller.trial_event("step", Point(second, float(second), 4.0, 2.2 if second == 61 else None))


def test_another_process_sees_what_the_terminal_of_the_study_sees(made: Made) -> None:
    teller, shown = told(made)
    teller.began(deadline=1e9, experiments=5)
    trial(teller)
    teller.note("line\nbreak \x1b[31mred")
    followed = Follower(stream(made)).new()
    assert followed == shown
    assert followed[-1]["text"] == "line break red"
    now = folded(followed)
    assert (now.tag, now.limit, now.deadline, now.n, now.label, now.phase) == ("mar8", 5, 1e9, 1, "#1", "training")
    assert (now.step, now.elapsed_s, now.dev) == (150, 150.0, [(61.0, 2.2)])
    assert now.standing["best_n"] == 0 and now.standing["best_bpb"] == pytest.approx(2.4)


def test_dev_scores_stand_under_the_incumbents_of_the_same_share(made: Made) -> None:
    teller, shown = told(made)
    trial(teller)
    assert columns(folded(shown)) == [(0.2, 2.2, None), (0.8, None, 2.5)], "the incumbent's was measured at 80%"


def test_a_verdict_ends_the_experiment_and_moves_the_standing(made: Made) -> None:
    teller, shown = told(made)
    trial(teller)
    n = made.idea("keep", 2.3)
    teller.decided(made.study.ledger.experiment(n), 0.1)
    now = folded(shown)
    assert (now.n, now.label, now.hypothesis) == (None, "", "")
    assert (now.standing["tried"], now.standing["kept"], now.standing["best_n"]) == (1, 1, n)
    assert now.gain_percent() == pytest.approx(100 * 0.1 / 2.4)
    verdict = next(event for event in shown if event["event"] == "decided")
    assert (verdict["verdict"], verdict["bpb"], verdict["gain_bpb"]) == ("keep", pytest.approx(2.3), 0.1)


def test_steps_are_thinned_to_one_a_second_but_never_a_dev_score(made: Made) -> None:
    teller, shown = told(made)
    teller.trial_started("#1", 1, 10.0)
    for i in range(100):
        teller.trial_event("step", Point(i, i / 10, 4.0, 2.0 if i % 25 == 1 else None))
    steps = [event for event in shown if event["event"] == "step"]
    assert sum(event["dev_bpb"] is not None for event in steps) == 4
    assert len(steps) <= 10 + 4


def test_a_trial_that_diverged_and_is_run_again_is_shown_from_its_new_beginning(made: Made) -> None:
    """It is loaded a second time, and its clock is at zero again."""
    teller, shown = told(made)
    trial(teller)
    teller.trial_event("loaded", None)
    now = folded(shown)
    assert (now.phase, now.step, now.elapsed_s, now.train_nats, now.dev) == ("warming up", 0, 0.0, None, [])
    teller.trial_event("ready", None)
    teller.trial_event("step", Point(3, 0.5, 4.5))
    now = folded(shown)
    assert (now.step, now.elapsed_s, now.train_nats) == (3, 0.5, 4.5), "not only when it has passed the first run"
    assert columns(now) == [(0.8, None, 2.5)]


def test_a_trial_ends_under_the_name_that_it_began_with(made: Made) -> None:
    teller, shown = told(made)
    for label in ("Without #3", "champion #4"):
        teller.trial_started(label, 2001, 300.0)
        teller.trial_ended(replace(made.study.ledger.experiment(0).trials[0], experiment=-2, purpose="ablate"))
        assert shown[-1]["label"] == label
        assert [text.plain for text in above(shown[-1], 80)] == [f"{label}, seed 1: val_bpb 2.4000"]


def test_a_run_that_begins_forgets_the_one_before_in_every_view(made: Made) -> None:
    teller, shown = told(made)
    teller.began(deadline=1e9, experiments=5)
    trial(teller)
    now = folded(shown)
    again, after = told(made)
    again.began(None, None)
    now.take(after[0])
    assert now == Now(tag="mar8", text="letters", backend="cpu", budget_s=300.0, at=after[0]["at"])


def test_a_torn_line_is_skipped_and_the_next_run_begins_a_line_of_its_own(made: Made) -> None:
    teller, _ = told(made)
    teller.note("before")
    follower = Follower(stream(made))
    assert follower.new()[-1]["text"] == "before"
    with stream(made).open("ab") as f:
        f.write(b'{"at": 1, "event": "no')  # killed while writing
    assert follower.new() == [], "not whole yet"
    again, _ = told(made)
    again.note("after")
    assert notes(follower.new()) == ["after"]
    assert notes(Follower(stream(made)).new()) == ["before", "after"]


@pytest.mark.parametrize("line", [b"", b"[]", b"1", b'{"event": "note"}', b'{"at": 1}', b'{"at": "x", "event": "y"}',
                                  b"\xff\xfe", b'{"at": 1, "event": 2}', b"[" * 5000])
def test_lines_that_are_no_events_are_skipped(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line + b'\n{"at": 1, "event": "note", "text": "x"}\n')
    assert [event["event"] for event in Follower(path).new()] == ["note"]


def test_events_of_another_version_may_lack_anything(tmp_path: Path) -> None:
    names = ("began", "standing", "note", "proposed", "trial", "phase", "step", "trial_ended", "decided", "who knows")
    bare = [{"at": 1.0, "event": name} for name in names]
    bare += [{"at": 2.0, "event": name, "bpb": 2.0} for name in ("trial_ended", "decided")]
    assert folded(list(bare)).at == 2.0
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in bare))
    now, found = Now(), Follower(path).new()
    assert [event["event"] for event in found] == [event["event"] for event in bare]
    for event in found:
        now.take(event)
        assert all(isinstance(line, str) for line in lines(event))
        above(event, 80)
        assert list(rows(now, 80, 3.0))


def test_a_large_stream_is_put_aside_and_a_follower_goes_on(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    teller, _ = told(made)
    teller.began(None, 7)
    follower = Follower(stream(made))
    follower.new()
    monkeypatch.setattr(events, "LARGE_BYTES", 100)
    teller.decided(made.study.ledger.experiment(0), None)
    found = follower.new()
    assert [event["event"] for event in found] == ["decided", "began", "standing"]
    assert folded(found).limit == 7
    assert (made.study.root / events.OLD_FILE).stat().st_size > 100


def test_a_stream_that_cannot_be_written_stops_nothing(made: Made) -> None:
    stream(made).mkdir()  # no file can be opened there, not even by root
    teller, shown = told(made)
    trial(teller)
    assert len(shown) > 100
    assert Follower(stream(made)).new() == []
    stream(made).rmdir()


def test_every_event_is_one_write(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a kill tears the last line at most, and a reader never sees two halves of different lines."""
    writes: list[bytes] = []

    class Counted(io.FileIO):
        def write(self, content: Any) -> int:
            writes.append(bytes(content))
            return super().write(content)

    def opened(path: Path, mode: str, buffering: int = -1) -> Any:
        return Counted(path, mode) if buffering == 0 else open(path, mode)

    monkeypatch.setattr(events, "open", opened, raising=False)
    teller, shown = told(made)
    trial(teller)
    teller.note("x" * 10_000)
    assert [json.loads(line) for line in writes] == shown and all(line.endswith(b"\n") for line in writes)
    assert stream(made).read_bytes() == b"".join(writes)
    assert len(writes[-1]) < 10_000, "texts are cut"
