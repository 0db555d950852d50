"""The workspace: a study's branch and worktree, by plain git. The person's checkout, index and HEAD are never touched.

    refs/heads/autoresearch/<tag>              the incumbent; moves only by compare-and-swap
    refs/autoresearch/<tag>/<n>                every candidate, kept or not
    refs/autoresearch/<tag>/base               where the study began
    refs/autoresearch/<tag>/saved/<time>       edits found in the worktree that nobody had proposed

In the worktree program.md and guidance.md are the person's, to steer with: edits of them stay and are no candidate's.

Commits are built from git objects with an index of their own, so neither hooks nor signing nor
anybody's open editor can stand in the way of the night.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from autoresearch.errors import UsageError, UserError
from autoresearch.paths import CANDIDATE
from autoresearch.research.git import GitError, git

BRIEF, GUIDANCE = "program.md", "guidance.md"  # in the worktree these are the person's, who steers with them
NO_OBJECT = "0" * 40  # as an old value: the ref must not exist yet
NO_REPOSITORY = 128  # git's exit code where there is none
STALE_LOCK_S = 10.0  # nothing we do with git holds a lock as long
INDEX = ".index-"  # folders beside the worktree, with the process id of whoever works there


def is_tag(name: str) -> bool:
    """Whether a study may be called so: its tag names a folder and a branch."""
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name)) and ".." not in name \
        and not name.endswith((".", ".lock"))


def validate_tag(tag: str) -> str:
    """The tag; UsageError where it can't be one."""
    if not is_tag(tag):
        raise UsageError(f"{tag!r} can't be the tag of a study",
                         "Use up to 64 letters, digits, '-', '_' and '.', beginning with a letter or digit: mar8")
    return tag


@dataclass
class Workspace:
    """One study's branch and worktree. `saved` lists the refs under which this object has saved edits."""

    repo: Path
    tag: str
    worktree: Path
    saved: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        validate_tag(self.tag)
        self.branch = f"autoresearch/{self.tag}"
        self._branch_ref = f"refs/heads/{self.branch}"
        self._refs = f"refs/autoresearch/{self.tag}"

    # Branch and worktree

    def resolve(self, base: str = "HEAD") -> str:
        """The commit that `base` names, once it is sure that a study can start there."""
        top = Path(self._git("rev-parse", "--show-toplevel").decode().rstrip("\n"))
        if top.resolve() != self.repo.resolve():
            raise UserError(f"{self.repo} is not a git repository of its own: it lies inside {top}",
                            "Clone autoresearch, or in this folder: git init && git add -A && git commit -m start")
        sha = "" if base.startswith("-") else self._commit(base)
        if not sha and base == "HEAD":
            raise UserError(f"{self.repo} has no commit yet", "Make one first: git add -A && git commit -m start")
        if not sha:
            raise UserError(f"{base!r} is not a commit of {self.repo}",
                            "See what there is with: git log --oneline --all")
        if not self._git("ls-tree", sha, "--", CANDIDATE):
            raise UserError(f"{base} has no {CANDIDATE}/ in it", f"Commit it first: git add {CANDIDATE} && git commit")
        return sha

    def create(self, base: str = "HEAD") -> str:
        """Branch and worktree at `base`; its commit. Finishes what an interrupted `create` began."""
        sha = self.resolve(base)
        if self._commit(self._branch_ref) not in ("", sha):
            raise UserError(f"the branch {self.branch} exists already, from an earlier study",
                            "Choose another tag with --tag, or remove the old one: "
                            f"git worktree prune; git branch -D {self.branch}")
        self.ensure(sha)
        return sha

    def ensure(self, head: str | None = None) -> None:
        """Branch (at `head`, if it is gone) and worktree exist and belong together; stale locks of ours are removed."""
        self._refuse_other_checkouts()
        self._remove_leftovers()
        self._remove_stale_locks()
        if not self._commit(self._branch_ref):
            if head is None:
                raise UserError(f"the branch {self.branch} is gone", "Start a new study with: ar loop --tag NAME")
            if not self._commit(f"{self._refs}/base"):
                self._git("update-ref", f"{self._refs}/base", head)
            self._git("update-ref", "-m", "autoresearch: start", self._branch_ref, head, NO_OBJECT)
        if not self._linked() and not self._relink():
            if self.worktree.exists() and (not self.worktree.is_dir() or any(self.worktree.iterdir())):
                self.worktree.rename(self.worktree.with_name(f"worktree.saved-{_timestamp()}"))
            self.worktree.parent.mkdir(parents=True, exist_ok=True)
            self._git("worktree", "prune")
            self._git("worktree", "add", "--force", "--quiet", str(self.worktree.absolute()), self.branch)
        self._leave_brief()

    def remove(self) -> None:
        """The worktree, the branch and every ref of the study. Its commits go when git next collects garbage."""
        self._refuse_other_checkouts()
        shutil.rmtree(self.worktree, ignore_errors=True)
        self._git("worktree", "prune")
        refs = self._git("for-each-ref", "--format=delete %(refname)", self._refs, self._branch_ref)
        self._git("update-ref", "--stdin", stdin=refs)

    def head(self) -> str:
        """The branch's commit."""
        sha = self._commit(self._branch_ref)
        if not sha:
            raise UserError(f"the branch {self.branch} is gone",
                            "Run `ar loop` again: it is made anew from the ledger.")
        return sha

    def advance(self, old: str, new: str) -> str | None:
        """Compare-and-swap of the branch from `old` to `new` (done already is fine), then the worktree follows.
        Returns the ref of edits that had to be saved, if any."""
        try:
            self._git("update-ref", "-m", "autoresearch: keep", self._branch_ref, new, old)
        except GitError:
            # A git that outlived our killed predecessor may have done it in the meantime.
            if (head := self.head()) == old:
                raise
            if head != new:
                raise moved(self.branch, head, old) from None
        return self.revert()

    def revert(self) -> str | None:
        """The worktree as the branch has it. Edits that are no candidate's are saved; returns their ref, if any."""
        on_branch = self._in_worktree("rev-parse", "--symbolic-full-name", "HEAD").decode().strip() == self._branch_ref
        if on_branch and not self._touched():
            return None
        saved = self._save_edits()
        if not on_branch:
            self._in_worktree("symbolic-ref", "HEAD", self._branch_ref)
        self._in_worktree("reset", "--hard", "--quiet", self._branch_ref)
        self._in_worktree("clean", "-f", "-d", "--quiet", "--", CANDIDATE)
        return saved

    # Candidates

    def propose_commit(self, parent: str, edits: Mapping[str, bytes | None], message: str, n: int) -> str:
        """A commit of `parent` with whole files below backends/gpt/ replaced (None: removed), by path from the
        root of the repository. The worktree is not looked at."""
        return self._record(self._tree_with(parent, edits), parent, message, n)

    def loose_commit(self, parent: str, edits: Mapping[str, bytes | None], message: str) -> str:
        """The same for a commit of a person's, which no ref holds yet; `parent` where nothing changes."""
        tree = self._tree_with(parent, edits)
        return parent if tree == self._tree(parent) else self._commit_tree(tree, parent, message)

    def amend(self, sha: str, parent: str, edits: Mapping[str, bytes | None], message: str, n: int) -> str:
        """The candidate `sha` with more edits, as another commit of `parent` that takes its place."""
        return self._record(self._tree_with(sha, edits), parent, message, n)

    def _tree_with(self, commit: str, edits: Mapping[str, bytes | None]) -> str:
        """The tree of a commit with these edits."""
        lines = []
        for path, content in edits.items():
            if not path.startswith(CANDIDATE + "/") or any(p in ("", ".", "..") for p in path.split("/")):
                raise UserError(f"{path!r} can't be edited", f"A candidate is the files below {CANDIDATE}/.")
            if content is None:
                lines.append(f"0 {NO_OBJECT}\t{path}")
            else:
                blob = self._git("hash-object", "-w", "--no-filters", "--stdin", stdin=content).decode().strip()
                lines.append(f"100644 {blob}\t{path}")
        with self._index(commit) as env:
            if lines:
                self._git("update-index", "-z", "--index-info", stdin=os.fsencode("\0".join(lines) + "\0"), env=env)
            return self._git("write-tree", env=env).decode().strip()

    def commit_worktree(self, parent: str, message: str, n: int) -> str | None:
        """A commit of `parent` with backends/gpt/ as it is in the worktree; None where that changes nothing."""
        with self._index(parent) as env:
            self._in_worktree("add", "-A", "--", CANDIDATE, env=env)
            tree = self._git("write-tree", env=env).decode().strip()
        return None if tree == self._tree(parent) else self._record(tree, parent, message, n)

    def patched(self, parent: str, patch: bytes) -> dict[str, bytes | None]:
        """{path: content} of the files that a patch, as `git diff` writes it, changes in `parent`; None for those it
        removes. UserError where it does not apply."""
        with self._index(parent) as env:
            try:
                self._git("apply", "--cached", "--whitespace=nowarn", "-", stdin=patch, env=env)
            except GitError as e:
                if e.code is None or e.code < 0:  # killed or hung: the patch may be a good one
                    raise
                said = "; ".join(line.removeprefix("error: ") for line in e.stderr.splitlines()[-3:])
                raise UserError(f"the patch does not apply to {parent[:7]}, the incumbent: {said}",
                                "Make it in the study's worktree or against it, with paths from the root of the "
                                "clone: git diff > my.patch") from None
            tree = self._git("write-tree", env=env).decode().strip()
        return {path: None if mode == "000000" else self.read(tree, path)
                for mode, path in self.changed_paths(parent, tree)}

    def outside_edits(self) -> list[str]:
        """Paths changed in the worktree outside backends/gpt/; ignored files don't count."""
        return sorted(p for p in self._touched() if not p.startswith(CANDIDATE + "/"))

    def holds(self, sha: str) -> bool:
        """Whether backends/gpt/ in the worktree is what `sha` has there, and the branch has something else."""
        if self._tree(sha) == self._tree(self._branch_ref):
            return False
        with self._index(sha) as env:
            self._in_worktree("add", "-A", "--", CANDIDATE, env=env)
            return self._git("write-tree", env=env).decode().strip() == self._tree(sha)

    # Reading commits

    def diff(self, old: str, new: str) -> str:
        return self._git("diff", "--no-color", "--no-ext-diff", "--no-textconv", old, new).decode(errors="replace")

    def changed_paths(self, old: str, new: str) -> list[tuple[str, str]]:
        """(mode in `new`, path) of every difference: 100644 is an ordinary file, 100755 an executable one, 120000
        a link, 160000 another repository, 000000 a removal."""
        fields = self._git("diff-tree", "-r", "-z", "--raw", "--no-renames", old, new).split(b"\0")
        return [(meta.split(b" ")[1].decode(), os.fsdecode(path))
                for meta, path in zip(fields[::2], fields[1::2], strict=False)]

    def read(self, sha: str, path: str) -> bytes:
        """The content of one file at a commit."""
        found = self._blobs(sha, path)
        if path not in found:
            raise UserError(f"{path} is not a file at commit {sha[:7]}",
                            f"See what there is with: git ls-tree -r {sha[:7]}")
        return found[path]

    def candidate_files(self, sha: str) -> dict[str, bytes]:
        """{path below backends/gpt/: content} of its ordinary files at a commit."""
        files = self._blobs(sha, CANDIDATE + "/")
        return {name.removeprefix(CANDIDATE + "/"): content for name, content in files.items()}

    def _blobs(self, sha: str, path: str) -> dict[str, bytes]:
        names: dict[str, str] = {}
        for line in os.fsdecode(self._git("ls-tree", "-r", "-z", sha, "--", path)).split("\0")[:-1]:
            meta, _, name = line.partition("\t")
            mode, _, blob = meta.split(" ")
            if mode in ("100644", "100755"):
                names[name] = blob
        output = self._git("cat-file", "--batch", stdin="".join(b + "\n" for b in names.values()).encode())
        contents, at = {}, 0
        for name, blob in names.items():
            end = output.index(b"\n", at)
            header = output[at:end].split(b" ")
            if header[-1] == b"missing":
                raise UserError(f"git has lost {name} of commit {sha[:7]} ({blob})",
                                "Check the repository with: git fsck")
            at = end + 1 + int(header[2]) + 1
            contents[name] = output[end + 1:at - 1]
        return contents

    # Parts

    def _leave_brief(self, env: Mapping[str, str] | None = None) -> None:
        """To an index the brief is unchanged from here on, whatever is in the file."""
        if self._in_worktree("ls-files", "--", BRIEF, env=env):
            self._in_worktree("update-index", "--skip-worktree", "--", BRIEF, env=env)

    def _touched(self) -> list[str]:
        """Paths that differ from the worktree's HEAD. Guidance is nobody's edit."""
        status = self._in_worktree("status", "--porcelain", "-z", "-uall", "--no-renames")
        return [p for entry in status.split(b"\0") if entry and (p := os.fsdecode(entry[3:])) != GUIDANCE]

    def _git(self, *args: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None) -> bytes:
        return git(self.repo, *args, stdin=stdin, env=env)

    def _in_worktree(self, *args: str, env: Mapping[str, str] | None = None) -> bytes:
        return git(self.worktree, *args, env=env)

    def _commit(self, name: str) -> str:
        """The commit a name stands for, "" if none."""
        try:
            return self._git("rev-parse", "--verify", "--quiet", name + "^{commit}").decode().strip()
        except GitError as e:
            if e.stderr or e.code != 1:  # quiet: a name that stands for nothing
                raise
            return ""

    def _tree(self, commit: str) -> str:
        return self._git("rev-parse", "--verify", commit + "^{tree}").decode().strip()

    @contextlib.contextmanager
    def _index(self, commit: str) -> Iterator[dict[str, str]]:
        """Environment with an index of our own, filled from a commit. It lies where `ensure` finds what a kill left."""
        folder = self.worktree.parent / f"{INDEX}{os.getpid()}"
        folder.mkdir(parents=True)
        try:
            env = {"GIT_INDEX_FILE": str(folder / "index")}
            self._git("read-tree", commit, env=env)
            yield env
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _record(self, tree: str, parent: str, message: str, n: int) -> str:
        """The commit object with its trailer, reachable under the experiment's number."""
        sha = self._commit_tree(tree, parent, f"{message}\n\nExperiment: {self.tag}/{n}")
        self._git("update-ref", f"{self._refs}/{n}", sha)
        return sha

    def _commit_tree(self, tree: str, parent: str, message: str) -> str:
        text = message.replace("\0", "").strip().encode("utf-8", "replace") + b"\n"
        return self._git("commit-tree", tree, "-p", parent, "-F", "-", stdin=text, env=self._identity).decode().strip()

    @cached_property
    def _identity(self) -> dict[str, str]:
        """Names for commits, where the person has given git none."""
        try:
            names = self._git("config", "--name-only", "--get-regexp", r"^(user|author|committer)\.(name|email)$")
            known = set(names.decode().split())
        except GitError:
            known = set()
        fallback = {}
        for role in ("author", "committer"):
            for what, value in (("name", "autoresearch"), ("email", "autoresearch@localhost")):
                variable = f"GIT_{role}_{what}".upper()
                if not known & {f"user.{what}", f"{role}.{what}"} and not os.environ.get(variable):
                    fallback[variable] = value
        return fallback

    def _save_edits(self) -> str | None:
        """Commits what `revert` would lose, unless it is a tree that is reachable under this study's refs anyway."""
        at = self._in_worktree("rev-parse", "HEAD").decode().strip()
        with self._index(at) as env:
            self._leave_brief(env)
            self._in_worktree("add", "-u", "--", ".", env=env)
            if (self.worktree / CANDIDATE).resolve() == self.worktree.resolve() / CANDIDATE:  # not through a link
                self._in_worktree("add", "-A", "--", CANDIDATE, env=env)
            tree = self._git("write-tree", env=env).decode().strip()
        known = set(self._git("for-each-ref", "--format=%(tree)", self._refs, self._branch_ref).decode().split())
        reachable = self._git("for-each-ref", "--format=x", "--contains", at, self._refs, self._branch_ref)
        if tree in known and reachable:
            return None
        sha = self._commit_tree(tree, at, f"Edits found in the worktree of {self.tag}, proposed by nobody")
        ref = f"{self._refs}/saved/{_timestamp()}"
        self._git("update-ref", ref, sha, NO_OBJECT)
        self.saved.append(ref)
        return ref

    @cached_property
    def _common_dir(self) -> Path:
        return (self.repo / os.fsdecode(self._git("rev-parse", "--git-common-dir")).rstrip("\n")).resolve()

    def _linked(self) -> bool:
        """Whether the worktree's folder is a worktree of this very repository."""
        if not self.worktree.is_dir():
            return False
        try:
            lines = os.fsdecode(self._in_worktree("rev-parse", "--show-toplevel", "--git-common-dir")).splitlines()
        except GitError as e:
            if e.code != NO_REPOSITORY:  # a git that was killed or hangs says nothing about the folder
                raise
            return False
        top, common = Path(lines[0]), self.worktree / lines[1]
        return top.resolve() == self.worktree.resolve() and common.resolve() == self._common_dir

    def _relink(self) -> bool:
        """Mends the two paths that tie a worktree to its repository, after the clone was moved or copied.
        (`git worktree repair` in a copy would mend the original's instead.)"""
        pointer = self.worktree / ".git"
        if not pointer.is_file():
            return False
        ours = self._common_dir / "worktrees" / Path(pointer.read_text().strip()).name
        if not (ours / "gitdir").is_file():
            return False
        pointer.write_text(f"gitdir: {ours}\n")
        (ours / "gitdir").write_text(f"{pointer.absolute()}\n")
        return self._linked()

    def _refuse_other_checkouts(self) -> None:
        """Moving a branch that a person has checked out would change their checkout under their hands."""
        path = ""
        for line in os.fsdecode(self._git("worktree", "list", "--porcelain")).splitlines():
            path = line.removeprefix("worktree ") if line.startswith("worktree ") else path
            elsewhere = Path(path).is_dir() and Path(path).resolve() != self.worktree.resolve()
            if line == f"branch {self._branch_ref}" and elsewhere and not self._is_old_home(Path(path)):
                raise UserError(f"the study's branch {self.branch} is checked out in {path}",
                                f"Switch that checkout to another branch first: git -C {path} switch -")

    def _is_old_home(self, path: Path) -> bool:
        """Whether a folder listed as our worktree belongs to another repository: this one is a copy of that."""
        try:
            common = os.fsdecode(git(path, "rev-parse", "--git-common-dir")).strip()
            return (path / common).resolve() != self._common_dir
        except GitError:
            return True

    def _remove_leftovers(self) -> None:
        """Of processes that were killed. `ar queue --patch` and `ar adopt` use one for a moment without the study's
        lock; where this hits them, they fail and change nothing."""
        for folder in self.worktree.parent.glob(f"{INDEX}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _remove_stale_locks(self) -> None:
        """Locks that a killed git or a power cut left on the study's own refs and worktree; younger ones are given time
        to go. A person's own are left alone."""
        ours = [self._common_dir / (self._branch_ref + ".lock")]
        ours += (self._common_dir / self._refs).glob("**/*.lock")
        pointer = self.worktree / ".git"
        if pointer.is_file():
            gitdir = self._common_dir / "worktrees" / Path(pointer.read_text().strip()).name
            ours += gitdir.rglob("*.lock")
        give_up = time.monotonic() + STALE_LOCK_S
        for lock in ours:
            with contextlib.suppress(FileNotFoundError):
                while time.time() - lock.stat().st_mtime < STALE_LOCK_S and time.monotonic() < give_up:
                    time.sleep(0.05)
                lock.unlink()


def message(hypothesis: str, evidence: str) -> str:
    """A commit message: subject of at most 72 characters, then the rest."""
    subject = hypothesis if len(hypothesis) <= 72 else hypothesis[:69].rsplit(" ", 1)[0] + "..."
    body = "\n\n".join(part for part in (hypothesis if subject != hypothesis else "", evidence) if part)
    return f"{subject}\n\n{body}".strip()


def moved(branch: str, head: str, expected: str) -> UserError:
    return UserError(f"the branch {branch} was moved to {head[:7]}; the ledger expects {expected[:7]}",
                     "Keep what is there under another name and put the branch back: "
                     f"git branch rescue-{head[:7]} {head} && git update-ref refs/heads/{branch} {expected}")


def _timestamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S-%f")
