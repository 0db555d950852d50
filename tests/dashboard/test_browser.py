"""The dashboard in a real headless Chromium: clicking through, live while a study runs, by keyboard, without an error.

Needs playwright and a Chromium: `make browser` installs both and fails where one is missing; else these are skipped.
SCREENSHOTS=folder keeps pictures of what was seen.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch.dashboard.server import Dashboard
from autoresearch.records import Point
from autoresearch.research.events import Teller
from tests.report.made import Made, night

REQUIRED = bool(os.environ.get("AUTORESEARCH_BROWSER"))  # what `make browser` sets
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

if REQUIRED:
    import playwright.sync_api as playwright
else:
    playwright = pytest.importorskip("playwright.sync_api", reason="make browser installs it")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as tools:
        installed = next((path for name in NAMES if (path := shutil.which(name))), None)
        if not REQUIRED and installed is None and not os.path.exists(tools.chromium.executable_path):
            pytest.skip("no Chromium here: make browser installs one")
        as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = tools.chromium.launch(executable_path=installed, args=as_root)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, server: Dashboard) -> Iterator[Any]:
    """On the overview; at the end, nothing was said on its console and nothing was asked of another host."""
    context = browser.new_context(viewport={"width": 1100, "height": 900}, color_scheme="light")
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.address)
    yield page
    assert said == []
    assert asked and all(url.startswith(f"http://127.0.0.1:{server.port}/") for url in asked)
    context.close()


def keep(page: Any, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.fixture
def slept(made: Made) -> Made:
    return night(made)


def test_clicking_through_from_the_chart_to_an_experiment_and_back(slept: Made, page: Any) -> None:
    assert "token" not in page.url
    page.locator("svg:visible a[href='/experiment/6']").first.click()
    page.wait_for_url("**/experiment/6")
    assert "Muon can go faster here" in page.inner_text("h1")
    assert "+matrix_lr = 0.06" in page.inner_text("pre")
    keep(page, "experiment")
    page.click("a[rel=next]")
    page.wait_for_url("**/experiment/7")
    page.click("text=Overview")
    page.wait_for_selector("#attempts")
    keep(page, "overview")


def test_filters_work_as_one_types_and_by_keyboard_alone(slept: Made, page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus("select[name=verdict]")
    page.keyboard.type("keep")
    playwright.expect(page.locator("#attempts tbody tr")).to_have_count(7)
    page.keyboard.press("Tab")
    page.keyboard.type("half")
    playwright.expect(page.locator("#attempts tbody tr")).to_have_count(2)
    assert page.url.endswith("?verdict=keep&q=half")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/experiment/2")


def test_a_running_study_moves_on_the_page_by_itself(made: Made, page: Any) -> None:
    made.baseline(2.4, 2.41)
    with made.study.lock():
        teller = Teller(made.study, lambda event: None)
        teller.began(time.time() + 3600, 3)
        page.reload()
        playwright.expect(page.locator("#status")).to_have_text("live")
        teller.proposed(1, "Half the batch", {"batch.tokens_per_step": 64})
        teller.trial_started("#1", 1, 300.0)
        teller.trial_event("step", Point(7, 61.0, 3.5, 2.25))
        page.wait_for_selector("#now >> text=2.2500")
        keep(page, "running")
        n = made.idea("keep", 2.3, "Half the batch")
        teller.decided(made.study.ledger.experiment(n), 0.1)
        page.wait_for_selector("#attempts a[href='/experiment/1']")
        playwright.expect(page.locator("h1")).to_contain_text("lower")


def test_guidance_is_written_saved_and_told(slept: Made, page: Any) -> None:
    page.click("text=Queue and guidance")
    page.fill("#text", "Tokenizers next, please.")
    keep(page, "steer")
    page.click("text=Save the guidance")
    page.wait_for_selector(".said")
    assert (slept.study.worktree / "guidance.md").read_text() == "Tokenizers next, please.\n"


@pytest.mark.parametrize("width", [360, 1100])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_any_width_in_both_colour_schemes(width: int, scheme: str, slept: Made, page: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    for path in ("/", "/experiment/6", "/steer"):
        page.goto(page.url.split("/", 3)[0] + "//" + page.url.split("/", 3)[2] + path)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{path} is too wide"
        keep(page, f"{path.strip('/').replace('/', '-') or 'overview'}-{width}-{scheme}")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def test_a_stranger_sees_nothing(slept: Made, server: Dashboard, browser: Any) -> None:
    context = browser.new_context()
    page = context.new_page()
    answer = page.goto(f"http://127.0.0.1:{server.port}/?token=wrong")
    assert answer.status == 403 and "mar8" not in page.content()
    context.close()


def test_the_report_opens_from_disk_and_asks_for_nothing(slept: Made, browser: Any) -> None:
    from autoresearch.report import write_report

    path = write_report(slept.study, None)
    for width in (360, 1100):
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
            page = context.new_page()
            said: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert page.locator("svg[role=img]:visible").count() >= 3
            assert said == []
            keep(page, f"report-{width}-{scheme}")
            context.close()
