"""`ar adopt`: kept changes to the branch one works on."""

from __future__ import annotations

import click

from autoresearch import paths
from autoresearch.errors import UserError


@click.command("adopt")
@click.argument("numbers", metavar="[N]...", type=click.IntRange(min=0), nargs=-1)
@click.option("--tag", default=None, help="Which study. Default: the last one.")
def command(numbers: tuple[int, ...], tag: str | None) -> None:
    """Bring kept changes to your own branch, each as a commit.

    N are experiments that the study kept, 0 its sizing of the baseline to this machine; without any, all that led to
    the champion. Each becomes a commit on the branch that is checked out here, with its hypothesis, why it was kept,
    and its number. A checkout with edits is left alone, and where one of the changes does not fit, none is brought.

    \b
    Example:
      ar adopt
      ar adopt 0 3 7 --tag mar8
    """
    from autoresearch.records import BASELINE
    from autoresearch.research.adopt import adopt, checked_out
    from autoresearch.research.stack import stack
    from autoresearch.research.study import Study
    from autoresearch.words import one_line

    with Study.open(paths.clone(), tag, readonly=True) as study:
        known = stack(study.workspace, study.ledger.experiments())
        if not known or (not numbers and all(c.n == BASELINE for c in known)):
            sizing = f", or bring the sizing of the baseline alone: ar adopt 0 --tag {study.tag}" if known else ""
            raise UserError(f"nothing was kept in study {study.tag}, so there is nothing to adopt",
                            f"Go on with it: ar loop --tag {study.tag}{sizing}")
        kept = {c.n: c for c in known}
        if strange := [n for n in numbers if n not in kept]:
            raise UserError(f"#{strange[0]} is not among what led to the champion of {study.tag}: "
                            f"{', '.join(f'#{n}' for n in kept)}", "`ar log` lists all experiments.")
        chosen = [c for c in known if not numbers or c.n in numbers]
        brought = adopt(study, chosen, known)
        for adopted in brought:
            sha = adopted.sha[:10] or "(already there)"
            click.echo(f"{sha:<16} #{adopted.change.n} {one_line(adopted.change.hypothesis)}")
        if new := sum(bool(adopted.sha) for adopted in brought):
            click.echo(f"{new} commit{'s' if new > 1 else ''} on your branch {checked_out(study.clone)}")
