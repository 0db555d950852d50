"""The comparison of researchers: its arithmetic, its trainer that is a function, and that it goes on where it was."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from autoresearch.records import BASELINE
from benchmarks import researchers
from benchmarks.researchers import Run, interval, night, simulate, table
from benchmarks.simulated import START, Trainer
from tests.report.made import Made, repository


def run(arm: str, repetition: int, *gains: float) -> Run:
    return Run(arm, repetition, list(gains), kept=1, out_of_memory=1)


def test_the_table_has_means_intervals_and_paired_areas() -> None:
    runs = [run("random", 1, 0, 0, 0.1, 0.2), run("random", 2, 0, 0, 0.3, 0.4),
            run("good", 1, 0.1, 0.1, 0.2, 0.3), run("good", 2, 0.1, 0.1, 0.4, 0.5)]
    lines = table(runs, "random").splitlines()
    assert lines[2].startswith("| researcher | after 1 | after 2 | after 3 | after 4 | area | area less that of random")
    assert lines[4].startswith("| random | 0.0 ± 0.0 | 0.0 ± 0.0 | 200.0 ± 1270.6 | 300.0 ± 1270.6 | 125.0 ± 635.3 |")
    assert "| 100.0 ± 0.0 |" in lines[5] and lines[5].endswith("| 1.0 | 25% |")


def test_an_interval_is_students() -> None:
    assert interval([1.0, 2.0, 3.0]) == (2.0, pytest.approx(4.303 / 3**0.5))


def test_the_simulated_trainer_is_the_same_machine_every_time_and_another_by_another_seed() -> None:
    assert Trainer(1)(START) == Trainer(1)(START) != Trainer(2)(START)
    assert Trainer(1)(START.replace({"optim.matrix_lr": 1.0})) == "crash: training diverged: the loss was nan"
    assert Trainer(1)(START.replace({"model.depth": 16, "model.width": 1024})) == "crash: out of memory"
    best = min(Trainer(1).level(START.replace({"batch.tokens_per_step": b})) for b in (1024, 2048, 4096, 8192, 32768))
    ends = [Trainer(1).level(START.replace({"batch.tokens_per_step": b})) for b in (256, 131072)]
    assert best < min(ends)  # too few tokens waste steps' overhead, too many waste tokens


def test_a_simulated_night_is_repeatable_and_never_loses_ground_by_much() -> None:
    first = simulate("playbook", 1, 12)
    assert first == simulate("playbook", 1, 12) and first.kept > 0 and first.out_of_memory == 0
    assert first.gains_bpb[-1] > 0 and first.trials == 12


@pytest.mark.slow
def test_the_default_beats_random_search_and_is_not_beaten_by_any_arm() -> None:
    areas = {arm: [simulate(arm, r, 24).area for r in range(1, 21)] for arm in researchers.SIMULATED}
    default = areas[researchers.DEFAULT_ARM]
    for arm, own in areas.items():
        mean, half = interval([a - b for a, b in zip(default, own, strict=True)])
        assert mean + half >= 0, (arm, mean, half)
        assert arm != "random" or mean - half > 0, (mean, half)


def test_an_arm_that_is_done_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(researchers, "ar", lambda *args: pytest.fail("it ran"))
    begun = tmp_path / "repetition-1/baseline/clone"
    done = Run("a, then b", 1, [0.0, 0.1], 1, 0, 0.09)
    (tmp_path / "repetition-1/a--then-b").mkdir(parents=True)
    (tmp_path / "repetition-1/a--then-b/result.json").write_text(json.dumps(asdict(done)))
    assert night(begun, "a, then b", "", 1, 2) == done


def test_curves_count_fresh_seeds_and_the_table_counts_trials(tmp_path: Path) -> None:
    made = Made.create(repository(tmp_path), researchers.TAG)
    made.baseline(2.30, 2.31, 2.32)
    first = made.idea("keep", 2.20, changes={"optim.matrix_lr": 0.06})
    fresh, theirs = made.trial(first, 2.25, 2, "repeat"), made.study.ledger.experiment(BASELINE).screens()[1]
    made.study.ledger.pair(first, fresh, theirs.id, 2.25 - 2.31)
    made.idea("discard", 2.21, changes={"optim.matrix_lr": 0.09})
    made.trial(BASELINE, 2.33, 4, "repeat")  # as the incumbent of the second
    made.verify(BASELINE, 2.40, 2.42)
    made.verify(first, 2.35, 2.37)
    made.study.close()
    found = researchers.measured("one", 1, tmp_path, 2)
    assert found.gains_bpb == pytest.approx([0.06, 0.06]) and found.verified_bpb == pytest.approx(0.05)
    assert (found.kept, found.trials, found.training_minutes) == (1, 4, pytest.approx(4 * 5.0))
    header, row = (line.split(" | ") for line in table([found], "one").splitlines()[2::2])
    assert dict(zip(header, row, strict=True)).items() >= {"trials": "4.0", "minutes of training": "20.0"}.items()


def test_an_arm_that_keeps_nothing_gains_nothing_and_is_not_verified(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made.create(repository(tmp_path / "repetition-1/random/clone"), researchers.TAG)
    made.baseline(2.30, 2.31, 2.32)
    made.idea("discard", 2.29, changes={"optim.matrix_lr": 0.06})
    made.study.close()
    monkeypatch.setattr(researchers, "ar", lambda *args: pytest.fail("it ran"))
    found = night(tmp_path / "repetition-1/baseline/clone", "random", "", 1, 1)
    assert (found.gains_bpb, found.verified_bpb, found.kept) == ([0.0], 0.0, 0)
    assert night(tmp_path / "repetition-1/baseline/clone", "random", "", 1, 1) == found


@pytest.mark.parametrize(("words", "said"), [
    ([], "--text and --folder are needed"),
    (["--text", "t"], "--text and --folder are needed"),
    (["--simulated", "--only", "rnadom"], "--only rnadom: there is no such arm; there are random; TPE"),
    (["--simulated", "--arm", "a=--researcher claude"], "--arm a: it is run by `ar loop`"),
    (["--text", "t", "--folder", "f", "--arm", "claude"], "--arm claude: write NAME=OPTIONS"),
    (["--simulated", "--experiments", "0"], "must be 1 or more"),
])
def test_a_command_line_that_lacks_something_is_told_what(
        words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        researchers.asked(words)
    assert said in capsys.readouterr().err


def test_arms_are_chosen_by_name_and_more_can_be_added() -> None:
    _, arms = researchers.asked(["--text", "t", "--folder", "f", "--arm", "mine=--researcher playbook",
                                 "--only", "mine;random"])
    assert arms == {"random": researchers.ARMS["random"], "mine": "--researcher playbook"}
