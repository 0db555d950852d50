"""The report of a study: a picture, in a light and a dark version, and a Markdown page.

    write_report   writes them to studies/<tag>/report/
"""

from __future__ import annotations

import os
from pathlib import Path

from autoresearch.data.prepared import Prepared
from autoresearch.research.study import Study

PAGE, PICTURE, DARK_PICTURE = "report.md", "progress.png", "progress-dark.png"


def write_report(study: Study, prepared: Prepared | None, samples: bool = True) -> Path:
    """The page's path. Whatever the study has come to, there is a page that says so. Without the prepared text there
    are no samples and no facts about it."""
    from autoresearch.report import page, picture
    from autoresearch.report import samples as writing
    from autoresearch.report.story import tell

    story = tell(study)
    texts = writing.write(study, prepared, story) if samples and prepared else []
    study.report.mkdir(parents=True, exist_ok=True)
    _replace(study.report / PICTURE, picture.draw(story, picture.LIGHT))
    _replace(study.report / DARK_PICTURE, picture.draw(story, picture.DARK))
    written = page.page(story, study.workspace, prepared, texts)
    return _replace(study.report / PAGE, written.encode("utf-8", "replace"))


def _replace(path: Path, content: bytes) -> Path:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)
    return path
