"""The account and what the commands say of it: prices, arms, the course of a night, spending only when asked to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch.cli import cost, run, shell
from autoresearch.cli.researching import Asked, hint, make
from autoresearch.errors import UserError
from autoresearch.records import BASELINE, Spend, Spent
from autoresearch.research.account import Entry, Moment, arms, course
from autoresearch.research.ledger import Ledger
from autoresearch.research.prices import OWN, prices
from autoresearch.research.researchers.backed import Backed
from autoresearch.research.researchers.base import Researcher
from autoresearch.research.researchers.claude import FALLBACK, MODEL, Claude
from autoresearch.research.researchers.command import Command
from autoresearch.research.researchers.hybrid import Hybrid, Relay
from autoresearch.research.researchers.playbook import Playbook
from autoresearch.research.researchers.search import Search
from autoresearch.research.researchers.service import Limits
from autoresearch.research.study import Study
from tests.researchers.made import clone_at, night
from tests.researchers.messages_server import KEY

PAID = Spend("claude", "claude-opus-5-5", "ok", "req_1", latency_s=20.0, input_tokens=1_000_000, output_tokens=100_000,
             usd=6.0, priced="2026-10-24")
FAILED = Spend("claude", "claude-opus-5-5", "overloaded (529)", waited_s=30.0)
UNPRICED = Spend("claude", "mine", "ok", input_tokens=500, output_tokens=500)


@pytest.fixture
def studied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with a study of two experiments, the first of which was paid for."""
    clone = clone_at(tmp_path / "clone")
    night(clone, Playbook(), 2)
    with Study.open(clone) as study:
        for spend in (PAID, FAILED):
            study.ledger.account.record(1, spend)
    monkeypatch.chdir(clone)
    return clone


def test_what_was_recorded_is_read_back_and_added_up(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.account.spent() == Spent(0.0, 0)
        for n, spend in ((1, PAID), (1, FAILED), (2, UNPRICED)):
            ledger.account.record(n, spend)
        assert [(e.experiment, e.spend) for e in ledger.account.entries()] == [(1, PAID), (1, FAILED), (2, UNPRICED)]
        assert ledger.account.spent() == Spent(6.0, 1_101_000)
    with Ledger.open(tmp_path / "ledger.sqlite", readonly=True) as ledger:
        assert ledger.account.spent() == Spent(6.0, 1_101_000)


def test_gains_are_set_against_what_they_cost(studied: Path) -> None:
    with Study.open(studied) as study:
        entries = study.ledger.account.entries()
        first, second = (e for e in study.ledger.experiments() if e.n > BASELINE)
    judged = [(replace(first, verdict="keep"), 0.25), (replace(second, verdict="discard"), 0.125)]
    found = {arm.researcher: arm for arm in arms(judged, entries)}
    paid, free = found["claude"], found["playbook"]
    assert (paid.usd, paid.tokens, paid.requests, paid.failed, paid.waited_s) == (6.0, 1_100_000, 2, 1, 30.0)
    assert (free.experiments, free.kept, free.gain_bpb, free.usd) == (2, 1, 0.25, 0.0)
    trained = [sum(t.tokens for t in e.trials) for e in (first, second)]
    assert min(trained) > 0
    assert course(judged[::-1], [*entries, Entry(2, "", UNPRICED)], 2.0) == [
        Moment(0, 2.0, 0.0, 0, 0), Moment(1, 1.75, 6.0, 1_100_000, trained[0]),
        Moment(2, 1.75, 6.0, 1_101_000, sum(trained))], "what was not kept gains nothing"


def test_gain_per_dollar_is_not_claimed_where_a_price_is_missing() -> None:
    class Kept:
        researcher, verdict, trials, n = "claude", "keep", (), 1

    def arm(*spends: Spend):
        return arms([(Kept(), 0.5)], [Entry(1, "", s) for s in spends])[0]  # type: ignore[list-item]

    assert arm(PAID).gain_per_usd == pytest.approx(0.5 / 6)
    assert arm(PAID, UNPRICED).gain_per_usd is None and arm(PAID, UNPRICED).gain_per_mtok == pytest.approx(0.5 / 1.101)


def test_ar_cost_shows_it_to_people_and_to_programs(studied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shell.command, ["cost"]) == 0
    said = capsys.readouterr().out
    assert "claude-opus-5-5: 1,000,000 in" in said and "$6.0000 (2026-10-24)" in said and "30 s waited" in said
    assert run(shell.command, ["cost", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [r["status"] for r in told["requests"]] == ["ok", "overloaded (529)"]
    assert {r["researcher"] for r in told["researchers"]} == {"claude", "playbook"} and len(told["over_time"]) == 3


def test_what_no_run_has_scored_is_not_called_a_score(studied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Study.open(studied) as study:
        entries = study.ledger.account.entries()
        judged = [(replace(e, verdict="keep"), 0.25) for e in study.ledger.experiments() if e.n > BASELINE]
    said = cost.page(arms(judged, entries), course(judged, entries, 2.0), entries)
    heading, first, _ = said.splitlines()[-3:]
    assert heading == "the baseline's val_bpb less the gains kept, and what had been spent by then"
    assert first.startswith("  #1    1.7500  $6.00")
    told = cost.data([], course(judged, entries, 2.0), entries)["over_time"]
    assert [moment["baseline_less_gains_bpb"] for moment in told] == [2.0, 1.75, 1.5]


def test_prices_have_a_date_and_a_persons_own_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = prices()
    assert table["claude-opus-5-5"].usd(PAID) == pytest.approx(4.0 + 2.0)
    assert all(len(price.date) == 10 for price in table.values())
    haiku = table["claude-haiku-5-5"]
    short, long = (Spend("", "", "ok", input_tokens=n, output_tokens=1000) for n in (100_000, 100_001))
    assert haiku.usd(short) == pytest.approx(0.0105) and haiku.usd(long) == pytest.approx(0.0525, rel=1e-4)
    own = tmp_path / "mine.toml"
    monkeypatch.setenv(OWN, str(own))
    own.write_text('date = "2027-01-01"\n[models.mine]\ninput = 0\noutput = 0\ncache_write_5m = 0\n'
                   "cache_write_1h = 0\ncache_read = 0\n")
    assert prices()["mine"].usd(PAID) == 0 and prices().keys() > {"mine", "claude-opus-5-5"}
    for wrong in ("date = 3", '[models.mine]\ninput = "x"', "\x00", 'date = "d"\n[models.m]\ninput = -1\noutput = 1\n'
                  "cache_write_5m = 1\ncache_write_1h = 1\ncache_read = 1"):
        own.write_text(wrong)
        with pytest.raises(UserError, match="not a table of prices"):
            prices()


def test_a_key_in_the_environment_earns_a_hint_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hint(Asked()) == ""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    assert isinstance(make(Asked()), Playbook)
    said = hint(Asked())
    assert "--researcher claude would ask claude-opus-5-5, from about $0.26 an experiment, $5 at most" in said
    assert KEY not in said


@pytest.mark.parametrize(("asked", "env", "why"), [
    (Asked("claude"), {}, "needs a key"),
    (Asked("claude", model="llama", max_usd=1.0), {"ANTHROPIC_API_KEY": KEY}, "no price is known for llama"),
    (Asked("command"), {}, "needs an agent"),
    (Asked("command", agent="'"), {}, "is not a command"),
    (Asked("command", agent="no-such-agent -p"), {}, "not on PATH"),
])
def test_what_would_fail_at_night_fails_at_once(asked: Asked, env: dict[str, str], why: str,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as e:
        make(asked)
    assert why in e.value.message and e.value.hint


def parts(made: Researcher) -> object:
    """A researcher by its kind and what it was made with."""
    match made:
        case Backed():
            return "backed", parts(made._first), parts(made._then)
        case Hybrid():
            return "hybrid", parts(made.numeric), parts(made.llm), made.asked_share
        case Relay():
            return "relay", parts(made.first), parts(made.then)
        case Search():
            return "search", type(made.sampler).__name__
        case Claude():
            return "claude", made.model, made.fallback, made.effort, made.service.limits
        case Command():
            return "command", made.command, made.limits, made.most_s, made.passed_on
    assert isinstance(made, Playbook)
    return "playbook"


KEYED = {"ANTHROPIC_API_KEY": KEY}
ELSEWHERE = KEYED | {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}
FIVE = Limits(5.0)
ALONE, BY_RULES = ("claude", MODEL, FALLBACK, "", FIVE), "playbook"


@pytest.mark.parametrize(("asked", "env", "made"), [
    (Asked("search"), {}, ("search", "Cma")),
    (Asked("search", sampler="tpe"), {}, ("search", "Tpe")),
    (Asked("relay", sampler="random"), {}, ("relay", BY_RULES, ("search", "Uniform"))),
    (Asked("hybrid", sampler="tpe", llm_share=0.5), KEYED, (
        "hybrid", ("search", "Tpe"), ("backed", ALONE, ("search", "Tpe")), 0.5)),
    (Asked("hybrid", agent="sh -c true", agent_minutes=2.0, agent_env=("X_KEY",), max_usd=1.0, max_tokens=9), {}, (
        "hybrid", ("search", "Cma"), ("backed", ("command", "sh -c true", Limits(1.0, 9), 120.0, ("X_KEY",)),
                                      ("search", "Cma")), 0.3)),
    (Asked("command", agent="sh -c true"), {}, ("backed", ("command", "sh -c true", FIVE, 900.0, ()), BY_RULES)),
    (Asked("claude"), KEYED, ("backed", ALONE, BY_RULES)),
    (Asked("claude"), ELSEWHERE, ("backed", ALONE, BY_RULES)),
    (Asked("claude", fallback_model="", effort="low"), KEYED, (
        "backed", ("claude", MODEL, "", "low", FIVE), BY_RULES)),
    (Asked("claude", model="llama", max_tokens=9), ELSEWHERE, (
        "backed", ("claude", "llama", "", "", Limits(5.0, 9)), BY_RULES)),
    (Asked("claude", model="llama", fallback_model="lama", max_tokens=9), ELSEWHERE, (
        "backed", ("claude", "llama", "lama", "", Limits(5.0, 9)), BY_RULES)),
    (Asked("claude", model=FALLBACK), KEYED, ("backed", ("claude", FALLBACK, FALLBACK, "", FIVE), BY_RULES)),
])
def test_a_researcher_is_made_of_what_was_asked_for(asked: Asked, env: dict[str, str], made: object,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert parts(make(asked)) == made


def test_the_key_leaves_the_environment_as_soon_as_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    make(Asked("claude"))
    assert KEY not in str(os.environ)
