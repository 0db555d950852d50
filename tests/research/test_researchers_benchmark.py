"""The comparison of researchers: its arithmetic, its trainer that is a function, and that it goes on where it was."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import researchers
from benchmarks.researchers import Run, interval, night, simulate, table
from benchmarks.simulated import START, Trainer


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
    assert first.gains_bpb[-1] > 0


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
