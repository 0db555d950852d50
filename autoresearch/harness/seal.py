"""The seal of an answer: to which question it is, about which text, by which program.

    seal      what a process that scores or replays puts on its answer, from what it has loaded
    opened    the answer of such a process, once its seal is the one expected

A result that is missing something, or is another trial's, or was computed by a program that was changed on disk in the
meantime, is no result.
"""

from __future__ import annotations

import json
from typing import Any

from autoresearch.data.prepared import Prepared
from autoresearch.harness import assemble

WORDS = {"nonce": "it answers another question", "text": "it is about another text",
         "tokenizer": "it is about another tokenizer",
         "program": "the program on disk is no longer the one that is running; stop it and start it again"}


class Broken(Exception):
    """In words that follow the name of the process."""


def seal(nonce: str, found: Prepared, tokenizer: str, program: str = "") -> dict[str, str]:
    """`program` is its digest; "": as it is on disk now."""
    return {"nonce": nonce, "text": found.digest, "tokenizer": found.manifest.tokenizers[tokenizer].digest,
            "program": program or assemble.program_digest()}


def opened(answer: bytes, expected: dict[str, str], wanted: tuple[str, ...]) -> dict[str, Any]:
    """The answer, if it is whole: a failure with its reason and cause, or all of `wanted` under the expected seal.
    Raises Broken."""
    try:
        result = json.loads(answer)
    except ValueError:
        raise Broken("gave no whole answer") from None
    if not isinstance(result, dict):
        raise Broken("gave no whole answer")
    if result.get("status") != "ok":
        if all(isinstance(result.get(name), str) for name in ("status", "reason", "cause")):
            return result
        raise Broken("gave no whole answer")
    if missing := [name for name in (*wanted, "seal") if name not in result]:
        raise Broken(f"left {', '.join(missing)} out of its answer")
    carried = result["seal"] if isinstance(result["seal"], dict) else {}
    if other := [name for name in expected if carried.get(name) != expected[name]]:
        raise Broken(f"gave an answer that can't be used: {WORDS[other[0]]}")
    return result
