"""What a person asks for with `ar queue`: checked when it is asked, a proposal like any other when its turn comes."""

from __future__ import annotations

import tomllib
from typing import Any

from autoresearch.errors import UsageError, UserError
from autoresearch.paths import CANDIDATE
from autoresearch.research import gate
from autoresearch.research.queue import Queued
from autoresearch.research.researchers.base import Proposal
from autoresearch.research.workspace import Workspace
from backends.recipe import RecipeError, edit

PERSON = "person"  # as a researcher's name


def typed(changes: tuple[str, ...]) -> dict[str, object]:
    """{KEY: value} of KEY=VALUE as a person types them. Raises UsageError."""
    if wrong := [change for change in changes if "=" not in change]:
        raise UsageError(f"the change {wrong[0]!r} has no '='", "Write KEY=VALUE, such as model.depth=6")
    return {key.strip(): _value(text.strip()) for key, text in (c.split("=", 1) for c in changes)}


def _value(text: str) -> object:
    """As in TOML, but that a word needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def check(workspace: Workspace, changes: dict[str, Any], patch: str) -> None:
    """Raises UserError for what could not run on top of the incumbent as it is now."""
    if not changes and not patch.strip():
        raise UserError("nothing to try: no change of the recipe and no patch",
                        "Give --set KEY=VALUE, such as --set model.depth=6, or --patch FILE as `git diff` writes it.")
    head = workspace.head()
    files = patched(workspace, head, patch)
    text = files.get(gate.RECIPE, workspace.read(head, f"{CANDIDATE}/{gate.RECIPE}").decode())
    if text is None:
        raise UserError(f"the patch removes {CANDIDATE}/{gate.RECIPE}", "A candidate has a recipe: leave it there.")
    try:
        edit(text, changes).encode()
    except UnicodeEncodeError:
        raise UserError("the change of the recipe is not UTF-8 text", "Type it anew.") from None
    except RecipeError as e:
        raise UserError("the recipe can't be run: " + "\n  ".join(e.problems),
                        "What each key may be stands in backends/recipe.py") from None


def proposal_of(queued: Queued, workspace: Workspace) -> Proposal:
    """Raises UserError where its patch no longer applies."""
    files = patched(workspace, workspace.head(), queued.patch)
    return Proposal(queued.hypothesis, "", queued.changes, files, researcher=PERSON)


def patched(workspace: Workspace, head: str, patch: str) -> dict[str, str | None]:
    """{path below backends/gpt/: content} of what a patch changes; None for a file that it removes."""
    if not patch.strip():
        return {}
    found: dict[str, str | None] = {}
    for path, content in workspace.patched(head, patch.encode()).items():
        if not path.startswith(CANDIDATE + "/"):
            raise UserError(f"the patch changes {path}", f"A candidate is the files below {CANDIDATE}/.")
        try:
            found[path.removeprefix(CANDIDATE + "/")] = None if content is None else content.decode()
        except UnicodeDecodeError:
            raise UserError(f"the patch makes {path} something other than UTF-8 text",
                            "Candidates are read by people: keep it text.") from None
    return found
