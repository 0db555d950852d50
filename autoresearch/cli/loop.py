"""`ar loop`: the night."""

from __future__ import annotations

import contextlib
import datetime
import time
from pathlib import Path
from typing import Any

import click

from autoresearch import paths
from autoresearch.cli.machine import Finite, Seconds, backend_option, fair_options, futility_option, sandbox_option
from autoresearch.cli.researching import asked_of, hint, make, researcher_options
from autoresearch.cli.sources import Size
from autoresearch.cli.studying import Wanted, begin_or_continue, interruptible, lab_of, loop_of, ratchet_option
from autoresearch.cli.terminal import TerminalView, quoted
from autoresearch.errors import UsageError, UserError
from autoresearch.records import BASELINE
from autoresearch.research import fair, storage, verify
from autoresearch.research.lab import Lab
from autoresearch.research.loop import BaselineFailed
from autoresearch.research.researchers.base import Researcher
from autoresearch.research.researchers.playbook import Playbook
from autoresearch.research.study import Study
from autoresearch.research.until import Until
from backends.recipe import PRESETS


@click.command("loop")
@click.option("--experiments", type=click.IntRange(0), default=None,
              help="Stop after this many more, whatever was tried before.")
@click.option("--hours", type=Finite(0, min_open=True), default=None, help="Stop after this long.")
@click.option("--until", "clock", default=None, metavar="HH:MM", help="Stop at this time of day.")
@click.option("--budget", "budget_s", type=Seconds(0.5, 86400), default=None,
              help="Seconds of training per trial of a new study.  [default: 300]")
@click.option("--tag", default=None, help="Which study. Default: the last one, or a new one named after today.")
@backend_option
@click.option("--data", default=None, help="A prepared text for a new study. Default: the current one.")
@click.option("--preset", type=click.Choice(PRESETS), default=None,
              help="What a new study starts from. Default: backends/gpt/recipe.toml of this clone.")
@ratchet_option
@click.option("--disk", "disk_bytes", type=Size(), default=None, metavar="SIZE",
              help="Disk space that the study may take, such as 40GB. Of weights it keeps the champion's, the "
                   "baseline's and those of the last three kept before.  [default: the study's; 20GB for a new one]")
@click.option("--verify-seeds", type=click.IntRange(0, 100), default=verify.SEEDS, show_default=True,
              help="Fresh seeds for the final comparison of champion, baseline and reference, which a limit of time "
                   "includes; 0 leaves it out.")
@researcher_options
@fair_options
@futility_option
@sandbox_option
def command(experiments: int | None, hours: float | None, clock: str | None, budget_s: float | None, tag: str | None,
            backend: str | None, data: str | None, preset: str | None, ratchet: str | None, disk_bytes: int | None,
            verify_seeds: int, **asked: Any) -> None:
    """Improve the model until told to stop: propose, train, score, keep or revert.

    A new study starts with a baseline sized to this machine, on three seeds. What a first trial makes promising is
    confirmed on fresh seeds before it is kept. Ctrl-C ends after the trial in progress, twice ends at once; the same
    command continues, and --experiments counts from there. Without a limit it goes on for ever.

    \b
    Example:
      ar loop --until 07:30
      ar loop --experiments 12 --budget 30
      ar loop --tag from-gpt2 --preset gpt2
      ar loop --researcher claude --max-usd 2 --hours 8
    """
    until, who = Until(experiments, deadline(hours, clock)), asked_of(asked)
    researcher = make(who)
    if said := hint(who):
        click.echo(said, err=True)
    click.echo(night(Wanted(tag, budget_s, backend, data, preset), until, verify_seeds, with_reference=True,
                     ratchet=ratchet, researcher=researcher, disk_bytes=disk_bytes))


def night(wanted: Wanted, until: Until, verify_seeds: int, with_reference: bool, ratchet: str | None = None,
          reserve: bool = True, researcher: Researcher | None = None,
          disk_bytes: int | None = None) -> str:
    """Run a study until it should stop; then verify, report, and say how it ended. `reserve`: verification ends by the
    deadline too, and takes at most half of the time until then."""
    from autoresearch.report import write_report

    view, stopped = TerminalView(), False
    study, found = begin_or_continue(wanted, view)
    with study, study.lock():
        try:
            if disk_bytes is not None:
                study.ledger.set_fact(storage.FACT, disk_bytes)
            with interruptible(until, view):
                plan, lab = study.ledger.fact("plan"), lab_of(study, found, view, until)
                say_who_else(study, lab)
                settle_ratchet(lab, ratchet)
                reference = paths.clone() / "backends" / "reference.toml" if with_reference else None
                if reserve and until.deadline is not None:
                    most = (until.deadline - time.time()) / 2
                    until.reserve = lambda: min(most, verify.seconds(lab, reference, verify_seeds)) if kept(lab) else 0
                try:
                    loop_of(lab, researcher or Playbook(), until).run(plan["changes"], plan["why"])
                    if not until.asked and verify_seeds:
                        until.deadline, until.reserve = until.deadline if reserve else None, lambda: 0.0
                        verified(lab, reference, verify_seeds, until)
                except (UserError, OSError):  # a full disk, a git or a machine that fails: the page all the same
                    with contextlib.suppress(UserError, OSError):
                        write_report(study, found, samples=False)
                    raise
        except BaselineFailed as e:
            raise UserError(f"the baseline could not be trained: {e}", remedy(e)) from None
        except KeyboardInterrupt:
            stopped = True
        said = ending(study, str(write_report(study, found, samples=not stopped)))
    if stopped:
        click.echo(said)
        raise KeyboardInterrupt  # as every command ends that is stopped before it is done
    return said


def remedy(e: BaselineFailed) -> str:
    if e.status == "interrupted":
        return ("The same command goes on, when the machine is left alone; or with --busy-ok, and noisier scores. The "
                'limits are in docs/decisions.md, "Fair time".')
    return quoted(e.log_tail)


def say_who_else(study: Study, lab: Lab) -> None:
    """What makes trials slower, before the first of them has trained for minutes."""
    others = [tag for tag in Study.in_use(study.clone) if tag != study.tag]
    if others:
        lab.view.note(f"warning: study {', '.join(others)} is worked on at the same time: each makes the other's "
                      "trials slower and its scores noisier; one after the other is fair")
    if busy := fair.crowded(lab.terms, lab.runner.backend):
        lab.view.note(f"warning: {busy}; a trial beside them is not scored but run again")


def settle_ratchet(lab: Lab, asked: str | None) -> None:
    """From here on it is the study's."""
    if asked is None:
        return
    before = lab.ledger.fact("ratchet", asked)
    if before != asked:
        lab.view.note(f"from here on this study decides by --ratchet {asked}; until now it was {before}")
    lab.ledger.set_fact("ratchet", asked)


def kept(lab: Lab) -> bool:
    """Whether the champion is another model than the baseline."""
    champion = lab.ledger.incumbent()
    return champion is not None and champion.n != BASELINE


def verified(lab: Lab, reference: Path | None, seeds: int, until: Until) -> None:
    """What a night ends with where it, or one before, kept something."""
    if not kept(lab):
        if any(e.n > BASELINE and e.verdict for e in lab.ledger.experiments()):
            lab.view.note("nothing was kept: the champion is the baseline, so there is nothing to verify")
        return
    lab.view.note(f"verifying on {seeds} fresh seed{'s' if seeds > 1 else ''}, all of val, confirm and the holdout")
    verify.verify(lab, reference, seeds, until)


def ending(study: Study, page: str) -> str:
    """What the night came to, in a few lines."""
    from autoresearch.report.story import tell

    story = tell(study)
    lines = [f"study {study.tag}: {len(story.judged)} experiments, {len(story.kept)} kept"]
    if story.baseline and story.champion and story.champion.n > BASELINE and story.gain_percent is not None:
        lines.append(f"val_bpb: baseline {story.baseline.bpb:.4f}, champion {story.champion.bpb:.4f} "
                     f"({-story.gain_percent:+.1f}%; seed {story.seed}, the score it was selected by)")
    elif story.baseline and story.baseline.bpb is not None:
        nothing = "nothing was kept: " if story.judged else ""
        lines.append(f"{nothing}the baseline stands at val_bpb {story.baseline.bpb:.4f} (seed {story.seed})")
    if story.summary:
        lines.append(story.summary.sentence)
    return "\n".join([*lines, f"report: {page}"])


def deadline(hours: float | None, clock: str | None) -> float | None:
    """time.time() of the earlier of the two limits. Raises UsageError for a time that is none."""
    limits = [time.time() + hours * 3600] if hours else []
    if clock:
        try:
            at = datetime.datetime.strptime(clock, "%H:%M").time()
        except ValueError:
            raise UsageError(f"--until {clock!r} is not a time of day", "Write it as HH:MM, such as 07:30.") from None
        now = datetime.datetime.now()  # its fold says which one it is of an hour that the end of summer time repeats
        moment = datetime.datetime.combine(now.date(), at.replace(fold=now.fold))
        limits.append((moment if moment > now else moment + datetime.timedelta(days=1)).timestamp())
    return min(limits, default=None)
