"""One prepared text, one compile cache, and the weights of one short run, for all tests of the harness."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoresearch.data.prepared import Prepared
from autoresearch.harness.runner import Runner
from autoresearch.harness.supervise import Outcome
from tests.harness.tiny import honest, small_text, tiny_recipe


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return small_text(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="session")
def cpu(text: Prepared, caches: Path) -> Runner:
    return Runner(text, "cpu", caches)


@pytest.fixture(scope="session")
def mlx(text: Prepared, caches: Path) -> Runner:
    """Its processes start in a fraction of torch's two seconds: for what does not depend on the framework."""
    return Runner(text, "mlx", caches)


@pytest.fixture(scope="session")
def trained(mlx: Runner, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Honest weights after a few steps: enough that a model says something definite."""
    outcome = mlx.train(honest(), tiny_recipe(), 1, tmp_path_factory.mktemp("trained"), None, steps=30)
    assert outcome.status == "ok", outcome.reason
    return outcome
