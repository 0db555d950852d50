"""A trusted process's view of a logits server: rows of tokens in, raw logits out."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from autoresearch.harness import jobs, launch
from autoresearch.harness.channel import Channel, map_array, shared_buffer
from autoresearch.harness.stranger import Failed, Stranger
from autoresearch.harness.watch import Watch

LOGITS_BYTES = 64 << 20  # of one batch
START_TIMEOUT_S, REPLY_TIMEOUT_S = 180.0, 120.0


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


class LogitsServer:
    """Context manager around one fresh server process."""

    def __init__(self, served: Served, length: int, max_batch: int = 64):
        self.length, self.vocab = length, served.vocab
        self.batch = max(1, min(max_batch, LOGITS_BYTES // (4 * length * served.vocab)))
        tokens, logits = shared_buffer(4 * self.batch * length), shared_buffer(4 * self.batch * length * served.vocab)
        ours, theirs = socket.socketpair()
        job = jobs.ServerJob(
            backend=served.backend, recipe=served.recipe, vocab=served.vocab, weights=served.weights,
            batch=self.batch, length=length, control=theirs.fileno(), tokens=tokens, logits=logits)
        self._tokens = map_array(tokens, (self.batch, length), np.int32)
        self._logits = map_array(logits, (self.batch, length, served.vocab), np.float32)
        self._folder = Path(served.folder)
        process = launch.candidate("logits_server", jobs.dump(job), Path(served.tree), self._folder,
                                   (theirs.fileno(), tokens, logits), read=[Path(served.weights)])
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
        launch.drop_scratch(self._folder)  # what it saw of the text, it must not tell the next one

    def ask(self, tokens_BT: np.ndarray) -> np.ndarray:
        """float32 (B, length, V) for B <= batch rows padded to length."""
        rows = len(tokens_BT)
        self._tokens[:rows] = tokens_BT
        self._logits[:rows] = np.nan  # what the server leaves out can't pass for an answer
        self._server.send(rows=rows)
        self._reply("served", REPLY_TIMEOUT_S)
        return self._logits[:rows].copy()  # the server can still write to its own: what is scored is what is recorded

    def _reply(self, expected: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            message = self._server.receive(left) if left > 0 else None
            if message is None:
                raise ServerFailed("timeout", f"the logits server gave no answer within {timeout_s:.0f} s")
            if message.get("event") == expected:
                return
