"""The commands that read a study: status, log, sample and report; on ledgers written by hand and one trained model."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from autoresearch import models, sample
from autoresearch.cli import run, shell, style
from autoresearch.data import corpus, prepare
from autoresearch.data.prepared import Prepared
from autoresearch.errors import UserError
from autoresearch.harness import checkpoint
from autoresearch.harness.runner import Runner
from autoresearch.paths import CANDIDATE
from autoresearch.records import BASELINE
from autoresearch.report.story import tell
from autoresearch.research.events import Event, Teller
from autoresearch.research.study import Study
from backends.recipe import parse
from tests.report.made import START, Made, forty_ideas, repository

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """An empty study in a clone that is the current folder."""
    made = Made.create(repository(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield made
    made.study.close()


@pytest.fixture(scope="module")
def whole_night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    made = forty_ideas(tmp_path_factory.mktemp("night"))
    yield made
    made.study.close()


@pytest.fixture
def slept(whole_night: Made, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A study of forty ideas, to be read only."""
    monkeypatch.chdir(whole_night.study.clone)
    return whole_night


def ar(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> str:
    """stdout of `ar args`."""
    assert run(shell.command, args, "ar") == code
    return capsys.readouterr().out


def status_of(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(ar(capsys, "status", "--json"))


def test_status_is_one_object_with_what_a_script_needs(slept: Made, capsys: pytest.CaptureFixture[str]) -> None:
    status = status_of(capsys)
    assert status["tag"] == "mar8"
    assert status["state"] == "idle"
    assert status["baseline"] == {"n": 0, "sha": status["baseline"]["sha"], "val_bpb": pytest.approx(2.3104)}
    champion = slept.study.ledger.incumbent()
    assert champion is not None
    assert status["champion"] == {"n": 35, "sha": champion.sha, "val_bpb": pytest.approx(2.1443),
                                  "hypothesis": "Softer softcap: let the logits speak"}
    assert status["counts"] == {"keep": 7, "discard": 30, "crash": 1, "timeout": 1, "invalid": 1}
    assert status["gain_percent"] == pytest.approx(100 * (2.3104 - 2.1443) / 2.3104)
    assert status["spread_bpb"] == 0.004
    assert status["verified"] is None
    assert status["next"] == "ar verify --tag mar8"


def test_status_compares_champion_and_baseline_on_the_same_seed(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.baseline(2.40, 2.90)
    made.idea("keep", 2.38)
    assert status_of(capsys)["gain_bpb"] == pytest.approx(0.02)


def test_of_two_trials_on_the_screening_seed_the_last_counts_wherever_a_score_is_read(
        made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.baseline(2.40, 2.41)
    n, study = made.idea("keep", 2.30), made.study
    again = made.trial(n, 2.25)
    made.trial(BASELINE, 2.38)
    champion = study.ledger.experiment(n)
    screened = champion.screened()
    assert screened is not None and screened.id == again
    status = status_of(capsys)
    assert [status[which]["val_bpb"] for which in ("baseline", "champion")] == pytest.approx([2.38, 2.25])
    logged = [json.loads(line)["val_bpb"] for line in ar(capsys, "log", "--json").splitlines()]
    assert logged == pytest.approx([2.38, 2.25])
    assert [a.bpb for a in tell(study).attempts] == pytest.approx([2.38, 2.25])
    written = study.export_tsv().read_text().splitlines()[1:]
    assert [line.split("\t")[1] for line in written] == ["2.380000", "2.250000"]
    told = list[Event]()
    Teller(study, told.append).decided(champion, 0.1)
    decided, standing = ([e for e in told if e["event"] == name][-1] for name in ("decided", "standing"))
    assert (decided["bpb"], standing["best_bpb"], standing["baseline_bpb"]) == pytest.approx((2.25, 2.25, 2.38))


def test_status_before_the_baseline(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    status = status_of(capsys)
    assert (status["state"], status["baseline"], status["champion"]) == ("baseline pending", None, None)
    page = ar(capsys, "status")
    assert "baseline pending" in page
    assert "ar loop --tag mar8" in page


def test_status_names_the_process_that_runs_the_study(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.baseline(2.4, 2.41)
    code = f"from pathlib import Path; from autoresearch.research.study import Study\n" \
           f"s = Study.open(Path({str(made.study.clone)!r}))\nwith s.lock():\n    print('locked', flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=pipe, stdout=pipe) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"locked\n"
        status, page = status_of(capsys), ar(capsys, "status")
        owner.communicate(b"\n")
    assert (status["state"], status["pid"]) == ("running", owner.pid)
    assert f"running, process {owner.pid}" in page
    assert status_of(capsys)["state"] == "idle"


def test_status_of_a_verified_study(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.baseline(2.4, 2.41)
    n = made.idea("keep", 2.34)
    made.verify(0, 2.50)
    made.verify(n, 2.46)
    verified = status_of(capsys)["verified"]
    assert verified["gains"][0]["low_bpb"] is None, "one seed has no interval, and JSON no infinity"
    assert "too few seeds" in ar(capsys, "status")


def test_status_for_people_fits_on_lines_without_escapes(slept: Made, capsys: pytest.CaptureFixture[str]) -> None:
    page = ar(capsys, "status")
    assert "\x1b" not in page
    assert "40: 7 keep, 30 discard, 1 crash, 1 timeout, 1 invalid" in page
    assert "#35 Softer softcap" in page


def test_log_is_a_table_oldest_first(slept: Made, capsys: pytest.CaptureFixture[str]) -> None:
    heading, *rows = ar(capsys, "log").splitlines()
    assert heading.split() == ["n", "verdict", "val_bpb", "delta", "steps", "tok/s", "memory", "hypothesis"]
    assert [int(row.split()[0]) for row in rows] == list(range(41))
    assert rows[1].split()[1:4] == ["keep", "2.2411", "-0.0693"]
    assert rows[5].split()[1:3] == ["crash", "-"]
    assert rows[35].split()[1] == "keep*", "the champion is marked"
    assert "900 MiB" in rows[1]


def test_log_of_nothing_says_so(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert "(none yet)" in ar(capsys, "log")


def test_log_fits_the_terminal_and_is_whole_without_one(
    made: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made.baseline(2.4, 2.41)
    made.idea("discard", 2.41, "A very long hypothesis " * 10 + "漢字" * 40 + "\x1b[31m end")
    assert "end" in (text := ar(capsys, "log"))
    assert "\x1b" not in text
    for columns in (40, 80, 81, 100):
        monkeypatch.setattr(style, "width", lambda columns=columns: columns)
        for line in ar(capsys, "log").splitlines():
            assert sum(map(style._cells, line)) <= columns


def test_log_json_has_one_object_a_line(slept: Made, capsys: pytest.CaptureFixture[str]) -> None:
    records = [json.loads(line) for line in ar(capsys, "log", "--json").splitlines()]
    assert [r["n"] for r in records] == list(range(41))
    kept = records[1]
    assert kept["verdict"] == "keep"
    assert kept["delta_bpb"] == pytest.approx(-0.0693)
    assert kept["changes"] == {"batch.tokens_per_step": 96}
    assert kept["tokens_per_s"] == pytest.approx(701 * 128 / 300)
    assert records[5]["val_bpb"] is None


def test_log_n_shows_the_whole_experiment(slept: Made, capsys: pytest.CaptureFixture[str]) -> None:
    text = ar(capsys, "log", "6")
    for expected in ("#6 Muon can go faster here", "keep: because", "#0: 700 steps", "optim.matrix_lr 0.04 → 0.06",
                     "+matrix_lr = 0.06", "+++ b/backends/gpt/recipe.toml", "2.1874, −0.0261 against", "701 steps",
                     "3.40M parameters", "dev bpb"):
        assert expected in text, expected
    bars = next(line for line in text.splitlines() if line.startswith("train loss"))
    assert "█" in bars
    assert "5.000 to 1.348 nats per token" in bars


def test_fresh_seeds_are_those_it_was_judged_on(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.baseline(2.4, 2.41)
    n = made.idea("keep", 2.34)
    made.trial(n, 2.35, 11, "repeat")  # for a later one, that it was the incumbent of
    assert "against its incumbent on the same seed" in ar(capsys, "log", str(n))
    [old] = made.study.ledger.pairs(n)
    made.study.ledger.pair(n, made.trial(n, 2.35, 12, "repeat"), old.incumbent_trial, -0.05)
    assert "on 1 fresh seed" in ar(capsys, "log", str(n))


def test_log_n_of_a_failure_ends_with_its_log(slept: Made, capsys: pytest.CaptureFixture[str]) -> None:
    text = ar(capsys, "log", "5")
    assert "crash: out of memory: tried to allocate 3.1 GiB" in text
    assert text.rstrip().endswith("| RuntimeError: out of memory")
    assert "| Traceback" not in ar(capsys, "log", "6")


def test_log_n_as_json_has_diff_and_curve(slept: Made, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = ar(capsys, "log", "6", "--json").splitlines()
    record = json.loads(line)
    assert "+matrix_lr = 0.06" in record["diff"]
    assert len(record["curve"]) == 71


def test_a_number_that_is_not_there_is_a_sentence(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.baseline(2.4, 2.41)
    assert run(shell.command, ["log", "77"], "ar") == 1
    assert "there is no experiment 77" in capsys.readouterr().err
    assert run(shell.command, ["log", "x"], "ar") == 2


@pytest.mark.parametrize("verb", ["status", "log", "sample", "report"])
def test_an_unknown_study_is_a_sentence(verb: str, made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shell.command, [verb, "--tag", "nope"], "ar") == 1
    assert "there is no study 'nope'" in capsys.readouterr().err


def test_colour_is_for_terminals_and_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert click.unstyle(style.style("x", "red")) == "x" != style.style("x", "red")
    monkeypatch.setenv("NO_COLOR", "1")
    assert style.style("x", "red") == "x"


def test_sample_before_the_baseline_is_a_sentence(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shell.command, ["sample"], "ar") == 1
    assert "no trained model yet" in capsys.readouterr().err


def test_weights_that_are_gone_are_a_sentence_with_a_remedy(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.baseline(2.4, 2.41)
    made.idea("discard", 2.41)
    assert run(shell.command, ["sample"], "ar") == 1
    error = capsys.readouterr().err
    assert "the weights of experiment 0 are gone" in error
    assert "ar train" in error
    assert run(shell.command, ["sample", "1"], "ar") == 1
    assert "not kept are deleted" in capsys.readouterr().err


def test_champion_baseline_and_numbers_name_weights_of_the_screening_seed_and_so_compare(made: Made) -> None:
    made.baseline(2.4, 2.41, 2.42)
    n = made.idea("keep", 2.3)
    made.idea("discard", 2.5)
    for e in made.study.ledger.experiments()[:2]:
        for trial in e.screens():
            weights = models.weights_path(made.study, trial)
            weights.parent.mkdir(parents=True)
            save_file({"w": np.full(4, trial.id, np.float32)}, weights)
            checkpoint.stamp(weights, checkpoint.record(
                {}, backend="cpu", precision="float32", device="a test", recipe=e.recipe, vocab=257,
                tokenizer_digest="t", data_name="letters", data_digest="d", seed=trial.seed, budget_s=300.0, steps=701,
                tokens=701 * 128, train_s=300.0))
    first, kept = ([t.id for t in made.study.ledger.experiment(m).screens()] for m in (BASELINE, n))
    for name, trial_id, label in (("champion", kept[0], f"experiment {n} of mar8"), (f"#{n}", kept[0], ""),
                                  ("baseline", first[0], "the baseline of mar8"), ("0", first[0], "")):
        found = models.find(name)
        assert (found.trial_id, found.study, found.is_ours) == (trial_id, "mar8", True), name
        assert load_file(found.weights)["w"][0] == trial_id and found.label.startswith(label)
        assert found.about.seed == 1, name
    models.find("baseline").weights.unlink()
    assert models.find("baseline").trial_id == first[-1], "the newest that is there, where that one is gone"
    with pytest.raises(UserError, match="those of ideas that were not kept are deleted"):
        models.find("2")


def test_report_prints_where_the_page_is(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.baseline(2.4, 2.41)
    path = Path(ar(capsys, "report", "--no-samples").strip())
    assert path == made.study.report / "report.html"
    assert (path.parent / "progress.png").is_file()


# Drawing tokens


def test_temperature_zero_takes_the_likeliest() -> None:
    rng = np.random.default_rng(0)
    assert {sample.pick(np.array([0.0, 3.0, 2.9]), 0.0, 0, rng) for _ in range(20)} == {1}


def test_top_k_draws_among_the_likeliest_only() -> None:
    rng = np.random.default_rng(0)
    assert {sample.pick(np.array([0.0, 3.0, 2.9, 2.8]), 5.0, 2, rng) for _ in range(200)} == {1, 2}


def test_draws_follow_the_softmax_at_that_temperature() -> None:
    rng = np.random.default_rng(0)
    draws = [sample.pick(np.array([0.0, np.log(3.0)]), 0.5, 0, rng) for _ in range(4000)]
    assert np.mean(draws) == pytest.approx(9 / 10, abs=0.02)  # odds 3 squared to 1


class Counting:
    """A stand-in for a server: the likeliest token is the one after the last of the row it was given."""

    def __init__(self, length: int, vocab: int):
        self.length, self.vocab, self.rows = length, vocab, list[np.ndarray]()

    def ask(self, tokens_BT: np.ndarray) -> np.ndarray:
        self.rows.append(tokens_BT[0].copy())
        logits_BTV = np.zeros((1, self.length, self.vocab), np.float32)
        for t, token in enumerate(tokens_BT[0]):
            logits_BTV[0, t, (token + 1) % (self.vocab - 1)] = 9.0
        return logits_BTV


def test_the_window_begins_with_bos_and_slides() -> None:
    from autoresearch.data.tokenizer import byte_tokenizer

    tokenizer = byte_tokenizer()
    server = Counting(4, tokenizer.vocab)
    drawn = sample._draw(server, tokenizer, [tokenizer.bos, 65], sample.Options(5, temperature=0.0))  # type: ignore[arg-type]
    assert b"".join(drawn) == b"BCDEF"
    assert [[int(x) for x in row] for row in server.rows] == [
        [256, 65, 256, 256], [256, 65, 66, 256], [256, 65, 66, 67], [256, 66, 67, 68], [256, 67, 68, 69]]


# A model trained for real


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Study, Prepared]]:
    """A study whose baseline is a tiny model that learned the alphabet, by mlx: its processes start at once."""
    root = tmp_path_factory.mktemp("trained")
    text = root / "letters.txt"
    text.write_text("abcdefghijklmnopqrstuvwxyz – über\n" * 3000, encoding="utf-8")
    prepared = prepare.prepare(corpus.text([text], None), "letters", ("byte",)).prepared
    code = {p.name: p.read_bytes() for p in (ROOT / CANDIDATE).glob("*.py")}
    made = Made.create(repository(root / "clone", code), backend="mlx",
                       data_root=str(prepared.root), data_digest=prepared.digest)
    made.baseline(2.4)
    study = made.study
    trial = study.ledger.experiment(0).trials[0]
    runner = Runner(prepared, "mlx", root / "compiled")
    candidate = code | {"recipe.toml": START.encode()}
    outcome = runner.train(candidate, parse(START), 1, study.trials / str(trial.id), None, steps=120)
    assert outcome.status == "ok", outcome.reason + outcome.log_tail
    yield study, prepared
    study.close()


def test_the_champion_goes_on_from_a_prompt(trained: tuple[Study, Prepared]) -> None:
    champion = models.of_experiment(trained[0])
    text, hot, other = (
        b"".join(sample.generate(champion, b"abcdefgh", sample.Options(40, heat, seed=seed)))
        for heat, seed in ((0.8, 1), (3.0, 1), (3.0, 2)))
    assert len(text) == 40  # a byte a token
    assert text.startswith(b"i"), "120 steps are enough to know what follows h"
    assert hot != other


def test_leaving_early_leaves_nothing_behind(
        trained: tuple[Study, Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pieces = sample.generate(models.of_experiment(trained[0], 0), b"abc", sample.Options(10_000))
    next(pieces)
    assert list(tmp_path.iterdir())
    pieces.close()
    assert list(tmp_path.iterdir()) == []


def test_ar_sample_writes_the_prompt_and_the_rest_as_utf8(
    trained: tuple[Study, Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _ = trained
    command = [sys.executable, "-m", "autoresearch", "sample", "--tokens", "30", "--prompt", "xyz – ü"]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = subprocess.run(command, cwd=study.clone, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode("utf-8")
    assert text.startswith("xyz – ü")
    assert text.endswith("\n")
    assert b"the baseline of mar8" in done.stderr


def test_the_default_prompt_is_whole_lines_of_dev_by_the_seed(trained: tuple[Study, Prepared]) -> None:
    _, prepared = trained
    prompt = sample.default_prompt(prepared, 3)
    assert prompt == sample.default_prompt(prepared, 3)
    at = prepared.text("dev").find(prompt)
    assert at == 0 or prepared.text("dev")[at - 1:at] == b"\n"
    assert len(prompt) >= sample.PROMPT_BYTES[0]


def test_the_report_has_a_sample_of_the_model(trained: tuple[Study, Prepared], monkeypatch: pytest.MonkeyPatch) -> None:
    from autoresearch.report import samples, write_report

    study, prepared = trained
    monkeypatch.setattr(samples, "TOKENS", 20)
    page = write_report(study, prepared).read_text(encoding="utf-8")
    assert "<h3>The baseline</h3><pre>" in page
    assert [s.n for s in samples.stored(study)] == [0] and samples.stored(study)[0].text
    assert prepared.manifest.corpus.sha256 in page


def test_a_model_that_fails_is_a_sentence(trained: tuple[Study, Prepared]) -> None:
    model = models.of_experiment(trained[0], 0)
    broken = replace(model.about, code=model.about.code | {"mlx_model.py": "raise RuntimeError('not today')"})
    with pytest.raises(UserError, match="the model of the baseline of mar8 can't be run"):
        list(sample.generate(replace(model, about=broken), b"abc"))


def test_text_that_is_not_prepared_any_more_is_a_sentence(made: Made) -> None:
    with pytest.raises(UserError, match="is not in the cache any more"):
        made.study.text()


def test_what_a_stop_left_is_not_called_under_way_where_nothing_runs(made: Made,
                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    made.baseline(2.4, 2.41)
    ledger, head = made.study.ledger, made.study.workspace.head()
    ledger.propose(parent=head, researcher="playbook", hypothesis="Deeper", evidence="", changes={}, recipe={})
    said = ar(capsys, "log")
    assert "undecided" in said and "`ar loop --tag mar8` goes on with it" in said and "under way" not in said
    assert "goes on with it" in ar(capsys, "log", "1")
    with made.study.lock():
        assert "under way" in ar(capsys, "log") and "undecided" not in ar(capsys, "log")
    assert "2.4000 on seed 1; 2 seeds have a mean of 2.4050" in ar(capsys, "status")


def test_replay_says_where_there_is_nothing_to_replay(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.baseline(2.4, 2.41)
    assert run(shell.command, ["replay"], "ar") == 0
    said = capsys.readouterr()
    assert said.out == "" and "study mar8 has kept no change yet" in said.err
