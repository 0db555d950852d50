"""Charts as inline SVG for pages: readable in light and dark, since every colour is a class of style.css.

    staircase    every attempt, and the best so far
    learning     dev scores and training loss of one trial, against another one
    over_time    one measurement of every trial over the night
    share        parts of a whole as one bar

Drawn without matplotlib: pages of a running study are drawn again and again beside the training they tell of. Each is
drawn for a width in pixels, so that its letters stay readable; pages hold a wide one and a narrow one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoresearch import words
from autoresearch.records import Point
from autoresearch.report.progress import Progress
from autoresearch.report.story import Attempt

if TYPE_CHECKING:
    from markupsafe import Markup

WIDE, NARROW = 960, 390
TITLES = 1500  # attempts that can be pointed at; beyond it pages would grow too large
MARK_CHARS = 120
SEEDS_BESIDE = 8  # pixels to the right of a kept attempt: under it runs the staircase
Link = Callable[[int], str]


@dataclass
class Plot:
    """Axes on a canvas; `x` and `y` take values to pixels."""

    width: int
    height: int
    xs: tuple[float, float]
    ys: tuple[float, float]
    label: str  # for who can't see it
    left: int = 58
    bottom: int = 40
    top: int = 12
    right: int = 14
    parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        low, high = self.xs
        return self.left + (value - low) / (high - low or 1.0) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = self.ys
        return self.height - self.bottom - (value - low) / (high - low or 1.0) * (self.height - self.bottom - self.top)

    def axes(self, x_label: str, y_label: str, x_ticks: Iterable[tuple[float, str]]) -> None:
        for value in ticks(*self.ys, 6 if self.height > 220 else 3):
            y = self.y(value)
            self.line([(self.left, y), (self.width - self.right, y)], "grid", raw=True)
            self.text(self.left - 8, y + 4, _number(value, self.ys), "tick end")
        for value, text in x_ticks:
            self.text(self.x(value), self.height - self.bottom + 18, text, "tick middle")
        self.text(self.width - self.right, self.height - 5, x_label, "tick end")
        self.text(2, 13, y_label, "tick")

    def line(self, points: Sequence[tuple[float, float]], style: str, raw: bool = False) -> None:
        at = points if raw else [(self.x(x), self.y(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        self.parts.append(f'<polyline class="{style}" points="{path}"/>')

    def text(self, x: float, y: float, text: str, style: str) -> None:
        self.parts.append(f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{_escaped(text)}</text>')

    def svg(self) -> Markup:
        from markupsafe import Markup

        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}"'
        return Markup(f'<svg class="chart" role="img" aria-label="{_escaped(self.label)}" {size}>'
                      f'{"".join(self.parts)}</svg>')


def staircase(shown: Progress, width: int = WIDE, link: Link | None = None) -> Markup:
    """Kept attempts are filled circles, dropped ones small dots, those stopped early squares, those that failed
    crosses: shape tells them apart too. `link` gives the address of an experiment."""
    left = 0.4 + 0.02 * (shown.last + 2)
    plot = Plot(width, 420 if width > 600 else 320, (-left, shown.last + 0.6), (shown.low, shown.high),
                "Bits per byte of every experiment, and the best so far", top=30)
    marks = ticks(0, shown.last, 10 if width > 600 else 5)
    plot.axes("experiment", "bits per byte, lower is better", [(m, f"{m:.0f}") for m in marks if m == round(m)])
    best = shown.staircase
    stairs = [point for (x, y), (to, _) in itertools.pairwise(best) for point in ((x, y), (to, y))]
    if shown.spread_bpb:
        band = stairs + [(x, y - shown.spread_bpb) for x, y in reversed(stairs)]
        path = " ".join(f"{plot.x(x):.1f},{plot.y(max(y, shown.low)):.1f}" for x, y in band)
        plot.parts.append(f'<polygon class="band" points="{path}"/>')
    plot.line(stairs, "best")
    few = sum(map(len, (shown.dropped, shown.beyond, shown.stopped, shown.failed, shown.steps))) <= TITLES
    top = shown.high - 0.025 * (shown.high - shown.low)
    mark = _Marks(plot, link if few else None, few)
    for a in shown.dropped:
        mark(a, "dropped", _dot(plot.x(a.n), plot.y(a.bpb or 0.0), 3.5))
    for a in shown.beyond:
        mark(a, "dropped", _triangle(plot.x(a.n), plot.y(top)))
    for a in shown.stopped:
        mark(a, "dropped", _square(plot.x(a.n), plot.y(top)))
    for a in shown.failed:
        mark(a, "failed", _cross(plot.x(a.n), plot.y(top)))
    for a in shown.steps:
        if a.n in shown.seeds:
            lowest, highest = shown.seeds[a.n]
            x = plot.x(a.n) + SEEDS_BESIDE
            plot.line([(x, plot.y(lowest)), (x, plot.y(min(highest, shown.high)))], "seeds", raw=True)
        mark(a, "kept", _dot(plot.x(a.n), plot.y(a.bpb or 0.0), 5.5))
        if a.n and len(shown.steps) <= 25:
            plot.text(plot.x(a.n) - 7, plot.y(a.bpb or 0.0) + 15, str(a.n), "name end")
    return plot.svg()


@dataclass
class _Marks:
    plot: Plot
    link: Link | None
    titles: bool

    def __call__(self, a: Attempt, style: str, shape: str) -> None:
        title = f"<title>{_escaped(_title(a))}</title>" if self.titles else ""
        drawn = f'<g class="{style}">{title}{shape}</g>'
        self.plot.parts.append(f'<a href="{_escaped(self.link(a.n))}">{drawn}</a>' if self.link else drawn)


def learning(mine: Sequence[Point], theirs: Sequence[Point], names: tuple[str, str], budget_s: float | None,
             width: int = WIDE) -> Markup | None:
    """Dev scores of two trials over training time; None where neither has any."""
    curves = [[(p.elapsed_s, p.dev_bpb) for p in points if p.dev_bpb is not None] for points in (mine, theirs)]
    values = [bpb for curve in curves for _, bpb in curve]
    if not values:
        return None
    end = budget_s or max(s for curve in curves for s, _ in curve)
    room = 0.08 * (max(values) - min(values)) or 0.02
    plot = Plot(width, 260, (0.0, 1.02 * end), (min(values) - room, max(values) + room),
                f"Dev scores of {names[0]} and {names[1]} while they train", top=30)
    plot.axes("seconds of training", "dev, bits per byte", [(t, f"{t:g}") for t in ticks(0, end, 6)])
    for curve, style, name in zip(reversed(curves), ("other", "best"), reversed(names), strict=True):
        if curve:
            plot.line(curve, style)
            plot.parts += [f'<g class="{"kept" if style == "best" else "dropped"}">'
                           f'{_dot(plot.x(x), plot.y(y), 4)}</g>' for x, y in curve]
            x, y = curve[0]
            above = style == "other"
            plot.text(plot.x(x) + 8, plot.y(y) + (-8 if above else 14), name, "tick" if above else "name")
    return plot.svg()


def over_time(points: Sequence[tuple[float, float, str]], y_label: str, width: int = WIDE) -> Markup:
    """(hours since the start, value, what it is) of every trial."""
    end = max((x for x, _, _ in points), default=1.0) or 1.0
    high = 1.08 * max((y for _, y, _ in points), default=1.0) or 1.0
    plot = Plot(width, 170, (-0.01 * end, 1.01 * end), (0.0, high), y_label, top=26)
    minutes = end < 2.0
    scale, unit = (60.0, "minutes") if minutes else (1.0, "hours")
    plot.axes(unit, y_label, [(t / scale, f"{t:g}") for t in ticks(0, end * scale, 6)])
    few = len(points) <= TITLES
    for x, y, what in points:
        title = f"<title>{_escaped(what)}</title>" if few else ""
        plot.parts.append(f'<g class="kept">{title}{_dot(plot.x(x), plot.y(y), 3)}</g>')
    return plot.svg()


def share(parts: Sequence[tuple[str, float]], label: str, width: int = WIDE) -> Markup:
    """Parts of a whole, in order, as one bar; part i has the class `part-i`."""
    total = sum(size for _, size in parts) or 1.0
    plot, x = Plot(width, 34, (0, 1), (0, 1), label), 0.0
    for i, (name, size) in enumerate(parts):
        wide = size / total * width
        plot.parts.append(f'<rect class="part-{i}" x="{x:.1f}" y="2" width="{max(0.0, wide - 1.5):.1f}" height="30">'
                          f"<title>{_escaped(name)}: {size / total:.0%}</title></rect>")
        x += wide
    return plot.svg()


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round values from `low` to `high`, about `count` of them: 1, 2 or 5 times a power of ten apart."""
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return [low]
    rough = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _number(value: float, limits: tuple[float, float]) -> str:
    """With as many digits as tell the ticks of an axis apart."""
    span = limits[1] - limits[0]
    if limits[1] >= 10_000:
        return f"{value / 1000:,.0f}k"
    digits = max(0, min(6, math.ceil(-math.log10(span / 6)))) if span > 0 else 2
    return f"{value:,.{digits}f}"


def _title(a: Attempt) -> str:
    score = f" {a.bpb:.4f}" if a.bpb is not None else ""
    verdict = "baseline" if a.n == 0 else a.verdict
    return f"#{a.n} {verdict}{score}: {words.one_line(a.experiment.hypothesis, MARK_CHARS)}"


def _dot(x: float, y: float, radius: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'


def _triangle(x: float, y: float) -> str:
    return f'<path d="M{x - 4:.1f} {y + 3:.1f}h8l-4 -7z"/>'


def _square(x: float, y: float) -> str:
    return f'<path d="M{x - 3.5:.1f} {y - 3.5:.1f}h7v7h-7z"/>'


def _cross(x: float, y: float) -> str:
    return f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"/>'


def _escaped(text: str) -> str:
    from markupsafe import escape

    return str(escape(words.one_line(text)))
