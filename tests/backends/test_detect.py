"""The backend that a machine should use: by what is installed, its system, and whether it has a card."""

from __future__ import annotations

import platform

import pytest

import backends


@pytest.mark.parametrize(("system", "installed", "has_nvidia", "expected"), [
    ("Darwin", ["mlx", "cuda", "cpu"], False, "mlx"),
    ("Darwin", ["cuda", "cpu"], False, "cpu"),
    ("Linux", ["mlx", "cuda", "cpu"], True, "cuda"),
    ("Linux", ["mlx", "cuda", "cpu"], False, "cpu"),  # MLX on Linux is for tests, and slower
    ("Linux", ["mlx"], True, "mlx"),
])
def test_the_backend_is_the_best_that_is_installed(monkeypatch: pytest.MonkeyPatch, system: str, installed: list[str],
                                                   has_nvidia: bool, expected: str) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(backends, "installed", lambda: installed)
    assert backends.detect(has_nvidia) == expected


def test_a_machine_without_a_framework_is_told_what_installs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "installed", lambda: [])
    with pytest.raises(RuntimeError, match="neither torch nor mlx is installed; `make setup`"):
        backends.detect(True)


def test_what_is_installed_is_what_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backends.installed() == ["mlx", "cuda", "cpu"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name == "torch" else None)
    assert backends.installed() == ["cuda", "cpu"]
