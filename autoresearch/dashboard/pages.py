"""What each address of the dashboard shows, as HTML from templates that escape all they are given."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from autoresearch import words
from autoresearch.dashboard import steer
from autoresearch.errors import UserError
from autoresearch.harness.text import tail
from autoresearch.records import BASELINE, VERDICTS, name_of
from autoresearch.report import charts
from autoresearch.report.detail import diff, paired
from autoresearch.report.page import lead, learning, turned
from autoresearch.report.picture import headline
from autoresearch.report.progress import progress
from autoresearch.report.samples import stored
from autoresearch.report.story import UNDECIDED, UNDER_WAY, Attempt, Story, tell
from autoresearch.report.templates import render
from autoresearch.research.events import FILE, Follower
from autoresearch.research.now import Now, columns
from autoresearch.research.study import Study

if TYPE_CHECKING:
    from autoresearch.dashboard.server import Dashboard

DIFF_LINES = 2000
FILTERS = ("all", *VERDICTS, UNDER_WAY, UNDECIDED)


def find(server: Dashboard, study: Study, path: str, query: dict[str, str]) -> str | None:
    """The page at a path. UserError for an experiment that isn't there."""
    if path == "/":
        now = card(_now(study), server.owner(study), study.tag)
        return _page(server, "overview.html", overview(study, query) | {"now": now})
    if path == "/steer":
        said, server.said = server.said, ""
        return _page(server, "steer.html", steering(study) | {"said": said})
    kind, _, number = path.strip("/").partition("/")
    if kind == "experiment" and number.isascii() and number.isdigit() and len(number) < 10:
        return _page(server, "experiment.html", experiment(study, int(number)))
    return None


def problem(server: Dashboard, error: UserError) -> str:
    return _page(server, "problem.html", {"message": error.message, "hint": error.hint})


def refused(server: Dashboard, study: Study, form: dict[str, str], error: UserError) -> str:
    """The forms again, as they were filled in, with why not."""
    values = steering(study) | {"wrong": error}
    if "text" in form:
        values |= {"other": values["text"], "text": form["text"]}
    draft = {key: form.get(key, "") for key in ("hypothesis", "changes")}
    return _page(server, "steer.html", values | {"draft": draft})


def card(now: Now, pid: int | None, tag: str) -> str:
    """What happens at this moment."""
    return render("now.html", {"now": now, "tag": tag, "pid": pid, "clock": time.time(), "columns": columns(now),
                               "words": words, "incumbent": name_of(now.standing.get("best_n") or BASELINE),
                               "changes": words.changes(now.changes, None)})


def overview(study: Study, query: dict[str, str]) -> dict[str, Any]:
    story = tell(study)
    shown = progress(story)
    attempts = story.attempts[::-1]
    drawn = [charts.staircase(shown, width, "/experiment/{}".format) for width in (charts.WIDE, charts.NARROW)] \
        if shown else []
    wanted, text = query.get("verdict", "all"), query.get("q", "").strip()
    return {"story": story, "headline": headline(story), "lead": lead(story), "shown": shown, "filters": FILTERS,
            "picture": drawn, "of": len(attempts), "wanted": wanted, "q": text,
            "attempts": [a for a in attempts if _matches(story, a, wanted, text)]}


def experiment(study: Study, n: int) -> dict[str, Any]:
    story = tell(study)
    study.ledger.experiment(n)  # says so where there is none
    a, attempts = story.attempt(n), {a.n: a for a in story.attempts}
    incumbent = attempts.get(a.parent.n) if a.parent else None
    try:
        changed, unseen = diff(a, study), ""
    except UserError as e:
        changed, unseen = "", e.message
    running = next((t for t in a.experiment.trials if t.status == "running"), None)
    log = tail(study.trials / str(running.id) / "log.txt") if running else a.trial.log_tail if a.trial else ""
    return {"story": story, "a": a, "e": a.experiment, "t": a.trial,
            "turned": turned(a, study.workspace), "pairs": paired(a, study), "learning": learning(a, incumbent),
            "diff": _lines(changed), "unseen": unseen, "log": log,
            "samples": [s for s in stored(study) if s.n == n],
            "before": n - 1 if n - 1 in attempts else None, "after": n + 1 if n + 1 in attempts else None}


def steering(study: Study) -> dict[str, Any]:
    content = steer.guidance(study)
    return {"text": content.decode("utf-8", "replace"), "digest": steer.digest(content), "other": None,
            "queue": steer.queue(study), "said": "", "wrong": None, "draft": {"hypothesis": "", "changes": ""}}


def _page(server: Dashboard, template: str, values: dict[str, Any]) -> str:
    return render(template, values | {"here": template.removesuffix(".html"), "tag": server.tag,
                                      "key": server.form_key, "words": words})


def _now(study: Study) -> Now:
    now = Now()
    for event in Follower(study.root / FILE).new():
        now.take(event)
    return now


def _matches(story: Story, a: Attempt, wanted: str, text: str) -> bool:
    searched = f"#{a.n} {a.experiment.hypothesis} {' '.join(a.experiment.changes)} {a.experiment.reason}".lower()
    return wanted in ("all", story.standing(a)) and text.lower() in searched


def _lines(text: str) -> list[tuple[str, str]]:
    """(kind, line) of a diff."""
    kinds = {"+": "add", "-": "remove", "@": "hunk"}
    lines = text.splitlines()
    found = [(kinds.get(line[:1], ""), line) for line in lines[:DIFF_LINES]]
    more = len(lines) - DIFF_LINES
    return [*found, *([("hunk", f"... and {more:,} lines more: git show")] if more > 0 else [])]
