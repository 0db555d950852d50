"""A small text, a small recipe, the real candidate, and candidates that are the real one with one edit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from autoresearch.cli.machine import candidate_files
from autoresearch.data import prepare
from autoresearch.data.corpus import Corpus
from autoresearch.data.prepared import Prepared
from backends.recipe import Recipe, parse
from tests.data.texts import made_text

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """\
[data]
tokenizer = "byte"

[model]
depth = 1
width = 32
head_dim = 16
seq_len = 64
value_gate_channels = 8

[batch]
tokens_per_step = 512

[runtime]
precision = "float32"
compile = false
"""

# Places of MLX's model where a candidate may run code, and what that code may use.
LOSS = "    return cross_entropy(logits(w, tokens_BT1[:, :-1], spec, salt), tokens_BT1[:, 1:])\n"
LOGITS = "    return head(w, hidden(w, tokens_BT, spec, salt), spec)\n"
HEADER = "import json, os, signal, sys, time\n_calls = []\ndef _tell(line):\n" \
         "    os.write(json.loads(sys.argv[3])['control'], line.encode() + b'\\n')\n"
TRAINING = "len(_calls) > 5"  # three steps of warm-up come first


def tiny_recipe(**changes: object) -> Recipe:
    """The recipe above with changes: `tiny_recipe(model__depth=2)`."""
    return parse(RECIPE).replace({name.replace("__", "."): value for name, value in changes.items()})


def honest() -> dict[str, bytes]:
    return candidate_files(ROOT / "backends/gpt") | {"recipe.toml": RECIPE.encode()}


def edited(name: str, old: str, new: str) -> dict[str, bytes]:
    """The real candidate with one edit, of text that stands there once."""
    files = honest()
    source = files[name].decode()
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {name}"
    return files | {name: source.replace(old, new).encode()}


def with_code(place: str, code: str) -> dict[str, bytes]:
    """The real candidate, with code run each time before `place`, which may refer to the number of such `_calls`."""
    lines = "".join(f"    {line}\n" for line in ["_calls.append(1)", *code.splitlines()])
    files = edited("mlx_model.py", place, lines + place)
    model = files["mlx_model.py"].decode()
    first = "import mlx.core as mx\n"
    return files | {"mlx_model.py": model.replace(first, first + HEADER, 1).encode()}


def small_text(cache: Path, size: int = 150_000, tokenizers: tuple[str, ...] = ("byte", "bpe-512")) -> Prepared:
    """Made-up text, prepared in a cache of its own."""
    corpus = Corpus("text", "made up", "made", lambda: (made_text(size // 4, seed) for seed in range(4)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTORESEARCH_CACHE", str(cache))
        return prepare.prepare(corpus, "made", tokenizers).prepared


def ours_below(folder: Path) -> list[psutil.Process]:
    """Living processes of the harness that work in a folder or were told of it."""
    return [p for p in psutil.process_iter() if p.pid != os.getpid() and _is_ours(p, str(folder))]


def _is_ours(process: psutil.Process, folder: str) -> bool:
    try:
        line = " ".join(process.cmdline())
        return "autoresearch.harness." in line and process.status() != psutil.STATUS_ZOMBIE \
            and (folder in line or folder in process.cwd())
    except psutil.Error:
        return False


def gone(pid: int) -> bool:
    """Whether a process has ended, waited for or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def comes_true(condition: Callable[[], object], within_s: float) -> bool:
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
