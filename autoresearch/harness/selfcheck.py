"""Whether the sandbox holds on this machine: a sandboxed child tries what it must not be able to do, on decoys."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch import scratch
from autoresearch.harness import assemble, launch
from autoresearch.harness.channel import Channel, Closed
from autoresearch.harness.text import clean, tail

TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Tried:
    name: str
    refused: bool
    how: str  # the error that refused it


def self_check() -> list[Tried]:
    """One for each attempt. Raises RuntimeError where the child itself fails, UserError where there is no sandbox."""
    with scratch.folder() as root, _decoys(root) as decoys:
        folder = root / "trial"
        assemble.assemble(folder / "tree", {})
        decoys["tree"] = str(folder / "tree")
        ours, theirs = socket.socketpair()
        decoys["control"] = theirs.fileno()
        process = launch.candidate("forbidden", json.dumps(decoys), folder / "tree", folder, (theirs.fileno(),))
        theirs.close()
        channel = Channel(ours)
        try:
            return _results(channel, folder)
        finally:
            channel.close()
            launch.end(process)


def _results(channel: Channel, folder: Path) -> list[Tried]:
    tried: list[Tried] = []
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            message = channel.receive(max(0.0, deadline - time.monotonic()))
        except Closed:
            raise RuntimeError(f"the sandboxed process ended early:\n{tail(folder / 'log.txt')}") from None
        if message is None:
            raise RuntimeError(f"the sandboxed process was not done within {TIMEOUT_S:.0f} s")
        if message["event"] == "done":
            return tried
        tried.append(Tried(str(message["name"]), bool(message["refused"]), clean(str(message["how"]), 200)))


@contextlib.contextmanager
def _decoys(root: Path) -> Iterator[dict[str, Any]]:
    """Files, sockets and a process of no worth, for attempts that may succeed."""
    (root / "elsewhere").mkdir()
    files = {name: str(root / "elsewhere" / name) for name in ("secret", "truncated", "deleted", "modes", "moved")}
    for name in ("secret", "truncated", "deleted", "modes"):
        Path(files[name]).write_text("a decoy\n")
    linux = sys.platform == "linux"
    word = ctypes.create_string_buffer(b"a decoy")
    with contextlib.ExitStack() as held:
        asleep = held.enter_context(subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL))
        held.callback(asleep.kill)
        addresses: dict[str, Any] = {"unix": str(root / "stream"), "unix_datagram": str(root / "datagram")}
        _listening(held, socket.AF_UNIX, addresses["unix"])
        held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).bind(addresses["unix_datagram"])
        addresses["ipv4"] = _listening(held, socket.AF_INET, ("127.0.0.1", 0))
        with contextlib.suppress(OSError):
            addresses["ipv6"] = _listening(held, socket.AF_INET6, ("::1", 0))
        if linux:
            addresses["abstract"] = f"\0autoresearch-{os.getpid()}-{root.name}"
            _listening(held, socket.AF_UNIX, addresses["abstract"])
        yield {**files, **addresses, "elsewhere": str(root / "elsewhere"), "linux": linux, "pid": asleep.pid,
               "address": ctypes.addressof(word)}


def _listening(held: contextlib.ExitStack, family: int, address: Any) -> Any:
    """The port, or the path, of a decoy that accepts connections."""
    s = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
    s.bind(address)
    s.listen()
    return s.getsockname()[1] if isinstance(address, tuple) else address
