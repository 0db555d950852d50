"""`ar verify`: the number that counts."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from autoresearch import paths
from autoresearch.cli.machine import fair_options, sandbox_option
from autoresearch.cli.studying import interruptible, lab_of, open_study
from autoresearch.cli.terminal import TerminalView
from autoresearch.errors import UserError
from autoresearch.records import BASELINE
from autoresearch.research import horizon, verify
from autoresearch.research.horizon import Race, Target
from autoresearch.research.lab import Lab
from autoresearch.research.paired import Gain, plain
from autoresearch.research.study import Study
from autoresearch.research.until import Until
from autoresearch.research.verify import Summary


@click.command("verify")
@click.option("--tag", default=None, help="Which study. Default: the last one.")
@click.option("--seeds", type=click.IntRange(1, 100), default=verify.SEEDS, show_default=True,
              help="Fresh seeds for each model.")
@click.option("--reference/--no-reference", "with_reference", default=True,
              help="Compare with the fixed reference recipe too.")
@click.option("--time-to-target", "with_target", is_flag=True,
              help="Measure too how long the champion needs for the baseline's final score.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@fair_options
@sandbox_option
def command(tag: str | None, seeds: int, with_reference: bool, with_target: bool, as_json: bool) -> None:
    """Score the champion again, on everything it was not selected on.

    Trains champion, baseline and the fixed reference on seeds that decided nothing, and scores them on the whole of
    val, of confirm, and, once for a champion, of the holdout. The sentence at the end is the one to quote. What was
    run before is not run again, so the same command goes on after an interruption; only the look at the holdout, which
    takes five seeds or more, trains again what a shorter verification left out. Where nothing was kept the champion is
    the baseline, and only the baseline and the reference are compared.

    --time-to-target runs the champion with shorter and shorter budgets, each with its whole schedule, until it falls
    short of what the baseline ends with.

    \b
    Example:
      ar verify
      ar verify --seeds 8 --time-to-target
    """
    view, until = TerminalView(), Until()
    study, found = open_study(tag)
    with study, study.lock():
        study.reconcile(sync=False)
        champion = study.ledger.incumbent()
        if champion is None:
            raise UserError(f"study {study.tag} has no baseline yet", "Run it first: ar loop")
        with interruptible(until, view):
            reference = paths.clone() / "backends" / "reference.toml" if with_reference else None
            lab = lab_of(study, found, view, until)
            if verify.alone(lab, reference):
                raise _nothing(study)
            if champion.n == BASELINE:
                view.note("nothing was kept: the champion is the baseline, which is compared with the reference alone")
            view.note(f"at most about {verify.seconds(lab, reference, seeds) / 60:.0f} minutes")
            verify.verify(lab, reference, seeds, until)
            if with_target and champion.n != BASELINE and not until.asked:
                _reach(lab, until)
        summary = of_study(study)
        reached = horizon.target(study.ledger.experiments(), champion.n, lab.budget_s) if champion.n else None
    if summary is None and champion.n == BASELINE:
        raise _nothing(study)
    if summary is None:
        raise UserError("verification did not finish, so there is nothing to say yet", "Run the same command again.")
    click.echo(json.dumps(_record(summary, reached)) if as_json else "\n".join(table(summary, reached)))


def _nothing(study: Study) -> UserError:
    return UserError("nothing was kept, so the baseline is compared with nothing",
                     f"Go on with the study: ar loop --tag {study.tag}")


def of_study(study: Study) -> Summary | None:
    return verify.summarise(study.ledger.experiments(), study.ledger.fact(verify.LOOKS, []))


def table(summary: Summary, reached: Target | None = None) -> list[str]:
    """For people: a line for each model, a line for each split, and what follows from them."""
    splits = [name for name in (*verify.SPLITS, "holdout") if any(name in arm.means for arm in summary.arms)]
    lines = [f"{'':<20} seeds  " + "  ".join(f"{name:>8}" for name in splits)]
    for arm in summary.arms:
        means = "  ".join(f"{arm.means[name]:8.4f}" if name in arm.means else f"{'':>8}" for name in splits)
        lines.append(f"{arm.label:<20} {len(arm.bpb):>5}  {means}".rstrip())
    lines += [f"below {g.over} on {split}: {amount(g)}" for split, g in summary.splits.items()]
    lines += [told for told in (verify.optimism(summary), verify.holdout(summary),
                                horizon.sentence(reached) if reached else "") if told]
    return [*lines, summary.sentence]


def amount(g: Gain) -> str:
    interval = f", 95% interval {g.low_bpb:+.4f} to {g.high_bpb:+.4f}" if g.seeds > 1 else ""
    return f"{g.mean_bpb:+.4f} bits per byte ({g.percent:+.1f}%){interval}"


def _reach(lab: Lab, until: Until) -> None:
    champion = lab.ledger.incumbent()
    assert champion is not None
    goal, whole = (e.scores(verify.PURPOSE, "confirm") for e in (lab.ledger.experiment(BASELINE), champion))
    race = Race(verify.candidate(lab, champion), goal, whole)
    most = len(whole) * sum(horizon.horizons(lab.budget_s)) / 60
    lab.view.note(f"time to target: at most {most:.0f} minutes of training, fewer where the champion soon falls short")
    horizon.run(lab, race, until)


def _record(summary: Summary, reached: Target | None) -> dict[str, Any]:
    return plain({"sentence": summary.sentence, "arms": [asdict(a) for a in summary.arms],
                  "splits": {split: asdict(g) for split, g in summary.splits.items()},
                  "gains": [asdict(g) for g in summary.gains], "claimed_bpb": summary.claimed_bpb,
                  "optimism_bpb": summary.optimism_bpb, "holdout_looks": summary.looks,
                  "target": asdict(reached) if reached else None})
