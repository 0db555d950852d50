"""A cache of one's own for every test, and a text to prepare."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.texts import made_text


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(folder))
    return folder


@pytest.fixture
def novel(tmp_path: Path) -> Path:
    """One file of about 120 KB."""
    path = tmp_path / "novel.txt"
    path.write_bytes(made_text(110_000))
    return path
