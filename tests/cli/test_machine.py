"""What commands that train have in common: a backend that can't be used here is refused with those that can."""

from __future__ import annotations

import pytest

import backends
from autoresearch.cli import machine
from autoresearch.errors import UserError


@pytest.mark.parametrize(("installed", "has_nvidia", "said"), [
    (["cuda", "cpu"], False, "there is cpu (and cuda, which lacks an NVIDIA card: no nvidia-smi here)"),
    (["cuda", "cpu"], True, "there is cuda, cpu")])
def test_a_backend_that_is_not_installed_is_refused_with_those_that_can_train_here(
        monkeypatch: pytest.MonkeyPatch, installed: list[str], has_nvidia: bool, said: str) -> None:
    monkeypatch.setattr(backends, "installed", lambda: installed)
    monkeypatch.setattr(machine, "has_nvidia", lambda: has_nvidia)
    with pytest.raises(UserError, match="the mlx backend is not installed here") as refused:
        machine.choose_backend("mlx")
    assert refused.value.message.endswith(said)
