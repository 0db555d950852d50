"""A process that runs a candidate's code, as it is heard from the trusted side: what it says, or how it failed.

    Failed     a verdict, a reason and a cause
    Stranger   one such process: messages to it and from it

What it says is data from a stranger: words are cleaned and cut, numbers are for whoever asked to check.
"""

from __future__ import annotations

import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch.harness.channel import Channel, Closed
from autoresearch.harness.text import clean, tail
from autoresearch.harness.watch import OUT_OF_MEMORY, Watch
from autoresearch.records import MACHINE, MEMORY

DIVERGED = "diverged"  # a cause beside MEMORY and MACHINE: the loss went to infinity, or to where no loss is
CAUSES = {"diverged": DIVERGED, "out_of_memory": MEMORY, "device": MACHINE, "unusable": MACHINE}  # by a child's kinds
ENDS_WITHIN_S = 5.0  # a process that has closed its channel


class Failed(Exception):
    """`status` is a verdict. `cause` is DIVERGED, MEMORY, MACHINE, or empty where it is another fault of the
    candidate's own."""

    def __init__(self, status: str, reason: str, cause: str = ""):
        self.status, self.reason, self.cause = status, reason, cause
        super().__init__(reason)


@dataclass(frozen=True)
class Stranger:
    name: str  # "the trial"
    process: subprocess.Popen[bytes]
    channel: Channel
    watch: Watch
    failed: type[Failed]  # what is raised
    log: Path | None = None  # where its last words are, if they belong to the reason

    def send(self, **message: Any) -> None:
        try:
            self.channel.send(**message)
        except Closed:
            raise self.death() from None

    def receive(self, timeout_s: float | None) -> dict[str, Any] | None:
        """The next message, None where there is none in time. Raises for a failure, a death, a broken protocol."""
        try:
            message = self.channel.receive(timeout_s)
        except Closed:
            raise self.death() from None
        except ValueError as e:
            raise self.failed("invalid", f"{self.name} broke the protocol: {e}") from None
        if message is not None and message.get("event") == "failed":
            raise self._told(message)
        return message

    def _told(self, message: dict[str, Any]) -> Failed:
        """What it says of its own failure."""
        kind, words = str(message.get("kind")), clean(str(message.get("message", ""))[:2000]).strip()
        if kind == "out_of_memory":
            words = f"{OUT_OF_MEMORY}: {words}"
        return self.failed("crash", words or f"{self.name} failed, and did not say why", CAUSES.get(kind, ""))

    def death(self) -> Failed:
        """Why it says nothing any more. A signal that is not ours is a fault of device, driver or system."""
        if why := self.watch.reason:
            return self.failed("crash", f"{self.name} was stopped: {why}",
                               MEMORY if why.startswith(OUT_OF_MEMORY) else "")
        try:
            code = self.process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            return self.failed("crash", f"{self.name} closed its channel")
        if code == -signal.SIGKILL and self.watch.starved():
            return self.failed("crash", f"{OUT_OF_MEMORY}: the system killed {self.name}", MEMORY)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        said = tail(self.log, 3) if self.log else ""
        return self.failed("crash", f"{self.name} ended by itself with {how}" + (f":\n{said}" if said else ""),
                           MACHINE if code < 0 else "")
