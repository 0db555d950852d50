"""Every verb explains itself, with an example, and the written page says the same."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from autoresearch.cli import VERBS, shell

ROOT = Path(__file__).resolve().parents[2]


def calls() -> dict[str, click.Command]:
    """Every command by what is typed after `ar`, those inside another one included."""
    found = {verb: shell.load(verb) for verb in VERBS}
    for verb, command in list(found.items()):
        if isinstance(command, shell.Verbs):
            found |= {f"{verb} {inner}": shell.load(command.prefix + inner) for inner in command.verbs}
    return found


CALLS = calls()


def help_of(call: str) -> str:
    command = CALLS[call]
    # The names the group gives it: a command keeps the help option of the first context it was asked in.
    context = click.Context(command, info_name=f"ar {call}", terminal_width=100, help_option_names=["-h", "--help"])
    return command.get_help(context)


@pytest.mark.parametrize("call", CALLS)
def test_help_has_an_example_that_calls_the_verb(call: str) -> None:
    _, heading, example = help_of(call).partition("Example")
    assert heading, f"`ar {call} --help` has no Example section"
    assert re.search(rf"\bar {call}\b", example)


@pytest.mark.parametrize("call", CALLS)
def test_the_summary_in_the_list_is_the_commands_own(call: str) -> None:
    outer, _, inner = call.partition(" ")
    listed = CALLS[outer].verbs[inner] if inner else VERBS[outer]  # type: ignore[attr-defined]
    assert CALLS[call].get_short_help_str(limit=200) == listed


@pytest.mark.parametrize("call", CALLS)
def test_every_option_is_explained(call: str) -> None:
    options = [p for p in CALLS[call].params if isinstance(p, click.Option) and not p.hidden]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("call", CALLS)
def test_a_number_that_is_not_finite_is_refused_in_a_sentence(call: str) -> None:
    numbers = [p for p in CALLS[call].params if isinstance(p.type, click.types.FloatParamType)]
    for option, value in itertools.product(numbers, ("nan", "inf")):
        with pytest.raises(click.BadParameter, match=r"is not a finite number: write digits|is not in the range"):
            option.type.convert(value, option, None)


def test_the_written_page_is_what_the_help_says() -> None:
    """In a process of its own: here a command keeps the help option of whoever asked it first."""
    done = subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stderr) == (0, "")
