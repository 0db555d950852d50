"""A cache of one's own for every test, a text to prepare, and a hub to download from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants as constants
import pytest

from tests.data.hub_server import Hub
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


DEAD = "http://127.0.0.1:9"  # nobody listens there


def point_at(patch: pytest.MonkeyPatch, url: str) -> None:
    """huggingface_hub, which reads its settings when it is imported, talks to this hub."""
    patch.setattr(constants, "ENDPOINT", url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Hub().running() as server:
        point_at(monkeypatch, server.url)
        yield server
