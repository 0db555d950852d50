"""`ar loop`: the night."""

from __future__ import annotations

import datetime
import time

import click

from autoresearch import paths
from autoresearch.cli.machine import backend_option
from autoresearch.cli.studying import Wanted, begin_or_continue, interruptible, lab_of, loop_of, plan_of
from autoresearch.cli.terminal import TerminalView, quoted
from autoresearch.errors import UsageError, UserError
from autoresearch.research import verify
from autoresearch.research.loop import BaselineFailed
from autoresearch.research.researchers.playbook import Playbook
from autoresearch.research.study import Study
from autoresearch.research.until import Until


@click.command("loop")
@click.option("--experiments", type=click.IntRange(0), default=None, help="Stop after this many more experiments.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), default=None, help="Stop after this long.")
@click.option("--until", "clock", default=None, metavar="HH:MM", help="Stop at this time of day.")
@click.option("--budget", "budget_s", type=click.FloatRange(0.5, 86400), default=None,
              help="Seconds of training per trial of a new study.  [default: 300]")
@click.option("--tag", default=None, help="Which study. Default: the last one, or a new one named after today.")
@backend_option
@click.option("--data", default=None, help="A prepared text for a new study. Default: the current one.")
@click.option("--verify-seeds", type=click.IntRange(0, 100), default=3, show_default=True,
              help="Fresh seeds for the final comparison of champion, baseline and reference; 0 leaves it out.")
def command(experiments: int | None, hours: float | None, clock: str | None, budget_s: float | None, tag: str | None,
            backend: str | None, data: str | None, verify_seeds: int) -> None:
    """Improve the model until told to stop: propose, train, score, keep or revert.

    A new study starts with a baseline sized to this machine, on three seeds. Ctrl-C ends after the experiment in
    progress, twice ends at once; the same command continues. Without a limit it goes on for ever.

    \b
    Example:
      ar loop --until 07:30
      ar loop --experiments 12 --budget 30
    """
    until = Until(experiments, deadline(hours, clock))
    click.echo(night(Wanted(tag, budget_s, backend, data), until, verify_seeds, with_reference=True))


def night(wanted: Wanted, until: Until, verify_seeds: int, with_reference: bool) -> str:
    """Run a study until it should stop; then verify, report, and say how it ended."""
    from autoresearch.report import write_report

    view, stopped = TerminalView(), False
    study, found = begin_or_continue(wanted, view)
    with study, study.lock():
        lab = lab_of(study, found, view)
        try:
            with interruptible(until, view):
                plan = plan_of(lab)
                loop_of(lab, Playbook(), until).run(plan["changes"], plan["why"])
                reference = paths.clone() / "backends" / "reference.toml" if with_reference else None
                if not until.asked and verify_seeds:
                    view.note(f"verifying on {verify_seeds} fresh seeds and the confirm split")
                    verify.verify(lab, reference, verify_seeds, until)
        except BaselineFailed as e:
            raise UserError(f"the baseline could not be trained: {e}", quoted(e.log_tail)) from None
        except KeyboardInterrupt:
            stopped = True
            view.note("stopped; nothing that was decided is lost, the same command continues")
        page = write_report(study, found, samples=not stopped)
        return ending(study, str(page))


def ending(study: Study, page: str) -> str:
    """What the night came to, in a few lines."""
    from autoresearch.report.story import tell

    story = tell(study)
    lines = [f"study {study.tag}: {len(story.judged)} experiments, {len(story.kept)} kept"]
    if story.baseline and story.champion and story.gain_percent is not None:
        lines.append(f"val_bpb: baseline {story.baseline.bpb:.4f}, champion {story.champion.bpb:.4f} "
                     f"({-story.gain_percent:+.1f}%; the score it was selected by)")
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
        now = datetime.datetime.now()
        moment = datetime.datetime.combine(now.date(), at)
        limits.append((moment if moment > now else moment + datetime.timedelta(days=1)).timestamp())
    return min(limits, default=None)
