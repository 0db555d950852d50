"""The event stream of a study: what happens, as it happens, one JSON object a line in studies/<tag>/events.jsonl.

    Teller      the View that writes the stream, and hands every event to the terminal of its own process
    Follower    the events that another process has written since it last looked
    verdict     the event of a decided experiment, also for those decided before anyone watched

A courtesy beside the ledger, which has every decision first: nothing is read back from here to decide anything, so
lines are not synced, a full disk loses some, and what a kill tore is skipped. `began` opens each run, and again each
file: one that has grown large is put aside as events.old.jsonl between two experiments.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoresearch.harness.text import line
from autoresearch.records import BASELINE, Experiment, Point, Trial
from autoresearch.research.study import Study
from autoresearch.research.view import View

FILE, OLD_FILE = "events.jsonl", "events.old.jsonl"
STEP_EVERY_S = 1.0  # curve points in between are in the ledger when the trial has ended
LARGE_BYTES = 8 << 20  # some days of a night's events
TEXT_CHARS = 2000

Event = dict[str, Any]
# What events of another version lack, for those who show them.
LACKING: dict[str, Event] = {
    "note": {"text": ""},
    "proposed": {"n": 0, "hypothesis": "", "changes": {}},
    "trial": {"label": "", "seed": 0, "budget_s": None, "part": ""},
    "phase": {"phase": "loaded"},
    "trial_ended": {"label": "", "seed": 0, "status": "", "decides": False, "reason": "", "split": "val", "bpb": None,
                    "steps": 0, "tokens_per_s": 0.0},
    "decided": {"n": 0, "verdict": "", "reason": "", "hypothesis": "", "bpb": None, "gain_bpb": None},
}


class Teller(View):
    def __init__(self, study: Study, show: Callable[[Event], None]):
        self._study, self._show = study, show
        self._path = study.root / FILE
        self._label, self._told_step_s = "", -STEP_EVERY_S  # of the trial in progress
        self._opening: Event = {}
        self._torn = True  # a killed predecessor may have left half a line

    def began(self, deadline: float | None, experiments: int | None) -> None:
        facts = self._study.ledger.facts()
        self._opening = {"tag": self._study.tag, "text": facts.get("data_name"), "backend": facts.get("backend"),
                         "deadline": deadline, "experiments": experiments, "budget_s": facts.get("budget_s"),
                         "tried": len(_ideas(self._study.ledger.experiments()))}
        self._send({"event": "began"} | self._opening)
        self._standing()

    def note(self, text: str) -> None:
        self._tell("note", text=_short(text))

    def trial_started(self, label: str, seed: int, budget_s: float | None, part: str = "") -> None:
        self._label, self._told_step_s = label, -STEP_EVERY_S
        self._tell("trial", label=label, seed=seed, budget_s=budget_s, part=part)

    def trial_event(self, event: str, point: Point | None) -> None:
        if event == "loaded":  # its clock starts at zero, a second time where it diverged and is run again in float32
            self._told_step_s = -STEP_EVERY_S
        if event != "step" or point is None:
            self._tell("phase", phase=event)
        elif point.dev_bpb is not None or point.elapsed_s - self._told_step_s >= STEP_EVERY_S:
            self._told_step_s = point.elapsed_s
            self._tell("step", step=point.step, elapsed_s=round(point.elapsed_s, 2), train_nats=point.train_nats,
                       dev_bpb=point.dev_bpb)

    def trial_ended(self, trial: Trial) -> None:
        score = next(iter(trial.scores), None)
        self._tell("trial_ended", label=self._label, seed=trial.seed, status=trial.status,
                   decides=trial.experiment > BASELINE and trial.purpose in ("screen", "repeat"),
                   reason=_short(trial.reason), split=score.split if score else None,
                   bpb=score.bpb if score else None, steps=trial.steps,
                   tokens_per_s=trial.tokens / max(trial.train_s, 1e-9))

    def proposed(self, n: int, hypothesis: str, changes: dict[str, object]) -> None:
        self._tell("proposed", n=n, hypothesis=_short(hypothesis), changes=changes)

    def decided(self, experiment: Experiment, gain_bpb: float | None) -> None:
        self._tell(**verdict(experiment, gain_bpb))
        self._put_aside()
        self._standing()

    def _standing(self) -> None:
        """Where the study stands, so that a view needs nothing but the stream."""
        experiments, best = self._study.ledger.experiments(), self._study.ledger.incumbent()
        spent = self._study.ledger.account.spent()
        ideas = _ideas(experiments)
        baseline = next((e for e in experiments if e.n == BASELINE), None)
        screened = best.screened() if best else None
        self._tell("standing", tried=len(ideas), kept=sum(e.verdict == "keep" for e in ideas),
                   baseline_bpb=baseline.bpb() if baseline else None,
                   usd=spent.usd, spent_tokens=spent.tokens, best_n=best.n if best else None,
                   best_bpb=best.bpb() if best else None,
                   best_dev=[[p.elapsed_s, p.dev_bpb] for p in (screened.curve if screened else ())
                             if p.dev_bpb is not None])

    def _put_aside(self) -> None:
        with contextlib.suppress(OSError):
            if self._path.stat().st_size > LARGE_BYTES:
                self._path.replace(self._path.with_name(OLD_FILE))
                self._send({"event": "began"} | self._opening)

    def _tell(self, event: str, **what: Any) -> None:
        if not self._opening:  # `ar try` and the like have no loop that says so
            self.began(None, None)
        self._send({"event": event} | what)

    def _send(self, event: Event) -> None:
        event = {"at": round(time.time(), 2)} | event
        with contextlib.suppress(OSError):
            _append(self._path, event, self._torn)
            self._torn = False
        self._show(event)


def verdict(experiment: Experiment, gain_bpb: float | None) -> Event:
    return {"event": "decided", "n": experiment.n, "verdict": experiment.verdict, "reason": _short(experiment.reason),
            "hypothesis": _short(experiment.hypothesis), "bpb": experiment.bpb(), "gain_bpb": gain_bpb}


class Follower:
    """Reads a stream that another process appends to. A torn last line waits until it is whole."""

    def __init__(self, path: Path):
        self._path, self._offset, self._inode = path, 0, 0

    def new(self) -> list[Event]:
        """Events since the last call. Where the file was put aside and begun anew, the rest of the old one first."""
        found: list[Event] = []
        with contextlib.suppress(OSError):
            if self._inode not in (0, self._path.stat().st_ino):
                found = self._rest(self._path.with_name(OLD_FILE))
                self._inode = self._offset = 0
        return found + self._rest(self._path)

    def _rest(self, path: Path) -> list[Event]:
        try:
            with open(path, "rb") as f:
                inode = os.fstat(f.fileno()).st_ino
                if self._inode not in (0, inode):
                    return []
                f.seek(self._offset)
                whole, newline, _ = f.read().rpartition(b"\n")
        except OSError:
            return []
        self._inode, self._offset = inode, self._offset + len(whole) + len(newline)
        return [event for text in whole.splitlines() if (event := _parsed(text))]


def _ideas(experiments: list[Experiment]) -> list[Experiment]:
    return [e for e in experiments if e.n > BASELINE and e.verdict]


def _append(path: Path, event: Event, torn: bool) -> None:
    """One write, so that a kill tears the last line at most."""
    text = json.dumps(event, default=str).encode("utf-8", "replace") + b"\n"
    with open(path, "ab", buffering=0) as f:
        if torn and f.tell() and not _ends_whole(path):
            text = b"\n" + text
        f.write(text)


def _ends_whole(path: Path) -> bool:
    with open(path, "rb") as f:
        f.seek(-1, os.SEEK_END)
        return f.read(1) == b"\n"


def _parsed(text: bytes) -> Event | None:
    with contextlib.suppress(ValueError, RecursionError):
        event = json.loads(text)
        if isinstance(event, dict) and isinstance(event.get("event"), str) and isinstance(event.get("at"), int | float):
            return LACKING.get(event["event"], {}) | event
    return None


def _short(text: str) -> str:
    return line(text[:4 * TEXT_CHARS])[:TEXT_CHARS]
