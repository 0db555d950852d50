"""What commands show on stderr while they work.

    Bar            one training run or score
    TerminalView   a study, from its event stream
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from autoresearch.records import Point
from autoresearch.research.events import Event
from autoresearch.research.now import PHASES, Now

if TYPE_CHECKING:
    from autoresearch.cli.panel import Panel


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


class TerminalView:
    """Shows a study's events on stderr: plain lines, or where that is a terminal, a panel of what happens now and above
    it lines that stay."""

    def __init__(self, since: float | None = None) -> None:
        """`since`, as time.time(): what plain lines count minutes from."""
        self.now = Now()
        self._since = time.time() if since is None else since
        self._said = ""
        self._panel: Panel | None = None
        if is_live():
            from autoresearch.cli.panel import Panel

            self._panel = Panel(self.now)

    def show(self, event: Event) -> None:
        self.now.take(event)
        if self._panel:
            self._panel.show(event)
            return
        minutes, seconds = divmod(int(max(0.0, event["at"] - self._since)), 60)
        for text in lines(event):
            if text != self._said:  # a trial that fails is a verdict too, in the same words
                print(f"{minutes:3d}:{seconds:02d}  {text}", file=sys.stderr, flush=True)
            self._said = text

    def catch_up(self, missed: list[Event], verdicts: int) -> None:
        """What happened before anyone looked: every line of it, or for a panel the last verdicts."""
        told = [i for i, event in enumerate(missed) if event["event"] == "decided"][-verdicts:]
        for i, event in enumerate(missed):
            if not self._panel or i in told:
                self.show(event)
            else:
                self.now.take(event)
        if self._panel:
            self._panel.start()

    def note(self, text: str) -> None:
        self.show({"at": time.time(), "event": "note", "text": text})

    def close(self) -> None:
        if self._panel:
            self._panel.close()


def is_live() -> bool:
    """Whether stderr is a terminal that can redraw lines."""
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def lines(event: Event) -> list[str]:
    """An event in plain words; nothing for what only the panel shows."""
    match event["event"]:
        case "note":
            return [event["text"]]
        case "proposed":
            changes = ", ".join(f"{k} = {v}" for k, v in event["changes"].items())
            return [f"#{event['n']}  {event['hypothesis']}", *([f"     {changes}"] if changes else [])]
        case "trial":
            part = f"{event['part']}: " if event.get("part") else ""
            length = f", {event['budget_s']:g} s of training" if event["budget_s"] else ""
            return [f"     {part}{event['label']}, seed {event['seed']}{length}"]
        case "phase" if event["phase"] not in PHASES:  # what it waits for
            return [f"     {event['phase']}"]
        case "trial_ended" if event["bpb"] is None:
            return [f"     {event['status']}: {event['reason'][:300]}"]
        case "trial_ended":
            return [f"     {event['label']}, seed {event['seed']}: {event['split']}_bpb {event['bpb']:.4f}, "
                    f"{event['steps']:,} steps, {event['tokens_per_s']:,.0f} tokens/s"]
        case "decided":
            return [f"     {event['verdict']}: {event['reason'][:300]}"]
    return []


def quoted(log: str) -> str:
    """The end of a trial's log, as a hint."""
    return "The end of its log:\n" + "\n".join("| " + line for line in log.splitlines()) if log else ""
