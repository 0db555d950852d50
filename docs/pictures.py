"""Makes the pictures of docs/tour.md from a finished study, with playwright and a Chromium, as `make browser` has them.

    python docs/pictures.py --clone FOLDER --tag night --experiment 9

The panel is of the middle of that experiment's first trial: what the study's terminal was told then is told again, from
its ledger.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from autoresearch.cli import panel
from autoresearch.dashboard.server import Dashboard
from autoresearch.report import DARK_PICTURE, PAGE, PICTURE, write_report
from autoresearch.report.story import Story, tell
from autoresearch.research.events import Event, verdict
from autoresearch.research.now import Now
from autoresearch.research.study import Study

IMAGES = Path(__file__).resolve().parent / "images"
COLUMNS, SHARE, LINES_ABOVE = 104, 0.7, 3
TERMINAL = """<body style="margin:0;background:#0d1117"><pre style="margin:0;padding:18px 22px;display:inline-block;
color:#e6edf3;font:15px/1.45 'DejaVu Sans Mono',Menlo,Consolas,monospace">{code}</pre></body>"""


def told(story: Story, n: int) -> tuple[Now, list[Event]]:
    """The state in the middle of experiment `n`, and the verdicts before it."""
    attempts = {a.n: a for a in story.ideas}
    chosen = attempts[n]
    assert chosen.trial is not None and chosen.parent is not None and story.baseline is not None
    before = [a for a in story.ideas if a.n < n]
    best = next(a for a in [story.baseline, *before] if a.n == chosen.parent.n)
    assert best.trial is not None
    now, at = Now(), 1.7e9
    budget_s = chosen.trial.budget_s or 0.0
    points = [p for p in chosen.trial.curve if p.elapsed_s <= SHARE * budget_s]
    events: list[Event] = [
        {"event": "began", "tag": story.tag, "text": story.facts.get("data_name"), "deadline": at + 1380.0,
         "backend": story.facts.get("backend"), "experiments": None, "budget_s": budget_s},
        {"event": "standing", "tried": len(before), "kept": sum(a.verdict == "keep" for a in before),
         "baseline_bpb": story.baseline.bpb, "best_n": best.n, "best_bpb": best.bpb,
         "best_dev": [[p.elapsed_s, p.dev_bpb] for p in best.trial.curve if p.dev_bpb is not None]},
        {"event": "proposed", "n": n, "hypothesis": chosen.experiment.hypothesis, "changes": chosen.experiment.changes},
        {"event": "trial", "label": f"#{n}", "seed": chosen.trial.seed, "budget_s": budget_s},
        *({"event": "step", "step": p.step, "elapsed_s": p.elapsed_s, "train_nats": p.train_nats, "dev_bpb": p.dev_bpb}
          for p in points)]
    for event in events:
        now.take({"at": at} | event)
    return now, [{"at": at} | verdict(a.experiment, a.gain_bpb) for a in before[-LINES_ABOVE:]]


def terminal(story: Story, n: int) -> str:
    """The panel as a page."""
    from rich.console import Console

    now, verdicts = told(story, n)
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, force_terminal=True, color_system="truecolor", file=nowhere,
                          highlight=False)
        for event in verdicts:
            for text in panel.above(event, COLUMNS):
                console.print(text)
        for text in panel.rows(now, COLUMNS, now.at):
            console.print(text)
        return TERMINAL.replace("{code}", console.export_html(inline_styles=True, code_format="{code}"))


def shoot(page: Any, name: str, height: int | None = None) -> None:
    clip = {"x": 0, "y": 0, "width": page.viewport_size["width"], "height": height} if height else None
    page.screenshot(path=IMAGES / f"{name}.png", full_page=True, clip=clip)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clone", type=Path, required=True)
    parser.add_argument("--tag", required=True)
    parser.add_argument("--experiment", type=int, required=True)
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    IMAGES.mkdir(exist_ok=True)
    with Study.open(options.clone.resolve(), options.tag, readonly=True) as study, sync_playwright() as tools, \
            tempfile.TemporaryDirectory() as folder:
        if not (study.report / PAGE).exists():
            write_report(study, None, samples=False)
        for name in (PICTURE, DARK_PICTURE):
            shutil.copy(study.report / name, IMAGES / name)
        server = Dashboard(study.clone, study.tag)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        names = ("chromium", "chromium-browser", "google-chrome")
        installed = next((path for name in names if (path := shutil.which(name))), None)
        browser = tools.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1080, "height": 860}, color_scheme="dark")
        (Path(folder) / "terminal.html").write_text(terminal(tell(study), options.experiment), encoding="utf-8")
        page.goto((Path(folder) / "terminal.html").as_uri())
        page.locator("pre").screenshot(path=IMAGES / "loop.png")
        page.emulate_media(color_scheme="light")
        page.goto(server.address)
        shoot(page, "dashboard", 1100)
        page.goto(f"http://127.0.0.1:{server.port}/experiment/{options.experiment}")
        shoot(page, "experiment", 1100)
        page.goto((study.report / PAGE).as_uri())
        shoot(page, "report", 1300)
        browser.close()
        server.shutdown()


if __name__ == "__main__":
    main()
