"""Benchmarks that take hours: what they count, what they refuse to mix, and what they do where something fails."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autoresearch.data import prepared
from autoresearch.data.tokenizer import byte_tokenizer
from autoresearch.harness.conditions import Conditions
from autoresearch.harness.supervise import Outcome, TrialFailed
from autoresearch.research.futility import LOOKS
from backends.recipe import Recipe
from benchmarks import futility, learning, peers, probe_choice
from benchmarks.futility import Candidate
from benchmarks.peers import Entry
from benchmarks.probe_choice import Sweep

THEIRS = [2.6, 2.4, 2.3, 2.2, 2.15]


# peers


def test_the_end_of_a_document_costs_nothing_as_a_target() -> None:
    pytest.importorskip("torch")
    from benchmarks.peer_trainers import scored

    tokenizer = byte_tokenizer()
    stream = np.array([tokenizer.bos, *b"abc", tokenizer.bos, *b"de"], np.uint16)
    text: Any = SimpleNamespace(tokens=lambda split, name: (stream,))
    trainer: Any = SimpleNamespace(logits=lambda tokens_BT: np.zeros((*tokens_BT.shape, tokenizer.vocab), np.float32))
    for length in (2, 3):
        assert scored(trainer, text, "val", tokenizer, length, True) == pytest.approx(math.log2(tokenizer.vocab))


def test_several_seeds_are_summed_up_and_compared_with_the_first_trainer() -> None:
    first, other, best = (Entry(label, kind, "byte", 1, 64, 64, 64, 512) for label, kind in (
        ("first", "nanogpt"), ("other", "upstream"), ("best", "upstream")))
    found = [[[1.5] * 4, [1.7] * 4], [[1.6] * 4, [1.8] * 4], [[1.6, 1.6, 1.5, 1.5], [1.6, 1.6, 1.9, 1.9]]]
    said = peers.summary([first, other, best], found).splitlines()
    assert said[4].startswith("| first | 1.6000 ± 1.2706 |")
    assert "| other, less first | +0.1000 ± 0.0000 |" in said[7]
    assert said[-4:-2] == ["upstream's best on val: best, 1.6000", "upstream's best on holdout: best, 1.6000"]
    assert all(line.endswith(": other, 1.7000") or line.endswith(": best, 1.7000") for line in said[-2:])
    assert len(peers.summary([first, other], [[[1.5] * 4], [[1.6] * 4]]).splitlines()) == 4


# learning


def text_of(train_bytes: int) -> Any:
    return SimpleNamespace(name="mine", digest="aa",
                           manifest=SimpleNamespace(splits={"train": SimpleNamespace(bytes=train_bytes)}))


def test_runs_of_another_text_are_refused_and_it_is_said_what_differs() -> None:
    runs = learning.known()
    learning.refuse_other_text(runs, text_of(4_565_854))
    with pytest.raises(SystemExit, match=r"it has 5 bytes to train on, and 4,565,854 in learning_runs\.json"):
        learning.refuse_other_text(runs, text_of(5))
    with pytest.raises(SystemExit, match=r"its digest is aa, and bb in learning_runs\.json"):
        learning.refuse_other_text([replace(runs[0], text="bb")], text_of(4_565_854))


def test_a_run_that_fails_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")

    def pretended(run: learning.Run, data: str, env: dict[str, str]) -> learning.Run:
        if run.steps == 2:
            raise ValueError("it broke")
        return replace(run, text_bytes=100.0, val_bpb=1.5, text="aa")

    monkeypatch.setattr(prepared, "current", lambda: text_of(100))
    monkeypatch.setattr(learning, "RUNS", tmp_path / "runs.json")
    monkeypatch.setattr(learning, "PLAN", [("bpe-1024", 1, 64, 4096, steps, 1.0) for steps in (1, 2, 3)])
    monkeypatch.setattr(learning, "in_a_process", pretended)
    with pytest.raises(SystemExit, match=r"1 of 3 runs failed(.|\n)*it broke"):
        learning.run_all(Namespace(data=None, jobs=2))
    assert {run.steps for run in learning.known()} == {1, 3}
    with pytest.raises(SystemExit, match="1 of 1 runs failed"):
        learning.run_all(Namespace(data=None, jobs=2))


def test_recorded_runs_are_written_with_the_values_they_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, before = learning.known(), json.loads(learning.RUNS.read_text())
    monkeypatch.setattr(learning, "RUNS", tmp_path / "runs.json")
    learning.write(runs)
    assert json.loads(learning.RUNS.read_text()) == before and learning.known() == runs


# futility


def test_of_the_recorded_trials_only_screening_ones_are_judged_and_repeats_still_teach() -> None:
    studies = [futility.of_study(study) for study in json.loads(futility.CURVES.read_text())]
    assert [sum(c.is_judged for c in candidates) for candidates in studies] == [10, 10, 10, 10, 7, 7]
    assert sum(c.is_past for candidates in studies for c in candidates) == 57


def test_the_purpose_of_a_trial_and_the_files_it_changed_count_where_they_are_known() -> None:
    def judged(**known: Any) -> bool:
        mine = {"id": 2, "experiment": 1, "changes": [], "val_bpb": 1.5, "dev_bpb": THEIRS} | known
        theirs = {"id": 1, "experiment": 0, "changes": [], "val_bpb": 1.4, "dev_bpb": THEIRS}
        return futility.of_study({"trials": [theirs, mine], "pairs": [[2, 1]]})[0].is_judged

    assert not judged() and judged(files=["backends/gpt/torch_model.py"])
    assert not judged(files=["backends/gpt/schedule.py"])
    assert judged(changes=["model.depth"]) and judged(changes=["model.depth"], purpose="screen")
    assert not judged(changes=["model.depth"], purpose="repeat")


def test_a_study_learns_nothing_from_a_trial_that_was_stopped() -> None:
    """Had it been told how far the first caught up in the end, the second would have been let go on."""
    first, second = (Candidate(n, [THEIRS[0] + behind, *THEIRS[1:]], THEIRS, 0.0, True, True)
                     for n, behind in ((1, 1.0), (2, 0.5)))
    assert futility.replay([first, second]).at == [2, 0, 0, 0]
    assert futility.replay([replace(first, is_judged=False), second]).at == [0] * len(LOOKS)


def test_studies_of_one_name_are_told_apart() -> None:
    paths = [Path(f"{folder}/ledger.sqlite") for folder in ("x/a", "y/a", "z/b")]
    assert futility.named([{"study": "a"}, {"study": "a"}, {"study": "b"}], paths) == ["a (x/a)", "a (y/a)", "b"]


# probe_choice


def test_a_sweep_goes_on_with_the_same_settings_only(tmp_path: Path) -> None:
    out, settings = tmp_path / "sweep.json", {"text": "aa", "backend": "cpu"}
    assert probe_choice.kept(out, settings) == probe_choice.kept(None, settings) == {}
    out.write_text(json.dumps({"settings": settings, "scores": {"one": 1.5}}))
    assert probe_choice.kept(out, settings) == {"one": 1.5}
    with pytest.raises(SystemExit, match=r"new ones: backend was cpu and is mlx\."):
        probe_choice.kept(out, settings | {"backend": "mlx"})
    out.write_text(json.dumps({"2 x 128, 2,048, 30 s, seed 1": 1.5}))
    with pytest.raises(SystemExit, match="it does not say with which settings"):
        probe_choice.kept(out, settings)


SLEPT = Outcome(weights=Path("w"), conditions=Conditions(30.0, asleep_s=60.0))
FAIR = Outcome(weights=Path("w"), conditions=Conditions(30.0))


def scored_by_sweep(outcomes: Iterator[Outcome], out: Path | None = None, failure: str = "") -> float:
    def score(*args: Any) -> Any:
        if failure:
            raise TrialFailed("invalid", failure)
        return SimpleNamespace(bpb=1.5)

    runner: Any = SimpleNamespace(backend="cpu", train=lambda *args: next(outcomes), score=score)
    return Sweep({}, Recipe(), runner, (2, 128, 2048), {"text": "aa"}, out).score((2, 128, 2048), 30.0, 1)


def test_a_disturbed_trial_is_run_again_and_one_that_fails_is_infinitely_bad(tmp_path: Path) -> None:
    assert scored_by_sweep(iter([SLEPT, FAIR])) == 1.5
    assert scored_by_sweep(iter([Outcome(status="crash")])) == math.inf
    out = tmp_path / "sweep.json"
    assert scored_by_sweep(iter([FAIR]), out, failure="not finite") == math.inf
    assert probe_choice.kept(out, {"text": "aa"}) == {"2 x 128, 2,048, 30 s, seed 1": math.inf}


def test_a_trial_that_is_always_disturbed_ends_the_sweep_and_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="disturbed 3 times, the last time because the machine slept for 60 s"):
        scored_by_sweep(iter([SLEPT] * 3), tmp_path / "sweep.json")
    assert not (tmp_path / "sweep.json").exists()
