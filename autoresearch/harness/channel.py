"""Talk between processes: JSON lines over a socket pair, buffers of shared memory, pipes that count.

    Channel        one end of a socket pair; messages are flat JSON objects of bounded length
    shared_buffer  an unnamed file descriptor that both sides map: nothing to leak, whoever dies
    Ring           slots of token rows; one pipe counts filled slots, another counts free ones

Everything read from a child is data from a stranger: sizes are fixed beforehand, text is capped.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import select
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_MESSAGE_BYTES = 1 << 16


class Closed(Exception):
    """The other side is gone."""


class Channel:
    def __init__(self, sock: socket.socket):
        self._sock = sock
        self._buffer = b""

    @classmethod
    def inherit(cls, fd: int) -> Channel:
        """The child's end, from an inherited descriptor."""
        return cls(socket.socket(fileno=fd))

    def send(self, **message: Any) -> None:
        try:
            self._sock.sendall(json.dumps(message).encode() + b"\n")
        except OSError as e:
            raise Closed from e

    def receive(self, timeout_s: float | None) -> dict[str, Any] | None:
        """The next message; None when none was whole in time. Raises Closed, and ValueError for
        something that is not a message."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_MESSAGE_BYTES:
                raise ValueError("a message longer than the protocol allows")
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._sock], [], [], left)[0]:
                return None
            try:
                piece = self._sock.recv(MAX_MESSAGE_BYTES)
            except OSError as e:
                raise Closed from e
            if not piece:
                raise Closed
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message = json.loads(line)
        except RecursionError:
            raise ValueError("a message nested too deeply") from None
        if not isinstance(message, dict):
            raise ValueError("a message that is not an object")
        return message

    def close(self) -> None:
        self._sock.close()


def shared_buffer(size_bytes: int) -> int:
    """A descriptor of `size_bytes` of zeroed memory without a name in any folder. On Linux its size is final."""
    if sys.platform == "linux":
        fd = os.memfd_create("autoresearch", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        fd, path = tempfile.mkstemp()
        os.unlink(path)
    os.ftruncate(fd, size_bytes)
    if sys.platform == "linux":  # else a stranger that holds it could cut it: who reads beyond the end gets a SIGBUS
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def map_array(fd: int, shape: tuple[int, ...], dtype: type, offset_bytes: int = 0) -> np.ndarray:
    memory = mmap.mmap(fd, os.fstat(fd).st_size)
    return np.frombuffer(memory, dtype, count=int(np.prod(shape)), offset=offset_bytes).reshape(shape)


@dataclass(frozen=True)
class RingShape:
    """Slots of one step's rows, then the dev rows."""

    rows: int
    dev_rows: int
    seq_len: int
    slots: int = 4

    @property
    def step_shape(self) -> tuple[int, int, int]:
        return self.slots, self.rows, self.seq_len + 1

    @property
    def size_bytes(self) -> int:
        return 4 * (self.slots * self.rows + self.dev_rows) * (self.seq_len + 1)


class Ring:
    """Views of the shared rows. The feeder fills in order; the trial takes in order."""

    def __init__(self, fd: int, shape: RingShape):
        self.shape = shape
        self.steps = map_array(fd, shape.step_shape, np.int32)
        self.dev = map_array(fd, (shape.dev_rows, shape.seq_len + 1), np.int32, 4 * int(np.prod(shape.step_shape)))
        self._taken = 0

    def take(self, filled: int, free: int) -> np.ndarray:
        """The next step's tokens (rows, seq_len + 1), copied out. Blocks; raises Closed when the feeder is gone."""
        if not os.read(filled, 1):
            raise Closed
        tokens = self.steps[self._taken % self.shape.slots].copy()
        self._taken += 1
        try:
            os.write(free, b"\0")
        except BrokenPipeError:
            raise Closed from None
        return tokens
