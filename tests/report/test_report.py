"""The page and the picture say what the ledger holds, and no more than that."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest

from autoresearch.data.manifest import Overlap
from autoresearch.data.prepared import Prepared
from autoresearch.errors import UserError
from autoresearch.records import BASELINE, REFERENCE
from autoresearch.report import hours, page, picture, write_report
from autoresearch.report.progress import progress
from autoresearch.report.samples import Sample
from autoresearch.report.story import tell
from autoresearch.research import lab, optuna_export, verify
from tests.harness.tiny import small_text
from tests.report.html_page import Element, parse
from tests.report.made import Made, forty_ideas, repository
from tests.research.planted import Night, Planted

EVIL = ("Try | a pipe\n\n# heading <script>alert(1)</script> ![x](http://evil.example/x.png) ``` `code` $x$ "
        "www.evil.example")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    made = Made.create(repository(tmp_path))
    yield made
    made.study.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Made, Path]]:
    """A night of forty ideas, and its page."""
    made = forty_ideas(tmp_path_factory.mktemp("night"))
    yield made, write_report(made.study, None)
    made.study.close()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return small_text(tmp_path_factory.mktemp("cache"), 30_000, ("byte",))


def page_of(made: Made) -> Element:
    return parse(write_report(made.study, None).read_text(encoding="utf-8"))


def lead_of(page: Element) -> str:
    return page.one("p", **{"class": "lead"}).words


def headings(page: Element) -> list[str]:
    return [h.words for h in page.all("h2")]


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(io.BytesIO(path.read_bytes()))


def test_a_night_has_a_page_and_pictures_in_two_themes(written: tuple[Made, Path]) -> None:
    made, page = written
    assert picture.draw(tell(made.study)) == page.with_name("progress.png").read_bytes(), "not the same twice"
    assert page == made.study.report / "report.html"
    assert page.stat().st_size < 2 << 20
    light, dark = (pixels(page.with_name(name)) for name in ("progress.png", "progress-dark.png"))
    assert light.shape == dark.shape
    assert light.shape[0] > 700
    assert light[..., :3].mean() > 0.9 > 0.2 > dark[..., :3].mean()
    for image in (light, dark):
        assert (image != image[0, 0]).any(axis=-1).mean() > 0.01, "the picture is blank"
    assert {p.name for p in made.study.report.iterdir()} == {"report.html", "progress.png", "progress-dark.png"}


def test_the_page_needs_nothing_but_itself(written: tuple[Made, Path]) -> None:
    """No script, and no address that a browser would fetch."""
    text = written[1].read_text(encoding="utf-8")
    page = parse(text)
    assert not page.all("script") and not page.all("link") and not page.all("img") and not page.all("iframe")
    assert not re.search(r"(src|href|xlink:href|action|srcset)=|url\(|@import", text)
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    assert policy.startswith("default-src 'none'")


def test_every_attempt_is_in_the_pages_picture(written: tuple[Made, Path]) -> None:
    page = parse(written[1].read_text(encoding="utf-8"))
    for chart in (c for c in page.all("svg", **{"role": "img"}) if "every experiment" in c.attributes["aria-label"]):
        marks = [t.words.split()[0] for t in chart.all("title")]
        assert sorted(marks) == sorted(f"#{n}" for n in range(41))
        assert len(chart.one("polyline", **{"class": "best"}).attributes["points"].split()) == 2 * 8


def test_a_night_of_thousands_stays_small(made: Made) -> None:
    """A page that opens at once: beyond some number of attempts, dots can't be pointed at any more."""
    import dataclasses

    from autoresearch.report import charts
    from autoresearch.report.progress import progress

    made.baseline(2.4, 2.41)
    made.idea("discard", 2.41, "x" * 300)
    shown = progress(tell(made.study))
    assert shown is not None
    many = dataclasses.replace(shown, dropped=shown.dropped * 5000)
    assert len(charts.staircase(many)) < 400_000


def test_the_picture_shows_a_keep_in_blue_and_a_crash_in_vermilion(made: Made) -> None:
    made.baseline(2.31, 2.315)
    before = picture.draw(tell(made.study))
    made.idea("crash", reason="boom")
    after = picture.draw(tell(made.study))

    def share(png: bytes, colour: str) -> float:
        from matplotlib.colors import to_rgb
        from matplotlib.image import imread

        return float((np.abs(imread(io.BytesIO(png))[..., :3] - to_rgb(colour)).max(axis=-1) < 0.02).mean())

    assert share(before, picture.LIGHT.failed) == 0.0 < share(after, picture.LIGHT.failed)
    assert share(before, picture.LIGHT.kept) > 0


def test_an_unverified_gain_is_called_optimistic(made: Made) -> None:
    made.baseline(2.4, 2.41)
    made.idea("keep", 2.34, changes={"model.qk_scale": 1.2})
    page = page_of(made).words
    assert "2.5% lower" in page
    assert "This gain is optimistic" in page
    assert "ar verify --tag mar8" in page
    assert "nothing has been verified yet" in page
    assert "expect less" in picture.caption(tell(made.study))


def test_a_verified_gain_leads_with_what_fresh_seeds_said(made: Made) -> None:
    made.baseline(2.4, 2.41)
    n = made.idea("keep", 2.34, changes={"model.qk_scale": 1.2})
    made.verify(0, 2.50, 2.51, 2.49)
    made.verify(n, 2.46, 2.47, 2.452)
    page = page_of(made)
    sentence = tell(made.study).summary.sentence  # type: ignore[union-attr]
    assert page.one("h1").words == "1.6% fewer bits per byte, confirmed on fresh seeds"
    assert lead_of(page) == sentence
    assert "0.0393 bits per byte (1.6%) below the baseline" in sentence
    assert "optimistic" not in page.words
    assert "confirm split has been read 6 times" in page.words and "holdout split" not in page.words
    assert ["the baseline", "2.5000", "2.5000, 2.5100, 2.4900"] in page.rows()
    made.study.ledger.read("holdout", 1)
    made.trial(n, 2.46, 1001, "verify", "holdout")
    assert "holdout split has been read 1 time, by ar eval" in page_of(made).words, "verification's is told apart"


def test_a_champion_that_is_worse_on_the_screening_seed_is_not_called_lower(made: Made) -> None:
    made.baseline(2.4, 2.41)
    made.idea("keep", 2.4024)
    assert picture.headline(tell(made.study)) == "2.400 → 2.402 bits per byte, 0.1% higher"
    assert "0.1% higher" in lead_of(page_of(made))


def test_a_gain_that_fresh_seeds_do_not_confirm_is_not_claimed(made: Made) -> None:
    made.baseline(2.4, 2.41)
    n = made.idea("keep", 2.34)
    made.verify(0, 2.50, 2.51, 2.49)
    made.verify(n, 2.49, 2.53, 2.48)
    page = page_of(made)
    assert page.one("h1").words == "No confirmed gain"
    assert "No certain difference from the baseline" in lead_of(page)


def test_one_fresh_seed_claims_no_interval(made: Made) -> None:
    made.baseline(2.4, 2.41)
    n = made.idea("keep", 2.34)
    made.verify(0, 2.50)
    made.verify(n, 2.46)
    assert "too few seeds for an interval" in page_of(made).words
    assert "inf" not in picture.caption(tell(made.study))


def test_the_reference_is_compared_too(made: Made) -> None:
    made.baseline(2.4, 2.41)
    n = made.idea("keep", 2.34)
    ledger, base = made.study.ledger, made.study.ledger.fact("base")
    ledger.propose(n=REFERENCE, parent=base, researcher="reference", hypothesis="The fixed reference recipe",
                   evidence="", changes={}, recipe={})
    ledger.commit(REFERENCE, base)
    ledger.finish(REFERENCE)
    made.verify(REFERENCE, 2.60, 2.61)
    made.verify(0, 2.50, 2.51)
    made.verify(n, 2.46, 2.47)
    page = page_of(made)
    assert "below the reference on the confirm split" in page.words
    assert ["the reference", "2.6050", "2.6000, 2.6100"] in page.rows()
    assert "#-1" not in page.words


def test_a_study_without_gain_says_so_and_what_failed(made: Made) -> None:
    made.baseline(2.4, 2.41)
    made.idea("discard", 2.42, changes={"optim.matrix_lr": 0.08})
    made.idea("timeout", reason="trained for 341 s of a budget of 300 s")
    page = page_of(made)
    assert lead_of(page).startswith("None of the 2 ideas tried so far was kept.")
    assert "What was kept" not in headings(page) and "What this night says all the same" in headings(page)
    assert "Closest came #1 (optim.matrix_lr 0.04 → 0.08): +0.0200 bits per byte." in page.words
    assert ["1", "optim.matrix_lr 0.04 → 0.08", "+0.0200"] in page.rows()
    assert "timeout: trained for 341 s of a budget of 300 s" in page.words


def test_a_score_that_the_audit_threw_out_is_no_measurement(made: Made, tmp_path: Path) -> None:
    made.baseline(2.4, 2.41)
    made.idea("invalid", 1.9, reason="saw later tokens", changes={"optim.matrix_lr": 0.08})
    made.idea("discard", 2.42, changes={"optim.matrix_lr": 0.02})
    page, found = page_of(made), tell(made.study)
    assert [a.gain_bpb for a in found.ideas] == [None, pytest.approx(-0.02)]
    assert "Closest came #2" in page.words and "0.5000" not in page.words
    assert "invalid: saw later tokens" in page.words and "1 of 2 ideas came to no score" in page.words
    assert made.study.ledger.gains() == {2: pytest.approx(-0.02)}
    shown = progress(found)
    assert shown is not None and shown.high < 2.5 and shown.low > 2.3
    optuna_export.export(made.study.ledger.experiments(), tmp_path / "optuna.db", "mar8")
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}")
    trials = optuna.load_study(study_name="mar8", storage=storage).trials
    assert [t.value for t in trials] == [pytest.approx(2.4), None, pytest.approx(2.42)]
    storage.engine.dispose()


def test_a_study_with_a_baseline_only_claims_nothing(made: Made) -> None:
    made.baseline(2.4, 2.41, 2.39)
    page = page_of(made)
    assert lead_of(page) == "No idea has been tried yet."
    assert "The baseline scores 2.4000 bits per byte" in page.words
    assert "What did not help" not in headings(page)


def test_a_study_without_a_baseline_has_a_page_too(made: Made) -> None:
    page = page_of(made)
    assert "has not been scored yet" in page.words
    assert "ar loop --tag mar8" in [code.words for code in page.all("code")]


def test_kept_changes_are_in_plain_words_with_their_gain(made: Made) -> None:
    made.baseline(2.4, 2.41)
    made.idea("keep", 2.34, "Sharper attention", changes={"model.qk_scale": 1.2})
    made.idea("keep", 2.30, "A slower schedule", files={"schedule.py": b"SLOW = True\n"})
    first, second = (row for row in page_of(made).rows() if row[0] in "12" and len(row) == 5)
    assert "model.qk_scale 1 → 1.2 (multiplies the" in first[1] and "Sharper attention" in first[1]
    assert first[2:4] == ["0.0600 2.5%", "701"]
    assert "backends/gpt/schedule.py" in second[1] and "A slower schedule" in second[1]
    assert second[2] == "0.0400 1.7%"
    assert ["model.qk_scale", "1.2 (−0.0600)"] in page_of(made).rows()


def test_everything_needed_to_do_it_again_is_there(made: Made) -> None:
    made.baseline(2.4, 2.41)
    made.idea("keep", 2.34, changes={"model.qk_scale": 1.2})
    page = page_of(made).words
    champion = made.study.ledger.incumbent()
    assert champion is not None
    for fact in (made.study.ledger.fact("base"), champion.sha, "Toaster 9000", "17.0 GiB", "backend cpu",
                 "300 s a trial", "0123456789abcdef", "feedfacefeedface", "numpy",
                 "--budget 300 --backend cpu --seed 1"):
        assert fact in page, fact


def test_strangers_text_stays_text(made: Made) -> None:
    """No heading, row, image, script or fence of a hypothesis or a reason becomes the page's."""
    made.baseline(2.4, 2.41)
    made.idea("keep", 2.34, EVIL)
    made.idea("discard", 2.41, EVIL)
    made.idea("crash", hypothesis=EVIL, reason=EVIL)
    page = page_of(made)
    assert not page.all("script") and not page.all("a") and len(page.all("h1")) == 1
    rows = [row for row in page.rows() if any("heading" in cell for cell in row)]
    assert [len(row) for row in rows] == [5, 3, 3]
    assert all("<script>alert(1)</script>" in " ".join(row) for row in rows), "shown as it is"


def test_where_the_hours_went_adds_up(made: Made) -> None:
    made.baseline(2.4, 2.41)
    made.idea("keep", 2.34)
    made.idea("crash", reason="boom")
    spent = hours.spent(tell(made.study))
    parts = {part.name: part for part in spent.parts}
    assert parts["training the baseline"].seconds == 600.0 and parts["training the baseline"].trials == 2
    assert parts["first trials of ideas"].seconds == 300.0
    assert parts["trials without a score"].trials == 1
    assert parts[hours.STARTING].seconds == pytest.approx(3 * 20.0)
    assert spent.total_s == pytest.approx(960.0, abs=5.0)
    assert spent.paused_s == 0.0


@pytest.mark.parametrize("where", ["train", "score"])
def test_a_trial_that_is_stopped_by_hand_has_the_time_that_it_took(where: str, tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    night, clock = Night.create(tmp_path, lambda recipe, files: 2.0), [1000.0]

    def stopped(*args: Any, **more: Any) -> None:
        clock.append(clock[-1] + 100.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(lab, "time", SimpleNamespace(monotonic=lambda: clock[-1]))
    monkeypatch.setattr(Planted, where, stopped)
    with night.made.study as study:
        candidate = verify.candidate(night.lab(), study.ledger.experiment(BASELINE))
        with pytest.raises(KeyboardInterrupt):
            night.lab().screen(candidate, 9)
        trial = study.ledger.experiment(BASELINE).trials[-1]
        assert (trial.status, trial.reason) == ("interrupted", "stopped by hand")
        assert trial.total_s == (100.0 if where == "train" else 300.0), "scoring comes after it, as of every trial"
        lost = next(part for part in hours.spent(tell(study)).parts if part.name == hours.KINDS["lost"])
        assert (lost.seconds, lost.trials) == (trial.total_s, 1)


def test_ideas_that_were_stopped_early_are_drawn_and_counted(made: Made) -> None:
    made.baseline(2.4, 2.41)
    made.idea("discard", 2.404, changes={"optim.matrix_lr": 0.08})
    before = picture.draw(tell(made.study))
    for _ in range(3):
        made.idea("discard", None, "Deeper", "stopped at 20% of its budget: 0.3 bits per byte behind")
    page = page_of(made)
    for chart in (c for c in page.all("svg", **{"role": "img"}) if "every experiment" in c.attributes["aria-label"]):
        assert sorted(t.words.split()[0] for t in chart.all("title")) == ["#0", "#1", "#2", "#3", "#4"]
    assert "stopped early, so without a score (3)" in page.words and "tried and dropped (1)" in page.words
    assert picture.draw(tell(made.study)) != before


def test_trials_beside_other_programs_and_rows_that_training_has_read_are_said(made: Made, text: Prepared) -> None:
    made.baseline(2.4, 2.41)
    quiet = page_of(made)
    assert "shared or unsteady" not in quiet.words and "stand in train" not in quiet.words
    for others, seed in ((0.02, 3), (1.0, 4), (0.4, 5)):
        made.trial(0, 2.4, seed, facts={"machine": {"elapsed_s": 300.0, "cores": 2.0, "outside_cores": others}})
    copied = replace(text.manifest, overlap={"val": Overlap(37, 18), "confirm": Overlap(40, 0)})
    said = " ".join(page.page(tell(made.study), made.study.workspace, replace(text, manifest=copied), [], []).split())
    assert "Of 3 trials with a score 2 ran on a machine that was shared or unsteady" in said
    assert "At worst other programs used 1.00 of 2 cores" in said
    assert "18 of 37 rows of val (48.6%) also stand in train" in said and "rows of confirm" not in said


@pytest.mark.parametrize(("labels", "said"), [
    (["The baseline"], "The baseline goes on from these words"),
    (["The baseline", "The champion, #3"], "Both go on from the same words")])
def test_samples_say_who_wrote_them(made: Made, labels: list[str], said: str) -> None:
    made.baseline(2.4, 2.41)
    samples = [Sample(n, label, "Once", " upon a time") for n, label in enumerate(labels)]
    found = parse(page.page(tell(made.study), made.study.workspace, None, samples, [])).words
    assert said in found and ("Both" in found) == (len(labels) == 2)


def test_a_hypothesis_in_any_script_does_not_stop_the_picture(made: Made) -> None:
    made.baseline(2.4, 2.41)
    made.idea("keep", 2.34, "漢字 $\\frac{ 🦜 \\x", files={"a.py": b"1\n"})
    assert picture.draw(tell(made.study)).startswith(b"\x89PNG")


def test_a_lost_commit_does_not_stop_the_page(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made.baseline(2.4, 2.41)
    made.idea("keep", 2.34, "A slower schedule", files={"schedule.py": b"SLOW = True\n"})

    def lost(old: str, new: str) -> list[tuple[str, str]]:
        raise UserError("git has lost it")

    monkeypatch.setattr(made.study.workspace, "changed_paths", lost)
    assert "A slower schedule" in page_of(made).words
