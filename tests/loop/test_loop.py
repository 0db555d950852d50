"""`ar loop` with real trials: what it records, and what is left when it is stopped, killed or started twice."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch.data.prepared import Prepared
from autoresearch.records import BASELINE, Experiment
from autoresearch.research.study import Study
from backends.recipe import parse
from tests.harness.tiny import RECIPE, comes_true, ours_below
from tests.loop.conftest import RECIPE_FILE, TAG, Place, begin, decided, make_clone

LOOP = ("loop", "--tag", TAG, "--verify-seeds", "0")


def agrees(place: Place) -> None:
    """Ledger, branch, refs, worktree, results.tsv and trial folders tell the same story."""
    with place.study() as study:
        experiments, incumbent = study.ledger.experiments(), study.ledger.incumbent()
    judged = [e for e in experiments if e.n >= BASELINE and e.verdict]
    head = place.git("rev-parse", f"autoresearch/{TAG}").strip()
    assert head == incumbent.sha
    assert subprocess.run(["git", "rev-parse", "HEAD"], cwd=place.worktree, capture_output=True,
                          text=True).stdout.strip() == head
    assert subprocess.run(["git", "status", "--porcelain"], cwd=place.worktree, capture_output=True).stdout == b""
    for e in (e for e in judged if e.sha):
        assert place.git("rev-parse", f"refs/autoresearch/{TAG}/{e.n}").strip() == e.sha
        assert f"Experiment: {TAG}/{e.n}" in place.git("log", "-1", "--format=%B", e.sha)
    lines = [line.split("\t") for line in (place.root / "results.tsv").read_text().splitlines()]
    assert lines[0] == ["commit", "val_bpb", "memory_gb", "status", "description"]
    for e, line in zip(judged, lines[1:], strict=True):
        scored = e.verdict in ("keep", "discard")
        assert line[0] == (e.sha[:7] or '0000000') and line[3] == (e.verdict if scored else "crash")
        assert float(line[1]) == pytest.approx(e.bpb() if scored else 0.0, abs=1e-6)
    for trial in (t for e in experiments for t in e.trials):
        folder = place.root / "trials" / str(trial.id)
        kept = next(e for e in experiments if e.n == trial.experiment).verdict == "keep"
        assert not (folder / "tree").exists() and not (folder / "tmp").exists()
        assert (folder / "weights.safetensors").exists() <= kept


def same(after: list[Experiment], before: list[Experiment]) -> bool:
    """Nothing recorded has changed. An incumbent may have been looked at once more: on fresh seeds, and on the confirm
    split where it stood against a candidate in quarantine."""
    seen = [replace(a, trials=tuple(replace(t, scores=t.scores[:len(u.scores)])
                                    for t, u in zip(a.trials, b.trials, strict=False)))
            for a, b in zip(after, before, strict=False)]
    added = [t for a, b in zip(after, before, strict=False) for t in a.trials[len(b.trials):]]
    return seen == before and all(t.purpose == "repeat" for t in added)


@pytest.fixture
def hopeless(place: Place) -> Iterator[Callable[..., None]]:
    """hopeless(rate, ...): queues experiments that learn nothing, so that one trial decides each; none is left waiting.
    A rate that was tried before is not trained again."""
    def add(*rates: float) -> None:
        with Study.open(place.clone, TAG) as study:
            for rate in rates:
                study.ledger.queue.add("learn nothing", {"optim.unembedding_lr": rate})

    yield add
    with Study.open(place.clone, TAG) as study:
        for entry in study.ledger.queue.waiting():
            study.ledger.queue.remove(entry.id)


def test_a_baseline_is_measured_on_three_seeds_over_the_same_bytes(place: Place, text: Prepared) -> None:
    baseline = place.experiments()[0]
    assert (baseline.n, baseline.state, baseline.verdict) == (0, "done", "keep")
    assert [t.seed for t in baseline.screens()] == [1, 2, 3]
    for trial in baseline.trials:
        score = trial.scores[0]
        assert (trial.status, score.split, score.rows) == ("ok", "val", text.manifest.splits["val"].rows)
        assert score.bytes == text.manifest.splits["val"].bytes
        assert trial.steps > 0 and trial.tokens == 512 * trial.steps
        assert trial.train_s <= 2.0 and trial.total_s > trial.train_s
        assert trial.facts["backend"] == "mlx" and trial.facts["data"] == text.digest
    with place.study() as study:
        assert study.ledger.fact("val_rows") == text.manifest.splits["val"].rows
        assert study.ledger.fact("spread_bpb") > 0


def test_experiments_follow_and_everything_that_records_them_agrees(
        place: Place, hopeless: Callable[..., None]) -> None:
    hopeless(1.2e-6)
    before = place.experiments()
    done = place.ar(*LOOP, "--experiments", "2")
    after = place.experiments()
    assert same(after, before)
    new = after[len(before):]
    assert [e.n for e in new] == [before[-1].n + 1, before[-1].n + 2]
    assert [e.researcher for e in new] == ["person", "playbook"]
    assert len(new[0].trials) == 1 and new[1].evidence
    for e in new:
        assert decided(e) and e.changes and e.hypothesis
        assert [t.seed for t in e.trials] == list(range(1, len(e.trials) + 1)), "no seed twice"
        assert [t.purpose for t in e.trials] == ["screen"] + ["repeat"] * (len(e.trials) - 1)
    with place.study() as study:
        for e in new:
            assert [p.trial for p in study.ledger.pairs(e.n)] == [t.id for t in e.trials]
            assert ("to earn fresh seeds" in e.reason) == (len(e.trials) == 1)
            assert ("replay of" in e.reason) == (e.verdict != "discard")
    agrees(place)
    assert f"study {TAG}: {after[-1].n} experiments" in done.stdout
    assert Path(done.stdout.split("report: ")[1].strip()).is_file()


@pytest.mark.slow
def test_verification_scores_whole_splits_and_counts_every_look(place: Place, text: Prepared) -> None:
    before = {t.id for e in place.experiments() for t in e.trials}
    with place.study() as study:
        reads = {split: study.ledger.reads(split) for split in ("confirm", "holdout")}
    place.ar("verify", "--tag", TAG, "--seeds", "2")
    with place.study() as study:
        new = [t for e in study.ledger.experiments() for t in e.trials if t.id not in before]
        assert new and {t.purpose for t in new} == {"verify"} and {t.status for t in new} == {"ok"}
        assert {t.seed for t in new} <= {1001, 1002}
        for split in ("confirm", "holdout"):
            assert study.ledger.reads(split) - reads[split] == sum(t.bpb(split) is not None for t in new)
    for score in (s for t in new for s in t.scores):
        assert score.bytes == text.manifest.splits[score.split].bytes
    assert all({s.split for s in t.scores} >= {"val", "confirm"} for t in new)
    assert not any(t.bpb("holdout") for t in new), "two seeds are too few to spend it on"
    agrees(place)


def test_a_loop_that_is_killed_loses_nothing_that_was_decided_and_goes_on(
        place: Place, hopeless: Callable[..., None]) -> None:
    hopeless(1e-6)
    before = place.experiments()
    loop = place.start(*LOOP, "--experiments", "9")
    loop.comes_to(lambda: place.running(before[-1].n))
    loop.kill()
    assert comes_true(lambda: not ours_below(place.root), 4), ours_below(place.root)
    killed = place.experiments()
    assert same(killed, before)
    unfinished = killed[-1]
    assert (unfinished.n, unfinished.state) == (before[-1].n + 1, "committed")
    place.ar(*LOOP, "--experiments", "1")
    after = place.experiments()
    assert same(after, before) and len(after) == len(killed)
    resumed = after[-1]
    assert (resumed.n, resumed.sha, resumed.state) == (unfinished.n, unfinished.sha, "done")
    assert [t.status for t in resumed.trials] == ["interrupted", "ok"]
    assert decided(resumed)
    agrees(place)


def test_one_interrupt_ends_after_the_experiment_and_nobody_else_may_work_meanwhile(
        place: Place, hopeless: Callable[..., None]) -> None:
    hopeless(1.1e-6, 1.11e-6, 1.12e-6)  # enough to last until the others have been refused
    before = place.last().n
    loop = place.start(*LOOP)
    loop.comes_to(lambda: place.running(before))
    for other in (LOOP, ("try", "--tag", TAG, "-m", "me too")):
        refused = place.ar(*other, code=1)
        assert f"error: study '{TAG}' is in use by process {loop.process.pid}" in refused.stderr
        assert refused.stdout == ""
    loop.interrupt()
    done = loop.finish(within_s=40)
    assert "stopping after the trial in progress" in done.stderr
    last = place.last()
    assert (last.state, last.trials[-1].status) == ("done", "ok")
    assert f"study {TAG}: {last.n} experiments" in done.stdout
    agrees(place)


@pytest.mark.slow
def test_two_interrupts_end_at_once_and_the_same_command_continues(place: Place) -> None:
    before = place.last().n
    loop = place.start(*LOOP)
    loop.comes_to(lambda: place.running(before) and ours_below(place.root))
    for child in ours_below(place.root):
        child.suspend()  # it must not end between the two
    loop.interrupt()
    loop.comes_to(lambda: "press Ctrl-C again to stop now" in loop.stderr)
    loop.interrupt()
    done = loop.finish(1, within_s=20)
    assert "stopped; nothing that was decided is lost, the same command continues" in done.stderr
    assert "report: " in done.stdout
    assert not ours_below(place.root)
    stopped = place.last()
    assert stopped.state == "committed" and stopped.trials[-1].status == "interrupted"
    place.ar(*LOOP, "--experiments", "1")
    assert place.last().n == stopped.n and place.last().state == "done"


def test_a_branch_that_somebody_moved_is_a_sentence(place: Place) -> None:
    branch = f"refs/heads/autoresearch/{TAG}"
    head = place.git("rev-parse", branch).strip()
    assert place.git("rev-parse", "HEAD").strip() != head
    place.git("update-ref", branch, "HEAD")
    try:
        said = place.ar(*LOOP, "--experiments", "1", code=1).stderr
    finally:
        place.git("update-ref", branch, head)
    assert f"the ledger expects {head[:7]}" in said and "git update-ref" in said


def test_other_terms_are_refused(place: Place) -> None:
    assert "begun with budget 1.0, not 9.0" in place.ar(*LOOP, "--budget", "9", code=2).stderr
    assert "begun with backend mlx, not cpu" in place.ar(*LOOP, "--backend", "cpu", code=2).stderr


def test_scores_of_another_trainer_are_not_continued(place: Place) -> None:
    """Refused before anything is recorded."""
    before, recipe = place.experiments(), place.worktree / RECIPE_FILE
    with Study.open(place.clone, TAG) as study:
        digest = study.ledger.fact("frozen_digest")
        study.ledger.set_fact("frozen_digest", "0" * 16)
    recipe.write_text(recipe.read_text() + "\n# an edit\n")
    try:
        for args in (("try", "--tag", TAG, "-m", "x"), (*LOOP, "--experiments", "1")):
            assert "another version of the trainer" in place.ar(*args, code=1).stderr
        assert place.experiments() == before
    finally:
        subprocess.run(["git", "checkout", "-q", "."], cwd=place.worktree, check=True)
        with Study.open(place.clone, TAG) as study:
            study.ledger.set_fact("frozen_digest", digest)


@pytest.mark.slow
def test_a_night_on_torch_from_baseline_to_verdict(text: Prepared, tmp_path: Path) -> None:
    place = Place(make_clone(tmp_path, RECIPE.replace('"byte"', '"bpe-512"')), text)
    begin(place, "cpu", 1.0)
    before = place.checkout()
    place.ar(*LOOP, "--experiments", "1")
    baseline, first = place.experiments()
    assert len(baseline.screens()) == 3 and decided(first)
    assert all(t.train_s <= 2.0 for e in (baseline, first) for t in e.trials)
    assert baseline.bpb() < math.log2(512)
    agrees(place)
    assert place.checkout() == before


def test_a_baseline_that_can_not_be_trained_ends_the_loop_with_its_log(text: Prepared, tmp_path: Path) -> None:
    place = Place(make_clone(tmp_path), text)
    model = place.clone / "backends/gpt/mlx_model.py"
    model.write_text(model.read_text() + "\nraise KeyError('a broken start')\n")
    place.git("-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qam", "broken")
    begin(place, "mlx", 1.0)
    for _ in range(2):  # it says the same again: nothing half done is taken for a baseline
        said = place.ar(*LOOP, "--experiments", "1", code=1).stderr
        assert "error: the baseline could not be trained: crash: KeyError: 'a broken start'" in said
        assert "The end of its log:" in said and "mlx_model.py" in said


@pytest.mark.slow
def test_a_study_can_start_from_a_preset(text: Prepared, tmp_path: Path) -> None:
    place = Place(make_clone(tmp_path), text)
    night = ("loop", "--tag", TAG, "--experiments", "0", "--budget", "1", "--verify-seeds", "0", "--backend", "cpu")
    place.start(*night, "--preset", "modern").finish(within_s=300)
    recipe = parse((place.worktree / RECIPE_FILE).read_text())
    assert (place.worktree / RECIPE_FILE).read_text().startswith("# What the researchers of the original autoresearch")
    assert recipe.model.seq_len == 512 and recipe.model.width >= 128  # the preset's and the probe's, not the clone's
    refused = place.ar("loop", "--tag", TAG, "--preset", "gpt2", code=2)
    assert "was begun with preset modern, not gpt2" in refused.stderr
