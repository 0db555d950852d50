"""Talk between processes: what is sent arrives, and a stranger can send anything without harm."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.harness.channel import MAX_MESSAGE_BYTES, Channel, Closed, Ring, RingShape, shared_buffer

Ends = tuple[Channel, socket.socket]
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
                    max_leaves=8)


@contextlib.contextmanager
def pair() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    try:
        yield channel, theirs
    finally:
        channel.close()
        theirs.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    with pair() as both:
        yield both


@given(st.lists(st.dictionaries(st.text(max_size=10), JSON, max_size=4), max_size=6), st.data())
def test_messages_arrive_whole_and_in_order_however_the_bytes_are_cut(messages: list[dict],
                                                                      data: st.DataObject) -> None:
    with pair() as (channel, theirs):
        arrive_cut(messages, data, channel, theirs)


def arrive_cut(messages: list[dict], data: st.DataObject, channel: Channel, theirs: socket.socket) -> None:
    stream = b"".join(json.dumps(m).encode() + b"\n" for m in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    got = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        theirs.sendall(stream[start:end])
        while (message := channel.receive(0)) is not None:
            got.append(message)
    theirs.close()
    assert got == messages
    with pytest.raises(Closed):
        channel.receive(1.0)


@given(st.dictionaries(st.text(max_size=10).filter(lambda k: k != "self"), JSON, max_size=4))
def test_what_a_channel_sends_a_channel_receives(message: dict) -> None:
    with pair() as (channel, theirs):
        Channel(theirs).send(**message)
        assert channel.receive(1.0) == message


@given(st.binary(max_size=200).map(lambda b: b.replace(b"\n", b" ") + b"\n"))
def test_any_line_is_a_message_or_a_value_error(line: bytes) -> None:
    with pair() as (channel, theirs), contextlib.suppress(ValueError):
        theirs.sendall(line)
        assert isinstance(channel.receive(1.0), dict)


@pytest.mark.parametrize("line", [
    b"\n", b"hello\n", b"[1]\n", b"3\n", b"null\n", b'"text"\n', b'{"a": \n', b"\xff\xfe\n", b"[" * 60_000 + b"\n",
    b'{"a":' * 9_000 + b"1" + b"}" * 9_000 + b"\n", b'{"a": ' + b"9" * 50_000 + b"}\n",
], ids=["empty", "words", "list", "number", "null", "text", "torn", "not UTF-8", "deep", "deep object", "long number"])
def test_what_is_not_a_message_is_refused(ends: Ends, line: bytes) -> None:
    channel, theirs = ends
    theirs.sendall(line)
    with pytest.raises(ValueError):
        channel.receive(1.0)


def test_a_message_that_never_ends_is_refused_before_it_fills_memory(ends: Ends) -> None:
    channel, theirs = ends
    sender = threading.Thread(target=lambda: _send_until_closed(theirs, b"x" * 65_536), daemon=True)
    sender.start()
    with pytest.raises(ValueError, match="longer"):
        channel.receive(5.0)
    assert len(channel._buffer) <= 2 * MAX_MESSAGE_BYTES
    channel.close()
    sender.join(5)
    assert not sender.is_alive()


def _send_until_closed(theirs: socket.socket, data: bytes) -> None:
    try:
        while True:
            theirs.sendall(data)
    except OSError:
        pass


def test_no_message_in_time_is_none_and_bytes_that_trickle_in_do_not_stretch_the_time(ends: Ends) -> None:
    channel, theirs = ends
    assert channel.receive(0.05) is None
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.05):
            theirs.sendall(b" ")

    sender = threading.Thread(target=trickle, daemon=True)
    sender.start()
    began = time.monotonic()
    assert channel.receive(0.4) is None
    assert time.monotonic() - began < 1.0
    stop.set()
    sender.join()


def test_the_rest_of_a_message_is_kept_until_it_is_whole(ends: Ends) -> None:
    channel, theirs = ends
    theirs.sendall(b'{"event": ')
    assert channel.receive(0.05) is None
    theirs.sendall(b'"done"}\n{"event": "next"}\n')
    assert [channel.receive(1.0), channel.receive(1.0)] == [{"event": "done"}, {"event": "next"}]


def test_sending_to_whoever_is_gone_is_closed(ends: Ends) -> None:
    channel, theirs = ends
    theirs.close()
    with pytest.raises(Closed):
        channel.send(event="go")


def test_messages_sent_before_the_end_are_received_before_closed(ends: Ends) -> None:
    channel, theirs = ends
    theirs.sendall(b'{"event": "failed"}\n')
    theirs.close()
    assert channel.receive(1.0) == {"event": "failed"}
    with pytest.raises(Closed):
        channel.receive(1.0)


# The ring

def test_the_ring_hands_out_steps_in_the_order_they_were_filled_and_counts_free_slots() -> None:
    shape = RingShape(rows=2, dev_rows=1, seq_len=3, slots=3)
    memory = shared_buffer(shape.size_bytes)
    (filled_read, filled_write), (free_read, free_write) = os.pipe(), os.pipe()
    feeder, trial = Ring(memory, shape), Ring(memory, shape)
    for number in range(8):
        feeder.steps[number % 3] = number
        os.write(filled_write, b"\0")
        taken = trial.take(filled_read, free_write)
        assert taken.shape == (2, 4) and (taken == number).all()
        assert os.read(free_read, 10) == b"\0"
        feeder.steps[:] = -1
        assert (taken == number).all()  # a copy: the feeder may fill the slot again
    os.close(filled_write)
    with pytest.raises(Closed):
        trial.take(filled_read, free_write)
    for fd in (memory, filled_read, free_read, free_write):
        os.close(fd)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no memfd")
@pytest.mark.parametrize("size", [0, 4096, 3 * 4096])
def test_who_holds_shared_memory_can_not_change_its_size(size: int) -> None:
    """Cut under those who have mapped it, it would end them by a signal: the scorer, the feeder."""
    memory = shared_buffer(2 * 4096)
    with pytest.raises(PermissionError):
        os.ftruncate(memory, size)
    with pytest.raises(PermissionError):  # nor take that back
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, 0)
    assert os.fstat(memory).st_size == 2 * 4096 and not os.get_inheritable(memory)
    os.close(memory)


def test_the_dev_rows_lie_behind_the_steps_and_nothing_overlaps() -> None:
    shape = RingShape(rows=2, dev_rows=3, seq_len=4)
    memory = shared_buffer(shape.size_bytes)
    assert os.fstat(memory).st_size == shape.size_bytes
    one, other = Ring(memory, shape), Ring(memory, shape)
    one.steps[:] = 1
    one.dev[:] = np.arange(15).reshape(3, 5)
    assert (other.steps == 1).all() and (other.dev == np.arange(15).reshape(3, 5)).all()
    os.close(memory)
