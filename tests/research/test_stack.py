"""Kept changes as patches: brought in, taken out, classed by what they touch."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.research.stack import Change, Entangled, applied, line, stack, without
from backends.recipe import edit, parse
from tests.report.made import START, Made, repository

CODE = b"a = 1\n\n\ndef f():\n    return a\n\n\ndef g():\n    return 2\n"


def change(before: dict[str, bytes], after: dict[str, bytes]) -> Change:
    names = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
    return Change(3, "An idea", "it helped", "playbook", "p" * 40, "c" * 40,
                  {n: before[n] for n in names if n in before}, {n: after[n] for n in names if n in after})


def recipe(**keys: object) -> dict[str, bytes]:
    return {"recipe.toml": edit(START, {k.replace("__", "."): v for k, v in keys.items()}).encode()}


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(["optim.matrix_lr", "optim.embedding_lr", "optim.scalar_lr", "extra.mine"]),
                       st.floats(0.01, 0.9), min_size=1),
       st.dictionaries(st.sampled_from(["optim.adam_beta1", "optim.adam_beta2", "extra.other"]), st.floats(0.1, 0.9)))
def test_what_was_brought_in_can_be_taken_out_whatever_else_has_changed(
        mine: dict[str, float], others: dict[str, float]) -> None:
    before = recipe()
    patch = change(before, {"recipe.toml": edit(START, mine).encode()})
    elsewhere = {"recipe.toml": edit(START, others).encode()}
    both = applied(elsewhere, patch)
    assert parse(both["recipe.toml"].decode()) == parse(START).replace({**mine, **others})
    assert parse(without(both, patch)["recipe.toml"].decode()) == parse(START).replace(others)


def test_code_is_merged_line_by_line_and_comments_stay() -> None:
    first = change({"m.py": CODE}, {"m.py": CODE.replace(b"a = 1", b"a = 7")})
    second = change({"m.py": CODE}, {"m.py": CODE.replace(b"return 2", b"return 3  # three")})
    both = applied(applied({"m.py": CODE}, first), second)["m.py"]
    assert both == CODE.replace(b"a = 1", b"a = 7").replace(b"return 2", b"return 3  # three")
    assert without({"m.py": both}, first)["m.py"] == CODE.replace(b"return 2", b"return 3  # three")


def test_a_change_that_others_stand_on_says_so() -> None:
    first = change({"m.py": CODE}, {"m.py": CODE.replace(b"return 2", b"return 3")})
    later = {"m.py": CODE.replace(b"return 2", b"return 4")}
    with pytest.raises(Entangled, match=r"the same lines of m\.py"):
        without(later, first)
    with pytest.raises(Entangled, match=r"it turns optim\.matrix_lr from 0\.04 to 0\.02, which is 0\.01 here"):
        applied(recipe(optim__matrix_lr=0.01), change(recipe(), recipe(optim__matrix_lr=0.02)))
    with pytest.raises(Entangled, match="could not be run"):
        without(recipe(model__head_dim=64, model__width=64), change(recipe(), recipe(model__width=64)))


def test_a_key_that_was_turned_further_has_nothing_to_take_out() -> None:
    further = recipe(optim__matrix_lr=0.01)
    assert without(further, change(recipe(), recipe(optim__matrix_lr=0.02))) == further


def test_files_come_and_go_with_a_change() -> None:
    added = change({}, {"new.py": b"x = 1\n"})
    assert applied({"m.py": CODE}, added) == {"m.py": CODE, "new.py": b"x = 1\n"}
    assert without({"m.py": CODE, "new.py": b"x = 1\n"}, added) == {"m.py": CODE}
    removed = change({"m.py": CODE}, {})
    assert applied({"m.py": CODE}, removed) == {} and without({}, removed) == {"m.py": CODE}
    with pytest.raises(Entangled, match="added, removed or rewritten"):
        without({"new.py": b"x = 2\n"}, added)


@pytest.mark.parametrize(("names", "scope", "on_mlx", "on_cuda"), [
    (["recipe.toml"], "recipe", True, True), (["recipe.toml", "schedule.py"], "shared", True, True),
    (["params.py"], "shared", True, True), (["torch_optim.py"], "local", False, True),
    (["mlx_model.py", "recipe.toml"], "local", True, False), (["mlx_model.py", "torch_model.py"], "shared", True, True),
])
def test_a_change_is_classed_by_what_it_touches(names: list[str], scope: str, on_mlx: bool, on_cuda: bool) -> None:
    before = {name: START.encode() if name == "recipe.toml" else CODE for name in names}
    deeper = edit(START, {"model.depth": 2}).encode()
    patch = change(before, {name: deeper if name == "recipe.toml" else CODE + b"\n" for name in names})
    assert (patch.scope, patch.runs_on("mlx"), patch.runs_on("cuda"), patch.runs_on("cpu")) \
        == (scope, on_mlx, on_cuda, on_cuda)


def test_the_stack_is_the_line_of_keeps_and_what_each_of_them_did(tmp_path: Path) -> None:
    made = Made.create(repository(tmp_path, {"m.py": CODE}))
    with made.study as study:
        made.baseline(2.4, 2.41)
        first = made.idea("keep", 2.3, changes={"optim.matrix_lr": 0.02})
        made.idea("discard", 2.5, changes={"optim.matrix_lr": 0.5})
        second = made.idea("keep", 2.2, files={"m.py": CODE + b"\n"})
        experiments = study.ledger.experiments()
        found = stack(study.workspace, experiments)
        assert [c.n for c in found] == [0, first, second]
        assert found[1].keys == {"optim.matrix_lr": (0.04, 0.02)} and found[1].kind == "same shapes"
        assert found[2].names == ["m.py"] and found[2].kind == "code"
        assert [e.n for e in line(experiments, first)] == [0, first]
