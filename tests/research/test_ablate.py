"""Ablation of planted changes: which of them earn their place is known beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch.cli import ablate as command
from autoresearch.cli import run, shell
from autoresearch.errors import UserError
from autoresearch.records import MACHINE, Trial
from autoresearch.research import ablate, replay
from autoresearch.research.ablate import Finding
from autoresearch.research.lab import Lab
from autoresearch.research.ledger import Ledger
from autoresearch.research.loop import Loop
from autoresearch.research.researchers.playbook import Playbook
from autoresearch.research.stack import stack
from autoresearch.research.study import Study
from autoresearch.research.until import Until
from backends.recipe import Recipe
from tests.research.planted import Night

CODE = b"a = 1\n\n\ndef gate():\n    return a\n\n\ndef use():\n    return None\n"


def rule(recipe: Recipe, files: dict[str, bytes]) -> float:
    """The rate gains 0.03, the batch 0.01, the scale nothing, beta harms by 0.004; what uses the gate needs it."""
    code = files.get("torch_model.py", b"")
    if b"return gate()" in code and b"def gate" not in code:
        return float("inf")
    return (2.0 - 0.03 * (recipe.optim.matrix_lr == 0.02) - 0.01 * (recipe.batch.tokens_per_step == 64)
            + 0.004 * (recipe.optim.adam_beta2 == 0.9) - 0.02 * (b"return gate()" in code))


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    night = Night.create(tmp_path, rule, {"torch_model.py": CODE.replace(b"def gate():\n    return a\n\n\n", b"")})
    yield night
    night.made.study.close()


def found(night: Night) -> dict[int, Finding]:
    study = night.made.study
    return {f.n: f for f in ablate.findings(study.ledger, study.workspace)}


def test_what_earns_its_place_is_told_from_what_does_not(night: Night) -> None:
    rate = night.keep(optim__matrix_lr=0.02)
    batch = night.keep(batch__tokens_per_step=64)
    nothing = night.keep(model__qk_scale=1.3)
    harm = night.keep(optim__adam_beta2=0.9)
    assert {f.verdict for f in found(night).values()} == {ablate.OPEN}
    ablate.run(night.lab(), Until())
    said = found(night)
    assert {n: f.verdict for n, f in said.items()} == {rate: "earns", batch: "earns", nothing: "idle", harm: "idle"}
    assert said[rate].mean_bpb == pytest.approx(0.03, abs=1e-3)
    assert said[harm].mean_bpb == pytest.approx(-0.004, abs=1e-3)
    assert all(f.low_bpb < f.mean_bpb < f.high_bpb for f in said.values())  # type: ignore[operator]
    assert {seed for _, seed in night.trials("ablate")} <= set(range(2001, 2007)), "verification's seeds stay untouched"
    trials = night.trials("ablate")
    assert len(trials) == len(set(trials)), "no model is trained twice on a seed"
    assert len(trials) < 5 * 6, "clear outcomes stop early"


def test_an_interrupted_ablation_goes_on_and_ends_the_same(night: Night, tmp_path: Path) -> None:
    night.keep(optim__matrix_lr=0.02)
    night.keep(model__qk_scale=1.3)
    for done in range(40):
        until = Until()
        ablate.run(night.lab(until=until, stop_after=1), until)  # one trial, then a stop
        if not until.asked:
            break
        assert len(night.trials("ablate")) == done + 1
    other = Night.create(tmp_path / "other", rule, {"torch_model.py": CODE})
    other.keep(optim__matrix_lr=0.02)
    other.keep(model__qk_scale=1.3)
    ablate.run(other.lab(), Until())
    assert {n: (f.verdict, f.seeds) for n, f in found(night).items()} \
        == {n: (f.verdict, f.seeds) for n, f in found(other).items()}
    assert sorted(night.trials("ablate")) == sorted(other.trials("ablate"))
    other.made.study.close()


def test_what_others_stand_on_is_named_and_not_guessed_at(night: Night) -> None:
    old = night.keep(optim__matrix_lr=0.03)
    night.keep(optim__matrix_lr=0.02)
    gate = night.keep("A gate", files={"torch_model.py": CODE})
    used = night.keep("Use it", files={"torch_model.py": CODE.replace(b"return None", b"return gate()")})
    same = night.keep("Rename it", files={"torch_model.py": CODE.replace(b"return None", b"return gate()  # now")})
    ablate.run(night.lab(), Until())
    said = found(night)
    assert said[old].verdict == "replaced"
    assert said[gate].verdict == "failed" and "NameError: gate" in said[gate].why
    assert said[used].verdict == "entangled" and "the same lines of torch_model.py" in said[used].why
    assert said[same].verdict == "idle"


def test_pruning_is_an_experiment_that_is_judged_on_other_seeds(night: Night) -> None:
    rate = night.keep(optim__matrix_lr=0.02)
    night.keep(model__qk_scale=1.3)
    night.keep(optim__adam_beta2=0.9)
    lab = night.lab()
    ablate.run(lab, Until())
    idle = [f.n for f in found(night).values() if f.verdict == ablate.IDLE]
    n = ablate.prune(lab, idle)
    assert n is not None and ablate.prune(lab, idle) == n, "it is found again, not made again"
    judged = loop(lab).judge(lab.ledger.experiment(n))
    assert judged is not None and judged.verdict == "keep", judged
    assert "replay of 7 positions" in judged.reason, "it is audited like any other"
    assert not {t.seed for t in judged.trials} & {seed for _, seed in night.trials("ablate")}
    study = night.made.study
    assert study.ledger.incumbent() == judged and study.workspace.head() == judged.sha
    recipe = Recipe().replace(judged.recipe)
    assert (recipe.optim.matrix_lr, recipe.model.qk_scale, recipe.optim.adam_beta2) == (0.02, 1.0, 0.95)
    assert ablate.changes(study.workspace, study.ledger.experiments())[0].n == rate
    assert {f.verdict for m, f in found(night).items() if m in idle} == {"replaced"}


def test_dropping_what_is_worth_something_is_not_kept(night: Night) -> None:
    rate, batch = night.keep(optim__matrix_lr=0.02), night.keep(batch__tokens_per_step=64)
    lab = night.lab()
    n = ablate.prune(lab, [batch])
    assert n is not None
    judged = loop(lab).judge(lab.ledger.experiment(n))
    assert judged is not None and judged.verdict == "discard" and night.champion == batch > rate


def test_a_pruning_that_only_the_machine_ended_is_tried_anew(night: Night) -> None:
    night.keep(optim__matrix_lr=0.02)
    idle = night.keep(optim__adam_beta2=0.94)
    lab = night.lab()
    first = ablate.prune(lab, [idle])
    assert first is not None
    night.made.study.conclude(first, "interrupted", "other programs")
    again = ablate.prune(lab, [idle])
    assert again is not None and again != first and ablate.prune(lab, [idle]) == again


def test_ar_ablate_prune_says_what_became_of_it(night: Night, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    night.keep(optim__matrix_lr=0.02)
    lab, clone = night.lab(), night.made.study.clone
    monkeypatch.setattr(command, "open_study", lambda tag: (Study.open(clone), None))
    monkeypatch.setattr(command, "lab_of", lambda study, *_: replace(lab, study=study, ledger=study.ledger))

    def last_line() -> str:
        assert run(shell.command, ["ablate", "--prune"], "ar") == 0
        return capsys.readouterr().out.splitlines()[-1]

    assert last_line() == "Every change earns its place, or may: nothing to drop."
    night.keep(optim__adam_beta2=0.9)
    assert last_line().startswith("#3: keep: ")
    study = night.made.study
    assert night.champion == 3 and study.workspace.head() == study.ledger.experiment(3).sha
    recipe = Recipe().replace(study.ledger.experiment(3).recipe)
    assert (recipe.optim.matrix_lr, recipe.optim.adam_beta2) == (0.02, 0.95)


def test_what_can_not_be_dropped_together_is_said_and_tries_nothing(night: Night) -> None:
    first = night.keep("Return one", files={"torch_model.py": CODE.replace(b"return None", b"return 1")})
    night.keep("Return two", files={"torch_model.py": CODE.replace(b"return None", b"return 2")})
    before = len(night.made.study.ledger.experiments())
    said = command._prune(night.lab(), [first], Until())
    assert said == "They can't be dropped together: their changes stand in each other's way."
    assert len(night.made.study.ledger.experiments()) == before


def loop(lab: Lab) -> Loop:
    return Loop(lab, Playbook(), {}, Until())


# Replay


def test_a_kept_change_is_measured_on_another_backend_and_beside_where_it_was_kept(night: Night) -> None:
    n = night.keep(optim__matrix_lr=0.02)
    study = night.made.study
    change = stack(study.workspace, study.ledger.experiments())[-1]
    lab = night.lab(backend="mlx")
    replay.run(lab, change, 3, Until(asked=True))
    assert night.trials("replay") == [], "nothing is run once a stop was asked for"
    replay.run(lab, change, 3, Until())
    assert night.trials("replay") == [(arm, seed) for seed in (1001, 1002, 1003) for arm in (0, n)]
    experiments = study.ledger.experiments()
    there = replay.result(experiments, change, "mlx", 300.0)
    assert there is not None and there.mean_bpb == pytest.approx(0.03, abs=1e-3) and there.seeds == 3
    assert replay.result(experiments, change, "cpu", 300.0) is None
    home = replay.home(experiments, change)
    assert home is not None and home.mean_bpb == pytest.approx(0.03)
    replay.run(replace(lab, budget_s=60.0), change, 1, Until())
    assert len(night.trials("replay")) == 8, "another budget is another comparison"
    replay.run(lab, change, 3, Until())
    assert len(night.trials("replay")) == 8


def test_code_of_one_framework_is_listed_as_to_be_ported(night: Night) -> None:
    night.keep("A gate", files={"torch_model.py": CODE})
    study = night.made.study
    base, change = stack(study.workspace, study.ledger.experiments())
    with pytest.raises(UserError, match="there is nothing of it on mlx") as refused:
        replay.run(night.lab(backend="mlx"), change, 3, Until())
    assert "To be ported to mlx" in refused.value.hint and change.sha[:12] in refused.value.hint
    replay.check(change, "cuda")
    with pytest.raises(UserError, match="#0 is the baseline"):
        replay.check(base, "cpu")
    assert night.trials("replay") == []


# What is no finding


def test_an_ablation_that_was_killed_while_it_made_a_model_goes_on(night: Night,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    n, lab = night.keep(optim__matrix_lr=0.02), night.lab()

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    for step in ("commit", "finish"):  # nothing of it is committed; all but the last step is done
        with monkeypatch.context() as patched:
            patched.setattr(Ledger, step, killed)
            with pytest.raises(KeyboardInterrupt):
                ablate.run(lab, Until())
    ablate.run(lab, Until())
    assert found(night)[n].verdict == "earns"
    assert len([e for e in lab.ledger.experiments() if e.n < 0]) == 1


def test_a_crash_of_the_machine_is_not_the_candidates() -> None:
    trial = Trial(1, 1, 2001, "ablate", "crash", 300.0, "", "the device was lost", facts={"cause": MACHINE})
    assert ablate.failure([trial]) is None
    assert ablate.failure([replace(trial, facts={})]) == replace(trial, facts={})
