"""What the docs say can be typed exists: a command, an option or a make target that doesn't is found."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_and_commands_of_the_docs_exist(generate: ModuleType) -> None:
    assert generate.broken(ROOT) + generate.unknown(ROOT) == []
    lines = [words for page in generate._markdown(ROOT) for words in generate._command_lines(page.read_text())]
    assert {words[0] for words in lines} == {"ar", "make"} and len(lines) > 50


@pytest.mark.parametrize(("text", "problem"), [
    ("`ar lop`", "no command lop"), ("```sh\nar loop --untill 07:30\n```", "no option --untill"),
    ("```bash\nmake setup && make tests\n```", "no target tests"), ("`ar data shwo --name x`", "no option --name"),
    ("see `cat x | ar nope`", "no command nope"), ("`ar report --tag=x --nope=1`", "no option --nope")])
def test_what_does_not_exist_is_found(text: str, problem: str, generate: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("setup: x\n")
    (tmp_path / "README.md").write_text(text)
    [found] = generate.unknown(tmp_path)
    assert found.startswith("README.md: ") and found.endswith(problem)


@pytest.mark.parametrize("text", [
    "`ar rcs lib.a x.o`", "`ar loop --until 07:30 --ratchet careful`", "ar lop", "`ar COMMAND --help`", "`ar`",
    "```sh\nar data verify  # ar nope --nope\n```", "`make setup TORCH_INDEX=<...>`", "`arx loop`"])
def test_what_exists_or_is_no_command_is_left_alone(text: str, generate: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("setup: x\n")
    (tmp_path / "README.md").write_text(text)
    assert generate.unknown(tmp_path) == []
