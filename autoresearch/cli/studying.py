"""What the commands that advance a study share: open or begin one, and gather what its loop needs."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click

from autoresearch import paths
from autoresearch.cli.machine import choose_backend, sized
from autoresearch.cli.terminal import TerminalView
from autoresearch.data import prepared
from autoresearch.data.prepared import Prepared
from autoresearch.errors import UsageError, UserError
from autoresearch.harness import assemble, caches
from autoresearch.harness.awake import awake
from autoresearch.harness.runner import Runner
from autoresearch.research.decide import RATCHETS
from autoresearch.research.events import Teller
from autoresearch.research.git import git
from autoresearch.research.lab import Lab
from autoresearch.research.loop import Loop
from autoresearch.research.researchers.base import Researcher
from autoresearch.research.study import Study
from autoresearch.research.until import Paused, Until
from autoresearch.research.workspace import validate_tag
from backends.recipe import parse, preset_file

DEFAULT_BUDGET_S = 300.0
DEMO = "demo"  # the study of `ar demo`, whose seconds are nobody's night: without its tag it is not gone on with
SPEEDUP = 2.0  # what a night may make of the baseline's tokens per second

ratchet_option = click.option(
    "--ratchet", type=click.Choice(RATCHETS), default=None,
    help="What it takes to keep a change: careful confirms it on fresh seeds, fast asks for one standard deviation on "
         "one seed, greedy for any decrease.  [default: the study's; careful for a new one]")


@dataclass(frozen=True)
class Wanted:
    """What a person asked of a study; None: as it is, or the default for a new one."""

    tag: str | None = None
    budget_s: float | None = None
    backend: str | None = None
    data: str | None = None
    preset: str | None = None


def begin_or_continue(wanted: Wanted, say: TerminalView) -> tuple[Study, Prepared]:
    """The study of that tag, or the one used last where it is on the same text; else a new one."""
    clone = paths.clone()
    tags = Study.tags(clone)
    tag = wanted.tag or next((tag for tag in tags if tag != DEMO), _today(tags))
    if tag in tags:
        study = Study.open(clone, tag)
        found = study.text()
        chosen = prepared.find(wanted.data) if wanted.data else _current()
        if wanted.tag or chosen is None or chosen.digest == found.digest:
            _refuse_other_terms(study, wanted)
            if study.ledger.fact("plan") is None:
                raise UserError(f"study {tag} was begun and never sized", f"Delete it and begin anew: ar delete {tag}")
            budget_s = study.ledger.fact("budget_s")
            say.note(f"continuing study {tag} on {found.name}" + (f", {budget_s:g} s a trial" if budget_s else ""))
            return study, found
        say.note(f"study {tag} is on {found.name}; the text now is {chosen.name}: starting a new study")
        study.close()
        tag = _today(tags)
    return _begin(clone, tag, wanted, say)


def open_study(tag: str | None) -> tuple[Study, Prepared]:
    """An existing study, to change it."""
    study = Study.open(paths.clone(), tag)
    return study, study.text()


def lab_of(study: Study, found: Prepared, view: TerminalView, until: Until | None = None) -> Lab:
    """`until` also ends its waiting for a quiet machine. Raises UserError where the trainer is no longer the one that
    the study's scores come from."""
    if study.ledger.fact("frozen_digest") != assemble.digest(assemble.frozen_files()):
        raise UserError(f"study {study.tag} was made with another version of the trainer (backends/ or the harness has "
                        "changed since), so new scores would not compare with its own",
                        f"Start another study (ar loop --tag NAME), delete this one (ar delete {study.tag}), or go "
                        "back to the version that it was made with.")
    runner = Runner(found, study.ledger.fact("backend"), caches.home(), study.ledger.fact("shards"))
    caches.trim(runner.caches)
    return Lab(study, study.ledger, runner, study.ledger.fact("budget_s"), Teller(study, view.show),
               (lambda: until.late(0.0)) if until else (lambda: False))


def loop_of(lab: Lab, researcher: Researcher, until: Until, ratchet: str | None = None) -> Loop:
    """`ratchet`: None for the study's."""
    ratchet = ratchet or lab.ledger.fact("ratchet", "careful")
    return Loop(lab, researcher, lab.ledger.fact("device") or {}, until, ratchet)


def planned(found: Prepared, backend: str, budget_s: float, start: str | None) -> dict[str, Any]:
    """The probe's plan for a new study, and how much of the text its trials see."""
    plan = sized(found, backend, budget_s, parse(start) if start else None, patient=True).to_json(with_table=False)
    return {"device": plan["device"] | {"backend": plan["backend"]}, "shards": shards_for(found, plan), "plan": plan}


def shards_for(found: Prepared, plan: dict[str, Any]) -> int:
    """Shards of train that give one trial new text to its end, speed-ups of the night included; at least those that
    are encoded. Fixed for a study: a seed means the same data in all of its trials."""
    facts = found.manifest.tokenizers[plan["tokenizer"]]
    wanted = math.ceil(SPEEDUP * plan["trial_tokens"] / max(1, min(facts.shards)))
    return min(len(found.manifest.shards), max(len(facts.shards), wanted))


@contextlib.contextmanager
def interruptible(until: Until, view: TerminalView, then: str = "the same command continues") -> Iterator[None]:
    """Ctrl-C once: finish the trial in progress, then stop. Twice: stop at once, with exit code 1. TERM is as Ctrl-C
    twice. Meanwhile the machine stays awake."""
    def once(signum: int, frame: FrameType | None) -> None:
        if until.asked or signum == signal.SIGTERM:
            raise KeyboardInterrupt
        until.asked = True
        view.note("stopping after the trial in progress; press Ctrl-C again to stop now")

    before = [signal.signal(s, once) for s in (signal.SIGINT, signal.SIGTERM)]
    try:
        with awake(view.note):
            yield
    except Paused:
        view.note(f"stopped between two trials; {then}")
    except KeyboardInterrupt:
        view.note(f"stopped; nothing that was decided is lost, {then}")
        raise
    finally:
        view.close()
        for s, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(s, handler)


def _begin(clone: Path, tag: str, wanted: Wanted, say: TerminalView) -> tuple[Study, Prepared]:
    found = prepared.find(wanted.data) if wanted.data else prepared.current()
    backend = choose_backend(wanted.backend)
    if shutil.disk_usage(clone).free < 2 << 30:
        raise UserError(f"less than 2 GiB of disk space are free at {clone}",
                        "A study keeps weights and logs: free some.")
    validate_tag(tag)
    refuse_edits(clone, wanted.preset)
    start = preset_file(wanted.preset).read_text(encoding="utf-8") if wanted.preset else None
    budget_s = wanted.budget_s or DEFAULT_BUDGET_S
    # The probe runs before anything is made: where this backend can't train here, no study is left behind.
    plan = planned(found, backend, budget_s, start)
    study = Study.create(clone, tag, facts={
        "preset": wanted.preset, "start": start,  # TOML of the recipe to size; None: the clone's
        "budget_s": budget_s, "backend": backend, "data_name": found.name,
        "data_digest": found.digest, "data_root": str(found.root),
        "frozen_digest": assemble.digest(assemble.frozen_files()), **plan})
    say.note(f"new study {tag} on {found.name}, {budget_s:g} s a trial, {backend}; branch {study.workspace.branch}")
    say.note(plan["plan"]["why"])
    return study, found


def refuse_edits(clone: Path, preset: str | None) -> None:
    """The probe measures the files as they are, and a study begins with the commit: they must be the same."""
    edited = os.fsdecode(git(clone, "status", "--porcelain", "-z", "--no-renames", "--", paths.CANDIDATE)).split("\0")
    names = [line[3:] for line in edited if line and "__pycache__" not in line]
    if preset:  # it is the recipe
        names = [name for name in names if name != f"{paths.CANDIDATE}/recipe.toml"]
    if names:
        raise UserError(f"edits that are not committed would not be in the study: {', '.join(names[:3])}"
                        + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
                        f"Commit them (git add {paths.CANDIDATE} && git commit), or put them aside: git stash -u")


def _current() -> Prepared | None:
    try:
        return prepared.current()
    except UserError:
        return None


def _refuse_other_terms(study: Study, wanted: Wanted) -> None:
    for name, asked in (("budget_s", wanted.budget_s), ("backend", wanted.backend), ("data_name", wanted.data),
                        ("preset", wanted.preset)):
        has = study.ledger.fact(name)
        if asked is not None and asked != has:
            what = name.partition("_")[0]
            raise UsageError(f"study {study.tag} was begun with {what} {has}, not {asked}: its scores compare only on "
                             "equal terms", "Leave the option out, or start a new study with --tag.")


def _today(tags: list[str]) -> str:
    day = time.strftime("%b%d").lower()
    return next(t for i in range(len(tags) + 1) if (t := day if i == 0 else f"{day}-{i + 1}") not in tags)


