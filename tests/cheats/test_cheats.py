"""Every cheat, as a person or an agent would try it: caught by the layer that is named for it, and a success where that
layer is off. The lint, a courtesy, decides nothing in any of them."""

from __future__ import annotations

from typing import Any

import pytest

from autoresearch.harness import sandbox
from tests.cheats.cheats import CHEATS, Cheat
from tests.cheats.conftest import Attempt
from tests.cheats.layers import SWITCHES

slow = pytest.mark.slow
FAST = {"reads the validation text"}
CASES = [pytest.param(cheat, backend, id=f"{name}, {backend}", marks=() if name in FAST else slow)
         for name, cheat in CHEATS.items() for backend in cheat.backends]


@pytest.mark.parametrize(("cheat", "backend"), CASES)
def test_a_cheat_is_caught_by_its_layer_and_works_without_it(
        attempt: Attempt, monkeypatch: pytest.MonkeyPatch, cheat: Cheat, backend: str) -> None:
    caught = attempt(cheat.edit, backend, dict(cheat.told) if cheat.told else None)
    assert cheat.caught(caught), caught
    told: dict[str, Any] | None = dict(cheat.told)
    if cheat.layer == "sandbox":
        monkeypatch.setenv(sandbox.SWITCH, "off")
    else:  # a gain as large as a cheat's would be doubted next
        told["off"] = sorted({cheat.layer, "quarantine", *told.get("off", ())})
    worked = attempt(cheat.edit, backend, told or None)
    assert cheat.works(worked) and not cheat.caught(worked), worked


def test_there_are_many_cheats_and_a_layer_for_each() -> None:
    assert len(CHEATS) >= 40
    assert {c.layer for c in CHEATS.values()} <= SWITCHES.keys() | {"sandbox"}
