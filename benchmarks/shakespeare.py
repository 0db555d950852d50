"""More data, a modern model, a better tokenizer, more dropout: four questions to one text, on one yardstick.

    python -m benchmarks.shakespeare --text shakespeare_complete.txt --budget 200 --folder DIR

The last 250,000 characters of the text are cut off first; no run sees them, and every row of the table is scored on
all of them. The rest is prepared twice, whole and its first megabyte, and each run is `ar train` for the same time with
another preset or key. A context is 1,024 characters, or 256 BPE tokens, which are about as much text. From the first
BPE line on the weights that were best on dev are scored, above it the last ones. Prints the table as Markdown and
writes shakespeare.png and shakespeare-dark.png into the folder. Run again with the same --folder it keeps the runs that
are done.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch.harness.checkpoint import WEIGHTS
from benchmarks import clones
from benchmarks.clones import ROOT, ar

HOLDOUT_CHARS = 250_000
LIMITS: dict[str, tuple[str, ...]] = {"whole": (), "mb1": ("--max-bytes", "1000000")}  # of the rest
SIZE = ("model.depth=2", "model.width=128", "model.head_dim=64", "batch.tokens_per_step=2048",
        "model.key_shift=false", "model.token_shift=false")  # which the preset gained later
CHARS, TOKENS = "model.seq_len=1024", "model.seq_len=256"
BEST = "schedule.keep_best_dev=true"


@dataclass(frozen=True)
class Run:
    name: str
    text: str  # mb1 or whole
    preset: str
    tokenizer: str
    changes: tuple[str, ...] = ()
    budget: float = 1.0  # times the budget of the others


RUNS = (
    Run("1 MB", "mb1", "gpt2", "char", (CHARS,)),
    Run("all of it: 5 MB", "whole", "gpt2", "char", (CHARS,)),
    Run("modern model", "whole", "modern", "char", (CHARS,)),
    Run("BPE 8192, best dev weights", "whole", "modern", "bpe-8192", (TOKENS, BEST)),
    Run("dropout 0.3, twice the time", "whole", "modern", "bpe-8192", (TOKENS, BEST, "model.dropout=0.3"), 2.0),
    Run("BPE 1024 instead", "whole", "modern", "bpe-1024", (TOKENS, BEST)),
    Run("the same from 1 MB", "mb1", "modern", "bpe-1024", (TOKENS, BEST)),
)


def told(folder: Path, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ar(ROOT, folder / "cache", *arguments, "--json"))
    return found


def prepare(folder: Path, text: Path) -> tuple[Path, dict[str, str]]:
    """The file of the text's tail, and what the sets of the rest are called, which is not as asked where other text
    has the name."""
    content = text.read_text(encoding="utf-8")
    rest, tail = folder / "rest.txt", folder / "tail.txt"
    rest.write_text(content[:-HOLDOUT_CHARS], encoding="utf-8")
    tail.write_text(content[-HOLDOUT_CHARS:], encoding="utf-8")
    names: dict[str, str] = {}
    for name, limit in LIMITS.items():
        tokenizers = dict.fromkeys(run.tokenizer for run in RUNS if run.text == name)
        found = told(folder, "prepare", "--text", str(rest), "--name", name, *limit,
                     *(part for tokenizer in tokenizers for part in ("--tokenizer", tokenizer)))
        names[name] = found["name"]
    return tail, names


def trained(run: Run, data: str, place: Path, budget_s: float) -> dict[str, Any]:
    """What `ar train` tells of the run whose weights it leaves in `place`, or told when it left them."""
    record = place.with_name(place.name + ".trained.json")
    if record.exists() and (place / WEIGHTS).is_file():
        return dict(json.loads(record.read_text()))
    shutil.rmtree(place, ignore_errors=True)  # of a run that was stopped: `ar train` asks for a new folder
    changes = (*SIZE, f"data.tokenizer={run.tokenizer}", *run.changes)
    found = told(place.parent, "train", "--preset", run.preset, "--data", data, "--budget", str(budget_s * run.budget),
                 "--out", str(place), *(part for change in changes for part in ("--set", change)))
    clones.save(record, found)
    return found


def result(run: Run, data: str, folder: Path, tail: Path, budget_s: float) -> dict[str, Any]:
    """One run trained on the set `data` and scored on the tail, or as it was the last time."""
    place = folder / run.name.replace(" ", "-").replace(",", "").replace(":", "")
    kept = place.with_name(place.name + ".json")  # names have dots, where with_suffix would cut them
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    training = trained(run, data, place, budget_s)
    scored = told(folder, "eval", str(place), "--text", str(tail))
    dev = [[elapsed_s, bpb] for _, elapsed_s, _, bpb in training["curve"] if bpb is not None]
    found = {"bpc": scored["bpc"], "error": scored["bpb_error"], "params": training["params"],
             "steps": training["steps"], "tokens": training["tokens"], "dev": dev}
    clones.save(kept, found)
    return found


def table(found: list[dict[str, Any]]) -> str:
    lines = ["| change | text | preset | tokenizer | parameters | steps | training tokens | bits per character |",
             "|---|---|---|---|--:|--:|--:|--:|"]
    lines += [f"| {run.name} | {run.text} | {run.preset} | {run.tokenizer} | {f['params'] / 1e6:.1f}M | "
              f"{f['steps']:,} | {f['tokens'] / 1e6:.1f}M | {f['bpc']:.3f} ± {f['error']:.3f} |"
              for run, f in zip(RUNS, found, strict=True)]
    return "\n".join(lines)


def overfitting(found: list[dict[str, Any]]) -> str:
    """Of the runs that keep their best weights: bits per byte of the dev text over time, the best one in bold."""
    lines = ["| change | dev bits per byte, after so many seconds |", "|---|---|"]
    for run, f in zip(RUNS, found, strict=True):
        if BEST in run.changes:
            best = min(bpb for _, bpb in f["dev"])
            words = ", ".join(f"{'**' * (bpb == best)}{bpb:.3f} ({at_s:.0f} s){'**' * (bpb == best)}"
                              for at_s, bpb in f["dev"])
            lines.append(f"| {run.name} | {words} |")
    return "\n".join(lines)


def draw(found: list[dict[str, Any]], budget_s: float, path: Path, dark: bool) -> None:
    from matplotlib.figure import Figure

    from autoresearch.report.picture import DARK, LIGHT

    theme = DARK if dark else LIGHT
    figure = Figure(figsize=(9, 4.7), dpi=150, facecolor=theme.paper)
    axes = figure.add_axes((0.28, 0.14, 0.68, 0.68), facecolor=theme.paper)
    best = min(range(len(found)), key=lambda i: found[i]["bpc"])
    for i, (run, f) in enumerate(zip(RUNS, found, strict=True)):
        colour = theme.kept if i == best else theme.dropped
        axes.errorbar(f["bpc"], -i, xerr=1.96 * f["error"], color=colour, marker="o", markersize=8, capsize=3)
        axes.annotate(f"{f['bpc']:.3f}", (f["bpc"], -i), (0, 9), textcoords="offset points", color=theme.ink,
                      ha="center", fontsize=9)
        axes.text(-0.02, -i, run.name, transform=axes.get_yaxis_transform(), ha="right", va="center", color=theme.ink)
    axes.set_yticks([])
    axes.set_ylim(-len(found) + 0.4, 0.7)
    axes.tick_params(colors=theme.faint)
    axes.grid(axis="x", color=theme.grid)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlabel(f"bits per character of the last {HOLDOUT_CHARS:,} characters, which no run has seen; lower is "
                    "better", color=theme.faint)
    figure.text(0.02, 0.93, "What helps a small model of Shakespeare", color=theme.ink, fontsize=13, weight="bold")
    figure.text(0.02, 0.875, f"{budget_s:g} s of training each unless it says otherwise; each line changes the "
                "one above, but for the last two", color=theme.faint, fontsize=9)
    figure.savefig(path, facecolor=theme.paper)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=120.0)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    folder = options.folder.resolve()
    clones.settle(folder, {"text": clones.digest(options.text), "budget_s": options.budget})
    tail, names = prepare(folder, options.text)
    found = []
    for run in RUNS:
        print(f"{run.name} ...", file=sys.stderr)
        found.append(result(run, names[run.text], folder, tail, options.budget))
    print(table(found) + "\n\n" + overfitting(found))
    for dark in (False, True):
        draw(found, options.budget, folder / f"shakespeare{'-dark' if dark else ''}.png", dark)


if __name__ == "__main__":
    main()
