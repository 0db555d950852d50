"""Writes docs/commands.md from the commands' own help; with --check, says what is out of date or links to nowhere.

    commands   the page: every command's help at a fixed width
    broken     links in the Markdown of the repository that lead to no file or no heading
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from autoresearch.cli import VERBS, shell

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "commands.md"
WIDTH = 100  # characters of help text, whatever the terminal

INTRO = """# Commands

`ar` and `autoresearch` are the same program. Progress goes to stderr, results to stdout. Exit code 0: done;
1: failed, with the reason; 2: a command line that can't be meant. `make docs` writes this page from the help.
"""


def commands() -> str:
    """The page's text."""
    parts = [INTRO, _section("ar", shell.command)]
    parts += [_section(f"ar {verb}", shell.load(verb)) for verb in VERBS]
    return "\n".join(parts)


def _section(name: str, command: click.Command) -> str:
    settings = {**command.context_settings, "help_option_names": ["-h", "--help"]}
    context = click.Context(command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH, **settings)
    lines = (line.rstrip() for line in command.get_help(context).splitlines())
    return f"## {name}\n\n```text\n" + "\n".join(lines) + "\n```\n"


def broken(root: Path) -> list[str]:
    """One sentence for each link to a file that isn't there or a heading that isn't in it."""
    pages = [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]
    problems = []
    for page in pages:
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


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, spelt as forges do."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.+?) *$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def main() -> int:
    text = commands()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    problems = broken(ROOT)
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        problems.append("docs/commands.md is not what the help says: run `make docs` and commit it")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
