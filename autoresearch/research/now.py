"""What a study is doing now, folded from its event stream: the one state that every live view shows.

    Now        the study, the experiment and the trial in progress
    columns    dev scores of the trial and of the incumbent at the same shares of the budget
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from autoresearch.harness.jobs import DEV_FRACTIONS
from autoresearch.records import BASELINE, name_of
from autoresearch.research.events import Event

PHASES = {"loaded": "warming up", "ready": "training", "step": "training", "saved": "finishing", "done": "finishing",
          "scoring": "scoring"}  # what a trial tells of itself; anything else is in words already


@dataclass
class Now:
    tag: str = ""
    text: str = ""
    backend: str = ""
    deadline: float | None = None  # time.time()
    limit: int | None = None  # experiments of this run,
    before: int = 0  # and those tried before it
    standing: Event = field(default_factory=dict)  # tried, kept, baseline_bpb, best_n, best_bpb, best_dev
    n: int | None = None  # the experiment in progress
    hypothesis: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    label: str = ""  # the trial in progress; "" between two
    seed: int = 0
    part: str = ""  # which one of how many
    phase: str = ""
    budget_s: float | None = None
    at: float = 0.0  # time.time() of the last event
    step: int = 0
    elapsed_s: float = 0.0
    train_nats: float | None = None
    dev: list[tuple[float, float]] = field(default_factory=list)  # (elapsed_s, bits per byte)

    def take(self, event: Event) -> None:
        """Events of other versions may lack anything."""
        self.at = event["at"]
        match event["event"]:
            case "began":
                vars(self).update(vars(Now(at=self.at)))  # the same object, which views hold on to
                self.tag, self.text = str(event.get("tag") or ""), str(event.get("text") or "")
                self.backend, self.deadline = str(event.get("backend") or ""), event.get("deadline")
                self.limit, self.budget_s = event.get("experiments"), event.get("budget_s")
                self.before = int(event.get("tried") or 0)
            case "standing":
                self.standing = event
            case "proposed":
                self.n, self.hypothesis = event.get("n"), str(event.get("hypothesis") or "")
                self.changes = event.get("changes") or {}
            case "trial":
                self.label, self.seed = str(event.get("label") or ""), int(event.get("seed") or 0)
                self.part, self.phase = str(event.get("part") or ""), "starting"
                self.budget_s = event.get("budget_s")
                self._from_zero()
            case "phase":
                if event.get("phase") == "loaded":  # a second time where it diverged and is run again in float32
                    self._from_zero()
                self.phase = PHASES.get(str(event.get("phase")), str(event.get("phase")))
            case "step":
                self._step(event)
            case "trial_ended":
                if self.label == name_of(BASELINE) and event.get("bpb") and not self.standing.get("baseline_bpb"):
                    self.standing = self.standing | {"baseline_bpb": event["bpb"]}  # of its first seed
                self.label = ""
            case "decided":
                self.label, self.n, self.hypothesis, self.changes = "", None, "", {}

    def _from_zero(self) -> None:
        """The trial has trained nothing yet."""
        self.step, self.elapsed_s, self.train_nats, self.dev = 0, 0.0, None, []

    def _step(self, event: Event) -> None:
        self.phase, self.step = "training", int(event.get("step") or 0)
        self.elapsed_s, self.train_nats = float(event.get("elapsed_s") or 0.0), event.get("train_nats")
        if event.get("dev_bpb") is not None:
            self.dev.append((self.elapsed_s, float(event["dev_bpb"])))

    def trained_s(self, clock: float) -> float:
        """How far the trial is, between two events too."""
        if self.phase != "training":
            return self.elapsed_s
        since = min(max(0.0, clock - self.at), 5.0)  # a process that says nothing for long may have died
        return min(self.elapsed_s + since, self.budget_s or self.elapsed_s)

    def more(self) -> int | None:
        """Experiments that this run is still to try; None where it has no such limit."""
        return None if self.limit is None else max(0, self.limit - int(self.standing.get("tried") or 0) + self.before)

    def gain_percent(self) -> float | None:
        base, best = self.standing.get("baseline_bpb"), self.standing.get("best_bpb")
        return 100 * (base - best) / base if base and best and self.standing.get("best_n") else None


def columns(now: Now) -> list[tuple[float, float | None, float | None]]:
    """(share of the budget, the trial's dev score, the incumbent's) wherever there is either."""
    mine, theirs = _by_share(now.dev, now.budget_s), _by_share(now.standing.get("best_dev") or [], now.budget_s)
    return [(share, mine.get(share), theirs.get(share)) for share in DEV_FRACTIONS if share in mine or share in theirs]


def _by_share(points: list[Any], budget_s: float | None) -> dict[float, float]:
    """Each at the last share of the budget that it had passed when it was measured."""
    found = {}
    for elapsed_s, bpb in points:
        passed = [share for share in DEV_FRACTIONS if budget_s and share <= elapsed_s / budget_s + 0.005]
        if passed:
            found[passed[-1]] = bpb
    return found
