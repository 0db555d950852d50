"""`ar queue`: a person's own experiment comes next."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import click

from autoresearch.errors import UsageError, UserError

if TYPE_CHECKING:
    from autoresearch.research.queue import Queued
    from autoresearch.research.study import Study


@click.command("queue")
@click.option("-m", "--message", "hypothesis", default=None, help="What the experiment should do, in one line.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE",
              help="Change a key of the incumbent's recipe, such as model.depth=6; repeat for several.")
@click.option("--patch", type=click.File("rb"), default=None,
              help="Change its code: a patch as `git diff` writes it, of files in backends/gpt/; - reads it from "
                   "standard input.")
@click.option("--remove", type=int, default=None, metavar="ID", help="Take an entry out again.")
@click.option("--tag", default=None, help="Which study. Default: the last one.")
def command(hypothesis: str | None, changes: tuple[str, ...], patch: IO[bytes] | None,
            remove: int | None, tag: str | None) -> None:
    """Put an experiment of your own next, before what the researcher proposes.

    It runs on top of whatever is the incumbent when its turn comes, and is judged like any other. The study may be
    running or not; the queue is kept in its ledger. Without options it says what is waiting.

    \b
    Example:
      ar queue -m "twice as deep, half as wide" --set model.depth=8 --set model.width=192
      git diff | ar queue -m "GELU" --patch -
      ar queue --remove 2
    """
    from autoresearch import paths
    from autoresearch.research import person
    from autoresearch.research.ledger import unicode
    from autoresearch.research.study import Study

    asks = bool(changes or patch)
    if remove is not None and (asks or hypothesis):
        raise UsageError("--remove takes an entry out; -m, --set and --patch add one", "Do one after the other.")
    with Study.open(paths.clone(), tag, readonly=not asks and remove is None) as study:
        if remove is not None:
            if not study.ledger.queue.remove(remove):
                raise UserError(f"nothing waits as {remove}", "See what does with: ar queue")
            click.echo(f"removed {remove}")
        elif asks or hypothesis:
            text, said = read(patch) if patch else "", unicode(" ".join((hypothesis or "").split()))
            if not said:
                raise UsageError("the experiment has no message", 'Say what it should do: -m "half the batch"')
            person.check(study.workspace, person.typed(changes), text)
            id = study.ledger.queue.add(said, person.typed(changes), text)
            click.echo(f"queued as {id}: {said}")
            click.echo(turn(study), err=True)
        else:
            click.echo("\n".join(map(line, study.ledger.queue.waiting())) or "nothing is queued")


def read(patch: IO[bytes]) -> str:
    """Its lines as they end: a file may end them in its own way."""
    try:
        return patch.read().decode()
    except UnicodeDecodeError:
        raise UserError(f"{patch.name} is not UTF-8 text", "Candidates are read by people: keep it text.") from None


def line(queued: Queued) -> str:
    what = [f"{key} = {value}" for key, value in queued.changes.items()]
    what += [f"a patch of {len(queued.patch.splitlines())} lines"] if queued.patch else []
    return f"{queued.id:>3}  {queued.hypothesis}  ({', '.join(what)})"


def turn(study: Study) -> str:
    """When it will run."""
    before = len(study.ledger.queue.waiting()) - 1
    after = "the experiment in progress" if not before else f"{before} other{'s' if before > 1 else ''}"
    if study.owner() is None:
        return f"it runs{' after ' + after if before else ''} when the study goes on: ar loop --tag {study.tag}"
    return f"it runs after {after}"
