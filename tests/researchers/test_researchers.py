"""What every researcher that needs no key promises, whichever it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from autoresearch.research.researchers.base import Proposal, Researcher
from autoresearch.research.researchers.hybrid import Hybrid, Relay
from autoresearch.research.researchers.playbook import Playbook
from autoresearch.research.researchers.repeats import fingerprint
from autoresearch.research.researchers.search import Search
from backends.recipe import Recipe
from benchmarks.simulated import START, Study, Trainer

MAKE: dict[str, Callable[[], Researcher]] = {
    "playbook": Playbook,
    "cma": lambda: Search("cma"),
    "tpe": lambda: Search("tpe"),
    "random": lambda: Search("random"),
    "relay": lambda: Relay(Playbook(), Search("tpe"), patience=3),
    "hybrid": lambda: Hybrid(Search("cma"), Playbook()),
}
EXPERIMENTS = 24
TRAINER = Trainer(seed=5)


@dataclass(frozen=True)
class Night:
    study: Study
    by_a_fresh_one: list[Proposal]  # the same ledgers, each shown to a researcher that was never asked before


@pytest.fixture(scope="module", params=MAKE)
def night(request: pytest.FixtureRequest) -> Night:
    study = Study(START, TRAINER, MAKE[request.param](), fits=TRAINER.fits)
    fresh = []
    for _ in range(EXPERIMENTS):
        fresh.append(MAKE[request.param]().propose(study.context()))
        study.step()
    return Night(study, fresh)


def test_the_same_ledger_gives_the_same_proposal_in_any_process(night: Night) -> None:
    assert night.by_a_fresh_one == night.study.proposals


def test_every_proposal_is_valid_and_within_memory(night: Night) -> None:
    recipes = [Recipe().replace(e.recipe) for e in night.study.ledger]  # raises RecipeError for one that isn't valid
    assert all(map(TRAINER.fits, recipes))
    assert not any("out of memory" in e.reason for e in night.study.ledger)
    assert all(p.changes and not p.files for p in night.study.proposals)


def test_memory_binds() -> None:
    """Or the promise above says nothing: a little more of both is too much."""
    assert TRAINER.fits(START) and not TRAINER.fits(START.replace({"model.width": 320, "model.depth": 4}))


def test_nothing_is_proposed_twice(night: Night) -> None:
    assert len({fingerprint(e.recipe) for e in night.study.ledger}) == EXPERIMENTS + 1


def test_every_hypothesis_is_one_line_and_cites_a_result_that_exists(night: Night) -> None:
    for n, p in enumerate(night.study.proposals, 1):
        assert p.hypothesis and "\n" not in p.hypothesis and len(p.hypothesis) < 250
        cited = [int(number) for number in re.findall(r"#(\d+)", p.hypothesis + p.evidence)]
        assert cited and all(c < n for c in cited), (p.hypothesis, p.evidence)


def test_who_proposed_is_recorded(night: Night) -> None:
    names = {e.researcher for e in night.study.ledger[1:]}
    own = night.study.researcher.name
    assert names == {"hybrid": {"search", "playbook"}, "relay": {"search", "playbook"}}.get(own, {own})
