"""A trusted process's view of a logits server: rows of tokens in, raw logits out.

    Served         which weights to serve, by whose code
    LogitsServer   one fresh server process
    allowed_s      how long a reply may take: a server that took longer could have trained on

A trial may leave the text that it has read in its weights. The replay audit asks for the same logits in another order,
so that all further training would have to be done within each reply, or before the first.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from autoresearch.errors import UserError
from autoresearch.harness import checkpoint, jobs, launch
from autoresearch.harness.channel import Channel, map_array, shared_buffer
from autoresearch.harness.stranger import Failed, Stranger
from autoresearch.harness.watch import Watch

LOGITS_BYTES = 64 << 20  # of one batch
TOKENS = 4096  # of one batch: the time that more of them take could be spent on training
START_TIMEOUT_S, REPLY_TIMEOUT_S = 180.0, 120.0
# Of a reply in a study: for a busy machine, to load the weights, which have just been read, and for each token so many
# times what training took for one, though never more than that share of the budget, or it would pay to train slowly.
REPLY_S, BUDGET_SHARE, LOADED_BYTES_PER_S, TIMES, MOST_SHARE = 3.0, 0.01, 200e6, 5.0, 0.1


class ServerFailed(Failed):
    """The model can't be asked; `status` is crash, timeout or invalid."""


@dataclass(frozen=True)
class Served:
    """Which weights to serve, by whose code, where."""

    backend: str
    recipe: dict[str, Any]
    vocab: int
    weights: str
    tree: str
    folder: str
    timed: bool = False  # where a score is at stake


class LogitsServer:
    """Context manager around one fresh server process."""

    def __init__(self, served: Served, length: int, max_batch: int = 64):
        self.length, self.vocab = length, served.vocab
        self.batch = max(1, min(max_batch, LOGITS_BYTES // (4 * length * served.vocab), TOKENS // length))
        tokens, logits = shared_buffer(4 * self.batch * length), shared_buffer(4 * self.batch * length * served.vocab)
        ours, theirs = socket.socketpair()
        self._weights, self._handed = Path(served.weights), Path(served.tree) / checkpoint.WEIGHTS
        self._handed.unlink(missing_ok=True)  # of a scorer that was killed
        allowed = allowed_s(self._weights, self.batch * length) if served.timed else None
        self._reply_s = REPLY_TIMEOUT_S if allowed is None else allowed
        self._why = "" if allowed is None else (
            f": by how fast it trained, that is enough for its weights and the logits of {self.batch} rows of "
            f"{length:,} tokens, and more time could be more training")
        job = jobs.ServerJob(
            backend=served.backend, recipe=served.recipe, vocab=served.vocab, weights=str(self._handed),
            batch=self.batch, length=length, control=theirs.fileno(), tokens=tokens, logits=logits)
        self._tokens = map_array(tokens, (self.batch, length), np.int32)
        self._logits = map_array(logits, (self.batch, length, served.vocab), np.float32)
        self._folder = Path(served.folder)
        process = launch.candidate("logits_server", jobs.dump(job), Path(served.tree), self._folder,
                                   (theirs.fileno(), tokens, logits))
        self._server = Stranger("the logits server", process, Channel(ours), Watch(process.pid, self._folder),
                                ServerFailed)
        theirs.close()
        os.close(tokens)
        os.close(logits)

    def __enter__(self) -> LogitsServer:
        try:
            self._reply("ready", START_TIMEOUT_S)
        except BaseException as e:
            self.__exit__(type(e), e, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self._server.channel.close()
        launch.end(self._server.process)
        self._server.watch.stop()
        self._handed.unlink(missing_ok=True)
        launch.drop_scratch(self._folder)  # what it saw of the text, it must not tell the next one

    def ask(self, tokens_BT: np.ndarray) -> np.ndarray:
        """float32 (B, length, V) for B <= batch rows padded to length."""
        rows = len(tokens_BT)
        self._tokens[:rows], self._tokens[rows:] = tokens_BT, tokens_BT[-1]  # for one shape it compiles once
        self._logits[:rows] = np.nan  # what the server leaves out can't pass for an answer
        if not self._handed.exists():
            _link(self._weights, self._handed)
        self._server.send(rows=self.batch)
        self._reply("served", self._reply_s, self._why)
        return self._logits[:rows].copy()  # the server can still write to its own: what is scored is what is recorded

    def _reply(self, expected: str, timeout_s: float, why: str = "") -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            message = self._server.receive(max(0.0, left))  # an answer that came while we were stopped is there
            if message is not None and message.get("event") == expected:
                return
            if message is None or left <= 0:
                raise ServerFailed("timeout", f"the logits server gave no answer within {timeout_s:.1f} s{why}")


def allowed_s(weights: Path, tokens: int) -> float | None:
    """What a reply of so many tokens may take of weights that a trial left; None where no budget was kept."""
    try:
        about, _ = checkpoint.read(weights)
    except UserError:  # the server will say what is wrong with them
        return None
    if about.budget_s is None or not about.tokens:
        return None
    take_s = REPLY_S + BUDGET_SHARE * about.budget_s + weights.stat().st_size / LOADED_BYTES_PER_S
    return take_s + min(TIMES * tokens * about.train_s / about.tokens, MOST_SHARE * about.budget_s)


def _link(source: Path, place: Path) -> None:
    try:
        os.link(source, place)
    except OSError:  # another disk, or none that has links
        shutil.copyfile(source, place)
