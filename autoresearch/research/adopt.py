"""Adopting: kept changes as commits on the branch that a person works on.

All of them or none: the commits are made from git objects first, and the branch and its files move, by a fast-forward
merge, when every change has gone in. A checkout with edits is never touched.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from autoresearch.errors import UserError
from autoresearch.paths import CANDIDATE
from autoresearch.research.git import GitError, git
from autoresearch.research.stack import Change, Entangled, applied
from autoresearch.research.study import Study
from autoresearch.research.workspace import message

CANDIDATE_SHA = "Candidate"  # trailer of an adopted commit


@dataclass(frozen=True)
class Adopted:
    change: Change
    sha: str  # "" where the branch had it already


def adopt(study: Study, changes: list[Change], known: list[Change]) -> list[Adopted]:
    """`known` are all that the study kept, to say which of them a change stands on. UserError, and nothing done, where
    the checkout is not clean or a change does not fit."""
    branch, head = _ready(study)
    workspace, found, at = study.workspace, list[Adopted](), head
    files, brought = workspace.candidate_files(head), _brought(study)
    for change in changes:
        if change.sha in brought:
            found.append(Adopted(change, ""))
            continue
        try:
            after = applied(files, change)
        except Entangled as e:
            raise _tied(change, str(e), branch, changes, known) from None
        edits = {f"{CANDIDATE}/{name}": after.get(name) for name in change.names if files.get(name) != after.get(name)}
        sha = workspace.loose_commit(at, edits, _message(change, study.tag)) if edits else at
        found.append(Adopted(change, sha if sha != at else ""))
        files, at = after, sha
    if at != head:
        try:
            git(study.clone, "merge", "--ff-only", "--quiet", at)
        except GitError as e:
            said = " ".join(e.stderr.split())[:300] or e.message
            raise UserError(f"the commits could not be checked out: {said}",
                            f"Nothing was changed. Move what is in the way, or do it by hand: git merge {at}") from None
    return found


def checked_out(clone: Path) -> str:
    """The person's branch. UserError where there is none."""
    try:
        return os.fsdecode(git(clone, "symbolic-ref", "--quiet", "--short", "HEAD")).strip()
    except GitError:
        raise UserError("no branch is checked out here (HEAD is detached), so there is none to commit to",
                        "Switch to the one that should have the changes: git switch main") from None


def _ready(study: Study) -> tuple[str, str]:
    """(branch, commit) of the person's checkout. UserError where it can't take commits."""
    clone = study.clone
    branch = checked_out(clone)
    edits = os.fsdecode(git(clone, "status", "--porcelain", "--untracked-files=no")).splitlines()
    if edits:
        more = f" and {len(edits) - 3} more" if len(edits) > 3 else ""
        raise UserError(f"this checkout has edits that are not committed: {', '.join(e[3:] for e in edits[:3])}{more}",
                        "Commit them, or put them aside (git stash), then run the same command again.")
    return branch, study.workspace.resolve("HEAD")


def _brought(study: Study) -> set[str]:
    """Candidates that are in the branch already, themselves or adopted, with whatever was built on them since. A tag
    and a number would not do: another study may have had the same tag."""
    return set(git(study.clone, "log", f"--format=%H %(trailers:key={CANDIDATE_SHA},valueonly)", "HEAD").decode(
        errors="replace").split())


def _tied(change: Change, why: str, branch: str, changes: list[Change], known: list[Change]) -> UserError:
    wanted = {c.n for c in changes}
    under = [c.n for c in known if c.n < change.n and c.n not in wanted and _touches(c, change)]
    hint = f"By hand: git cherry-pick {change.sha[:12]}"
    if under:
        both = " ".join(str(n) for n in sorted({*wanted, *under}))
        hint = f"It stands on {', '.join(f'#{n}' for n in under)}; adopt these too: ar adopt {both}\n{hint}"
    return UserError(f"#{change.n} does not fit on {branch}: {why}. Nothing was changed", hint)


def _touches(earlier: Change, later: Change) -> bool:
    """The same recipe keys, or the same file of code."""
    code = {*earlier.names} & {*later.names} - {"recipe.toml"}
    return bool(code or earlier.keys.keys() & later.keys.keys())


def _message(change: Change, tag: str) -> str:
    return f"{message(change.hypothesis, change.reason)}\n\nExperiment: {tag}/{change.n}\n{CANDIDATE_SHA}: {change.sha}"
