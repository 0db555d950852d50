"""The playbook researcher, on studies simulated from hand-made ledgers: no training, no clock, no git."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from autoresearch.records import Point
from autoresearch.research.researchers.moves import DOWN, LEFT_ALONE, MOVES, SCHEMA, UP, schema_moves
from autoresearch.research.researchers.playbook import PLATEAU, Playbook
from autoresearch.research.researchers.runnable import settle
from backends.recipe import Recipe
from benchmarks.proposing import recorded
from benchmarks.simulated import SPREAD, VOCAB, Outcome, Study, experiment
from tests.researchers.made import calls


def bowl(**best: float) -> Callable[[Recipe], float]:
    """A smooth objective: 1 bpb at the best point, more by the square of the octaves away from it."""
    def objective(r: Recipe) -> float:
        flat = r.flat()
        return 1.0 + 0.02 * sum(math.log2(flat[k.replace("__", ".")] / v) ** 2 for k, v in best.items())
    return objective


HIDDEN = bowl(batch__tokens_per_step=1024, optim__matrix_lr=0.11, optim__embedding_lr=0.9, model__depth=2,
              model__width=192, model__qk_scale=1.5, optim__unembedding_lr=0.01, model__mlp_ratio=2.5)
FLAT: Callable[[Recipe], float] = lambda r: 1.5  # noqa: E731 - an objective that nothing improves


def noisy(r: Recipe) -> Outcome:
    """Every kind of ending, decided by the recipe."""
    rng = random.Random(r.digest())
    kinds: list[Outcome] = ["crash: out of memory", "crash: training diverged: the loss was nan at 3",
                            "timeout: overran", "invalid: a rule", "interrupted: slept"]
    return rng.choice(kinds) if rng.random() < 0.2 else HIDDEN(r) + rng.gauss(0, SPREAD)


@pytest.mark.parametrize("objective", [HIDDEN, FLAT, noisy], ids=["smooth", "flat", "noisy"])
def test_never_out_of_ideas_never_the_same_recipe_always_valid(objective: Callable[[Recipe], Outcome]) -> None:
    study = Study(Recipe(), objective, device={"precisions": ("float32", "bfloat16")}).run(300)
    recipes = [Recipe().replace(e.recipe) for e in study.ledger]  # raises RecipeError for one that isn't valid
    sound = [r.digest() for r, e in zip(recipes, study.ledger, strict=True) if not e.is_spoilt]
    spoilt = Counter(r.digest() for r, e in zip(recipes, study.ledger, strict=True) if e.is_spoilt)
    assert len(set(sound)) == len(sound)
    assert all(times <= 2 for times in spoilt.values())
    assert (len(spoilt) > 3) == (objective is noisy)
    for r in recipes:
        assert r.batch.tokens_per_step % r.model.seq_len == 0
    for p in study.proposals:
        assert p.changes and not p.files


def test_the_same_ledger_gives_the_same_proposal_and_nothing_else_is_remembered() -> None:
    study = Study(Recipe(), noisy)
    researcher = Playbook()
    for _ in range(80):
        proposal = researcher.propose(study.context())
        assert proposal == Playbook().propose(study.context())
        study.record(proposal.changes)


def test_every_hypothesis_is_one_line_and_cites_a_result_that_exists() -> None:
    study = Study(Recipe(), noisy)
    for n in range(1, 150):
        p = study.step()
        assert p.hypothesis and "\n" not in p.hypothesis and len(p.hypothesis) < 200
        for text in (p.hypothesis, p.evidence):
            cited = [int(word.split("#")[1].rstrip(":;),.")) for word in text.split() if "#" in word]
            assert cited and all(0 <= c < n for c in cited), text


def random_order(seed: int, count: int) -> float:
    """What the same moves reach when they are tried in random order and direction."""
    rng, study = random.Random(seed), Study(Recipe(), HIDDEN)
    for _ in range(count):
        move = rng.choice((*MOVES, *schema_moves()))
        flat = study.recipe.flat()
        recipe = settle(study.context(), flat | move.turn(study.context(), flat, rng.choice((1, -1)), move.stride))
        if recipe:
            study.record({k: v for k, v in recipe.flat().items() if study.recipe.flat()[k] != v})
    return study.top.bpb() or 9


def test_gets_further_than_the_same_moves_in_random_order() -> None:
    reached = Study(Recipe(), HIDDEN).run(40).top.bpb() or 9
    luck = sorted(random_order(seed, 40) for seed in range(8))
    assert reached < luck[0], (reached, luck)


def test_finds_the_optimum_of_a_smooth_objective() -> None:
    study = Study(Recipe(), HIDDEN).run(100)
    gap = lambda bpb: (bpb or 9) - 1.0  # noqa: E731
    assert gap(study.top.bpb()) < 0.04 * gap(study.ledger[0].bpb())


def test_halves_the_batch_first_and_goes_on_while_it_helps() -> None:
    study = Study(Recipe(), bowl(batch__tokens_per_step=1024)).run(3)
    assert [p.changes for p in study.proposals] == [{"batch.tokens_per_step": t} for t in (4096, 2048, 1024)]
    assert "#1 keep: 1,000 steps, -0.1000 bpb" in study.proposals[1].evidence


def test_leaves_the_batch_after_a_failed_halving_and_tries_doubling_later() -> None:
    study = Study(Recipe(), bowl(batch__tokens_per_step=8192)).run(12)
    tried = [p.changes.get("batch.tokens_per_step") for p in study.proposals]
    assert tried[0] == 4096 and tried[1] is None
    assert 16384 in tried and 2048 not in tried


def test_a_failed_direction_gets_another_look_when_the_incumbent_has_moved_on() -> None:
    moved = {"model.qk_scale": 1.2, "optim.adam_beta1": 0.85, "model.softcap": 20.0}
    study = Study(Recipe(), lambda r: 1.5 + 0.1 * (r.batch.tokens_per_step < 8192)
                  - 0.01 * sum(r.flat()[k] == v for k, v in moved.items()))
    study.step()
    for key, value in moved.items():
        assert study.step().changes.get("batch.tokens_per_step", 8192) >= 8192
        assert study.record({key: value}).verdict == "keep"
    assert study.step().changes == {"batch.tokens_per_step": 4096}


def test_goes_half_a_step_back_when_it_overshoots() -> None:
    study = Study(Recipe(), bowl(batch__tokens_per_step=2900)).run(40)
    tried = [p.changes["batch.tokens_per_step"] for p in study.proposals
             if "batch.tokens_per_step" in p.changes and "on from the recipe" not in p.hypothesis]
    assert tried[:2] == [4096, 2048]
    assert 2048 < tried[2] < 4096 and study.recipe.batch.tokens_per_step == tried[2]


def test_learning_rates_move_together_before_they_move_alone() -> None:
    study = Study(Recipe(), FLAT).run(12)
    rates = [set(p.changes) for p in study.proposals if any(k.endswith("_lr") for k in p.changes)]
    assert len(rates[0]) == 5 and study.proposals[1].changes["optim.matrix_lr"] == 0.08
    assert {"optim.matrix_lr"} in rates


@pytest.mark.parametrize("verdict", ["crash: out of memory", "timeout: overran its limit", "invalid: broke a rule"])
def test_a_direction_that_crashed_is_not_tried_again(verdict: str) -> None:
    study = Study(Recipe(), lambda r: verdict if r.batch.tokens_per_step < 8192 else 1.5).run(60)
    tried = [p.changes["batch.tokens_per_step"] for p in study.proposals if "batch.tokens_per_step" in p.changes]
    assert [t for t in tried if t < 8192] == [4096]
    assert len([t for t in tried if t > 8192]) > 1  # the other way is still searched


def test_backs_off_from_learning_rates_that_diverge() -> None:
    def objective(r: Recipe) -> Outcome:
        return "crash: training diverged: the loss was nan at step 9" if r.optim.matrix_lr > 0.05 else 1.5
    study = Study(Recipe(), objective).run(40)
    rates = [p.changes["optim.matrix_lr"] for p in study.proposals if len(p.changes) == 5]
    assert rates[0] == 0.08 and rates[1] < 0.08
    after = study.proposals[[len(p.changes) for p in study.proposals].index(5) + 1]
    assert not any(k.endswith("_lr") and v > SCHEMA[k].default for k, v in after.changes.items())


def test_a_baseline_that_diverged_lowers_the_learning_rates_first() -> None:
    first = Study(Recipe(), lambda r: "crash: training diverged: the loss was inf at step 2").step()
    assert first.changes["optim.matrix_lr"] == 0.02 and len(first.changes) == 5


def test_precision_is_proposed_only_where_the_device_has_it() -> None:
    def precisions(*offered: str) -> set[str]:
        study = Study(Recipe(), FLAT, device={"precisions": offered}).run(120)
        return {e.recipe["runtime.precision"] for e in study.ledger}
    assert precisions("float32") == {"auto"}
    assert precisions("bfloat16", "float32") == {"auto", "float32"}
    early = Study(Recipe(), FLAT, device={"precisions": ("float32", "bfloat16")}).run(12)
    assert any(p.changes == {"runtime.precision": "bfloat16"} for p in early.proposals)


def test_arithmetic_that_was_measured_to_be_slower_is_not_called_cheaper() -> None:
    measured = {"precisions": ("bfloat16", "float32"), "ceiling_flops": {"bfloat16": 4e11, "float32": 2e11}}
    study = Study(Recipe(), FLAT, device=measured)
    [move] = [move for move in MOVES if move.label == "precision"]
    for here in ("auto", "bfloat16"):
        flat = Recipe().replace({"runtime.precision": here}).flat()
        assert move.turn(study.context(), flat, UP, 1.0) == {}
        assert move.turn(study.context(), flat, DOWN, 1.0) == {"runtime.precision": "float32"}
    early = study.run(40).proposals
    assert all("runtime.precision" not in p.changes for p in early), "little speaks for it"


def test_tokenizers_are_proposed_only_if_prepared() -> None:
    def used(*prepared: str) -> set[str]:
        study = Study(Recipe(), FLAT, tokenizers=list(prepared)).run(120)
        return {e.recipe["data.tokenizer"] for e in study.ledger}
    assert used("bpe-2048") == {"bpe-2048"}
    assert used("bpe-1024", "bpe-2048") == {"bpe-1024", "bpe-2048"}


def first_touching(study: Study, key: str) -> int:
    return next(i for i, p in enumerate(study.proposals) if key in p.changes)


def test_with_little_text_a_smaller_vocabulary_is_tried_early() -> None:
    study = Study(Recipe(), FLAT, train_tokens=dict.fromkeys(VOCAB, 1_700_000), trial={"tokens": 500_000}).run(5)
    i = first_touching(study, "data.tokenizer")
    assert i < 4 and study.proposals[i].changes == {"data.tokenizer": "bpe-1024"}
    assert "1.7M training tokens" in study.proposals[i].evidence


def curve(train_nats: float, *dev: float) -> tuple[Point, ...]:
    return tuple(Point(i * 100, i * 10.0, train_nats, d) for i, d in enumerate(dev))


@pytest.mark.parametrize("fields", [
    {"tokens": 5_000_000_000},  # five epochs
    {"curve": curve(3.0, 2.0, 1.7, 1.5)},  # 3 nats a token is 1.30 bits per byte at 300 tokens in 1,000 bytes
    {"curve": curve(3.6, 2.0, 1.4, 1.5)},  # dev went up again
], ids=["epochs", "gap", "rising dev"])
def test_overfitting_brings_smaller_vocabulary_and_regularisation_forward(fields: dict[str, Any]) -> None:
    plain = Study(Recipe(), FLAT).run(40)
    overfit = Study(Recipe(), FLAT, trial=fields).run(40)
    assert overfit.proposals[0].changes == {"data.tokenizer": "bpe-1024"}
    for key in ("optim.value_embedding_decay", "model.value_embeds"):
        assert first_touching(overfit, key) < first_touching(plain, key)
    decay = next(p.changes for p in overfit.proposals if "optim.matrix_decay" in p.changes)
    assert decay["optim.matrix_decay"] > SCHEMA["optim.matrix_decay"].default


def test_few_steps_bring_compile_and_cheaper_steps_forward() -> None:
    eager = Recipe().replace({"runtime.compile": False})
    study = Study(eager, FLAT, trial={"steps": 150}).run(5)
    assert study.proposals[0].changes == {"batch.tokens_per_step": 4096}
    assert study.proposals[1].changes == {"runtime.compile": True}
    assert any(p.changes == {"model.depth": 3} for p in study.proposals)
    assert "only 150 steps" in study.proposals[0].evidence


def test_compile_is_left_alone_when_the_study_is_about_to_end() -> None:
    eager = Recipe().replace({"runtime.compile": False})
    study = Study(eager, FLAT, seconds_left=600.0).run(100)
    assert not any("runtime.compile" in p.changes for p in study.proposals)


def test_plenty_of_steps_ask_for_a_larger_model_instead() -> None:
    study = Study(Recipe(), FLAT, trial={"steps": 20_000}).run(6)
    assert next(p.changes for p in study.proposals if "model.depth" in p.changes)["model.depth"] > 4


def test_what_does_not_fit_is_never_proposed() -> None:
    limit = 8192
    fits = lambda r: r.micro_rows * r.model.seq_len * r.model.depth * r.model.width <= limit * 1024  # noqa: E731
    study = Study(Recipe(), bowl(batch__tokens_per_step=65536), fits=fits).run(150)
    assert all(fits(Recipe().replace(e.recipe)) for e in study.ledger)
    assert study.recipe.batch.tokens_per_step == 65536 and study.recipe.batch.micro_rows > 0  # accumulated instead


def test_a_memory_model_that_denies_the_incumbent_does_not_stop_the_study() -> None:
    study = Study(Recipe(), FLAT, fits=lambda r: False).run(20)
    assert all(p.changes for p in study.proposals)
    assert len({Recipe().replace(e.recipe).digest() for e in study.ledger}) == 21


def test_an_interrupted_experiment_counts_as_evidence_of_nothing() -> None:
    endings = iter(["interrupted: the machine slept"])
    base = bowl(batch__tokens_per_step=1024)
    study = Study(Recipe(), lambda r: base(r) if r == Recipe() else next(endings, None) or base(r)).run(2)
    assert study.proposals[0].changes == {"batch.tokens_per_step": 4096}
    later = study.run(12).proposals[1:]
    assert any(p.changes.get("batch.tokens_per_step", 8192) < 4096 for p in later), "still that way"


def test_near_misses_are_combined() -> None:
    def objective(r: Recipe) -> float:  # two gains that only together are more than the noise
        helps = (r.model.qk_scale > 1) + (r.schedule.warmdown_frac > 0.5)
        return 1.5 - 0.0015 * helps + 0.1 * (helps == 0 and r != Recipe())
    study = Study(Recipe(), objective).run(60)
    both = [p for p in study.proposals if {"model.qk_scale", "schedule.warmdown_frac"} == set(p.changes)]
    assert both and both[0].hypothesis.startswith("combine: ")
    assert study.recipe.model.qk_scale > 1 and study.recipe.schedule.warmdown_frac > 0.5


def test_on_a_plateau_it_combines_near_misses_then_branches_from_an_earlier_incumbent_and_says_so() -> None:
    study = Study(Recipe(), bowl(batch__tokens_per_step=4096)).run(2)
    assert [e.verdict for e in study.ledger] == ["keep", "keep", "discard"]
    study.objective = lambda r: 1.0
    study.run(PLATEAU + 6)
    late = study.proposals[1 + PLATEAU:]
    said = [p for p in late if "nothing kept in" in p.evidence]
    branched = [p for p in said if "on from the recipe of #0" in p.hypothesis]
    combined = [p for p in said if p.hypothesis.startswith("combine: ")]
    assert (len(combined), len(branched), len(said), len(late)) == (3, 2, 5, 7)  # the script goes on in between
    for p in branched:  # what was kept since is undone, and something else is done
        assert p.changes["batch.tokens_per_step"] != 4096 and "#0" in p.evidence
    assert not any("nothing kept in" in p.evidence for p in study.proposals[:1 + PLATEAU])


def test_a_branch_needs_an_earlier_incumbent() -> None:
    study = Study(Recipe(), FLAT).run(PLATEAU + 6)
    assert not any("on from the recipe of" in p.hypothesis for p in study.proposals)


def test_edits_by_hand_are_learned_from_like_its_own() -> None:
    study = Study(Recipe(), FLAT)
    study.record({"batch.tokens_per_step": 4096})  # a person halved the batch, and it did not help
    assert study.step().changes.get("batch.tokens_per_step") != 4096
    study = Study(Recipe(), bowl(batch__tokens_per_step=1024))
    study.record({"batch.tokens_per_step": 4096})
    assert study.step().changes == {"batch.tokens_per_step": 2048}


def test_every_recipe_key_moves_or_says_why_it_does_not() -> None:
    moved = {k for m in (*MOVES, *schema_moves()) for k in m.keys}
    assert set(SCHEMA) - moved == set(LEFT_ALONE)


def test_nothing_is_proposed_that_changes_nothing() -> None:
    """Without a gain RMSNorm commutes with the rotation; a rate without weights, a share of no warm-up, do nothing."""
    study = Study(Recipe(), FLAT).run(150)
    for e, p in zip(study.ledger[1:], study.proposals, strict=True):
        flat = e.recipe
        if p.changes.keys() == {"optim.vector_lr"}:
            assert flat["model.norm_gain"] or flat["model.biases"] or flat["model.token_shift"]
        if p.changes.keys() == {"schedule.seq_warmup_frac"}:
            assert flat["schedule.seq_parts"] > 1
        if p.changes.get("model.qk_norm") == "before":
            assert flat["model.norm_gain"] or flat["model.norm"] == "layer"


@pytest.mark.parametrize("ended", ["interrupted: slept", "crash: the device hangs"])
def test_an_idea_that_the_machine_has_spoilt_comes_again_once(ended: str) -> None:
    study = Study(Recipe(), lambda r: 1.5 if r == Recipe() else ended, trial={"facts": {"cause": "machine"}}).run(4)
    first, again, third, fourth = (p.changes for p in study.proposals)
    assert first == again != third == fourth


def test_the_work_of_a_proposal_grows_no_faster_than_the_ledger() -> None:
    """Milliseconds are printed by benchmarks/proposing.py."""
    counted = []
    for experiments in (200, 800):
        study = recorded(experiments)
        study.given["spread_bpb"] = 1.0  # every discard is a near-miss
        counted.append(calls(Playbook().propose, study.context()))
    assert counted[1] < 5 * counted[0], counted


def test_the_reference_counts_as_seen_but_not_as_an_idea() -> None:
    study = Study(Recipe(), bowl(batch__tokens_per_step=1024))
    reference = replace(experiment(-1, Recipe().replace({"batch.tokens_per_step": 4096}), 1.9, ""), verdict="")
    study.ledger.insert(0, reference)
    study.run(20)
    tried = [p.changes["batch.tokens_per_step"] for p in study.proposals if "batch.tokens_per_step" in p.changes]
    assert tried[0] == 2048 and 4096 not in tried  # still that way, as if nobody had tried
