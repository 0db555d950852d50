"""`ar promote`: what a night found, at a larger size."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import click

from autoresearch.cli.machine import Seconds, fair_options, sandbox_option
from autoresearch.cli.studying import interruptible, lab_of, open_study
from autoresearch.cli.terminal import TerminalView
from autoresearch.cli.verify import amount
from autoresearch.errors import UserError
from autoresearch.records import BASELINE
from autoresearch.research import horizon, promote
from autoresearch.research.paired import Gain, plain
from autoresearch.research.promote import Promotion, Size
from autoresearch.research.until import Until
from autoresearch.words import one_line


@click.command("promote")
@click.option("--depth", "depths", type=click.IntRange(1, 48), multiple=True, required=True,
              help="The champion's number of blocks at the larger size; repeat for several.")
@click.option("--tag", default=None, help="Which study. Default: the last one.")
@click.option("--seeds", type=click.IntRange(1, 100), default=promote.SEEDS, show_default=True,
              help="Fresh seeds for each model.")
@click.option("--budget", "budget_s", type=Seconds(0.5, 10 * 86400), default=None,
              help="Seconds of training per trial. Default: as many tokens for each weight as at the study's size.")
@click.option("--leave-out/--stack-only", "leave_out", default=True, show_default=True,
              help="Train the champion without each of its changes too.")
@click.option("--time-to-target", "with_target", is_flag=True,
              help="Measure too how long the champion needs there for the baseline's final score.")
@click.option("--dry-run", is_flag=True, help="Say what would be trained and for how long, and train nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each depth.")
@fair_options
@sandbox_option
def command(depths: tuple[int, ...], tag: str | None, seeds: int, budget_s: float | None, leave_out: bool,
            with_target: bool, dry_run: bool, as_json: bool) -> None:
    """Train the champion at a larger size, with and without each of its changes.

    One dial turns depth into width, heads, batch, learning rates and decay; memory is met by accumulating gradients
    and by checkpointing. The table has each change's gain small (measured by `ar ablate`) and large, and whether the
    gains add up. How long it takes is said first; the same command goes on after an interruption.

    \b
    Example:
      ar promote --depth 12 --dry-run
      ar promote --depth 12 --depth 24
    """
    view, until = TerminalView(), Until()
    study, found = open_study(tag)
    told = []
    with study, study.lock():
        study.reconcile(sync=False)
        champion = study.ledger.incumbent()
        if champion is None or champion.n == BASELINE:
            raise UserError(f"study {study.tag} has kept nothing that could be promoted",
                            f"Go on with it: ar loop --tag {study.tag}")
        lab = lab_of(study, found, view, until)
        with interruptible(until, view):
            sizes = [promote.plan(lab, depth, budget_s) for depth in depths]
            models = [promote.drafts(lab, size, leave_out) for size in sizes]
            for line in [*map(described, sizes), duration(sizes, list(map(len, models)), seeds)]:
                view.note(line)
            for size, planned in [] if dry_run else zip(sizes, models, strict=True):
                candidates = promote.arms(lab, planned)
                large = replace(lab, budget_s=size.budget_s)
                promote.run(large, size, candidates, seeds, until)
                if with_target and not until.asked:
                    horizon.run(large, promote.race(lab, candidates, size), until)
                told.append(promote.found(lab, size, candidates))
    for promotion in told:
        for line in [json.dumps(record(promotion))] if as_json else table(promotion):
            click.echo(line)


def described(size: Size) -> str:
    m, b = size.recipe.model, size.recipe.batch
    thrift = f", {b.micro_rows} rows at a time" if b.micro_rows else ""
    thrift += ", with checkpointing" if size.recipe.runtime.checkpoint else ""
    return (f"depth {m.depth}: width {m.width}, {m.width // m.head_dim} heads, {size.params / 1e6:.1f}M parameters, "
            f"{b.tokens_per_step:,} tokens a step{thrift}; {hours(size.budget_s)} a trial")


def duration(sizes: list[Size], models: list[int], seeds: int) -> str:
    """`models`: how many of each size."""
    total = sum(size.budget_s * count * seeds for size, count in zip(sizes, models, strict=True))
    return f"{sum(models) * seeds} trials, {hours(total)} of training in all; what is done already is not done again"


def hours(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def table(p: Promotion) -> list[str]:
    lines = [described(p.size), f"{'#':>4}  {'small':>9}  {'large (95% interval)':<32}  "]
    for row in p.rows:
        lines.append(f"{row.n:>4}  {_mean(row.small):>9}  {_whole(row.large):<32}  {row.verdict or 'not measured'}")
        lines.append(f"{'':<6}{one_line(row.hypothesis)}")
    lines.append(f" all  {_mean(p.small):>9}  {_whole(p.large):<32}  the champion over the baseline")
    small, large = p.additivity()
    lines += [f"{name}: the changes' gains sum to {100 * share:.0f}% of the champion's"
              for name, share in (("small", small), ("large", large)) if share is not None]
    lines += [horizon.sentence(p.target)] if p.target else []
    if p.large:
        lines.append(f"at depth {p.size.depth}, below the baseline: {amount(p.large)}, {p.large.seeds} seeds")
    return lines


def record(p: Promotion) -> dict[str, object]:
    small, large = p.additivity()
    rows = [asdict(row) | {"verdict": row.verdict} for row in p.rows]
    return plain({"depth": p.size.depth, "recipe": p.size.recipe.flat(), "params": p.size.params,
                  "budget_s": p.size.budget_s, "changes": rows, "small": asdict(p.small) if p.small else None,
                  "large": asdict(p.large) if p.large else None,
                  "target": asdict(p.target) if p.target else None, "additivity": {"small": small, "large": large}})


def _mean(g: Gain | None) -> str:
    return f"{g.mean_bpb:+.4f}" if g else "-"


def _whole(g: Gain | None) -> str:
    if g is None:
        return "-"
    return f"{g.mean_bpb:+.4f}" + (f" ({g.low_bpb:+.4f} to {g.high_bpb:+.4f})" if g.seeds > 1 else " (one seed)")
