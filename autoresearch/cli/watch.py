"""`ar watch`: a running study, seen from another terminal."""

from __future__ import annotations

import time

import click

from autoresearch import paths
from autoresearch.cli.terminal import TerminalView
from autoresearch.errors import UserError
from autoresearch.research.events import FILE, Event, Follower
from autoresearch.research.study import Study

LOOK_EVERY_S, OWNER_EVERY_S = 0.3, 2.0
RECENT = 5  # verdicts of this run that a panel begins with


@click.command("watch")
@click.option("--tag", default=None, help="Which study. Default: the one used last.")
def command(tag: str | None) -> None:
    """Show a running study as its own terminal does, from another one.

    Ends when the study does; Ctrl-C leaves the study alone. Where the output is no terminal it comes as plain lines.

    \b
    Example:
      ar watch
    """
    with Study.open(paths.clone(), tag, readonly=True) as study:
        if study.owner() is None:
            raise UserError(f"study {study.tag!r} is not running", f"Let it go on: ar loop --tag {study.tag}. "
                            f"See where it stands: ar status --tag {study.tag}")
        follower = Follower(study.root / FILE)
        run = this_run(follower.new())
        view = TerminalView(since=run[0]["at"] if run else None)
        try:
            view.catch_up(run, RECENT)
            follow(study, follower, view)
        except KeyboardInterrupt:
            return
        finally:
            view.close()
    click.echo(f"study {study.tag} has stopped. Where it stands: ar status --tag {study.tag}")


def this_run(events: list[Event]) -> list[Event]:
    """From the last `began` on."""
    starts = [i for i, event in enumerate(events) if event["event"] == "began"]
    return events[starts[-1]:] if starts else events


def follow(study: Study, follower: Follower, view: TerminalView) -> None:
    """Until nobody runs the study any more."""
    looked = time.monotonic()
    while True:
        events = follower.new()
        for event in events:
            view.show(event)
        if not events and time.monotonic() - looked > OWNER_EVERY_S:
            looked = time.monotonic()
            if study.owner() is None and not (events := follower.new()):
                return
            for event in events:
                view.show(event)
        time.sleep(LOOK_EVERY_S)
