"""The picture of a study: every attempt as a dot, the best so far as a staircase, in a light and a dark version.

    Theme      colours, safe for colour-blind eyes; shapes differ too
    draw       a story as PNG bytes
    headline   the title: what the picture shows, no more than that
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from autoresearch import words
from autoresearch.report.progress import FAILED, Progress, progress
from autoresearch.report.story import Attempt, Story
from autoresearch.research.paired import Gain

SIZE_INCHES, DPI = (11.0, 5.4), 150
LISTED = 8  # kept changes named beside the picture; the largest gains, where there are more
PANEL, LABEL_CHARS = 0.69, 31  # where the list beside the picture begins, and how long its lines may be


@dataclass(frozen=True)
class Theme:
    paper: str
    ink: str
    faint: str
    grid: str
    kept: str
    dropped: str
    failed: str


# Blue, grey and vermilion (Okabe and Ito's), which red-green blindness leaves apart.
LIGHT = Theme("#ffffff", "#1f2328", "#6e7781", "#e4e8ec", "#0072b2", "#a9b2bb", "#d55e00")
DARK = Theme("#0d1117", "#e6edf3", "#8d96a0", "#232a33", "#56b4e9", "#5b6672", "#f0883e")


def headline(story: Story) -> str:
    if story.baseline is None or story.baseline.bpb is None:
        return "The baseline is not done yet"
    if not story.kept or story.champion is None or story.champion.bpb is None:
        return f"No gain yet: the baseline stands at {story.baseline.bpb:.3f} bits per byte"
    if gain := _verified(story):
        if gain.seeds > 1 and gain.low_bpb > 0:
            return f"{gain.percent:.1f}% fewer bits per byte, confirmed on fresh seeds"
        return "No confirmed gain" if gain.seeds > 1 else f"{abs(gain.percent):.1f}% " \
            f"{'fewer' if gain.percent > 0 else 'more'} bits per byte on one fresh seed"
    return f"{story.baseline.bpb:.3f} → {story.champion.bpb:.3f} bits per byte, " \
        f"{words.lower(story.gain_percent or 0.0)}"


def caption(story: Story) -> str:
    """What the numbers are of, in one or two lines."""
    facts = story.facts
    device = facts.get("device")
    name = words.one_line(str(device.get("name", "")), 50) if isinstance(device, dict) else ""
    terms = [_count(len(story.judged), "experiment") if story.judged else "",
             f"{facts['budget_s']:g} s of training each" if facts.get("budget_s") else "", f"on {name}" if name else "",
             f"text: {words.one_line(str(facts.get('data_name') or ''), 40)}"]
    first = ", ".join(t for t in terms if t)
    if not story.kept or story.baseline is None or story.champion is None:
        return first
    gain = _verified(story)
    if gain is None:
        return f"{first}\nScored on the split and the seed that chose the winners: on fresh text and seeds expect less"
    seeds = "one seed" if gain.seeds == 1 else f"95%: {gain.low_bpb:.3f} to {gain.high_bpb:.3f}, {gain.seeds} seeds"
    checked = f"{abs(gain.mean_bpb):.3f} bits per byte {'under' if gain.mean_bpb > 0 else 'over'} {gain.over} on " \
              f"fresh text and seeds ({seeds}), {story.gain_bpb or 0:.3f} where the winners were chosen"
    return f"{first}\n{checked.replace('-', '−')}"


def _verified(story: Story) -> Gain | None:
    """Of the champion over the baseline; over the reference where only that was measured."""
    gains = story.summary.gains if story.summary else []
    return next((g for g in gains if g.over.endswith("baseline")), gains[0] if gains else None)


def draw(story: Story, theme: Theme = LIGHT) -> bytes:
    """PNG. Needs no display, leaves no state behind."""
    import warnings

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, facecolor=theme.paper)
    canvas = FigureCanvasAgg(figure)
    listed = _listed(story)
    axes = figure.add_axes((0.072, 0.115, 0.592, 0.67))
    _frame(axes, theme)
    figure.text(0.072, 0.945, headline(story), fontsize=16, fontweight="bold", color=theme.ink, va="center",
                parse_math=False)
    figure.text(0.072, 0.907, caption(story), fontsize=9.5, color=theme.faint, va="top", linespacing=1.5,
                parse_math=False)
    shown = progress(story)
    if shown is None:
        axes.text(0.5, 0.5, "nothing scored yet", transform=axes.transAxes, ha="center", color=theme.faint)
        axes.set(xticks=[], yticks=[])
    else:
        _plot(axes, shown, story, theme)
        _list_kept(figure, story, listed, theme)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower left", bbox_to_anchor=(PANEL - 0.012, 0.1), fontsize=8.5,
                      frameon=False, labelcolor=theme.faint, labelspacing=0.55, borderaxespad=0.0)
    with warnings.catch_warnings():  # a script that the font lacks: boxes in the picture, not a failed report
        warnings.simplefilter("ignore")
        out = io.BytesIO()
        canvas.print_png(out, metadata={"Software": "autoresearch"}, pil_kwargs={"optimize": True})
    return out.getvalue()


def _frame(axes: Any, theme: Theme) -> None:
    axes.set_facecolor(theme.paper)
    axes.grid(axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.faint, labelsize=9, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)
    axes.set_xlabel("experiment", color=theme.faint, fontsize=9.5)
    axes.set_ylabel("bits per byte on the validation text (lower is better)", color=theme.faint, fontsize=9.5)


def _plot(axes: Any, shown: Progress, story: Story, theme: Theme) -> None:
    from matplotlib.ticker import MaxNLocator

    stairs = shown.staircase
    xs, ys = [x for x, _ in stairs], [y for _, y in stairs]
    for n, (lowest, highest) in shown.seeds.items():
        beside = n + 0.012 * (shown.last + 2)  # under the point itself runs the staircase
        axes.plot([beside, beside], [lowest, min(highest, shown.high)], color=theme.kept, linewidth=1.2, alpha=0.7,
                  zorder=3, label="all its seeds" if n == next(iter(shown.seeds)) else None)
    axes.scatter(xs[:-1], ys[:-1], s=64, color=theme.kept, edgecolor=theme.paper, linewidth=1.4, zorder=4,
                 label=f"kept ({len(story.kept)})" if story.kept else "the baseline")
    axes.step(xs, ys, where="post", color=theme.kept, linewidth=2.0, solid_joinstyle="miter", zorder=3,
              label="best so far")
    if spread := shown.spread_bpb:
        axes.fill_between(xs, [y - spread for y in ys], ys, step="post", color=theme.kept, alpha=0.2, linewidth=0,
                          label=f"spread of seeds ({spread:.4f}): too close to call")
    top = shown.high - 0.025 * (shown.high - shown.low)
    if shown.dropped:
        axes.scatter([a.n for a in shown.dropped], [a.bpb for a in shown.dropped], s=30, color=theme.dropped,
                     linewidth=0, zorder=2, label=f"tried and dropped ({len(shown.dropped)})")
    if shown.beyond:
        axes.scatter([a.n for a in shown.beyond], [top] * len(shown.beyond), s=30, marker="^", color=theme.dropped,
                     linewidth=0, zorder=2, label=f"dropped, too high to show ({len(shown.beyond)})")
    if shown.stopped:
        axes.scatter([a.n for a in shown.stopped], [top] * len(shown.stopped), s=30, marker="s", color=theme.dropped,
                     linewidth=0, zorder=2, label=f"stopped early, no score ({len(shown.stopped)})")
    if shown.failed:
        axes.scatter([a.n for a in shown.failed], [top] * len(shown.failed), s=34, marker="x", color=theme.failed,
                     linewidth=1.6, zorder=3, label=f"no score: {kinds(shown.failed)}")
    for attempt in _listed(story):
        axes.annotate(f"{attempt.n}", (attempt.n, attempt.bpb), xytext=(-5, -6), textcoords="offset points", ha="right",
                      va="top", fontsize=9, fontweight="bold", color=theme.kept, zorder=5)
    axes.set_xlim(-0.02 * (shown.last + 2) - 0.4, shown.last + 0.6)
    axes.set_ylim(shown.low, shown.high)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7))


def _listed(story: Story) -> list[Attempt]:
    largest = sorted(story.kept, key=lambda a: -(a.gain_bpb or 0.0))[:LISTED]
    return sorted((a for a in largest if a.bpb is not None), key=lambda a: a.n)


def _list_kept(figure: Any, story: Story, listed: list[Attempt], theme: Theme) -> None:
    """What helped, beside the staircase that it makes."""
    if not listed:
        return
    top = 0.767
    more = len(story.kept) - len(listed)
    title = "What helped" if not more else f"What helped most ({more} more in the report)"
    figure.text(PANEL, top, title, fontsize=10.5, fontweight="bold", color=theme.ink, va="center")
    for i, a in enumerate(listed):
        y = top - 0.055 - i * 0.05
        figure.text(PANEL + 0.021, y, f"{a.n}", fontsize=9.5, fontweight="bold", color=theme.kept, ha="right",
                    va="center")
        figure.text(PANEL + 0.029, y, words.signed(-(a.gain_bpb or 0.0)), fontsize=9.5, color=theme.ink, va="center")
        figure.text(PANEL + 0.09, y, _label(a), fontsize=9.5, color=theme.faint, va="center", parse_math=False)


def _label(a: Attempt) -> str:
    changed = words.changes(a.experiment.changes, a.parent.recipe if a.parent else None, short=True)
    return words.one_line(", ".join(changed) or a.experiment.hypothesis, LABEL_CHARS)


def kinds(failed: list[Attempt]) -> str:
    counts = {v: sum(a.verdict == v for a in failed) for v in FAILED}
    return ", ".join(f"{n} {v}" for v, n in counts.items() if n)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
