"""Every verb explains itself, with an example, and the written page says the same."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

from autoresearch.cli import VERBS, shell

ROOT = Path(__file__).resolve().parents[2]


def help_of(verb: str) -> str:
    command = shell.load(verb)
    # The names the group gives it: a command keeps the help option of the first context it was asked in.
    context = click.Context(command, info_name=f"ar {verb}", terminal_width=100, help_option_names=["-h", "--help"])
    return command.get_help(context)


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example_that_calls_the_verb(verb: str) -> None:
    _, heading, example = help_of(verb).partition("Example")
    assert heading, f"`ar {verb} --help` has no Example section"
    assert re.search(rf"\bar {verb}\b", example)


@pytest.mark.parametrize("verb", VERBS)
def test_the_summary_in_the_list_is_the_commands_own(verb: str) -> None:
    assert shell.load(verb).get_short_help_str(limit=200) == VERBS[verb]


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_explained(verb: str) -> None:
    options = [p for p in shell.load(verb).params if isinstance(p, click.Option) and not p.hidden]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_in_the_written_page(verb: str) -> None:
    assert f"## ar {verb}\n" in (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def test_the_written_page_is_what_the_help_says(generate: ModuleType) -> None:
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == generate.commands(), "run `make docs`"


def test_links_of_the_documentation_lead_somewhere(generate: ModuleType) -> None:
    assert generate.broken(ROOT) == []


def test_a_link_to_no_file_or_heading_is_found(generate: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# Two words\n")
    (tmp_path / "README.md").write_text(
        "[ok](docs/a.md#two-words) [ok](https://example.com) `[code](no.md)`\n"
        "[gone](docs/b.md) [gone](docs/a.md#three)\n"
    )
    assert len(generate.broken(tmp_path)) == 2
