"""Runners that train nothing, which stand for the real one in the tests of nights: they take what it takes."""

from __future__ import annotations

from inspect import signature

import pytest

from autoresearch.harness.runner import Runner
from tests.chaos.fast import FastRunner
from tests.research import nights, planted, test_planted
from tests.researchers import made

FAKES = (FastRunner, nights.Runner, planted.Planted, test_planted.Trainer, test_planted.Failing, made.Runner)


@pytest.mark.parametrize("method", ["train", "score", "audit", "too_short"])
@pytest.mark.parametrize("fake", FAKES, ids=lambda fake: f"{fake.__module__}.{fake.__name__}")
def test_a_runner_that_trains_nothing_is_called_as_the_real_one(fake: type, method: str) -> None:
    ours, real = (signature(getattr(runner, method)) for runner in (fake, Runner))
    assert list(ours.parameters) == list(real.parameters)
    assert ours.return_annotation == real.return_annotation
