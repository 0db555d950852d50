"""The page and the picture say what the ledger holds, and no more than that."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autoresearch.errors import UserError
from autoresearch.records import REFERENCE
from autoresearch.report import picture, write_report
from autoresearch.report.story import tell
from tests.report.made import Made, night, repository

EVIL = ("Try | a pipe\n\n# heading <script>alert(1)</script> ![x](http://evil.example/x.png) ``` `code` $x$ "
        "www.evil.example")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    made = Made.create(repository(tmp_path))
    yield made
    made.study.close()


def page_of(made: Made) -> str:
    return write_report(made.study, None).read_text(encoding="utf-8")


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(io.BytesIO(path.read_bytes()))


def test_a_night_has_a_page_and_pictures_in_two_themes(made: Made) -> None:
    page = write_report(night(made).study, None)
    assert picture.draw(tell(made.study)) == page.with_name("progress.png").read_bytes(), "not the same twice"
    assert page == made.study.report / "report.md"
    light, dark = (pixels(page.with_name(name)) for name in ("progress.png", "progress-dark.png"))
    assert light.shape == dark.shape
    assert light.shape[0] > 700
    assert light[..., :3].mean() > 0.9 > 0.2 > dark[..., :3].mean()
    for image in (light, dark):
        assert (image != image[0, 0]).any(axis=-1).mean() > 0.01, "the picture is blank"
    assert {p.name for p in made.study.report.iterdir()} == {"report.md", "progress.png", "progress-dark.png"}


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
    page = page_of(made)
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
    assert page.splitlines()[0] == "# mar8: 1.6% fewer bits per byte, confirmed on fresh seeds"
    assert page.splitlines()[2] == f"**{sentence}**"
    assert "0.0393 bits per byte (1.6%) below the baseline" in sentence
    assert "optimistic" not in page
    assert "has been read 6 times" in page
    assert "| the baseline | 2.5000 | 2.5000, 2.5100, 2.4900 |" in page


def test_a_gain_that_fresh_seeds_do_not_confirm_is_not_claimed(made: Made) -> None:
    made.baseline(2.4, 2.41)
    n = made.idea("keep", 2.34)
    made.verify(0, 2.50, 2.51, 2.49)
    made.verify(n, 2.49, 2.53, 2.48)
    page = page_of(made)
    assert page.splitlines()[0] == "# mar8: No confirmed gain"
    assert "No certain difference from the baseline" in page.splitlines()[2]


def test_one_fresh_seed_claims_no_interval(made: Made) -> None:
    made.baseline(2.4, 2.41)
    n = made.idea("keep", 2.34)
    made.verify(0, 2.50)
    made.verify(n, 2.46)
    assert "too few seeds for an interval" in page_of(made)
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
    assert "below the reference" in page
    assert "| the reference | 2.6050 | 2.6000, 2.6100 |" in page
    assert "#-1" not in page


def test_a_study_without_gain_says_so_and_what_failed(made: Made) -> None:
    made.baseline(2.4, 2.41)
    made.idea("discard", 2.42, changes={"optim.matrix_lr": 0.08})
    made.idea("timeout", reason="trained for 341 s of a budget of 300 s")
    page = page_of(made)
    assert "**None of the 2 ideas tried so far beats the baseline" in page
    assert "What was kept" not in page
    assert "| 1 | `optim.matrix_lr 0.04 → 0.08` | +0.0200 |" in page
    assert "timeout: trained for 341 s of a budget of 300 s" in page


def test_a_study_with_a_baseline_only_claims_nothing(made: Made) -> None:
    made.baseline(2.4, 2.41, 2.39)
    page = page_of(made)
    assert "**No idea has been tried yet.** The baseline scores 2.4000 bits per byte" in page
    assert "What did not help" not in page


def test_a_study_without_a_baseline_has_a_page_too(made: Made) -> None:
    page = page_of(made)
    assert "has not been scored yet" in page
    assert "`ar loop --tag mar8`" in page


def test_kept_changes_are_in_plain_words_with_their_gain(made: Made) -> None:
    made.baseline(2.4, 2.41)
    made.idea("keep", 2.34, "Sharper attention", changes={"model.qk_scale": 1.2})
    made.idea("keep", 2.30, "A slower schedule", files={"schedule.py": b"SLOW = True\n"})
    page = page_of(made)
    assert "`model.qk_scale 1 → 1.2` (multiplies the" in page
    assert re.search(r"\| 1 \|.*Sharper attention \| 0\.0600 \| 2\.5% \| 701 \|", page)
    assert re.search(r"\| 2 \|.*`backends/gpt/schedule\.py`.*A slower schedule \| 0\.0400 \| 1\.7% \|", page)


def test_everything_needed_to_do_it_again_is_there(made: Made) -> None:
    made.baseline(2.4, 2.41)
    made.idea("keep", 2.34, changes={"model.qk_scale": 1.2})
    page = page_of(made)
    champion = made.study.ledger.incumbent()
    assert champion is not None
    for fact in (made.study.ledger.fact("base"), champion.sha, "Toaster 9000", "17.0 GiB", "| cpu |", "300 s a trial",
                 "0123456789abcdef", "feedfacefeedface", "numpy", "ar train --budget 300 --backend cpu --seed 1"):
        assert fact in page, fact


def test_strangers_text_stays_text(made: Made) -> None:
    """No heading, row, image, script or fence of a hypothesis or a reason becomes the page's."""
    made.baseline(2.4, 2.41)
    made.idea("keep", 2.34, EVIL)
    made.idea("discard", 2.41, EVIL)
    made.idea("crash", hypothesis=EVIL, reason=EVIL)
    page = page_of(made)
    outside = re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S)
    assert "<script" not in page
    assert not re.search(r"(?<!\\)!\[|\]\((?!\\)|(?<!\\)\]\(|http://|(?<!\\)www\.evil", outside)
    assert [line for line in page.splitlines() if line.startswith("# ")] == page.splitlines()[:1]
    rows = [line for line in page.splitlines() if "heading" in line]
    assert len(rows) == 3
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [7, 4, 4]


@pytest.mark.parametrize("text", ["```\n# out", "~~~", "````\n```", "a\x1b[31mred\x07\n```\n"])
def test_a_fence_holds_whatever_is_in_it(text: str) -> None:
    from autoresearch.report import words

    first, *inside, last = words.fence(text).splitlines()
    assert first == last + "text"
    assert not any(line.strip().startswith(last) for line in inside)
    assert "\x1b" not in "".join(inside)


@pytest.mark.parametrize("text", ["`", "a``b`", "x | y", "``"])
def test_a_code_span_holds_whatever_is_in_it(text: str) -> None:
    from autoresearch.report import words

    span = words.code(text)
    ticks = re.match("`+", span)
    assert ticks is not None
    inner = span[len(ticks[0]):-len(ticks[0])]
    assert inner.strip().replace("\\|", "|") == text
    assert ticks[0] not in re.findall("`+", inner)


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
    assert "A slower schedule" in page_of(made)
