"""An experiment in the making: edits are taken one by one, and refused with a sentence that says how to mend them.

    Draft       the edits so far, on top of the incumbent
    EditError   an edit that can't be taken; nothing of it was
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import Any

from autoresearch.research.brief import change, curve, fenced
from autoresearch.research.researchers.base import Context, Proposal
from autoresearch.research.researchers.reading import attempts
from backends.recipe import RecipeError, keys

FOLDER, RECIPE = "backends/gpt/", "recipe.toml"
PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(/[A-Za-z_][A-Za-z0-9_-]*)*\.(py|toml|txt|md)")
MOST_FILE_CHARS, SHOWN_CHARS = 200_000, 60_000
HYPOTHESIS_CHARS, EVIDENCE_CHARS = 300, 1500
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class EditError(Exception):
    """Says what was wrong and what to do instead."""


@dataclass
class Draft:
    context: Context
    changes: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str | None] = field(default_factory=dict)

    def set_recipe(self, changes: dict[str, Any]) -> str:
        """All of them or none."""
        schema = {k.name: k for k in keys()}
        wanted = {name: _typed(schema[name].type, value) if name in schema else value
                  for name, value in changes.items()}
        try:
            self.context.recipe.replace(self.changes | wanted)
        except RecipeError as e:
            raise EditError("not set: " + "; ".join(e.problems)) from None
        before = self.context.recipe.flat()
        self.changes = {k: v for k, v in (self.changes | wanted).items() if k not in before or v != before[k]}
        return "set" if self.changes else "these are the values that the recipe has already"

    def read_file(self, path: str) -> str:
        return fenced(self._text(_path(path)), SHOWN_CHARS)

    def replace_in_file(self, path: str, old: str, new: str) -> str:
        name = _path(path)
        text = self._text(name)
        found = text.count(old) if old else 0
        if found != 1:
            raise EditError(f"`old` occurs {found} times in {name}: it must occur exactly once. Copy it from the file, "
                            "indentation included, with enough lines around it")
        return self._write(name, text.replace(old, new))

    def create_file(self, path: str, content: str) -> str:
        name = _path(path)
        if self.files.get(name, self.context.files.get(name)) is not None:
            raise EditError(f"{name} exists: use replace_in_file")
        return self._write(name, content)

    def read_experiment(self, n: int) -> str:
        """One past experiment in full, bounded."""
        past = {a.experiment.n: a for a in attempts(self.context)}
        if n not in past:
            raise EditError(f"there is no decided experiment #{n}; there are 1 to {max(past, default=0)}")
        a, e = past[n], past[n].experiment
        parts = [f"#{n} {e.verdict}: {e.reason}", f"changed: {change(a)}", f"hypothesis: {e.hypothesis}",
                 f"evidence: {e.evidence}", *(f"seed {t.seed}: {curve(t)}" for t in e.trials[:4])]
        told = fenced("\n".join(parts), 6_000)
        logs = [t.log_tail for t in e.trials if t.log_tail and t.status != "ok"][-1:]
        return "\n\n".join([told, fenced(self.context.diff(n), 20_000), *(fenced(log, 3_000) for log in logs)])

    def submit(self, hypothesis: str, evidence: str) -> Proposal:
        if not (line := said(hypothesis, HYPOTHESIS_CHARS)):
            raise EditError("the hypothesis is empty: one line that says what changes and why it should help here")
        if not self.changes and not self.files:
            raise EditError("nothing has been changed yet: set_recipe, replace_in_file or create_file first")
        proposal = Proposal(line, said(evidence, EVIDENCE_CHARS), dict(self.changes), dict(self.files))
        if why := self.context.refusal(proposal):
            raise EditError(f"it would not be run: {why}")
        return proposal

    def _text(self, name: str) -> str:
        text = self.files.get(name, self.context.files.get(name))
        if text is None:
            there = sorted(self.context.files.keys() | self.files.keys())
            raise EditError(f"there is no {name}; there are {', '.join(there)[:2000]}")
        return text

    def _write(self, name: str, text: str) -> str:
        if name == RECIPE:
            raise EditError("the recipe is changed with set_recipe")
        if len(text) > MOST_FILE_CHARS:
            raise EditError(f"{name} would have {len(text):,} characters; at most {MOST_FILE_CHARS:,} are taken")
        if name.endswith(".py"):
            try:
                ast.parse(text)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
                raise EditError(f"not written, {name} would not be valid Python: {e}") from None
        self.files[name] = text
        return "written"


def said(text: str, most_chars: int) -> str:
    """A stranger's words on one line, without control characters."""
    return " ".join(CONTROLS.sub(" ", text).split())[:most_chars]


def _path(path: str) -> str:
    name = path.strip().removeprefix(FOLDER)
    if not PATH.fullmatch(name):
        raise EditError(f"{said(path, 200)!r} is not a file below {FOLDER}: write a path such as torch_model.py")
    return name


def _typed(kind: type, value: Any) -> Any:
    """As JSON has it: 64.0 for a whole number, and from models without strict tools numbers as text."""
    try:
        if kind is int and isinstance(value, float | str) and float(value) == int(float(value)):
            return int(float(value))
        if kind is float and isinstance(value, str):
            return float(value)
        if kind is bool and value in ("true", "false"):
            return value == "true"
    except (ValueError, OverflowError):
        pass
    return value
