"""`ar try`: an edit by a person or an agent, judged like any other, and what becomes of it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from autoresearch.harness import sandbox
from tests.harness.tiny import comes_true, ours_below
from tests.loop.conftest import MODEL_FILE, RECIPE_FILE, RIGHT, SLOW, TAG, Command, Place, decided, result_of
from tests.loop.test_loop import LOOP, agrees

KEYS = {"experiment", "verdict", "val_bpb", "incumbent_bpb", "reason", "commit", "log"}


def attempt(place: Place, words: str = "an edit", code: int = 0) -> Command:
    return place.ar("try", "--tag", TAG, "-m", words, code=code)


def edit(place: Place, name: str, old: str, new: str) -> None:
    path = place.worktree / name
    source = path.read_text()
    assert source.count(old) == 1
    path.write_text(source.replace(old, new))


def is_clean(place: Place) -> bool:
    head = place.git("rev-parse", f"autoresearch/{TAG}").strip()
    status, at = (subprocess.run(["git", *args], cwd=place.worktree, capture_output=True, check=True, text=True).stdout
                  for args in (("status", "--porcelain"), ("rev-parse", "HEAD")))
    return status == "" and at.strip() == head


def shown(place: Place, n: int, path: str) -> str:
    """A file of an experiment, by the ref that keeps every candidate reachable."""
    return place.git("show", f"refs/autoresearch/{TAG}/{n}:{path}")


def test_an_edit_that_makes_it_worse_is_reverted_and_stays_reachable(place: Place) -> None:
    before, head = place.last().n, place.git("rev-parse", f"autoresearch/{TAG}").strip()
    line = "    return head(w, hidden(w, tokens_BT, spec, salt), spec)\n"
    edit(place, MODEL_FILE, line, line.replace("spec)\n", "spec) * 0  # know nothing\n"))
    edit(place, RECIPE_FILE, "depth = 1\n", "depth = 2\n")
    result = result_of(attempt(place, "  say nothing,\n twice as deep "))
    assert result.keys() == KEYS
    assert (result["experiment"], result["verdict"], result["log"]) == (before + 1, "discard", "")
    assert result["val_bpb"] > result["incumbent_bpb"] > 0 and "on the same seed" in result["reason"]
    assert [t.facts["sandbox"] for t in place.last().trials] == [sandbox.describe()] != ["off"]
    assert place.git("rev-parse", f"autoresearch/{TAG}").strip() == head
    assert is_clean(place)
    assert "# know nothing" in shown(place, before + 1, MODEL_FILE)
    last = place.last()
    assert (last.sha, last.hypothesis, last.researcher) == (result["commit"], "say nothing, twice as deep", "person")
    assert last.changes == {"model.depth": 2} and last.recipe["model.depth"] == 2
    agrees(place)


def test_a_crash_is_a_verdict_with_the_end_of_the_log(place: Place) -> None:
    edit(place, MODEL_FILE, "def logits(", "def logits(:")
    result = result_of(attempt(place))
    assert (result["verdict"], result["val_bpb"]) == ("crash", None)
    assert "SyntaxError" in result["reason"] and "SyntaxError" in result["log"] and "mlx_model.py" in result["log"]
    assert is_clean(place) and "def logits(:" in shown(place, result["experiment"], MODEL_FILE)
    agrees(place)


def test_a_model_that_peeks_is_invalid_however_well_it_scores(place: Place) -> None:
    edit(place, MODEL_FILE, "    return head(w, hidden(w, tokens_BT, spec, salt), spec)\n",
         "    ahead = mx.concatenate([tokens_BT[:, 1:], tokens_BT[:, :1]], 1)[..., None] == mx.arange(spec.vocab)\n"
         "    return head(w, hidden(w, tokens_BT, spec, salt), spec) + 30 * ahead\n")
    result = result_of(attempt(place))
    assert result["verdict"] == "invalid" and result["val_bpb"] < 0.2
    assert "later tokens" in result["reason"]
    assert is_clean(place)
    agrees(place)


@pytest.mark.parametrize(("name", "content", "reason"), [
    (RECIPE_FILE, "[model]\nwidht = 32\n", "did you mean model.width?"),
    (RECIPE_FILE, "[model]\ndepth = 99\n", "model.depth = 99: must be a whole number from 1 to 48"),
    (RECIPE_FILE, "[data]\ntokenizer = 'bpe-4096'\n", "data.tokenizer = 'bpe-4096': prepared are byte, bpe-512"),
    (RECIPE_FILE, None, "recipe.toml is missing"),
    ("backends/gpt/link.py", "->/etc/hostname", "regular file"),
])
def test_an_edit_that_breaks_a_rule_is_invalid_without_any_training(place: Place, name: str, content: str | None,
                                                                    reason: str) -> None:
    path = place.worktree / name
    if content is None:
        path.unlink()
    elif content.startswith("->"):
        path.symlink_to(content[2:])
    else:
        path.write_text(content)
    result = result_of(attempt(place))
    assert (result["verdict"], result["val_bpb"]) == ("invalid", None)
    assert reason in result["reason"], result["reason"]
    assert place.last().trials == ()
    assert is_clean(place)
    agrees(place)


def test_edits_outside_the_candidate_are_refused_and_left_alone(place: Place) -> None:
    before = place.experiments()
    other = place.worktree / "backends/reference.toml"
    other.write_text("Reward me.\n")
    (place.worktree / "backends/base.py").write_text("mine\n")
    edit(place, MODEL_FILE, "def logits(", "# inside\ndef logits(")
    try:
        refused = attempt(place, code=1)
        assert refused.stdout == "" and place.experiments() == before
        assert "only files in backends/gpt/ may change" in refused.stderr
        assert "also edited: backends/base.py, backends/reference.toml" in refused.stderr
        assert other.read_text() == "Reward me.\n" and "# inside" in (place.worktree / MODEL_FILE).read_text()
    finally:
        (place.worktree / "backends/base.py").unlink()
        subprocess.run(["git", "checkout", "-q", "."], cwd=place.worktree, check=True)


@pytest.mark.parametrize(("args", "said"), [
    (("-m", "nothing"), "error: nothing has been edited"),
    (("-m", "  \n "), "error: the hypothesis is empty"),
])
def test_nothing_to_try_is_a_sentence(place: Place, args: tuple[str, ...], said: str) -> None:
    before = place.experiments()
    refused = place.ar("try", "--tag", TAG, *args, code=1)
    assert said in refused.stderr and refused.stdout == "" and place.experiments() == before


@pytest.mark.slow
def test_a_kept_edit_moves_the_branch_and_an_experiment_killed_before_it_does_not_stand_in_the_way(
        place: Place) -> None:
    """The killed one was made on the old incumbent: carried out later it would move the branch back."""
    before = place.last().n
    loop = place.start(*LOOP)
    loop.comes_to(lambda: place.running(before))
    loop.kill()
    assert comes_true(lambda: not ours_below(place.root), 4)
    killed = place.last()
    assert killed.state == "committed"

    edit(place, MODEL_FILE, SLOW, RIGHT)  # takes the handicap away
    done = attempt(place, "normalise without a handicap")
    result = result_of(done)
    assert result["verdict"] == "keep", result["reason"]
    kept = place.last()
    assert 2 <= len(kept.trials) == len(kept.on_val()) and "fresh seed" in result["reason"]
    assert "fresh" in place.ar("log", "--tag", TAG, str(kept.n)).stdout
    pairs = json.loads(place.ar("log", "--tag", TAG, "--json", str(kept.n)).stdout)["pairs"]
    assert [p["fresh"] for p in pairs] == [False] + [True] * (len(pairs) - 1)
    assert all(p["delta_bpb"] < 0 and p["val_bpb"] < p["incumbent_bpb"] for p in pairs)
    assert result["experiment"] == killed.n + 1
    assert result["val_bpb"] < result["incumbent_bpb"] and "replay of" in result["reason"]
    assert place.git("rev-parse", f"autoresearch/{TAG}").strip() == result["commit"]
    assert RIGHT in (place.worktree / MODEL_FILE).read_text() and is_clean(place)

    place.ar(*LOOP, "--experiments", "1")
    after = {e.n: e for e in place.experiments()}
    assert (after[killed.n].state, after[killed.n].verdict) == ("done", "interrupted")
    assert after[killed.n + 2].state == "done"
    agrees(place)


@pytest.mark.slow
def test_a_try_that_is_killed_can_be_tried_again(place: Place) -> None:
    edit(place, MODEL_FILE, "def logits(", "AGAIN = True\n\n\ndef logits(")
    before = place.last().n
    process = place.start("try", "--tag", TAG, "-m", "killed")
    process.comes_to(lambda: place.running(before))
    process.kill()
    assert comes_true(lambda: not ours_below(place.root), 4)
    assert "AGAIN = True" in (place.worktree / MODEL_FILE).read_text()
    result = result_of(attempt(place, "tried again"))
    assert result["experiment"] == before + 2 and decided(place.last())
    place.ar(*LOOP, "--experiments", "1")
    assert all(e.state == "done" for e in place.experiments())
    agrees(place)


def test_a_clone_without_a_study_or_a_baseline_says_what_to_do(place: Place, tmp_path: Path) -> None:
    assert "there is no study 'mar9'" in place.ar("try", "--tag", "mar9", "-m", "x", code=1).stderr
    assert not os.path.exists(place.clone / "studies/mar9")
