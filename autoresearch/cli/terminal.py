"""The view of a study in a terminal: plain lines on stderr, and a bar for the trial in progress where there is one."""

from __future__ import annotations

import sys
import time
from typing import Any

from autoresearch.records import Experiment, Point, Trial
from autoresearch.research.view import View


class Bar:
    """One line that is redrawn: time left, step, loss, speed. Silent where stderr is not a terminal."""

    def __init__(self, label: str, budget_s: float | None, tokens_per_step: int | None = None,
                 flops_per_token: float | None = None):
        self._budget_s, self._tokens, self._flops = budget_s, tokens_per_step, flops_per_token
        self.ceiling_flops: float | None = None  # of this machine, once the trial has measured it
        self._progress: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._progress = Progress(TextColumn("{task.description}"), BarColumn(bar_width=24),
                                      TextColumn("{task.fields[facts]}"), console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task(label, total=budget_s, facts="starting")
            self._progress.start()

    def say(self, facts: str) -> None:
        if self._progress:
            self._progress.update(self._task, facts=facts)

    def at(self, point: Point, steps: int | None = None, memory_bytes: int = 0) -> None:
        if not self._progress:
            return
        facts = [f"step {point.step:,}" + (f" of {steps:,}" if steps else "")]
        if self._budget_s is not None:
            facts.append(f"{max(0.0, self._budget_s - point.elapsed_s):.0f} s left")
        if point.train_nats:
            facts.append(f"loss {point.train_nats:.3f}")
        if self._tokens and point.elapsed_s > 0:
            speed = point.step * self._tokens / point.elapsed_s
            facts.append(f"{speed:,.0f} tokens/s")
            if self._flops and self.ceiling_flops:
                facts.append(f"{100 * speed * self._flops / self.ceiling_flops:.0f}% of the matmul ceiling")
        if memory_bytes:
            facts.append(f"{memory_bytes / 2**20:,.0f} MiB")
        if point.dev_bpb is not None:
            facts.append(f"dev {point.dev_bpb:.3f} bits/byte")
        done = point.elapsed_s if self._budget_s is not None else point.step
        self._progress.update(self._task, total=self._budget_s or steps, completed=done, facts=", ".join(facts))

    def close(self) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None


class TerminalView(View):
    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._began = time.monotonic()

    def note(self, text: str) -> None:
        self._line(text)

    def proposed(self, n: int, hypothesis: str, changes: dict[str, object]) -> None:
        self._line(f"#{n}  {hypothesis}")
        if changes:
            self._line("     " + ", ".join(f"{k} = {v}" for k, v in changes.items()))

    def trial_started(self, label: str, seed: int, budget_s: float | None) -> None:
        self._close()
        self._bar = Bar(f"{label}, seed {seed}", budget_s)

    def trial_event(self, event: str, point: Point | None) -> None:
        if not self._bar:
            return
        if event == "step" and point:
            self._bar.at(point)
        else:
            self._bar.say({"loaded": "warming up", "ready": "training"}.get(event, event))

    def trial_ended(self, trial: Trial) -> None:
        self._close()
        score = next(iter(trial.scores), None)
        if score is None:
            self._line(f"     {trial.status}: {_first_line(trial.reason)}")
            return
        name = {-1: "reference", 0: "baseline"}.get(trial.experiment, f"#{trial.experiment}")
        self._line(f"     {name}, seed {trial.seed}: {score.split}_bpb {score.bpb:.4f}, {trial.steps:,} steps, "
                   f"{trial.tokens / max(trial.train_s, 1e-9):,.0f} tokens/s")

    def decided(self, experiment: Experiment, gain_bpb: float | None) -> None:
        self._line(f"     {experiment.verdict}: {_first_line(experiment.reason)}")

    def close(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar:
            self._bar.close()
            self._bar = None

    def _line(self, text: str) -> None:
        self._close()
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        print(f"{minutes:3d}:{seconds:02d}  {text}", file=sys.stderr, flush=True)


def _first_line(text: str) -> str:
    return (text.splitlines() or [""])[0][:300]


def quoted(log: str) -> str:
    """The end of a trial's log, as a hint."""
    return "The end of its log:\n" + "\n".join("| " + line for line in log.splitlines()) if log else ""
