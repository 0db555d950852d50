"""Judging with a trainer that takes no time: what is kept and why, and a kill at every trial of a night."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch.research import decide, quarantine
from autoresearch.research.judge import kind_of
from autoresearch.research.study import Study
from tests.research.nights import FOLDER, RATES, failing, make, night, nursery


@pytest.fixture(scope="module", autouse=True)
def one_nursery() -> Iterator[None]:
    with nursery():
        yield


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return make(tmp_path / "clone")


def story(clone: Path) -> list[object]:
    """What was decided and from which pairs, whatever the numbers of the trials."""
    with Study.open(clone, readonly=True) as study:
        experiments = study.ledger.experiments()
        seeds = {t.id: t.seed for e in experiments for t in e.trials}
        return [(e.n, e.verdict, e.reason, e.recipe["optim.matrix_lr"], sorted(e.on_val().items()),
                 [(seeds[p.trial], seeds[p.incumbent_trial], p.delta_bpb) for p in study.ledger.pairs(e.n)])
                for e in experiments]


def test_gains_are_confirmed_on_fresh_seeds_and_the_rest_costs_one_trial(clone: Path) -> None:
    baseline, worse, better, same, *_ = night(clone)
    assert [t.purpose for t in baseline.trials[:3]] == ["screen"] * 3
    assert (worse.verdict, len(worse.trials)) == ("discard", 1) and "on the same seed" in worse.reason
    assert better.verdict == "keep" and [t.seed for t in better.trials] == list(range(1, len(better.trials) + 1))
    assert {t.purpose for t in better.trials[1:]} == {"repeat"}
    assert "fresh seed" in better.reason and "95% interval" in better.reason and "standard errors" in better.reason
    assert f"(and {len(better.trials) - 1} more)" in better.reason, "every score that counted is replayed"
    assert same.verdict == "discard"
    with Study.open(clone, readonly=True) as study:
        assert all(not (study.trials / str(t.id) / "weights.safetensors").exists()
                   for t in (*worse.trials, *same.trials, *better.trials[1:]))
        assert (study.trials / str(better.trials[0].id) / "weights.safetensors").exists()


def test_rows_are_so_many_that_their_choice_hardly_matters(clone: Path) -> None:
    experiments = night(clone, experiments=1, rough=0.2)
    rows = {s.rows for e in experiments for t in e.trials for s in t.scores}
    assert len(rows) == 1 and 100 < rows.pop() < 100_000
    with Study.open(clone, readonly=True) as study:
        assert study.ledger.fact("spread_bpb") < 0.1, "of the scores on all rows"


def test_a_kill_while_rows_are_settled_changes_nothing(tmp_path: Path) -> None:
    whole, torn = make(tmp_path / "a/clone"), make(tmp_path / "b/clone")
    night(whole, experiments=1, rough=0.2)
    for die_at in (4, 5, 6):  # scorings: three of the baseline, then each of them again
        night(torn, experiments=1, rough=0.2, killed=True, die_at_score=die_at if die_at == 4 else 2)
    night(torn, experiments=1, rough=0.2)
    assert story(torn) == story(whole)


def test_trials_of_the_incumbent_are_made_once_and_used_again(clone: Path) -> None:
    experiments = night(clone)
    for e in experiments:
        seeds = [t.seed for t in e.trials]
        assert len(seeds) == len(set(seeds))
    with Study.open(clone, readonly=True) as study:
        for e in experiments:
            for p in study.ledger.pairs(e.n):
                mine = next(t for t in e.trials if t.id == p.trial)
                theirs = next(t for x in experiments for t in x.trials if t.id == p.incumbent_trial)
                assert mine.seed == theirs.seed
                assert p.delta_bpb == pytest.approx((mine.bpb() or 0) - (theirs.bpb() or 0))


def test_a_kill_in_any_trial_changes_nothing_that_is_decided(tmp_path: Path) -> None:
    """Every run but the last is killed in its second trial, so each has finished one: kills come everywhere."""
    whole, torn = make(tmp_path / "a/clone"), make(tmp_path / "b/clone")
    trials = sum(len(e.trials) for e in night(whole))
    for _ in range(trials - 1):
        found = night(torn, killed=True, die_at=2)
    night(torn, experiments=len(RATES) - sum(bool(e.verdict) for e in found if e.n > 0))
    assert story(torn) == story(whole)
    with Study.open(torn, readonly=True) as study:
        for e in study.ledger.experiments():
            seeds = [t.seed for t in e.trials if t.status == "ok"]
            assert len(seeds) == len(set(seeds)), "no recipe is trained twice on a seed"


def test_a_stop_between_the_trials_of_a_confirmation_leaves_it_to_be_gone_on_with(tmp_path: Path) -> None:
    whole, paused = make(tmp_path / "a/clone"), make(tmp_path / "b/clone")
    night(whole, experiments=2)
    before = night(paused, experiments=2, stop_at=5)  # the screening trial of the second idea
    assert (before[-1].n, before[-1].state, len(before[-1].trials)) == (2, "committed", 1)
    night(paused, experiments=1)
    assert story(paused) == story(whole)


@pytest.mark.parametrize("ratchet", ["fast", "greedy"])
def test_the_other_ratchets_decide_on_one_seed(clone: Path, ratchet: str) -> None:
    baseline, *ideas = night(clone, ratchet=ratchet)
    assert len(baseline.trials) == 3 and all(len(e.trials) == 1 for e in ideas)
    with Study.open(clone, readonly=True) as study:
        margin = study.ledger.fact("spread_bpb") if ratchet == "fast" else 0.0
        for e in ideas:
            pair, = study.ledger.pairs(e.n)
            assert (e.verdict == "keep") == (-pair.delta_bpb > margin)
    assert any(e.verdict == "keep" for e in ideas) == (ratchet == "greedy" or margin < 0.05)


def test_nothing_is_kept_that_fails_its_audit(clone: Path) -> None:
    better = night(clone, experiments=2, cheats=["0.028"])[2]
    assert (better.verdict, better.reason) == ("invalid", "saw later tokens") and len(better.trials) > 1


def test_a_trial_on_another_device_is_a_crash(clone: Path) -> None:
    night(clone, experiments=0)
    found = night(clone, experiments=1, device="another card")[1]
    assert (found.verdict, found.bpb()) == ("crash", None)
    assert found.reason.startswith("it ran on another card; the scores of this study are of a card")


def test_a_crash_on_a_fresh_seed_is_the_verdict(clone: Path) -> None:
    better = night(clone, experiments=2, crashes={"0.028": 2})[2]
    assert (better.verdict, better.reason) == ("crash", "on seed 2: out of luck")


def test_a_machine_that_fails_on_a_fresh_seed_is_not_held_against_the_idea(clone: Path) -> None:
    """The fifth trial of these nights is that idea's on seed 2; the third failure in a row pauses a study."""
    found = failing(clone, script=[*RATES[:2], *RATES[1:] * 2], faults=[6, 7, 8, 9])
    assert "3 experiments in a row crashed" in found
    with Study.open(clone, readonly=True) as study:
        waiting = study.ledger.experiments()[-1]
        spoilt = [e for e in study.ledger.experiments() if e.is_spoilt]
    assert waiting.verdict == "" and len(spoilt) == 2
    gone_on = next(e for e in night(clone, experiments=1, script=[RATES[1]] * 9) if e.n == waiting.n)
    assert gone_on.verdict not in ("", "crash"), gone_on.reason


def test_a_failing_scorer_in_the_audit_says_nothing_of_the_idea(clone: Path) -> None:
    found = night(clone, experiments=2, scorer_dies=True)[2]
    assert (found.verdict, found.reason, found.is_spoilt) == ("interrupted", "the scorer ended", True)


def test_every_view_shows_the_mean_over_fresh_seeds(clone: Path) -> None:
    better = night(clone, experiments=2)[2]
    with Study.open(clone, readonly=True) as study:
        fresh = {t.id for t in better.trials if t.purpose == "repeat"}
        mean = statistics.fmean(-p.delta_bpb for p in study.ledger.pairs(2) if p.trial in fresh)
        assert study.ledger.gains()[2] == better.gain_bpb(study.ledger.pairs(2)) == pytest.approx(mean)
    assert better.reason.startswith(f"better by {mean:.4f} bits per byte on {len(fresh)} fresh seed")
    shrunk = float(re.search(r"\((\S+) after shrinkage\)", better.reason)[1])  # type: ignore[index]
    assert 0 < shrunk < mean


def test_less_code_at_an_equal_score_is_kept_and_more_code_is_not(clone: Path) -> None:
    less, more = "a = 1\nc = a + 2\n", "a = 1\nb = 2\nc = a + b\nd = 3\n"
    script = [{"files": {"torch_model.py": more}}, {"files": {"torch_model.py": less}}]
    _, longer, shorter = night(clone, experiments=2, script=script)
    assert (longer.verdict, len(longer.trials)) == ("discard", 1)
    assert shorter.verdict == "keep" and "allowed for a simplification (1 line fewer)" in shorter.reason
    with Study.open(clone, readonly=True) as study:
        assert study.ledger.fact("simplifications") == [2]


# Quarantine

def test_a_gain_on_the_validation_text_alone_is_invalid(clone: Path) -> None:
    found = night(clone, experiments=2, by_heart={"0.028": 1.0})[2]
    assert found.verdict == "invalid" and "quarantined, as a gain of" in found.reason
    assert "not of the model" in found.reason
    with Study.open(clone, readonly=True) as study:
        assert study.ledger.reads("confirm") == 2
        about = study.ledger.fact(quarantine.FACT)["2"]
        assert about["gain_bpb"] > 0.9 and about["confirm_bpb"] < 0.3 and about["held"] is False
        assert not list(study.trials.glob("*/confirm.npz"))


def test_a_large_gain_is_replayed_before_it_costs_fresh_seeds(clone: Path) -> None:
    found = night(clone, experiments=2, gains={"0.028": 1.0}, cheats=["0.028"])[2]
    assert (found.verdict, found.reason, len(found.trials)) == ("invalid", "saw later tokens", 1)


def test_a_large_gain_that_shows_everywhere_is_kept_with_a_flag(clone: Path) -> None:
    found = night(clone, experiments=3, ratchet="greedy", gains={"0.028": 1.0, "0.0281": 1.001})[2]
    assert len(found.trials) == 1 + quarantine.SEEDS, "fresh seeds, though greedy asks for none"
    assert found.verdict == "keep" and "on the confirm split, replay of 7 positions: the gain holds" in found.reason
    with Study.open(clone, readonly=True) as study:
        assert list(study.ledger.fact(quarantine.FACT)) == ["2"], "an ordinary gain after it is not doubted"
        assert study.ledger.reads("confirm") == 2
        assert study.ledger.experiment(2).trials[0].bpb("confirm") == pytest.approx(found.trials[0].bpb())


@pytest.mark.slow
def test_a_kill_in_quarantine_changes_nothing(tmp_path: Path) -> None:
    whole, torn = make(tmp_path / "a/clone"), make(tmp_path / "b/clone")
    told: dict[str, Any] = {"experiments": 1, "script": RATES[1:], "gains": {"0.028": 1.0}}
    trials = sum(len(e.trials) for e in night(whole, **told))
    night(torn, killed=True, die_at_score=trials + 1, **told)  # the incumbent's on confirm
    night(torn, killed=True, die_at_score=2, **told)  # the candidate's
    night(torn, **told)
    assert story(torn) == story(whole)
    with Study.open(torn, readonly=True) as study:
        assert study.ledger.reads("confirm") == 4, "a look that was killed may have been one"


def test_luck_on_one_seed_is_not_kept_for_it(tmp_path: Path) -> None:
    """Whoever chooses a seed, or weights that suit one, has chosen for that seed."""
    for ratchet, verdict in (("greedy", "keep"), ("careful", "discard")):
        clone = make(tmp_path / ratchet / "clone")
        script = [{"changes": {"optim.matrix_lr": 0.0201}}]
        found = night(clone, experiments=1, ratchet=ratchet, script=script, lucky={"0.0201": 0.08})[1]
        assert found.verdict == verdict, found.reason


def test_how_large_a_gain_may_be_follows_from_the_score_the_noise_and_what_was_kept() -> None:
    noise = decide.Noise(0.01, 10)
    assert quarantine.likely_bpb(2.0, noise, []) == pytest.approx(0.06 + 0.06)
    assert quarantine.likely_bpb(2.0, noise, [0.01, 0.01, 0.5]) == pytest.approx(0.06 + 0.06), "one gain is no history"
    assert quarantine.likely_bpb(2.0, noise, [0.1, 0.1, 0.5]) == pytest.approx(0.06 + 0.3)
    assert quarantine.likely_bpb(2.0, decide.Noise(0.05, 10), []) == pytest.approx(0.3 + 0.06)
# Fair time

ANYHOW = {"AUTORESEARCH_BUSY_OK": ""}
BUSY = {"outside_cores": 1.0, "idle_cores": 0.0}


def test_a_trial_beside_other_programs_is_run_again_and_nothing_that_is_decided_changes(tmp_path: Path) -> None:
    quiet, busy = make(tmp_path / "a/clone"), make(tmp_path / "b/clone")
    night(quiet, experiments=2, environment=ANYHOW)
    experiments = night(busy, experiments=2, environment=ANYHOW, machine={"2": BUSY, "5": BUSY, "6": {"stopped_s": 9}})
    assert story(busy) == story(quiet)
    baseline, worse, _ = experiments
    assert [(t.seed, t.status) for t in baseline.trials[:4]] == [(1, "ok"), (2, "interrupted"), (2, "ok"), (3, "ok")]
    assert [t.status for t in worse.trials] == ["interrupted", "interrupted", "ok"]
    assert "other programs used 1.00 of 2 cores" in worse.trials[0].reason
    assert "stopped for 9.0 s" in worse.trials[1].reason
    assert all(not t.scores for e in experiments for t in e.trials if t.status == "interrupted")


def test_a_trial_that_others_have_spoilt_is_not_trained_to_its_end(clone: Path) -> None:
    _, idea = night(clone, experiments=1, environment=ANYHOW, watched=True, machine={"4": BUSY})
    cut, whole = idea.trials[:2]
    assert (cut.status, whole.status) == ("interrupted", "ok") and 0 < len(cut.curve) < len(whole.curve)
    assert "no rest could mend" in cut.reason


def test_what_is_never_quiet_is_never_scored(clone: Path) -> None:
    _, idea = night(clone, experiments=1, environment=ANYHOW, machine={"4+": BUSY})
    assert idea.verdict == "interrupted" and "other programs used" in idea.reason
    assert [t.status for t in idea.trials] == ["interrupted"] * 3 and not any(t.scores for t in idea.trials)


def test_a_person_may_have_trials_scored_beside_other_programs_but_not_in_stolen_time(clone: Path) -> None:
    environment = {"AUTORESEARCH_BUSY_OK": "1"}
    _, idea = night(clone, experiments=1, environment=environment, machine={"1+": BUSY, "4": BUSY | {"asleep_s": 60}})
    assert [t.status for t in idea.trials] == ["interrupted", "ok"] and "slept for 60 s" in idea.trials[0].reason
    notes = [line for line in (clone.parent / "told").read_text().splitlines() if "--busy-ok" in line]
    assert len(notes) == 4 and all("other programs used 1.00 of 2 cores" in line for line in notes), "it is said"


def test_a_machine_that_has_become_slower_runs_the_incumbent_again_on_that_seed(clone: Path) -> None:
    baseline, *ideas = night(clone, experiments=3, environment=ANYHOW, script=[RATES[0]] * 3,
                             machine={"5+": {"speed": 0.8}})
    assert [(t.seed, t.purpose) for t in baseline.trials] == [(1, "screen"), (2, "screen"), (3, "screen"),
                                                              (1, "repeat")]
    with Study.open(clone, readonly=True) as study:
        against = [p.incumbent_trial for e in ideas for p in study.ledger.pairs(e.n)]
    old, new = baseline.trials[0].id, baseline.trials[-1].id
    assert against == [old, old, new] or against == [old, new, new], "a single calibration could be anything"


def test_a_pair_that_was_made_stays_though_the_machine_has_changed_since(clone: Path) -> None:
    """A trial of the incumbent on a slower machine would make the candidate's, from before, look better."""
    rest = {"experiments": 1, "environment": ANYHOW, "script": [{"changes": {"optim.matrix_lr": 0.0206}}]}
    night(clone, killed=True, die_at=7, machine={"5+": {"speed": 0.8}}, **rest)
    baseline, idea = night(clone, machine={"1+": {"speed": 0.8}}, **rest)
    with Study.open(clone, readonly=True) as study:
        paired = [p.trial for p in study.ledger.pairs(1)]
    assert len(paired) == len(set(paired)) == len(idea.trials) == 4
    assert [t.seed for t in baseline.trials if t.status == "ok"] == [1, 2, 3, 4], "no seed that is done is done again"


def test_a_hopeless_trial_stops_early_and_is_a_discard_that_says_so(tmp_path: Path) -> None:
    stopping, whole = make(tmp_path / "a/clone"), make(tmp_path / "b/clone")
    _, worse, better = night(stopping, experiments=2, environment={"AUTORESEARCH_NO_FUTILITY": ""})
    assert (worse.verdict, len(worse.trials), worse.on_val()) == ("discard", 1, {})
    assert worse.reason.startswith("stopped at 20% of its budget: ") and len(worse.trials[0].curve) == 1
    assert better.verdict == "keep" and all(len(t.curve) == 5 for t in better.trials)
    ended = night(whole, experiments=2)
    assert "to earn fresh seeds" in ended[1].reason and story(whole)[2] == story(stopping)[2]
    with Study.open(stopping, readonly=True) as study:
        line = study.results_tsv.read_text().splitlines()[2].split("\t")
    assert line[1] == "0.000000" and line[3] == "crash" and line[4].endswith("[stopped early]")


@pytest.mark.parametrize(("changes", "paths", "kind"), [
    ({"optim.matrix_lr": 0.1}, ["recipe.toml"], decide.SAME_SHAPES),
    ({"model.depth": 3}, ["recipe.toml"], decide.NEW_SHAPES),
    ({"optim.matrix_lr": 0.1, "batch.tokens_per_step": 64}, ["recipe.toml"], decide.NEW_SHAPES),
    ({"data.tokenizer": "byte", "model.depth": 3}, ["recipe.toml"], decide.TOKENIZER),
    ({}, ["torch_model.py"], decide.CODE),
    ({"data.tokenizer": "byte"}, ["recipe.toml", "torch_optim.py"], decide.CODE),
])
def test_the_kind_of_a_change_follows_from_what_it_touches(changes: dict, paths: list[str], kind: str) -> None:
    assert kind_of(changes, [f"{FOLDER}/{p}" for p in paths], FOLDER) == kind
