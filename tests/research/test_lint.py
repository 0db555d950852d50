"""The lint: a sentence for each honest mistake, none for code that computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoresearch.research.lint import lint

CANDIDATE = Path(__file__).parents[2] / "backends/gpt"


def said(code: str) -> list[str]:
    return lint({"model.py": code.encode()})


def test_there_is_nothing_to_say_about_the_candidate_as_it_is() -> None:
    assert lint({p.name: p.read_bytes() for p in CANDIDATE.iterdir() if p.is_file()}) == []


@pytest.mark.parametrize(("code", "words"), [
    ("import time", "imports time: the time is the harness's"),
    ("from os import path", "imports os: a trial can read its own code"),
    ("def f():\n    import requests", "model.py:2: imports requests: a trial has no network"),
    ("import scipy.linalg", "imports scipy: this is not arithmetic"),
    ("import importlib", "imports importlib: this hides"),
    ("import threading", "imports threading: a trial can't start programs"),
    ("open('a')", "open(): a trial can read its own code"),
    ("import numpy as n\nn.random.seed(3)", "model.py:2: numpy.random.seed(): seeds are the harness's"),
    ("from numpy.random import default_rng as new\nnew(3)", "numpy.random.default_rng(): seeds are"),
    ("import mlx.core as mx\nmx.random.seed(1)", "mlx.core.random.seed(): seeds are"),
    ("import torch\ntorch.manual_seed(1)", "torch.manual_seed(): seeds are"),
    ("import torch\nx = torch.load('a')", "torch.load(): a trial can read"),
    ("exec('1')", "exec(): this hides"), ("print(1)", "print(): what a trial prints"),
    ("def f(:", "model.py:1: this is not Python"), ("a = 1\0", "this is not Python"),
])
def test_a_mistake_is_named_with_its_line_and_what_to_do_instead(code: str, words: str) -> None:
    assert len(said(code)) == 1 and words in said(code)[0], said(code)


@pytest.mark.parametrize("code", [
    "import math\nfrom collections import deque\nimport numpy as np\nrng = np.random", "x.open()", "re.compile('a')",
    "import torch\nf = torch.compile(g)", "from . import params", "from backends.gpt.schedule import POLYNOMIALS",
])
def test_code_that_computes_is_let_be(code: str) -> None:
    assert said(code) == []


def test_only_what_was_edited_is_remarked_on() -> None:
    before = {"a.py": b"import time", "b.py": b"x = 1"}
    after = {"a.py": b"import time", "b.py": b"import time", "notes.txt": b"import time"}
    assert [remark.partition(":")[0] for remark in lint(after, before)] == ["b.py"]
