"""The workspace: candidates become commits, the branch moves by compare-and-swap, and nobody's files are touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoresearch.errors import UsageError, UserError
from autoresearch.research.git import git
from autoresearch.research.workspace import Workspace, validate_tag

RECIPE = "backends/gpt/recipe.toml"
ID = ("-c", "user.name=A Person", "-c", "user.email=person@example.org")


def run(repo: Path, *args: str) -> str:
    return subprocess.run(["git", *ID, *args], cwd=repo, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """The least that a study can start from."""
    repo = tmp_path / "clone"
    (repo / "backends" / "gpt").mkdir(parents=True)
    (repo / RECIPE).write_text("[model]\ndepth = 4\n")
    (repo / "backends/gpt/params.py").write_text("WIDTH = 8\n")
    (repo / "program.md").write_text("Make it better.\n")
    (repo / "README.md").write_text("Read me.\n")
    (repo / ".gitignore").write_text("studies/\n*.log\n")
    run(repo, "init", "-q")
    run(repo, "add", "-A")
    run(repo, "commit", "-q", "-m", "start")
    return repo


@pytest.fixture
def workspace(repo: Path) -> Workspace:
    workspace = Workspace(repo, "mar8", repo / "studies/mar8/worktree")
    workspace.create()
    return workspace


def propose(workspace: Workspace, depth: int, n: int = 1) -> str:
    content = f"[model]\ndepth = {depth}\n".encode()
    return workspace.propose_commit(workspace.head(), {RECIPE: content}, f"depth {depth}", n)


def test_a_candidate_is_a_commit_with_its_trailer_and_its_ref(workspace: Workspace, repo: Path):
    base = workspace.head()
    sha = workspace.propose_commit(base, {RECIPE: b"depth = 5\r\n", "backends/gpt/new/deep.py": b"\x00\xff",
                                          "backends/gpt/params.py": None}, "Deeper\n\nbecause", 7)
    assert workspace.candidate_files(sha) == {"recipe.toml": b"depth = 5\r\n", "new/deep.py": b"\x00\xff"}
    assert run(repo, "rev-parse", "refs/autoresearch/mar8/7") == sha
    assert run(repo, "log", "-1", "--format=%P %(trailers:key=Experiment,valueonly)", sha) == f"{base} mar8/7"
    assert workspace.read(sha, "program.md") == b"Make it better.\n"
    assert workspace.head() == base and (workspace.worktree / RECIPE).read_text() == "[model]\ndepth = 4\n"
    assert sorted(workspace.changed_paths(base, sha)) == [
        ("000000", "backends/gpt/params.py"), ("100644", "backends/gpt/new/deep.py"), ("100644", RECIPE)]
    assert "+depth = 5" in workspace.diff(base, sha)


def test_a_keep_moves_the_branch_and_the_worktree(workspace: Workspace):
    base, sha = workspace.head(), propose(workspace, 5)
    assert workspace.advance(base, sha) is None
    assert workspace.head() == sha and (workspace.worktree / RECIPE).read_text() == "[model]\ndepth = 5\n"
    assert workspace.advance(base, sha) is None  # after a crash it may be asked for twice
    assert git(workspace.worktree, "status", "--porcelain") == b""


def test_the_branch_only_moves_from_where_it_is_expected(workspace: Workspace):
    base = workspace.head()
    kept, late = propose(workspace, 5), propose(workspace, 6, n=2)
    workspace.advance(base, kept)
    with pytest.raises(UserError, match="was moved") as e:
        workspace.advance(base, late)
    assert workspace.head() == kept and "git update-ref" in e.value.hint


def test_the_persons_checkout_is_untouched(repo: Path):
    (repo / "program.md").write_text("staged\n")
    run(repo, "add", "program.md")
    (repo / RECIPE).write_text("my own unfinished edit\n")
    (repo / "untracked.txt").write_text("mine\n")
    index, head = (repo / ".git/index").read_bytes(), (repo / ".git/HEAD").read_text()
    status = run(repo, "status", "--porcelain", "--no-renames")
    index = (repo / ".git/index").read_bytes()
    workspace = Workspace(repo, "mar8", repo / "studies/mar8/worktree")
    base = workspace.create()
    workspace.advance(base, propose(workspace, 5))
    (workspace.worktree / RECIPE).write_text("edited\n")
    workspace.commit_worktree(workspace.head(), "try", 2)
    workspace.revert()
    assert (repo / ".git/index").read_bytes() == index and (repo / ".git/HEAD").read_text() == head
    assert run(repo, "status", "--porcelain", "--no-renames") == status
    assert (repo / RECIPE).read_text() == "my own unfinished edit\n" and (repo / "program.md").read_text() == "staged\n"
    assert run(repo, "rev-parse", "HEAD") == base


def test_edits_in_the_worktree_become_a_candidate(workspace: Workspace):
    base = workspace.head()
    assert workspace.commit_worktree(base, "nothing", 1) is None
    (workspace.worktree / RECIPE).write_text("depth = 9\n")
    (workspace.worktree / "backends/gpt/new.py").write_text("x = 1\n")
    (workspace.worktree / "backends/gpt/params.py").unlink()
    (workspace.worktree / "README.md").write_text("not part of a candidate\n")
    sha = workspace.commit_worktree(base, "try", 1)
    assert sha and workspace.candidate_files(sha) == {"recipe.toml": b"depth = 9\n", "new.py": b"x = 1\n"}
    assert workspace.read(sha, "README.md") == b"Read me.\n"
    assert workspace.outside_edits() == ["README.md"]
    assert workspace.holds(sha)


def test_outside_edits_are_all_found_and_ignored_files_are_not(workspace: Workspace):
    assert workspace.outside_edits() == []
    for name in ("näme with\ttab", "backends/other.py", "debug.log", "backends/gpt/fine.py"):
        (workspace.worktree / name).write_text("x\n")
    (workspace.worktree / "README.md").unlink()
    assert workspace.outside_edits() == sorted(["näme with\ttab", "backends/other.py", "README.md"])


def test_links_executables_and_nested_repositories_show_in_their_modes(workspace: Workspace):
    gpt = workspace.worktree / "backends/gpt"
    (gpt / "link.py").symlink_to("/etc/passwd")
    (gpt / "params.py").chmod(0o755)
    (gpt / "nested").mkdir()
    run(gpt / "nested", "init", "-q")
    run(gpt / "nested", "commit", "-q", "--allow-empty", "-m", "x")
    sha = workspace.commit_worktree(workspace.head(), "try", 1)
    assert sha and sorted(workspace.changed_paths(workspace.head(), sha)) == [
        ("100755", "backends/gpt/params.py"), ("120000", "backends/gpt/link.py"), ("160000", "backends/gpt/nested")]
    assert "link.py" not in workspace.candidate_files(sha)


def test_what_was_proposed_reverts_without_a_copy_and_anything_else_is_saved(workspace: Workspace, repo: Path):
    (workspace.worktree / RECIPE).write_text("proposed\n")
    workspace.commit_worktree(workspace.head(), "try", 1)
    assert workspace.revert() is None and workspace.saved == []
    (workspace.worktree / RECIPE).write_text("an hour of thinking\n")
    (workspace.worktree / "backends/gpt/idea.py").write_text("idea = 1\n")
    (workspace.worktree / "README.md").write_text("my brief\n")
    ref = workspace.revert()
    assert ref and workspace.saved == [ref] and ref.startswith("refs/autoresearch/mar8/saved/")
    assert run(repo, "show", f"{ref}:{RECIPE}") == "an hour of thinking"
    assert run(repo, "show", f"{ref}:backends/gpt/idea.py") == "idea = 1"
    assert run(repo, "show", f"{ref}:README.md") == "my brief"
    assert not (workspace.worktree / "backends/gpt/idea.py").exists()
    assert git(workspace.worktree, "status", "--porcelain") == b""


def test_the_brief_and_guidance_in_the_worktree_are_the_persons_to_steer_with(workspace: Workspace, repo: Path):
    brief, guidance = workspace.worktree / "program.md", workspace.worktree / "guidance.md"
    brief.write_text("Shallower, please.\n")
    guidance.write_text("Only schedules tonight.\n")
    assert workspace.outside_edits() == [] and workspace.revert() is None
    base, sha = workspace.head(), propose(workspace, 5)
    (workspace.worktree / RECIPE).write_text("in its way\n")
    assert workspace.advance(base, sha)
    workspace.ensure()
    assert (brief.read_text(), guidance.read_text()) == ("Shallower, please.\n", "Only schedules tonight.\n")
    mine = workspace.commit_worktree(workspace.head(), "nothing", 2)
    assert mine is None and workspace.outside_edits() == [] and len(workspace.saved) == 1
    (workspace.worktree / RECIPE).write_text("tried\n")
    assert workspace.commit_worktree(workspace.head(), "try", 2)
    assert workspace.revert() is None, "what was tried is kept under its number: there is nothing else to save"
    assert run(repo, "show", "autoresearch/mar8:program.md") == "Make it better."


def test_a_keep_saves_edits_that_were_in_its_way(workspace: Workspace, repo: Path):
    base, sha = workspace.head(), propose(workspace, 5)
    (workspace.worktree / RECIPE).write_text("mine\n")
    ref = workspace.advance(base, sha)
    assert ref and run(repo, "show", f"{ref}:{RECIPE}") == "mine"
    assert (workspace.worktree / RECIPE).read_text() == "[model]\ndepth = 5\n"


def test_a_worktree_on_another_branch_comes_back_and_its_commits_stay_reachable(workspace: Workspace, repo: Path):
    run(workspace.worktree, "checkout", "-q", "--detach")
    (workspace.worktree / "README.md").write_text("committed by hand\n")
    run(workspace.worktree, "commit", "-q", "-am", "by hand")
    ref = workspace.revert()
    assert ref and run(repo, "show", f"{ref}:README.md") == "committed by hand"
    assert run(workspace.worktree, "symbolic-ref", "HEAD") == "refs/heads/autoresearch/mar8"
    run(workspace.worktree, "checkout", "-q", "--detach")
    run(workspace.worktree, "commit", "-q", "--allow-empty", "-m", "a note by hand")
    ref = workspace.revert()
    assert ref and "a note by hand" in run(repo, "log", "--format=%s", ref)


def test_a_removed_worktree_is_made_again(workspace: Workspace):
    workspace.advance(workspace.head(), propose(workspace, 5))
    shutil.rmtree(workspace.worktree)
    workspace.ensure()
    assert (workspace.worktree / RECIPE).read_text() == "[model]\ndepth = 5\n"
    shutil.rmtree(workspace.worktree)
    workspace.worktree.mkdir()
    workspace.ensure()
    assert (workspace.worktree / RECIPE).exists()


def test_a_moved_clone_goes_on_with_its_edits(workspace: Workspace, repo: Path, tmp_path: Path):
    (workspace.worktree / RECIPE).write_text("mine\n")
    repo.rename(tmp_path / "renamed")
    moved = Workspace(tmp_path / "renamed", "mar8", tmp_path / "renamed/studies/mar8/worktree")
    moved.ensure()
    assert (moved.worktree / RECIPE).read_text() == "mine\n"
    sha = moved.commit_worktree(moved.head(), "try", 1)
    assert sha and moved.read(sha, RECIPE) == b"mine\n"


def test_a_copied_clone_leaves_the_original_alone(workspace: Workspace, repo: Path, tmp_path: Path):
    shutil.copytree(repo, tmp_path / "copy", symlinks=True)
    copy = Workspace(tmp_path / "copy", "mar8", tmp_path / "copy/studies/mar8/worktree")
    copy.ensure()
    base = workspace.head()
    copy.advance(base, propose(copy, 5))
    assert (copy.head() != base, workspace.head()) == (True, base)
    workspace.ensure()
    assert (workspace.worktree / RECIPE).read_text() == "[model]\ndepth = 4\n"
    assert (copy.worktree / RECIPE).read_text() == "[model]\ndepth = 5\n"


def test_a_folder_that_was_no_worktree_is_put_aside(workspace: Workspace):
    shutil.rmtree(workspace.worktree)
    workspace.worktree.mkdir()
    (workspace.worktree / "notes.txt").write_text("mine\n")
    workspace.ensure()
    [aside] = workspace.worktree.parent.glob("worktree.saved-*")
    assert (aside / "notes.txt").read_text() == "mine\n" and (workspace.worktree / RECIPE).exists()


def test_a_lost_branch_is_put_back_only_where_the_ledger_says(workspace: Workspace, repo: Path):
    base = workspace.head()
    run(repo, "update-ref", "-d", "refs/heads/autoresearch/mar8")
    with pytest.raises(UserError, match="is gone"):
        workspace.ensure()
    workspace.ensure(base)
    assert workspace.head() == base


def test_hooks_signing_and_foreign_environment_are_no_obstacle(repo: Path, monkeypatch: pytest.MonkeyPatch):
    for hook in ("pre-commit", "post-checkout", "reference-transaction", "commit-msg"):
        path = repo / ".git/hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\nexit 1\n")
        path.chmod(0o755)
    run(repo, "config", "commit.gpgSign", "true")
    run(repo, "config", "core.autocrlf", "true")
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nonexistent/index")
    workspace = Workspace(repo, "mar8", repo / "studies/mar8/worktree")
    base = workspace.create()
    sha = propose(workspace, 5)
    workspace.advance(base, sha)
    assert workspace.head() == sha
    assert (workspace.worktree / RECIPE).read_bytes() == b"[model]\ndepth = 5\n"


def test_without_an_identity_commits_get_one_and_with_one_they_keep_it(workspace: Workspace, repo: Path):
    run(repo, "config", "user.useConfigOnly", "true")
    assert run(repo, "log", "-1", "--format=%ae", propose(workspace, 5)) == "autoresearch@localhost"
    run(repo, "config", "user.name", "A Person")
    run(repo, "config", "user.email", "person@example.org")
    again = Workspace(repo, "mar8", workspace.worktree)
    assert run(repo, "log", "-1", "--format=%an %ae %ce", propose(again, 6)) == \
        "A Person person@example.org person@example.org"


def test_paths_outside_the_candidate_can_not_be_proposed(workspace: Workspace):
    for path in ("program.md", "backends/gpt/../base.py", "/etc/passwd", "backends/gptx/a.py", "backends/gpt/"):
        with pytest.raises(UserError, match="can't be edited"):
            workspace.propose_commit(workspace.head(), {path: b""}, "out", 1)


def test_places_where_no_study_can_start_say_what_to_do(tmp_path: Path, repo: Path):
    plain = tmp_path / "plain"
    plain.mkdir()
    def start(folder: Path, base: str = "HEAD") -> UserError:
        with pytest.raises(UserError) as e:
            Workspace(folder, "mar8", folder / "studies/mar8/worktree").create(base)
        return e.value

    assert "not a git repository" in start(plain).message and "git init" in start(plain).hint
    run(plain, "init", "-q")
    assert "no commit yet" in start(plain).message
    run(plain, "commit", "-q", "--allow-empty", "-m", "x")
    assert "no backends/gpt/" in start(plain).message
    assert "lies inside" in start(repo / "backends").message
    assert "not a commit" in start(repo, "no-such-branch").message
    assert "not a commit" in start(repo, "--all").message
    assert not (repo / "studies").exists()


def test_git_missing_is_said_in_words(repo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="git is not installed"):
        Workspace(repo, "mar8", repo / "studies/mar8/worktree").create()


def test_an_older_studys_branch_is_not_reused(workspace: Workspace, repo: Path):
    workspace.advance(workspace.head(), propose(workspace, 5))
    with pytest.raises(UserError, match="exists already"):
        Workspace(repo, "mar8", repo / "studies/mar8/worktree").create()


def test_a_branch_that_a_person_has_checked_out_is_not_moved(workspace: Workspace, repo: Path):
    shutil.rmtree(workspace.worktree)
    run(repo, "worktree", "prune")
    run(repo, "checkout", "-q", "autoresearch/mar8")
    with pytest.raises(UserError, match="is checked out in"):
        workspace.ensure()


def test_a_lock_of_another_git_is_waited_for(workspace: Workspace, repo: Path):
    sha = propose(workspace, 5)
    lock = repo / ".git/refs/heads/autoresearch/mar8.lock"
    lock.touch()
    holder = subprocess.Popen(["sh", "-c", f"sleep 0.5; rm '{lock}'"])
    workspace.advance(workspace.head(), sha)
    holder.wait()
    assert workspace.head() == sha


def test_a_lock_that_stays_is_named(workspace: Workspace, repo: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("autoresearch.research.git.LOCK_WAIT_S", 0.1)
    sha, lock = propose(workspace, 5), repo / ".git/refs/heads/autoresearch/mar8.lock"
    lock.touch()
    with pytest.raises(UserError, match="another git holds") as e:
        workspace.advance(workspace.head(), sha)
    assert "mar8.lock" in e.value.message and "delete that file" in e.value.hint


def test_our_own_locks_left_by_a_power_cut_are_removed(workspace: Workspace, repo: Path):
    ours = [repo / ".git/refs/heads/autoresearch/mar8.lock", repo / ".git/worktrees/worktree/index.lock"]
    persons = repo / ".git/index.lock"
    long_ago = time.time() - 3600
    for lock in (*ours, persons):
        lock.touch()
        os.utime(lock, (long_ago, long_ago))
    workspace.ensure()
    assert not any(lock.exists() for lock in ours) and persons.exists()
    workspace.advance(workspace.head(), propose(workspace, 5))


@pytest.mark.parametrize("tag", ["", "a b", "-x", ".x", "a/b", "a..b", "x.lock", "x.", "ü", "a" * 65, "a\n"])
def test_tags_that_git_or_a_folder_would_refuse_are_refused(tag: str):
    with pytest.raises(UsageError, match="can't be the tag"):
        validate_tag(tag)


def test_ordinary_tags_are_allowed():
    assert [validate_tag(t) for t in ("mar8", "H100-b", "a.b_c")] == ["mar8", "H100-b", "a.b_c"]


def test_what_a_killed_process_left_is_removed_and_a_killed_gits_lock_is_given_time(
        workspace: Workspace, repo: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("autoresearch.research.workspace.STALE_LOCK_S", 0.3)
    index = repo / "studies/mar8/.index-4194304"
    index.mkdir()
    (index / "index").write_bytes(b"torn")
    lock = repo / ".git/refs/heads/autoresearch/mar8.lock"
    lock.touch()
    began = time.monotonic()
    workspace.ensure()
    assert not index.exists() and not lock.exists() and time.monotonic() - began > 0.2
    workspace.advance(workspace.head(), propose(workspace, 5))
    assert [p.name for p in (repo / "studies/mar8").iterdir()] == ["worktree"]


def test_a_git_that_does_not_answer_is_not_waited_for_for_ever(workspace: Workspace, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch):
    hangs = tmp_path / "bin" / "git"
    hangs.parent.mkdir()
    hangs.write_text("#!/bin/sh\nexec sleep 60\n")
    hangs.chmod(0o755)
    monkeypatch.setattr("autoresearch.research.git.HANGS_S", 0.2)
    monkeypatch.setenv("PATH", str(hangs.parent), prepend=os.pathsep)
    with pytest.raises(UserError, match=r"git rev-parse in .* gave no answer"):
        workspace.head()


def test_a_git_at_work_does_not_hear_the_ctrl_c_of_its_terminal(repo: Path):
    alias = f"alias.group=!{sys.executable} -c 'import os; print(os.getpgrp())'"
    assert int(git(repo, "-c", alias, "group")) != os.getpgrp()
