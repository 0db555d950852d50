"""What every test gets: its own home, cache and git configuration, so that none reads or writes the person's. And the
study that tests of two folders begin with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from autoresearch.data.prepared import Prepared
    from tests.loop.conftest import Place

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

UNSET = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "AUTORESEARCH_DEBUG", "AUTORESEARCH_AR_TRIED", "ANTHROPIC_API_KEY",
         "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "AUTORESEARCH_MODEL", "AUTORESEARCH_EFFORT",
         "AUTORESEARCH_FALLBACK_MODEL", "AUTORESEARCH_PRICES", "AUTORESEARCH_AGENT", "AUTORESEARCH_SANDBOX", "GIT_DIR",
         "GIT_WORK_TREE", "GIT_INDEX_FILE")
# huggingface_hub reads these when it is imported: no test asks the real hub, nor sends a person's token anywhere.
os.environ |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": "/nonexistent/huggingface"}
for _name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE"):
    os.environ.pop(_name, None)
# Tests share their machine, and their trials are too short to be stopped early: neither may change what they see.
os.environ |= {"AUTORESEARCH_BUSY_OK": "1", "AUTORESEARCH_ON_BATTERY": "1", "AUTORESEARCH_NO_FUTILITY": "1"}


@pytest.fixture(scope="session", autouse=True)
def isolated_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """HOME, AUTORESEARCH_CACHE and git's global configuration in a temporary folder. Git has no
    identity there: on a fresh machine it has none either, and a study must work all the same."""
    home = tmp_path_factory.mktemp("home")
    (home / ".gitconfig").write_text("[user]\n\tuseConfigOnly = true\n[init]\n\tdefaultBranch = main\n")
    with pytest.MonkeyPatch.context() as patch:
        for name in (*UNSET, *(name for name in os.environ if name.startswith(("GIT_AUTHOR_", "GIT_COMMITTER_")))):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(home))
        patch.setenv("AUTORESEARCH_CACHE", str(home / "cache"))
        patch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        yield


@pytest.fixture(scope="session")
def shared_text(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A small text, alone in a cache."""
    from tests.harness.tiny import small_text

    return small_text(tmp_path_factory.mktemp("cache"), 80_000)


@pytest.fixture(scope="session")
def shared_study(shared_text: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Place]:
    """The study of a backend with its baseline, begun when it is first asked for. Whoever uses it copies the clone."""
    from tests.loop.conftest import BUDGET_S, TAG, Place, begin, make_clone

    @cache
    def made(backend: str) -> Place:
        place = Place(make_clone(tmp_path_factory.mktemp(backend)), shared_text)
        begin(place, backend, BUDGET_S)
        place.ar("loop", "--tag", TAG, "--experiments", "0", "--verify-seeds", "0")
        return place

    return made
