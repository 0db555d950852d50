"""Bytes as text: UTF-8 boundaries, character counts, places to cut. An invalid byte counts as one character."""

from __future__ import annotations

import re

_ESCAPED = re.compile("[\udc80-\udcff]+")  # what surrogateescape makes of invalid bytes


def decode(data: bytes) -> str:
    """Text in which each invalid byte is one lone surrogate; `.encode("utf-8", "surrogateescape")` undoes it."""
    return data.decode("utf-8", "surrogateescape")


def chars(data: bytes) -> int:
    return len(decode(data))


def invalid_bytes(data: bytes) -> int:
    return sum(len(run) for run in _ESCAPED.findall(decode(data)))


def parts(data: bytes) -> list[str | bytes]:
    """`data` as alternating valid text (str) and runs of invalid bytes (bytes), empty parts left out."""
    whole = decode(data)
    found: list[str | bytes] = []
    end = 0
    for run in _ESCAPED.finditer(whole):
        found += [whole[end:run.start()], run.group().encode("utf-8", "surrogateescape")]
        end = run.end()
    return [part for part in (*found, whole[end:]) if part]


def char_boundary(data: bytes | bytearray, at: int) -> int:
    """The last place up to `at` that is not inside a character; `at` itself among invalid bytes."""
    if at >= len(data):
        return len(data)
    for back in range(min(4, at + 1)):
        if data[at - back] & 0xC0 != 0x80:
            return at - back
    return at


def cut_near(data: bytes | bytearray, target: int, reach: int) -> int:
    """The place nearest to `target` within `reach` bytes to cut a text: after a blank line, else after
    a line, else at a character boundary."""
    low, high = max(0, target - reach), min(len(data), target + reach)
    window = data[low:high]
    for pattern in (rb"\n[ \t\r]*\n+", rb"\n"):
        if places := [low + m.end() for m in re.finditer(pattern, window)]:
            return min(places, key=lambda place: abs(place - target))
    return char_boundary(data, target)
