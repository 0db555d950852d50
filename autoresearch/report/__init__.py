"""The report of a study: one HTML file to open, and its picture for a README, in a light and a dark version.

    write_report   writes them to studies/<tag>/report/, and brings studies/leaderboard.md up to date
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from autoresearch.data.prepared import Prepared
from autoresearch.errors import UserError
from autoresearch.research.study import Study

PAGE, PICTURE, DARK_PICTURE = "report.html", "progress.png", "progress-dark.png"


def write_report(study: Study, prepared: Prepared | None, samples: bool = True) -> Path:
    """The page's path. Whatever the study has come to, there is a page that says so. Without the prepared text there
    are no samples and no facts about it."""
    from autoresearch.report import leaderboard, page, picture
    from autoresearch.report import samples as writing
    from autoresearch.report.files import put
    from autoresearch.report.story import tell
    from autoresearch.research import ablate

    story = tell(study)
    texts = writing.write(study, prepared, story) if samples and prepared else []
    put(study.report / PICTURE, picture.draw(story, picture.LIGHT))
    put(study.report / DARK_PICTURE, picture.draw(story, picture.DARK))
    leaderboard.write(study.clone)
    findings = []
    with contextlib.suppress(UserError):  # a commit that git has lost
        findings = ablate.findings(study.ledger, study.workspace)
    written = page.page(story, study.workspace, prepared, texts, findings)
    return put(study.report / PAGE, written.encode("utf-8", "replace"))
