"""Verification and time to target over trials that follow a formula: what is run, what is read, what is said."""

from __future__ import annotations

import contextlib
import errno
import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoresearch.cli import loop
from autoresearch.cli.studying import Wanted
from autoresearch.cli.verify import table
from autoresearch.errors import UserError
from autoresearch.records import BASELINE, REFERENCE
from autoresearch.research import horizon, verify
from autoresearch.research.lab import Lab
from autoresearch.research.until import Until
from autoresearch.research.verify import FIRST_SEED, LOOKS, Summary
from backends.recipe import Recipe
from tests.report.made import START
from tests.research.planted import Night, Planted


def rule(recipe: Recipe, files: dict[str, bytes]) -> float:
    """Half the rate gains 0.04."""
    return 2.0 if recipe.optim.matrix_lr > 0.03 else 1.96


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    night = Night.create(tmp_path, rule)
    yield night
    night.made.study.close()


def summary_of(night: Night) -> Summary:
    ledger = night.made.study.ledger
    found = verify.summarise(ledger.experiments(), ledger.fact(LOOKS, []))
    assert found is not None
    return found


def test_champion_and_baseline_meet_on_five_untouched_seeds_and_on_every_split(night: Night) -> None:
    n, ledger = night.keep(optim__matrix_lr=0.02), night.made.study.ledger
    lab = night.lab()
    verify.verify(lab, None, verify.SEEDS, Until())
    assert night.trials("verify") == [(arm, seed) for seed in range(1001, 1006) for arm in (BASELINE, n)]
    used = {t.seed for e in ledger.experiments() for t in e.trials if t.purpose != "verify"}
    assert not used & set(range(1001, 1006))
    assert {s: ledger.reads(s) for s in ("val", "confirm", "holdout")} == {"val": 0, "confirm": 10, "holdout": 10}
    found = summary_of(night)
    assert {s: (g.seeds, round(g.mean_bpb, 3)) for s, g in found.splits.items()} \
        == {"val": (5, 0.04), "confirm": (5, 0.04), "holdout": (5, 0.04)}
    assert all(g.low_bpb < 0.04 < g.high_bpb and g.high_bpb - g.low_bpb < 0.002 for g in found.splits.values())
    assert [arm.means["confirm"] - arm.means["val"] for arm in found.arms] == pytest.approx([0.1, 0.1], abs=1e-3)


def test_the_same_command_runs_nothing_twice_and_goes_on_where_it_was_stopped(night: Night) -> None:
    night.keep(optim__matrix_lr=0.02)
    until = Until()
    verify.verify(night.lab(until=until, stop_after=3), None, 5, until)
    assert len(night.trials("verify")) == 3
    lab = night.lab()
    verify.verify(lab, None, 5, Until())
    assert len(night.trials("verify")) == 10 and len(set(night.trials("verify"))) == 10
    verify.verify(night.lab(stop_after=0), None, 5, Until())
    assert len(night.trials("verify")) == 10


def test_the_holdout_is_read_once_for_a_pair_however_often_it_is_verified(night: Night) -> None:
    n, ledger = night.keep(optim__matrix_lr=0.02), night.made.study.ledger
    said: list[str] = []
    lab = night.lab()
    lab.view.note = said.append  # type: ignore[method-assign]
    verify.verify(lab, None, 5, Until())
    assert ledger.reads("holdout") == 10 and said == []
    verify.verify(lab, None, 7, Until())
    assert ledger.reads("holdout") == 10 and "the holdout is not read again for this champion" in said[0]
    assert (summary_of(night).splits["holdout"].seeds, summary_of(night).splits["confirm"].seeds) == (5, 7)
    assert "read once for this pair" in verify.holdout(summary_of(night))
    another = night.keep(optim__matrix_lr=0.01)
    verify.verify(lab, None, 5, Until())
    assert ledger.reads("holdout") == 15, "the baseline's scores are there"
    assert [look["champion"] for look in ledger.fact(LOOKS)] == [n, another]
    assert "look 2 of this study" in verify.holdout(summary_of(night))


def test_the_holdout_is_not_spent_on_a_baseline_alone_or_on_few_seeds(night: Night) -> None:
    reads = night.made.study.ledger.reads
    verify.verify(night.lab(), None, 5, Until())
    assert verify.alone(night.lab(), None) and night.trials("verify") == [], "there is nothing to compare it with"
    n = night.keep(optim__matrix_lr=0.02)
    verify.verify(night.lab(), None, 4, Until())
    assert reads("holdout") == 0 and summary_of(night).splits["confirm"].seeds == 4 and verify.holdout(
        summary_of(night)) == ""
    verify.verify(night.lab(), None, 5, Until())
    assert summary_of(night).splits["holdout"].seeds == 5, "both are scored on it, though they were verified before"
    assert len([t for t in night.trials("verify") if t[0] == n]) == 4 + 5


def test_of_all_weights_those_of_the_champions_first_seed_stay(night: Night) -> None:
    n = night.keep(optim__matrix_lr=0.02)
    verify.verify(night.lab(), None, 3, Until())
    study = night.made.study
    left = [(t.experiment, t.seed) for e in study.ledger.experiments() for t in e.trials
            if t.purpose == "verify" and (study.trials / str(t.id) / "weights.safetensors").exists()]
    assert left == [(n, FIRST_SEED)]
    assert not list(study.trials.glob("*/recorded.npz"))


def test_the_time_it_takes_is_known_beforehand_and_falls_with_what_is_done(night: Night) -> None:
    night.keep(optim__matrix_lr=0.02)
    lab = night.lab()
    before = verify.seconds(lab, None, 5)
    assert before == pytest.approx(10 * 1.1 * 320), "as long as the baseline's"
    verify.verify(lab, None, 5, Until())
    assert verify.seconds(lab, None, 5) == pytest.approx(5 * 1.1 * 300, rel=0.01), "the next champion is counted"


def test_no_time_is_reserved_for_a_reference_that_can_not_run(night: Night, tmp_path: Path) -> None:
    night.keep(optim__matrix_lr=0.02)
    reference, lab = tmp_path / "reference.toml", night.lab()
    reference.write_text(START)
    assert verify.seconds(lab, reference, 5) == pytest.approx(15 * 1.1 * 320), "three models on five seeds"
    reference.write_text(START.replace('"byte"', '"bpe-2048"'))
    assert verify.seconds(lab, reference, 5) == pytest.approx(10 * 1.1 * 320), "its tokenizer is not prepared"
    reference.write_text(START)
    verify.verify(lab, reference, 1, Until())
    assert verify.seconds(lab, reference, 5) > verify.seconds(lab, None, 5)
    reference.write_text(START.replace("depth = 1", "depth = 2"))
    assert verify.seconds(lab, reference, 5) == verify.seconds(lab, None, 5), "it is another recipe now"


def test_the_time_it_takes_includes_scoring_of_all_that_is_scored(night: Night,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 40.0)
    monkeypatch.setattr("autoresearch.research.lab.time", SimpleNamespace(monotonic=lambda: next(clock)))
    lab = night.lab()
    trial = lab.screen(verify.candidate(lab, lab.ledger.experiment(BASELINE)), 4)
    assert (trial.total_s, trial.scored_s, trial.whole_s) == (300.0, 40.0, 340.0)
    night.keep(optim__matrix_lr=0.02)
    assert verify.seconds(lab, None, 1) == pytest.approx(2 * 1.1 * (300 + 3 * 40)), "10 rows of 30"
    verify.verify(lab, None, 1, Until())
    assert verify.seconds(lab, None, 1) == pytest.approx(1.1 * 340)


def test_trials_of_another_reference_recipe_are_not_mixed_with_the_first_ones(night: Night, tmp_path: Path) -> None:
    night.keep(optim__matrix_lr=0.02)
    reference, lab, said = tmp_path / "reference.toml", night.lab(), list[str]()
    lab.view.note = said.append  # type: ignore[method-assign]
    reference.write_text(START)
    verify.verify(lab, reference, 1, Until())
    reference.write_text(START.replace("depth = 1", "depth = 2"))
    verify.verify(lab, reference, 2, Until())
    assert [seed for n, seed in night.trials("verify") if n == REFERENCE] == [1001]
    assert said == ["no new trials of the reference recipe: reference.toml has changed since this study was first "
                    "compared with it"]


def test_the_table_for_people_ends_with_the_sentence_to_quote(night: Night) -> None:
    n = night.keep(optim__matrix_lr=0.02)
    verify.verify(night.lab(), None, 5, Until())
    heading, base, champion, *said, last = table(summary_of(night))
    assert heading.split() == ["seeds", "val", "confirm", "holdout"]
    assert base.startswith("the baseline") and champion.startswith(f"#{n}, the champion")
    assert champion.split()[-4] == "5"
    told = "\n".join(said)
    assert re.search(r"^below the baseline on val: \+0\.0(39|40)\d bits per byte \(\+2\.0%\), 95%", told, re.MULTILINE)
    assert re.search(r"On val the screening seed showed a gain of 0\.0(39|40)\d over the baseline", told)
    assert last == summary_of(night).sentence and "5 fresh seeds" in last


def test_a_night_verifies_where_something_was_kept_and_says_so_where_nothing_was(night: Night, tmp_path: Path) -> None:
    reference, lab, said = tmp_path / "reference.toml", night.lab(), list[str]()
    reference.write_text(START)
    lab.view.note = said.append  # type: ignore[method-assign]
    loop.verified(lab, reference, 2, Until())
    assert said == [] and night.trials("verify") == []
    night.made.idea("discard", 2.1)
    for against in (None, reference):
        loop.verified(lab, against, 2, Until())
        assert said.pop() == "nothing was kept: the champion is the baseline, so there is nothing to verify"
        assert night.trials("verify") == [] and said == []
    n = night.keep(optim__matrix_lr=0.02)
    loop.verified(lab, reference, 2, Until())
    assert night.trials("verify") == [(arm, seed) for seed in (1001, 1002) for arm in (REFERENCE, BASELINE, n)]


def test_the_reference_runs_in_the_precision_of_the_baseline_and_compiled_as_it_is(night: Night,
                                                                                  tmp_path: Path) -> None:
    """Which of these serve is the machine's affair: a reference slower for them would flatter every gain."""
    reference = tmp_path / "reference.toml"
    reference.write_text(START)
    baseline = night.made.study.ledger.experiment(BASELINE).recipe
    assert (baseline["runtime.precision"], baseline["runtime.compile"]) == ("float32", False), "not the defaults"
    verify.verify(night.lab(), reference, 1, Until())
    trained = night.made.study.ledger.experiment(REFERENCE).recipe
    assert [trained[key] for key in verify.OF_THE_MACHINE] == ["float32", False]


def test_a_ratchet_that_a_night_is_given_is_the_studys_from_then_on_and_a_change_is_said(night: Night) -> None:
    lab, said = night.lab(), list[str]()
    lab.view.note = said.append  # type: ignore[method-assign]
    for asked in ("careful", None, "greedy", "greedy"):
        loop.settle_ratchet(lab, asked)
    assert lab.ledger.fact("ratchet") == "greedy"
    assert said == ["from here on this study decides by --ratchet greedy; until now it was careful"]


@pytest.mark.parametrize("fails", [None, UserError("no space left", "Free some."),
                                   OSError(errno.ENOSPC, "no space left", "results.tsv")])
def test_a_night_verifies_until_its_deadline_and_has_its_page_if_that_fails(night: Night, fails: Exception | None,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """What was reserved for verification is no reason for verification to stop."""
    night.keep(optim__matrix_lr=0.02)
    lab, study, seen, pages = night.lab(), night.made.study, list[tuple[bool, bool]](), list[object]()
    study.ledger.set_fact("plan", {"changes": {}, "why": ""})
    until = Until(deadline=time.time() + 3600)

    def look() -> None:
        seen.append((until.late(1900.0), until.late(1700.0)))

    def verified(lab: Lab, reference: Path | None, seeds: int, until: Until) -> None:
        look()
        if fails:
            raise fails

    monkeypatch.setattr(loop, "begin_or_continue", lambda wanted, view: (study, None))
    monkeypatch.setattr(loop, "lab_of", lambda *args: lab)
    monkeypatch.setattr(loop, "say_who_else", lambda *args: None)
    monkeypatch.setattr(loop, "loop_of", lambda *args: SimpleNamespace(run=lambda *a: look()))
    monkeypatch.setattr(verify, "seconds", lambda *args: 5000.0)
    monkeypatch.setattr(loop, "verified", verified)
    monkeypatch.setattr("autoresearch.report.write_report", lambda *args, **kwargs: pages.append(args))
    with pytest.raises(type(fails), match="no space left") if fails else contextlib.nullcontext():
        loop.night(Wanted(), until, verify_seeds=5, with_reference=False)
    assert seen == [(True, False), (False, False)] and len(pages) == 1, "half of the hour is reserved"


def test_every_run_says_which_of_how_many_it_is_and_a_seed_that_lacks_one_why(night: Night) -> None:
    n, study = night.keep(optim__matrix_lr=0.02), night.made.study
    lab, said, runs = night.lab(), list[str](), list[str]()
    lab.view.note = said.append  # type: ignore[method-assign]
    lab.view.trial_started = lambda label, seed, budget_s, part="": runs.append(  # type: ignore[method-assign]
        f"{part}: {label}, seed {seed}")
    verify.verify(lab, None, 2, Until())
    assert runs == ["verification, run 1 of 4, seed 1 of 2: baseline, seed 1001",
                    f"verification, run 2 of 4, seed 1 of 2: champion #{n}, seed 1001",
                    "verification, run 3 of 4, seed 2 of 2: baseline, seed 1002",
                    f"verification, run 4 of 4, seed 2 of 2: champion #{n}, seed 1002"] and said == []
    study.ledger.end_trial(study.ledger.start_trial(BASELINE, 1003, verify.PURPOSE, 300.0, {}), "interrupted",
                           "the machine slept for 60 s")
    until = Until(deadline=0.0)
    verify.verify(lab, None, 3, until)
    assert said == ["verification stops here: 2 of 3 seeds are whole; baseline has no score on seed 1003: the machine "
                    "slept for 60 s; `ar verify` goes on with the rest"]


# Time to target


def test_the_champion_is_run_with_shorter_budgets_until_it_certainly_falls_short(night: Night) -> None:
    n, study = night.keep(optim__matrix_lr=0.02), night.made.study
    lab = night.lab()
    verify.verify(lab, None, 3, Until())
    scores = [study.ledger.experiment(which).scores(verify.PURPOSE, "confirm") for which in (BASELINE, n)]
    race = horizon.Race(verify.candidate(lab, study.ledger.experiment(n)), *scores)
    horizon.run(lab, race, Until(asked=True))
    assert len(runner_of(lab).calls) == 6, "nothing more is run once a stop was asked for"
    horizon.run(lab, race, Until())
    # A run scores 0.05 better for twice the budget, the champion 0.04 better than the baseline: 2^-0.8 of 300 s.
    found = horizon.target(study.ledger.experiments(), n, 300.0)
    assert found is not None and found.seconds == pytest.approx(300 * 2**-0.8, rel=0.02)
    assert found.low_s <= found.seconds <= found.high_s and found.seeds == 3
    budgets = [budget for _, _, budget, _ in runner_of(lab).calls[6:]]
    assert budgets == pytest.approx([300 * 2**-0.5] * 3 + [150.0] * 3), "the second falls short: there is no third"
    horizon.run(lab, race, Until())
    assert len(runner_of(lab).calls) == 12


def runner_of(lab: object) -> Planted:
    found = lab.runner  # type: ignore[attr-defined]
    assert isinstance(found, Planted)
    return found
