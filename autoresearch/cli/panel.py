"""The panel below the lines of a study in a terminal: what happens now, drawn once a second.

    Panel    draws, and prints lines that stay above itself
    rows     the panel's lines for a width, as pure text
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from autoresearch.cli.style import VERDICT_COLOURS
from autoresearch.records import BASELINE, name_of
from autoresearch.research.events import Event
from autoresearch.research.now import Now, columns
from autoresearch.words import changes as in_words
from autoresearch.words import cost as spent
from autoresearch.words import duration, lower, signed

if TYPE_CHECKING:
    from rich.padding import Padding
    from rich.text import Text

REFRESH_PER_S = 1
BAR_CELLS = (10, 32)
INDENT = 9  # of a reason under its verdict


class Panel:
    """`now` is what it draws; whoever owns it keeps it up to date. Nothing is drawn before the stream has begun."""

    def __init__(self, now: Now):
        from rich.console import Console
        from rich.live import Live

        self._now = now
        self._console = Console(stderr=True, highlight=False)
        self._live: Live | None = Live(console=self._console, refresh_per_second=REFRESH_PER_S, transient=True,
                                       get_renderable=lambda: self)

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Text]:
        yield from rows(self._now, options.max_width, time.time())

    def show(self, event: Event) -> None:
        for text in above(event, self._console.width):
            self._console.print(text)
        self.start()

    def start(self) -> None:
        if self._live and not self._live.is_started and self._now.tag:
            self._live.start(refresh=True)

    def close(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None


def above(event: Event, width: int) -> list[Text | Padding]:
    """The lines that stay: notes, verdicts with their reasons, and scores that no verdict follows."""
    from rich.padding import Padding
    from rich.text import Text

    match event["event"]:
        case "note":
            return [Text(event["text"], "dim")]
        case "decided":
            mark = name_of(event["n"])
            bpb = "" if event["bpb"] is None else f"{event['bpb']:.4f}"
            delta = "" if event["gain_bpb"] is None else signed(-event["gain_bpb"])
            colour = VERDICT_COLOURS.get(event["verdict"], "")
            verdict = Text.assemble((f"{mark:<{INDENT}}", "bold"), (f"{event['verdict']:<12}", colour),
                                    f"{bpb:<8}{delta:<9}", event["hypothesis"])
            reason = _cut(Text(event["reason"], "dim"), 3 * max(1, width - INDENT))
            return [_cut(verdict, width), Padding(reason, (0, 0, 0, INDENT))]
        case "trial_ended" if not event.get("decides"):
            score = f"{event['split']}_bpb {event['bpb']:.4f}" if event["bpb"] is not None else event["reason"]
            return [_cut(Text(f"{event['label']}, seed {event['seed']}: {score}", "dim"), width)]
    return []


def rows(now: Now, width: int, clock: float) -> Iterator[Text]:
    from rich.text import Text

    yield Text("─" * width, "bright_black")
    yield _cut(_heading(now, width, clock), width)
    yield _cut(_best(now), width)
    if now.hypothesis:
        yield _cut(Text.assemble((f"#{now.n} ", "bold"), now.hypothesis), 2 * width)
        if now.changes:
            yield _cut(Text("   " + "; ".join(in_words(now.changes, None)), "cyan"), width)
    yield _cut(_trial(now, width, clock), width)
    yield from (_cut(line, width) for line in _dev(now, width))


def _heading(now: Now, width: int, clock: float) -> Text:
    from rich.text import Text

    tried, kept = now.standing.get("tried") or 0, now.standing.get("kept") or 0
    left = [f"{tried} tried, {kept} kept"]
    if (more := now.more()) is not None:
        left.append(f"{more} more to try")
    if now.deadline is not None:
        left.append(f"{duration(max(0.0, now.deadline - clock))} left")
    if cost := spent(now.standing.get("usd"), now.standing.get("spent_tokens")):
        left.append(cost)
    names = " · ".join(x for x in (now.text, now.backend) if x)
    facts = " · ".join(left)
    room = width - len(now.tag) - len(facts) - 4
    middle = f"  {names}" if 0 < len(names) <= room else ""
    gap = max(2, width - len(now.tag) - len(middle) - len(facts))
    return Text.assemble((now.tag, "bold"), (middle, "bright_black"), " " * gap, facts)


def _best(now: Now) -> Text:
    from rich.text import Text

    best, base, n = (now.standing.get(key) for key in ("best_bpb", "baseline_bpb", "best_n"))
    if best is None and base is not None:
        return Text(f"the baseline is first: {base:.4f} bits per byte on its first seed", "bright_black")
    if best is None:
        return Text("no score yet: the baseline is first", "bright_black")
    if not n:
        return Text.assemble("best ", (f"{best:.4f}", "bold"), " bits per byte: the baseline")
    gain = now.gain_percent()
    below = f", {lower(gain)} than the baseline's {base:.4f}" if gain is not None else ""
    return Text.assemble("best ", (f"{best:.4f}", "bold green"), f" bits per byte, #{n}{below}")


def _trial(now: Now, width: int, clock: float) -> Text:
    from rich.text import Text

    if not now.label:
        return Text("between two trials", "bright_black")
    part = f"{now.part}: " if now.part else ""
    whose = f"{part}{now.label}, seed {now.seed}: {now.phase}"
    if not now.budget_s or now.phase != "training":
        return Text(whose)
    done = now.trained_s(clock)
    facts = f"{duration(now.budget_s - done)} left"
    more = f" · step {now.step:,}" + (f" · loss {now.train_nats:.3f}" if now.train_nats is not None else "")
    if len(whose) + len(facts) + len(more) + BAR_CELLS[0] + 4 <= width:
        facts += more
    cells = min(BAR_CELLS[1], width - len(whose) - len(facts) - 4)
    if cells < BAR_CELLS[0]:
        return Text(f"{whose}, {facts}")
    filled = round(cells * min(1.0, done / now.budget_s))
    return Text.assemble(whose, "  ", ("━" * filled, "cyan"), ("━" * (cells - filled), "bright_black"), f"  {facts}")


def _dev(now: Now, width: int) -> Iterator[Text]:
    """The trial's dev scores under the incumbent's of the same share of the budget; the last ones where room is
    short."""
    from rich.text import Text

    found = columns(now)
    if not found or not now.label:
        return
    incumbent = name_of(now.standing.get("best_n") or BASELINE)
    found = found[-max(1, (width - 14) // 8):]
    yield Text("dev".ljust(14) + "".join(f"{f'{share:.0%}':>8}" for share, _, _ in found), "bright_black")
    if any(theirs is not None for _, _, theirs in found):
        yield Text(incumbent.ljust(14) + "".join(_score(theirs) for _, _, theirs in found), "bright_black")
    line = Text(now.label.ljust(14))
    for _, mine, theirs in found:
        ahead = mine is not None and theirs is not None and mine < theirs
        line.append(_score(mine), "green" if ahead else "")
    yield line


def _score(bpb: float | None) -> str:
    return f"{bpb:>8.4f}" if bpb is not None else f"{'·':>8}"


def _cut(text: Text, cells: int) -> Text:
    text.truncate(max(1, cells), overflow="ellipsis")
    return text
