"""Kept changes as patches: what each of them did to the candidate, and the same brought to, or taken out of, another.

    Change    one keep, with the files that it changed, before and after
    stack     the keeps that led to a model, oldest first; the first one is the baseline's sizing
    applied   a candidate with a change brought in
    without   a candidate with a change taken out

Recipes are merged key by key and code line by line, three-way. What can't be merged is Entangled: it says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tomlkit

from autoresearch import scratch
from autoresearch.paths import CANDIDATE
from autoresearch.records import BASELINE, Experiment, last_kept
from autoresearch.research import gate
from autoresearch.research.git import GitError, git
from autoresearch.research.judge import kind_of
from autoresearch.research.workspace import Workspace
from backends.recipe import RecipeError, changed, edit, parse

Files = dict[str, bytes]
FRAMEWORKS = {"torch": ("cpu", "cuda"), "mlx": ("mlx",)}  # a file torch_optim.py is of the backends cpu and cuda
RECIPE_ONLY, SHARED, LOCAL = "recipe", "shared", "local"


class Entangled(Exception):
    """A change that can't be moved by itself; the message says what it is tied to."""


@dataclass(frozen=True)
class Change:
    n: int
    hypothesis: str
    reason: str  # why it was kept
    researcher: str
    parent: str
    sha: str
    before: Files  # of the files that it changed: those that were there
    after: Files  # those that are

    @property
    def names(self) -> list[str]:
        return sorted(self.before.keys() | self.after.keys())

    @property
    def keys(self) -> dict[str, tuple[Any, Any]]:
        """{recipe key: (before, after)}; None for a number of the candidate's own that wasn't there."""
        return turned(self.before.get(gate.RECIPE), self.after.get(gate.RECIPE))

    @property
    def frameworks(self) -> list[str]:
        """Whose files it changed."""
        return [f for f in FRAMEWORKS if any(name.startswith(f"{f}_") for name in self.names)]

    @property
    def scope(self) -> str:
        """`recipe`: it runs everywhere. `shared`: code that all frameworks run, or that was written for each of them.
        `local`: code of one framework, to be ported to the other."""
        if self.names == [gate.RECIPE]:
            return RECIPE_ONLY
        return LOCAL if len(self.frameworks) == 1 else SHARED

    def runs_on(self, backend: str) -> bool:
        """Whether there is anything of it to run there."""
        return self.scope != LOCAL or backend in FRAMEWORKS[self.frameworks[0]]

    @property
    def kind(self) -> str:
        """As far as seeds care."""
        return kind_of(dict.fromkeys(self.keys), [f"{CANDIDATE}/{name}" for name in self.names], CANDIDATE)


def stack(workspace: Workspace, experiments: list[Experiment], n: int | None = None) -> list[Change]:
    """To experiment `n`; None: to the champion. The baseline is among them."""
    read: dict[str, Files] = {}

    def files(sha: str) -> Files:
        return read.setdefault(sha, read.get(sha) or workspace.candidate_files(sha))

    return [_change(e, files(e.parent), files(e.sha)) for e in line(experiments, n)]


def line(experiments: list[Experiment], n: int | None = None) -> list[Experiment]:
    """The keeps that led to experiment `n` (None: the champion), and that one, oldest first."""
    kept = {e.sha: e for e in experiments if e.verdict == "keep" and e.n >= BASELINE}
    at = last_kept(experiments) if n is None else next((e for e in experiments if e.n == n), None)
    found: list[Experiment] = []
    while at is not None and at not in found:
        found.append(at)
        at = kept.get(at.parent)
    return found[::-1]


def applied(files: Files, change: Change) -> Files:
    """Raises Entangled where the candidate differs in what the change touches."""
    return _merged(files, change.before, change.after, strict=True)


def without(files: Files, change: Change) -> Files:
    """Of recipe keys that were turned further since, nothing is left to take out. Raises Entangled where other code
    stands on it."""
    return _merged(files, change.after, change.before, strict=False)


def turned(before: bytes | None, after: bytes | None) -> dict[str, tuple[Any, Any]]:
    """{key: (before, after)} of two recipes. Raises RecipeError for what is none."""
    if before is None or after is None:
        return {}
    old, new = parse(before.decode()).flat(), parse(after.decode()).flat()
    return {k: (old.get(k), value) for k, value in changed(old, new).items()}


def _change(e: Experiment, before: Files, after: Files) -> Change:
    names = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return Change(e.n, e.hypothesis, e.reason, e.researcher, e.parent, e.sha,
                  {name: before[name] for name in names if name in before},
                  {name: after[name] for name in names if name in after})


def _merged(ours: Files, before: Files, after: Files, strict: bool) -> Files:
    """`ours` with the way from `before` to `after` gone."""
    found = dict(ours)
    for name in sorted(before.keys() | after.keys()):
        mine, old, new = ours.get(name), before.get(name), after.get(name)
        if mine == new:
            continue
        if mine == old and new is None:
            del found[name]
        elif mine == old and new is not None:
            found[name] = new
        elif mine is None or old is None or new is None:
            raise Entangled(f"{name} was added, removed or rewritten by something else too")
        else:
            found[name] = _recipe(mine, old, new, strict) if name == gate.RECIPE else _lines(name, mine, old, new)
    return found


def _recipe(mine: bytes, old: bytes, new: bytes, strict: bool) -> bytes:
    """Key by key. A key that is neither as before nor as after is an obstacle where `strict`, else it stays."""
    try:
        have, wanted = parse(mine.decode()).flat(), turned(old, new)
        if strict and (moved := [k for k, values in wanted.items() if have.get(k) not in values]):
            was, becomes = wanted[moved[0]]
            raise Entangled(f"it turns {moved[0]} from {was} to {becomes}, which is {have.get(moved[0])} here")
        changes = {k: becomes for k, (was, becomes) in wanted.items() if have.get(k) == was}
        if not changes:
            return mine
        document = tomlkit.parse(mine.decode())
        for key in [k for k, value in changes.items() if value is None]:
            table, _, name = key.partition(".")
            document[table].remove(name)  # type: ignore[union-attr]
            del changes[key]
        return edit(tomlkit.dumps(document), changes).encode()
    except RecipeError as e:
        raise Entangled(f"the recipe could not be run: {e}") from None


def _lines(name: str, mine: bytes, old: bytes, new: bytes) -> bytes:
    with scratch.folder() as folder:
        for label, content in (("mine", mine), ("old", old), ("new", new)):
            (folder / label).write_bytes(content)
        try:
            return git(folder, "merge-file", "-p", "-q", "mine", "old", "new")
        except GitError:
            raise Entangled(f"the same lines of {name} were changed by something else too") from None
