"""What counts as simpler."""

from __future__ import annotations

import pytest

from autoresearch.research.simplicity import simpler

CODE = b"""# what it is\ndef f(x):\n    y = x + 1\n    return y\n"""
RECIPE = b"[model]\ndepth = 2\nwidth = 64\n"


def changed(code: bytes = CODE, recipe: bytes = RECIPE) -> str:
    before = {"torch_model.py": CODE, "recipe.toml": RECIPE}
    return simpler({"torch_model.py": code, "recipe.toml": recipe}, before)


@pytest.mark.parametrize(("code", "said"), [
    (b"def f(x):\n    return x + 1\n", "1 line fewer"),
    (b"f = lambda x: x\n", "2 lines fewer"),
])
def test_code_that_says_less_is_simpler(code: bytes, said: str) -> None:
    assert changed(code) == said


def test_a_key_less_is_simpler() -> None:
    assert changed(recipe=b"[model]\ndepth = 2\n") == "1 recipe key fewer"
    assert changed(b"def f(x):\n    return x + 1\n", b"[model]\n") == "1 line and 2 recipe keys fewer".replace(
        "1 line and", "1 line fewer and")


@pytest.mark.parametrize("code", [
    CODE,
    CODE.replace(b"# what it is\n", b""),
    CODE.replace(b"\n    return y", b"; return y"),
    CODE.replace(b"y", b"longer"),
    CODE + b"z = 1\n",
    b"def f(x:\n",
    b"\xff\xfe\x00",
])
def test_comments_layout_and_joined_lines_are_not_simpler_nor_is_what_can_not_be_read(code: bytes) -> None:
    assert changed(code) == ""


def test_less_code_for_more_keys_is_not_simpler() -> None:
    assert changed(b"def f(x):\n    return x + 1\n", RECIPE + b"[extra]\nslope = 1.0\n") == ""
