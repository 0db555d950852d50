"""`ar probe`: measure this machine and propose a model size, batch and precision."""

from __future__ import annotations

import json

import click

from autoresearch.cli.machine import Seconds, backend_option, choose_backend, sandbox_option, sized
from autoresearch.data import prepared
from autoresearch.probe import Plan
from autoresearch.scaling import LAW
from autoresearch.sizes import Size, shortlist

COLUMNS = ("depth", "width", "tokenizer", "tokens/step", "params", "tokens/s", "steps", "tokens", "tokens/param",
           "readings", "memory", "bits/byte")


@click.command("probe")
@click.option("--budget", "budget_s", type=Seconds(1, 86400), default=300.0, show_default=True,
              help="Seconds of training to size for.")
@backend_option
@click.option("--data", "name", default=None, help="A prepared text. Default: the current one.")
@click.option("--fresh", is_flag=True, help="Measure again, even if this machine was measured before.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan, with the whole table, as one JSON object.")
@sandbox_option
def command(budget_s: float, backend: str | None, name: str | None, fresh: bool, as_json: bool) -> None:
    """Measure this machine and propose a model size that fits it.

    Times training steps of a ladder of sizes, smallest first and none that would not fit into memory, fits a cost
    model to them and checks it on others; compares low precision with float32 on the size it proposes. It takes less
    than a minute; what was measured is kept for the same machine, software, code and budget. The first experiment of
    a study starts from this proposal.

    \b
    Example:
      ar probe --budget 300
    """
    text = prepared.find(name) if name else prepared.current()
    plan = sized(text, choose_backend(backend), budget_s, fresh=fresh)
    click.echo(json.dumps(plan.to_json(), indent=2) if as_json else shown(plan))


def shown(plan: Plan) -> str:
    found, device = plan.found, plan.device
    ceilings = ", ".join(f"{p} {f / 1e12:.2f}" for p, f in found.ceiling_flops.items())
    measured = [f"{p} {f / 1e12:.2f}" for p, f in found.products_flops.items() if f]
    products = ", ".join(measured) or "not measured"
    error = found.held_out_error()
    checked = "no run could be held out" if error is None else f"runs held out were predicted within {100 * error:.0f}%"
    lines = [
        f"{device['name']}  ({plan.backend}, {device['memory_bytes'] / 2**30:.1f} GiB; measured {found.measured_at})",
        f"matmul ceiling in TFLOP/s: {ceilings}; at the proposed model's shapes: {products}",
        *(v["reason"] for v in found.verdicts),
        f"cost model from {len(found.runs)} short runs: {checked}", "",
        f"bits per byte as a scaling law expects them, against the proposed size; it errs by about {LAW.spread:.3f}:",
        *table(plan), "", plan.why, "",
        "Changes to the recipe:"]
    return "\n".join([*lines, *([f"  {k} = {v}" for k, v in plan.changes.items()] or ["  none"])])


def table(plan: Plan) -> list[str]:
    rows = [COLUMNS, *(_cells(s, plan.chosen) for s in shortlist(plan.table, plan.chosen))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    chosen = rows.index(_cells(plan.chosen, plan.chosen))
    return [line + ("  <- proposed" if i == chosen else "") for i, line in enumerate(lines)]


def _cells(s: Size, chosen: Size) -> tuple[str, ...]:
    return (str(s.depth), str(s.width), s.tokenizer, f"{s.tokens_per_step:,}", f"{s.params / 1e6:.2f}M",
            f"{s.tokens_per_s:,.0f}", f"{s.steps:,}", f"{s.tokens / 1e6:.1f}M", f"{s.tokens_per_param:.1f}",
            f"{s.readings:.1f}", f"{s.memory_bytes / 2**20:,.0f} MiB", f"{s.score - chosen.score:+.3f}")
