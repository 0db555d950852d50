"""Writes docs/commands.md from the commands' own help, docs/recipes.md from the schema and docs/machines.md from
benchmarks/machines; with --check, says what is out of date or leads nowhere.

    commands   a page: every command's help at a fixed width
    recipes    a page: every key of a recipe
    pages      every page that is written, by its path
    broken     links in the Markdown of the repository that lead to no file or no heading
    unknown    commands, options and make targets in that Markdown that do not exist
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from autoresearch import bench_pages
from autoresearch.cli import VERBS, archiver, shell
from backends.recipe import PRESETS, TABLES, Key, keys, load, preset_file

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 100  # characters of help text, whatever the terminal

INTRO = """# Commands

`ar` and `autoresearch` are the same program. Progress goes to stderr, results to stdout. Exit code 0: done;
1: failed, with the reason; 2: a command line that can't be meant. `make docs` writes this page from the help.
"""

RECIPES = """# Recipes

A recipe is everything numeric or categorical that defines a training run: a TOML file with the tables below. Keys that
are left out take their defaults. `make docs` writes this page from the schema, `backends/recipe.py`.

| where | what it is |
|---|---|
| `backends/gpt/recipe.toml` | what a study begins with, once `ar probe` has sized it; each kept change edits it |
| `backends/presets/modern.toml`, `gpt2.toml` | to start from instead: `ar loop --preset gpt2` |
| `backends/reference.toml` | what studies are compared with in the end: upstream's defaults at a small size |

`ar train --set model.depth=6` turns a key for one run, `ar queue --set model.depth=6 -m "why"` makes it a study's next
experiment, `ar log 7` shows what an experiment turned. A value out of its range, a key that does not exist and keys
that do not go together are refused with what is allowed, before anything runs.

A table `[extra]` belongs to the candidate: any names, finite numbers, for code in `backends/gpt/` to read as
`recipe.extra["name"]`.

Where a preset's column is empty it has the default.
"""


def commands() -> str:
    """The page's text."""
    parts = [INTRO, _section("ar", shell.command)]
    for verb in VERBS:
        command = shell.load(verb)
        parts.append(_section(f"ar {verb}", command))
        if isinstance(command, shell.Verbs):
            parts += [_section(f"ar {verb} {inner}", shell.load(command.prefix + inner)) for inner in command.verbs]
    return "\n".join(parts)


def pages() -> dict[Path, str]:
    results = sorted((ROOT / "benchmarks" / "machines").glob("*.json"))
    written = {"commands": commands(), "recipes": recipes(), "machines": bench_pages.page(results)}
    return {ROOT / "docs" / f"{name}.md": text for name, text in written.items()}


def recipes() -> str:
    """The page's text: a table of keys for each table of a recipe."""
    presets = [load(preset_file(name)).flat() for name in PRESETS]
    parts = [RECIPES]
    for table in TABLES:
        rows = [_row(key, [preset[key.name] for preset in presets])
                for key in keys() if key.name.startswith(f"{table}.")]
        parts.append("\n".join([f"## {table}", "", f"| key | default | {' | '.join(PRESETS)} | may be | what it is |",
                                f"|---|---|{'---|' * len(PRESETS)}---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _row(key: Key, values: list[object]) -> str:
    shown = [_value(key.default), *("" if value == key.default else _value(value) for value in values)]
    return f"| `{key.name}` | {' | '.join(shown)} | {key.allowed()} | {key.help} |"


def _value(value: object) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _section(name: str, command: click.Command) -> str:
    settings = {**command.context_settings, "help_option_names": ["-h", "--help"]}
    context = click.Context(command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH, **settings)
    lines = (line.rstrip() for line in command.get_help(context).splitlines())
    return f"## {name}\n\n```text\n" + "\n".join(lines) + "\n```\n"


def broken(root: Path) -> list[str]:
    """One sentence for each link to a file that isn't there or a heading that isn't in it."""
    problems = []
    for page in _markdown(root):
        text = _without_code(page.read_text(encoding="utf-8"))
        targets = re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
        for target in targets:
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            if not file.exists():
                problems.append(f"{page.relative_to(root)}: {target} leads to no file")
            elif anchor and file.suffix == ".md" and anchor not in _anchors(file):
                problems.append(f"{page.relative_to(root)}: {target} leads to no heading")
    return problems


def unknown(root: Path) -> list[str]:
    """One sentence for each command line in code that can't be meant: `ar VERB --option` and `make TARGET`."""
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    problems = []
    for page in _markdown(root):
        for words in _command_lines(page.read_text(encoding="utf-8")):
            wrong = _wrong_call(words[1:]) if words[0] == "ar" else \
                [f"no target {word}" for word in words[1:2] if word.isalpha() and word not in targets]
            problems += [f"{page.relative_to(root)}: `{' '.join(words)[:80]}`: {what}" for what in wrong]
    return problems


def _command_lines(text: str) -> list[list[str]]:
    """The words of every call of `ar` or `make` in code, each up to a pipe, a comment or the next command."""
    fences = re.findall(r"^```[^\n]*\n(.*?)^```", text, flags=re.M | re.S)
    lines = [line for fence in fences for line in fence.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    # Without comments, and without what is quoted, which is for another program to judge.
    lines = [re.sub(r'"[^"]*"', '""', line.partition(" # ")[0].strip()) for line in lines]
    calls = [call.removeprefix("$ ").split() for line in lines for call in re.split(r"\||&&|;", line)]
    return [words for words in calls if len(words) > 1 and words[0] in ("ar", "make")]


def _wrong_call(args: list[str]) -> list[str]:
    if args[0].startswith("-") or args[0].isupper() or archiver.is_archiver_call(args, VERBS):
        return []
    if args[0] not in VERBS:
        return [f"no command {args[0]}"]
    command = shell.load(args[0])
    if isinstance(command, shell.Verbs) and len(args) > 1 and args[1] in command.verbs:
        command = shell.load(command.prefix + args[1])
    known = {"--help", *(name for p in command.params for name in [*p.opts, *p.secondary_opts])}
    given = [re.split(r"[=,.)\]]", word)[0] for word in args if word.startswith("--")]
    return [f"no option {name}" for name in given if name not in known]


def _markdown(root: Path) -> list[Path]:
    return [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, spelt as forges do."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.+?) *$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def main() -> int:
    written = pages()
    if "--check" not in sys.argv[1:]:
        for page, text in written.items():
            page.write_text(text, encoding="utf-8")
        return 0
    problems = [*broken(ROOT), *unknown(ROOT)]
    for page, text in written.items():
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            problems.append(f"{page.relative_to(ROOT)} is not what it is made from: run `make docs` and commit it")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
