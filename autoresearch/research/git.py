"""One git command: none of our caller's git environment, no hooks, no signing; what fails is said in words."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from autoresearch.errors import UserError

LOCK_WAIT_S = 5.0
HANGS_S = 300.0  # a git that takes longer never answers

# Set by whoever started us (a git hook, say), these would point git at another repository or index.
_FOREIGN_ENV = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX",
                "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_CONFIG", "GIT_CONFIG_PARAMETERS",
                "GIT_CONFIG_COUNT", "GIT_GRAFT_FILE", "GIT_SHALLOW_FILE", "GIT_REPLACE_REF_BASE", "GIT_EXTERNAL_DIFF")
# No hooks, no line-ending conversion (a candidate is its bytes), and objects on disk before a ledger names them.
_OPTIONS = ("core.hooksPath=/dev/null", "core.autocrlf=false", "core.fsmonitor=false", "core.quotePath=false",
            "core.fsync=committed,reference", "commit.gpgSign=false", "i18n.commitEncoding=utf-8", "gc.auto=0")


class GitError(UserError):
    """A git command that failed, with what git said. Without a code it was not there, or never ended."""

    def __init__(self, message: str, hint: str, stderr: str = "", code: int | None = None):
        self.stderr, self.code = stderr, code
        super().__init__(message, hint)


def git(cwd: Path, *args: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None) -> bytes:
    """Standard output of `git args` run in `cwd`. GitError where it fails; waits a while for another git's lock."""
    full_env = {k: v for k, v in os.environ.items() if k not in _FOREIGN_ENV}
    full_env |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_LITERAL_PATHSPECS": "1"} | dict(env or {})
    give_up = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            done = subprocess.run(["git", *_options(), *args], cwd=cwd, env=full_env, capture_output=True,
                                  input=b"" if stdin is None else stdin, timeout=HANGS_S,
                                  process_group=0)  # the Ctrl-C that asks for a stop in good order isn't for it
        except subprocess.TimeoutExpired:
            raise GitError(f"git {args[0]} in {cwd} gave no answer within {HANGS_S:.0f} s",
                           "Look whether the disk answers, then run the same command again.") from None
        except FileNotFoundError:
            if not cwd.is_dir():
                raise GitError(f"{cwd} is gone", "Run `ar loop` again: it makes the worktree anew.") from None
            raise GitError("git is not installed, or not on PATH",
                           "Install it (macOS: xcode-select --install; Debian, Ubuntu, WSL: sudo apt install git)."
                           ) from None
        if done.returncode == 0:
            return done.stdout
        stderr = done.stderr.decode(errors="replace").strip()
        if "File exists" in stderr and ".lock" in stderr and time.monotonic() < give_up:
            time.sleep(0.1)
            continue
        raise _failed(cwd, args, stderr, done.returncode)


@functools.cache
def _options() -> list[str]:
    options = list(_OPTIONS)
    said = subprocess.run(["git", "version"], capture_output=True, text=True).stdout
    if (version := re.search(r"(\d+)\.(\d+)", said)) and (int(version[1]), int(version[2])) < (2, 36):
        options.append("core.fsyncObjectFiles=true")  # what core.fsync replaced, with a warning ever since
    return [a for option in options for a in ("-c", option)]


def _failed(cwd: Path, args: tuple[str, ...], stderr: str, code: int) -> GitError:
    def error(message: str, hint: str) -> GitError:
        return GitError(message, hint, stderr, code)

    if "not a git repository" in stderr:
        return error(f"{cwd} is not a git repository", "autoresearch records every experiment in git. Clone the "
                     "repository, or in this folder: git init && git add -A && git commit -m start")
    if "dubious ownership" in stderr:
        return error(f"git won't work in {cwd}: it belongs to another user",
                     f"If you trust it: git config --global --add safe.directory {cwd}")
    if lock := re.search(r"'([^']*\.lock)'", stderr):
        return error(f"another git holds {lock[1]}",
                     "Let it finish. If no git is running, delete that file and try again.")
    if "No space left" in stderr:
        return error("git found no space left on the disk", "Free some disk space, then continue.")
    said = "; ".join(stderr.splitlines()[-3:]) or (f"signal {-code}" if code < 0 else "it said nothing")
    return error(f"git {args[0]} failed in {cwd}: {said}", "Mend that, then run the same command again.")
