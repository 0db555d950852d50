"""Two researchers in one study: whose turn it is, what they tell each other, and what earning changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoresearch.research.researchers.base import Context, NoProposal, Proposal, Researcher
from autoresearch.research.researchers.hybrid import LEAST, MOST, Hybrid, Relay, among, earned
from autoresearch.research.researchers.playbook import Playbook
from autoresearch.research.researchers.search import Search
from backends.recipe import Recipe
from benchmarks.simulated import Study
from tests.researchers.test_playbook import FLAT, HIDDEN


class Scripted(Researcher):
    """Turns one key by a little, every time by another little; remembers what it was told."""

    def __init__(self, name: str = "claude", key: str = "optim.adam_eps", down: bool = False):
        self.name, self.key, self.down = name, key, down
        self.heard: list[str] = []

    def propose(self, context: Context) -> Proposal:
        self.heard.append(context.hints)
        if self.down:
            raise NoProposal("the service does not answer")
        return Proposal("a little", "", {self.key: 1e-5 * (1 + len(context.experiments))})


def hybrid(llm: Researcher, share: float = 0.3) -> Hybrid:
    return Hybrid(Search("cma"), llm, share)


def proposers(study: Study) -> list[str]:
    return [e.researcher for e in study.ledger[1:]]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.9, 1.0])
def test_a_share_is_spread_evenly(share: float) -> None:
    turns = [among(n, share) for n in range(200)]
    for begin in range(0, 180, 7):
        assert sum(turns[begin:begin + 20]) == pytest.approx(20 * share, abs=2)
    assert turns[0] == (share > 0)


def test_the_other_proposes_its_share_and_signs_it() -> None:
    llm = Scripted()
    study = Study(Recipe(), FLAT, hybrid(llm)).run(20)
    assert proposers(study).count("claude") == pytest.approx(6, abs=1) and proposers(study)[0] == "claude"
    assert set(proposers(study)) == {"claude", "search"}


def test_the_optimizer_tells_its_state_and_what_is_whose() -> None:
    llm = Scripted()
    study = Study(Recipe(), HIDDEN, hybrid(llm, 0.5)).run(30)
    assert "CMA-ES has learned from" in llm.heard[-1] and "optim.matrix_lr: " in llm.heard[-1]
    assert "code or the structure" in llm.heard[-1] and "other 50%" in llm.heard[0]
    told = replace(study.context(), hints="what was said before")
    hybrid(llm, 1.0).propose(told)
    assert llm.heard[-1].startswith("what was said before\n\n")


def test_the_optimizer_learns_from_what_the_other_tried() -> None:
    llm = Scripted(key="optim.matrix_lr")
    numeric = Search("cma")
    study = Study(Recipe(), HIDDEN, Hybrid(numeric, llm, 1.0)).run(12)
    assert set(proposers(study)) == {"claude"}
    assert "from 12 results" in numeric.state(study.context())


def test_while_the_other_can_not_propose_the_optimizer_does_and_says_so() -> None:
    said: list[str] = []
    study = Study(Recipe(), FLAT, hybrid(Scripted(down=True), 0.5), note=said.append).run(6)
    assert set(proposers(study)) == {"search"}
    assert said == ["claude: the service does not answer; search proposes"]  # once


def after(gains: dict[str, float], minutes: dict[str, float], share: float = 0.3) -> float:
    """The share once each has had ten experiments, one of them kept for that gain, of so many minutes each."""
    study = Study(Recipe(), FLAT)
    level = 1.5
    for i in range(10):
        for name in ("claude", "search"):
            level -= gains[name] if i == 0 else 0.0
            study.objective = lambda r, level=level: level
            study.record({"optim.adam_eps": 1e-8 * (1 + len(study.ledger))}, name, total_s=60 * minutes[name])
    return hybrid(Scripted(), share).share(study.context())


def test_a_share_follows_what_each_has_earned_a_minute_within_bounds() -> None:
    equal, once = {"claude": 0.01, "search": 0.01}, {"claude": 1.0, "search": 1.0}
    assert after({"claude": 0, "search": 0}, once) == pytest.approx(0.3)
    assert after(equal, once) == pytest.approx(0.3, abs=0.001)
    assert after({"claude": 0.02, "search": 0}, once) > 0.5
    assert after({"claude": 0, "search": 0.02}, once) < 0.15
    assert after(equal, {"claude": 4.0, "search": 1.0}) < 0.2  # as much, but slower
    assert after({"claude": 5.0, "search": 0}, once) == MOST
    assert after({"claude": 0, "search": 5.0}, once) == LEAST
    assert after({"claude": 5.0, "search": 0}, once, share=0.0) == 0.0


def test_what_was_earned_counts_keeps_and_all_minutes() -> None:
    study = Study(Recipe(), FLAT)
    study.record({"optim.adam_eps": 2e-8}, "claude", total_s=120.0)
    study.objective = lambda r: 1.4
    study.record({"optim.adam_eps": 3e-8}, "claude", total_s=60.0)
    study.record({"optim.adam_eps": 4e-8}, "search", total_s=60.0)
    mine = earned(study.context(), "claude")
    assert (mine.experiments, mine.minutes) == (2, 3.0) and mine.gain_bpb == pytest.approx(0.1)


def test_a_relay_hands_over_on_a_plateau_and_back_after_a_keep() -> None:
    study = Study(Recipe(), FLAT, Relay(Playbook(), Search("cma"), patience=3)).run(5)
    assert proposers(study) == ["playbook"] * 3 + ["search"] * 2
    study.objective = lambda r: 1.4
    study.step()
    assert study.ledger[-1].verdict == "keep" and proposers(study)[-1] == "search"
    study.step()
    assert proposers(study)[-1] == "playbook"
