"""binutils has an `ar` too: calls meant for it go to the next `ar` on PATH.

    is_archiver_call   does this command line look like one for the archiver?
    next_ar            the archiver on PATH behind our own `ar`
    hand_over          become that archiver

Only sys and os are imported: builds call `ar` thousands of times.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Sequence
from typing import NoReturn

OPERATIONS = "dmpqrtx"  # at most one of them in a call; `s` (write an index) is both operation and modifier
MODIFIERS = "abcDfiILlNoOPsSTuUvV"
LONG_OPTIONS = ("--plugin", "--target", "--output", "--record-libdeps", "--thin", "--format", "--rsp-quoting")
OURS = ("--help", "--version")
TRIED = "AUTORESEARCH_AR_TRIED"  # archivers already handed over to: a shim of ours must not be called again


def is_archiver_call(argv: Sequence[str], verbs: Container[str]) -> bool:
    """True for what is none of our verbs or options and reads as an archiver's operation: `rcs lib.a
    x.o`, `-x lib.a`, `@file`, `--plugin`. A misspelt verb of ours is False unless it spells one."""
    if not argv or argv[0] in verbs or argv[0] in OURS:
        return False
    first = argv[0]
    if first.startswith("@"):
        return len(first) > 1
    if first.startswith("--"):
        name = first.partition("=")[0]
        return len(name) > 3 and any(option.startswith(name) for option in LONG_OPTIONS)
    if first in ("-h", "-H", "-M"):
        return True
    letters = first.removeprefix("-")
    operations = sum(letter in OPERATIONS for letter in letters)
    if not letters or operations > 1 or not all(letter in OPERATIONS + MODIFIERS for letter in letters):
        return False
    if first.startswith("-"):
        return True  # the operation may be in a later word: `ar -c -r lib.a x.o`
    if len(argv) == 1 and len(letters) > 2:
        return False  # no archive named: `ar lop` is rather a misspelt verb
    return operations == 1 or "s" in letters or letters == "V"


def next_ar(path: str, tried: Sequence[str] = ()) -> str | None:
    """The first executable `ar` in the folders of `path` that isn't autoresearch or in `tried`."""
    skip = {os.path.realpath(name) for name in (sys.argv[0], os.path.join(os.path.dirname(sys.executable), "ar"))}
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder or os.curdir, "ar")
        if os.path.realpath(candidate) in skip or candidate in tried or not os.access(candidate, os.X_OK):
            continue
        if os.path.isfile(candidate) and not _is_autoresearch(candidate):
            return candidate
    return None


def hand_over(argv: Sequence[str]) -> NoReturn:
    """Replaces this process by the archiver. Where there is none, an error and exit code 1."""
    tried = [name for name in os.environ.get(TRIED, "").split(os.pathsep) if name]
    archiver = next_ar(os.environ.get("PATH", os.defpath), tried)
    if archiver is None:
        print(f"error: `ar {' '.join(argv[:2])}` is a call for the archiver, and PATH has no other `ar` than ours\n"
              "  Install binutils (Linux, WSL2) or Xcode's command line tools (macOS). For autoresearch: `ar --help`.",
              file=sys.stderr)
        raise SystemExit(1)
    sys.stdout.flush()
    sys.stderr.flush()
    environ = os.environ | {TRIED: os.pathsep.join([*tried, archiver])}
    try:
        os.execve(archiver, ["ar", *argv], environ)
    except OSError as error:
        print(f"error: the archiver {archiver} can't be run: {error.strerror}\n"
              "  Put another `ar` before it on PATH, or repair it.", file=sys.stderr)
        raise SystemExit(1) from None


def _is_autoresearch(path: str) -> bool:
    """Another environment's `ar` of ours: a small script that imports autoresearch.cli."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return head.startswith(b"#!") and b"autoresearch.cli" in head
