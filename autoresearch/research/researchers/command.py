"""Any coding agent as a researcher: an external command in a throw-away copy, whose edits are the proposal.

    Command    the researcher
    reported   what an agent says it has spent, in the formats of those that say so

The copy holds the candidate's folder and what it is built on; the brief comes on standard input. It is a repository of
git, since some agents want one; what counts is what the files are in the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch import scratch
from autoresearch.records import Spend
from autoresearch.research.brief import brief
from autoresearch.research.git import GitError, git
from autoresearch.research.researchers.base import Context, NoProposal, Proposal, Researcher
from autoresearch.research.researchers.draft import EVIDENCE_CHARS, FOLDER, HYPOTHESIS_CHARS, said
from autoresearch.research.researchers.service import Limits
from backends import recipe

SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
HYPOTHESIS = "hypothesis.txt"
MOST_FILE_BYTES, MOST_PRINTED_BYTES = 1 << 20, 64 << 20
LOOK_EVERY_S, GRACE_S = 0.1, 8.0
FAILURES_IN_A_ROW, REST_S = 3, 3600.0  # after so many, an agent that hangs every time is left alone for so long
TASK = f"""Propose one experiment by editing files below {FOLDER} in the current folder, then end. Edit nothing else.
Write your hypothesis, one line, to {HYPOTHESIS}, and below it the results it rests on, by number. Do not train: the
harness does that when you have ended, in a sandbox, and scores it. Everything you need to know is below.

"""


@dataclass
class Command(Researcher):
    command: str  # as for a shell; {usd_left} is what may still be spent
    limits: Limits
    prefix: Sequence[str] = ()  # what it is started with, so that it sees no validation text and leaves nothing behind
    most_s: float = 900.0
    passed_on: Sequence[str] = ()  # environment variables that it is given though their names sound secret
    name: str = "command"
    _told: bool = False
    _failures: int = 0
    _rests_until: float = 0.0

    def propose(self, context: Context) -> Proposal:
        if time.monotonic() < self._rests_until:
            raise NoProposal(f"it failed {FAILURES_IN_A_ROW} times in a row and is asked again within the hour")
        left = None if self.limits.usd is None else self.limits.usd - context.spent.usd
        if left is not None and left <= 0:
            raise NoProposal(f"the limit of ${self.limits.usd:g} is reached (${context.spent.usd:.2f}; --max-usd)")
        if self.limits.tokens is not None and context.spent.tokens >= self.limits.tokens:
            raise NoProposal(f"the limit of {self.limits.tokens:,} tokens is reached (--max-tokens)")
        try:
            proposal = self._asked(context, left)
        except NoProposal:
            self._failures += 1
            if self._failures % FAILURES_IN_A_ROW == 0:
                self._rests_until = time.monotonic() + REST_S
            raise
        self._failures = 0
        return proposal

    def _asked(self, context: Context, left: float | None) -> Proposal:
        with scratch.folder() as folder:
            try:
                copy = lay_out(folder, context)
            except GitError as e:
                raise NoProposal(f"no copy could be made for it: {e.message}") from None
            argv = shlex.split(self.command.replace("{usd_left}", f"{left or 0:.2f}"))
            before = _outside(copy)
            self._run(context, argv, folder, copy)
            if strays := sorted(_differing(before, _outside(copy))):
                raise NoProposal(f"it also changed {said(', '.join(strays[:5]), 300)}: only {FOLDER} may change")
            return self._proposal(context, copy)

    def _run(self, context: Context, argv: list[str], folder: Path, copy: Path) -> None:
        """Raises NoProposal where it did not end well. What it spent is journalled in any case."""
        out, err = folder / "out", folder / "err"
        began = time.monotonic()
        with open(folder / "brief.md", "rb") as told, open(out, "wb") as o, open(err, "wb") as e:
            process = subprocess.Popen([*self.prefix, *argv], cwd=copy, env=self._environment(folder), stdin=told,
                                       stdout=o, stderr=e, start_new_session=True)
            try:
                why = self._follow(context, process, (out, err))
            finally:
                end(process)
        printed = out.read_bytes()[-(4 << 20):].decode(errors="replace")
        if not why and process.returncode:
            tail = said(err.read_bytes()[-400:].decode(errors="replace") or printed[-400:], 200)
            why = f"it ended with exit code {process.returncode}: {tail}"
        spent = reported(printed)
        if not spent and not self._told:
            self._told = True
            context.note(f"{self.name}: {argv[0]} does not report what it spends, so --max-usd can't be held")
        model = spent.pop("model", Path(argv[0]).name)
        context.spend(Spend(self.name, said(str(model), 80), said(why, 200) or "ok", priced="reported" if spent else "",
                            latency_s=time.monotonic() - began, **spent))
        if why:
            raise NoProposal(why)

    def _follow(self, context: Context, process: subprocess.Popen[bytes], printed: Sequence[Path]) -> str:
        """Until it has ended by itself, which is "", or has to be ended, in words."""
        deadline = time.monotonic() + self.most_s
        while process.poll() is None:
            if context.stopping():
                return "a stop was asked for"
            if time.monotonic() > deadline:
                return f"it was still at it after {self.most_s / 60:.0f} minutes and was ended"
            if sum(path.stat().st_size for path in printed) > MOST_PRINTED_BYTES:
                return f"it printed more than {MOST_PRINTED_BYTES >> 20} MB and was ended"
            time.sleep(LOOK_EVERY_S)
        return ""

    def _environment(self, folder: Path) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items()
                if k in self.passed_on or not (SECRET.search(k) or k.startswith(("AUTORESEARCH_", "GIT_")))}
        (folder / "tmp").mkdir(exist_ok=True)
        return kept | {"TMPDIR": str(folder / "tmp")}

    def _proposal(self, context: Context, copy: Path) -> Proposal:
        after = _below(copy / FOLDER)
        files: dict[str, str | None] = {n: t for n, t in after.items() if context.files.get(n) != t}
        files |= dict.fromkeys(context.files.keys() - after.keys())
        if not files:
            raise NoProposal("it changed nothing")
        words = _words(copy / HYPOTHESIS)
        hypothesis = said(words[0], HYPOTHESIS_CHARS) if words else ""
        proposal = Proposal(hypothesis or f"an edit of {said(', '.join(sorted(files)), 200)}",
                            said(" ".join(words[1:]), EVIDENCE_CHARS), {}, files)
        if why := context.refusal(proposal):
            raise NoProposal(f"what it proposed would not be run: {why}")
        return proposal


def lay_out(folder: Path, context: Context) -> Path:
    """The throw-away copy, below `folder`, and the brief beside it."""
    copy = folder / "study"
    base = Path(recipe.__file__).parent
    files = {FOLDER + name: text for name, text in context.files.items()} | {"program.md": context.brief}
    files |= {f"backends/{name}": (base / name).read_text(encoding="utf-8")
              for name in ("__init__.py", "base.py", "recipe.py", "spec.py")}
    for name, text in files.items():
        path = copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode(errors="replace"))
    (folder / "brief.md").write_text(TASK + brief(context).text(), encoding="utf-8", errors="replace")
    git(copy, "init", "--quiet")
    git(copy, "add", "-A")
    git(copy, "-c", "user.name=autoresearch", "-c", "user.email=autoresearch@localhost", "commit", "--quiet", "-m",
        f"The incumbent, #{context.incumbent.n}")
    return copy


def end(process: subprocess.Popen[bytes]) -> None:
    """TERM, so that who started the agent for us can end what has left its session; KILL where that does not help."""
    for how, within_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(within_s)


def reported(printed: str) -> dict[str, Any]:
    """What an agent says it has spent, as fields of Spend; {} where it says nothing. `claude -p --output-format json`
    ends with a result, `codex exec --json` reports every turn."""
    found: dict[str, Any] = {}
    for told in _objects(printed):
        usage = told.get("usage") if isinstance(told.get("usage"), dict) else {}
        counts = {"input_tokens": _count(usage, "input_tokens"), "output_tokens": _count(usage, "output_tokens")}
        if told.get("type") == "turn.completed":
            cached = _count(usage, "cached_input_tokens")
            counts["input_tokens"] -= cached
            counts["cache_read_tokens"] = cached
            found |= {k: found.get(k, 0) + v for k, v in counts.items()}
        elif isinstance(cost := told.get("total_cost_usd"), int | float) and 0 <= cost < 1e6:
            counts |= {"cache_write_5m_tokens": _count(usage, "cache_creation_input_tokens"),
                       "cache_read_tokens": _count(usage, "cache_read_input_tokens")}
            found = counts | {"usd": float(cost)}
            if isinstance(models := told.get("modelUsage"), dict) and models:
                found["model"] = ", ".join(map(str, models))
    return found


def _objects(printed: str) -> list[dict[str, Any]]:
    """JSON objects in an output: all of it is one, or a list of them, or some of its lines are."""
    def parsed(text: str) -> list[Any]:
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(text)
            return value if isinstance(value, list) else [value]
        return []

    whole = parsed(printed)
    values = whole or [v for line in printed.splitlines() if line.startswith("{") for v in parsed(line)]
    return [value for value in values if isinstance(value, dict)]


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12 else 0


def _below(folder: Path) -> dict[str, str]:
    """{path: text} of the candidate's folder. Raises NoProposal for what can't be one."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode) or "__pycache__" in path.parts:
            continue
        if not stat.S_ISREG(mode) or path.stat().st_size > MOST_FILE_BYTES:
            raise NoProposal(f"{said(name, 100)} is not an ordinary file of at most {MOST_FILE_BYTES >> 20} MB")
        try:
            found[name] = path.read_bytes().decode()  # line ends as they are
        except UnicodeDecodeError:
            raise NoProposal(f"{said(name, 100)} is not text") from None
    return found


def _outside(copy: Path) -> dict[str, tuple[int, int, int]]:
    """Everything beside the candidate's folder, as what it would take to notice a change. What agents and tools keep
    in hidden folders is theirs."""
    found = {}
    for path in copy.rglob("*"):
        name = str(path.relative_to(copy))
        hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(copy).parts)
        if hidden or name == HYPOTHESIS or f"{name}/".startswith(FOLDER) or FOLDER.startswith(f"{name}/"):
            continue
        status = path.lstat()
        found[name] = (status.st_mode, 0 if stat.S_ISDIR(status.st_mode) else status.st_size,
                       0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns)
    return found


def _differing(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def _words(path: Path) -> list[str]:
    """Lines of a small text that may be missing or anything else."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return []
        with open(path, "rb") as f:
            return [line for line in f.read(10_000).decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return []
