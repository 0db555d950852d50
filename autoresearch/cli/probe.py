"""`ar probe`: measure this machine and propose a model size, batch and precision."""

from __future__ import annotations

import json

import click

from autoresearch.cli.machine import backend_option, choose_backend, sized
from autoresearch.data import prepared
from autoresearch.probe import Plan


@click.command("probe")
@click.option("--budget", "budget_s", type=click.FloatRange(1, 86400), default=300.0, show_default=True,
              help="Seconds of training to size for.")
@backend_option
@click.option("--data", "name", default=None, help="A prepared text. Default: the current one.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as one JSON object.")
def command(budget_s: float, backend: str | None, name: str | None, as_json: bool) -> None:
    """Measure this machine and propose a model size that fits it.

    Times training steps of a ladder of sizes, smallest first and none that would not fit into memory, in less than a
    minute. The first experiment of a study starts from this proposal.

    \b
    Example:
      ar probe --budget 300
    """
    found = prepared.find(name) if name else prepared.current()
    plan = sized(found, choose_backend(backend), budget_s)
    click.echo(json.dumps(plan.to_json(), indent=2) if as_json else table(plan))


def table(plan: Plan) -> str:
    device = plan.device
    ceilings = ", ".join(f"{p} {f / 1e12:.2f} TFLOP/s" for p, f in device["ceiling_flops"].items())
    memory_gib = device["memory_bytes"] / 2**30
    lines = [f"{device['name']}  ({plan.backend}, {memory_gib:.1f} GiB; matmul ceiling {ceilings})", "",
             "depth width   params  tokens/s   memory   steps tokens/weight"]
    chosen = (plan.changes.get("model.depth"), plan.changes.get("model.width"))
    for s in plan.table:
        mark = "  <- proposed" if (s.depth, s.width) == chosen else ""
        lines.append(f"{s.depth:>5} {s.width:>5} {s.params / 1e6:>7.2f}M {s.tokens_per_s:>9,.0f} "
                     f"{s.memory_bytes / 2**20:>5,.0f}MiB {s.steps:>7,} {s.tokens_per_weight:>13.1f}{mark}")
    lines += ["", plan.why, "", "Changes to the recipe:"]
    lines += [f"  {k} = {v}" for k, v in plan.changes.items()] or ["  none"]
    return "\n".join(lines)
