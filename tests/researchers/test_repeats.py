"""When two proposals are one: keys that change nothing, code that says the same, and what counts as having run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import backends
from autoresearch.records import Experiment
from autoresearch.research.researchers.repeats import IDLE, effective, fingerprint, program, repeat_of
from backends.gpt import params
from backends.recipe import Recipe
from backends.spec import GPTSpec
from benchmarks.simulated import experiment

VOCAB = 61
SMALL: dict[str, Any] = {
    "model.depth": 2, "model.width": 32, "model.head_dim": 16, "model.seq_len": 16, "model.value_gate_channels": 8,
    "batch.tokens_per_step": 64, "runtime.compile": False, "runtime.precision": "float32", "optim.matrix_decay": 0.5,
    "optim.embedding_decay": 0.5, "init.projection_scale": 1.0, "schedule.momentum_warmup_frac": 0.5}
# For each entry of IDLE, what makes its condition hold, and what makes the same keys matter.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "optim.value_embedding_lr": ({"model.value_embeds": "none"}, {}),
    "model.value_gate_channels": ({"model.value_gate": False}, {}),
    "optim.muon_momentum": ({"optim.matrix_rule": "adamw"}, {}),
    "optim.muon_beta2": ({"optim.muon_variance": False}, {}),
    "schedule.momentum_start": ({"schedule.momentum_warmup_frac": 0.0}, {}),
    "optim.cautious_matrices": ({"optim.matrix_decay": 0.0}, {}),
    "optim.cautious_tables": ({"optim.embedding_decay": 0.0}, {}),
    "optim.vector_lr": ({}, {"model.norm_gain": True}),
    "init.input_lambda": ({"model.input_lambdas": False}, {}),
    "optim.scalar_lr": ({"model.input_lambdas": False, "model.resid_lambdas": False}, {}),
    "optim.unembedding_lr": ({"model.tied_embeddings": True}, {}),
    "model.rope_base": ({"model.positions": "learned"}, {}),
    "schedule.seq_warmup_frac": ({"schedule.seq_parts": 1}, {"schedule.seq_parts": 4}),
    "model.short_window_frac": ({"model.window_pattern": "LL"}, {"model.window_pattern": "SL"}),
}
OTHER: dict[str, Any] = {
    "model.value_gate": False, "model.value_gate_channels": 4, "optim.muon_variance": False,
    "optim.muon_polynomial": "newton_schulz", "optim.muon_steps": 3, "optim.cautious_matrices": False,
    "optim.cautious_tables": True, "schedule.final_decay_frac": 0.5, "optim.unembedding_decay": 0.3,
    "optim.value_embedding_decay": 0.3, "schedule.seq_warmup_frac": 0.9, "model.rope_base": 50.0,
    "model.short_window_frac": 0.1}


def trained(changes: dict[str, Any]) -> list[np.ndarray]:
    """The losses of three steps, and the weights after them."""
    recipe = Recipe().replace(SMALL | changes)
    rng = np.random.default_rng(3)
    weights = params.initial(recipe, GPTSpec.of(recipe, VOCAB), rng)
    tokens = np.random.default_rng(4).integers(0, VOCAB, (3, recipe.rows_per_step, 17), dtype=np.int32)
    backend = backends.load("cpu")
    state = backend.init(recipe, VOCAB, weights)
    losses = [np.asarray(float(backend.step(state, tokens[i], i / 3))) for i in range(3)]
    return [*losses, *backend.weights(state).values()]


@pytest.mark.parametrize("keys", [names for _, names in IDLE], ids=lambda names: names[0])
def test_idle_keys_change_nothing_while_their_condition_holds_and_something_else(keys: tuple[str, ...]) -> None:
    idle, active = CASES[keys[0]]
    turned = {key: OTHER[key] if key in OTHER else 0.5 * Recipe().flat()[key] for key in keys}
    same = fingerprint((Recipe().replace(SMALL | idle)).flat()) == fingerprint(
        Recipe().replace(SMALL | idle | turned).flat())
    assert same and all(np.array_equal(a, b) for a, b in zip(trained(idle), trained(idle | turned), strict=True))
    assert fingerprint(Recipe().replace(SMALL | active).flat()) != fingerprint(
        Recipe().replace(SMALL | active | turned).flat())
    assert not all(a.shape == b.shape and np.array_equal(a, b)
                   for a, b in zip(trained(active), trained(active | turned), strict=False))


@pytest.mark.parametrize("changes", [
    {"model.window_pattern": "LL"}, {"model.kv_heads": 4}, {"batch.micro_rows": 32},
    {"optim.matrix_lr": Recipe().optim.matrix_lr}])
def test_spellings_of_one_recipe_are_one(changes: dict[str, Any]) -> None:
    assert fingerprint(Recipe().replace(changes).flat()) == fingerprint(Recipe().flat()) == fingerprint({})


@pytest.mark.parametrize("changes", [
    {"model.window_pattern": "LS"}, {"model.kv_heads": 2}, {"batch.micro_rows": 16}, {"optim.matrix_lr": 0.0401},
    {"extra.tau": 1.0}])
def test_another_recipe_is_another(changes: dict[str, Any]) -> None:
    assert fingerprint(Recipe().replace(changes).flat()) != fingerprint(Recipe().flat())


def test_a_pattern_counts_by_the_blocks_it_reaches() -> None:
    assert effective({"model.window_pattern": "SL", "model.depth": 3})["model.window_pattern"] == "SLS"


MODEL = b'"""A model."""\ndef f(x):\n    return x + 1  # one more\n'


@pytest.mark.parametrize("edited", [
    b'def f(x):\n    return x + 1\n', b'"""Words."""\n\n\ndef f(x):\n    """More words."""\n    return (x\n   + 1)\n'])
def test_comments_docstrings_and_layout_are_not_the_program(edited: bytes) -> None:
    assert program({"m.py": MODEL, "recipe.toml": b"a"}) == program({"m.py": edited, "recipe.toml": b"b"})


@pytest.mark.parametrize("edited", [
    {"m.py": MODEL.replace(b"+ 1", b"+ 2")}, {"n.py": MODEL}, {"m.py": MODEL, "n.py": b""}, {"m.py": b"def f(:"},
    {"m.py": MODEL, "notes.txt": b"x"}])
def test_another_program_is_another(edited: dict[str, bytes]) -> None:
    assert program({"m.py": MODEL}) != program(edited)


def test_code_that_is_not_python_is_compared_as_it_stands() -> None:
    assert program({"m.py": b"def f(:"}) == program({"m.py": b"def f(:"}) != program({"m.py": b"def f(: "})


DEEPER = Recipe().replace({"model.depth": 6})


def files_of(e: Experiment) -> dict[str, bytes]:
    return {"m.py": MODEL.replace(b"+ 1", b"+ %d" % e.n)}


def test_a_repeat_has_the_recipe_and_the_program_of_one_that_ran() -> None:
    ledger = [experiment(0, Recipe(), 1.5, "keep"), experiment(1, DEEPER, 1.6, "discard"),
              experiment(2, DEEPER, "crash: out of memory", "crash")]
    assert repeat_of(DEEPER.flat(), files_of(ledger[1]), ledger, files_of) is ledger[1]
    assert repeat_of(DEEPER.flat(), files_of(ledger[2]), ledger, files_of) is ledger[2]
    assert repeat_of(DEEPER.flat(), files_of(ledger[0]), ledger, files_of) is None
    assert repeat_of(Recipe().flat(), files_of(ledger[1]), ledger, files_of) is None


def test_what_the_machine_has_spoilt_or_was_never_committed_may_be_tried_again() -> None:
    for past in (experiment(1, DEEPER, "interrupted: slept", "interrupted"),
                 experiment(1, DEEPER, "crash: the device hangs", "crash", facts={"cause": "machine"}),
                 replace(experiment(1, DEEPER, "invalid: no", "invalid"), sha=""),
                 experiment(1, DEEPER, 1.5, "")):  # killed, and not taken up yet
        assert repeat_of(DEEPER.flat(), files_of(past), [past], files_of) is None


def test_code_is_read_only_where_the_recipe_is_the_same() -> None:
    asked = []

    def reading(e: Experiment) -> dict[str, bytes]:
        asked.append(e.n)
        return files_of(e)

    ledger = [experiment(0, Recipe(), 1.5, "keep"), experiment(1, DEEPER, 1.6, "discard")]
    repeat_of(DEEPER.flat(), {}, ledger, reading)
    assert asked == [1]
