"""Results of `ar bench` as a table for a terminal, a page of the documentation, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoresearch.bench import Row, read

HEAD = ("backend", "precision", "depth x width", "tokens/step", "tokens/s", "slowest to fastest", "steps/s",
        "of ceiling", "TFLOP/s", "memory", "start", "first step")


def cells(row: Row) -> tuple[str, ...]:
    """The row as text, in the order of HEAD."""
    start = (row.backend, row.precision, f"{row.depth} x {row.width}", f"{row.tokens_per_step:,}")
    if row.failed or not row.round_s:
        return (*start, *[""] * (len(HEAD) - len(start)))
    median, slowest, fastest = row.tokens_per_s()
    used = row.utilisation()
    return (*start, f"{median:,.0f}", f"{slowest:,.0f} to {fastest:,.0f}", f"{median / row.tokens_per_step:.2f}",
            "" if used is None else f"{100 * used:.0f}%", f"{row.ceiling_flops / 1e12:.2f}",
            f"{row.peak_memory_bytes / 2**20:,.0f} MiB", f"{row.start_s:.1f} s", f"{row.first_step_s:.1f} s")


def table(rows: list[Row]) -> str:
    """For a terminal; why something failed stands below."""
    lines = [HEAD, *(cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    left = 3  # the first columns are words
    text = ["  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines]
    return "\n".join(line.rstrip() for line in [*text, *(failure(row) for row in rows if row.failed)])


def failure(row: Row) -> str:
    return f"{row.backend} {row.precision}, {row.depth} x {row.width}: {row.failed}"


PAGE = """# Machines

How fast this trainer runs where people have run it: files of `benchmarks/machines/`, each written by one
`ar bench --out` on the machine that it describes. Tokens a second are medians of interleaved rounds; "of ceiling" is
against the fastest large matrix product measured in the same process and precision ("TFLOP/s"). "First step" includes
compilation. To add yours, run this on an otherwise idle machine, then `make docs`:

```bash
mkdir -p benchmarks/machines
ar bench --preset modern --size 4x256 --size 6x384 --out benchmarks/machines/NAME.json
```
"""


def page(files: list[Path]) -> str:
    parts = [PAGE]
    for path in files:
        found, rows = read(path)
        facts = found["machine"]
        parts.append(f"## {path.stem}\n\n{_about(found, facts)}\n\n" + _markdown(rows))
    return "\n".join(parts if files else [PAGE, "None has been sent in yet.\n"])


def _about(found: dict[str, Any], facts: dict[str, Any]) -> str:
    named = [", ".join(facts["gpu"]) if "gpu" in facts else "", f"{facts['processor']}, {facts['cores']} cores",
             f"{facts['memory_bytes'] / 2**30:.0f} GiB", facts["system"],
             *(f"{name} {facts[name]}" for name in ("python", "torch", "mlx") if name in facts)]
    compiled = "compiled anew" if found["cold"] else "with what was compiled before"
    return (f"{'; '.join(filter(None, named))}. {found['made']}, {found['rounds']} rounds of "
            f"{found['seconds_each']:g} s, load {facts['load_1m']:g} at the end, {compiled}, trainer "
            f"{found['trainer']['code']}.")


def _markdown(rows: list[Row]) -> str:
    lines = ["| " + " | ".join(HEAD) + " |", "|---|---|---|" + "--:|" * (len(HEAD) - 3)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows if not row.failed]
    failed = [f"- {failure(row)}" for row in rows if row.failed]
    return "\n".join([*lines, *([""] if failed else []), *failed]) + "\n"


def plot(rows: list[Row], path: Path) -> None:
    """Tokens a second as bars, with the slowest and fastest round."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.round_s and not row.failed]
    figure = Figure(figsize=(8, 1.2 + 0.45 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for i, row in enumerate(shown):
        median, slowest, fastest = row.tokens_per_s()
        used = row.utilisation()
        axes.barh(i, median, xerr=[[median - slowest], [fastest - median]], color="#4c78a8", ecolor="#333", capsize=3)
        axes.text(0, i, f"  {median:,.0f}" + (f", {100 * used:.0f}% of the ceiling" if used else ""), va="center",
                  color="white", fontsize=8)
    axes.set_yticks(range(len(shown)), [f"{r.backend} {r.precision}\n{r.depth} x {r.width}" for r in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("tokens a second, median and range of the rounds")
    axes.set_title(shown[0].device if shown else "nothing could be measured", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
