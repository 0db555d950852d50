"""The ledger: what goes in comes out, all or nothing, and a file that can't be read says so."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoresearch.errors import UserError
from autoresearch.records import BASELINE, REFERENCE, Point, Score
from autoresearch.research.ledger import Ledger
from autoresearch.research.ledger_file import SCHEMA_VERSION

RECIPE: dict[str, Any] = {"model.depth": 4, "optim.matrix_lr": 0.04, "runtime.compile": True, "data.tokenizer": "byte"}
VAL = Score("val", nats=1000.5, tokens=400, bytes=900, chars=890, rows=7)


@pytest.fixture
def ledger(tmp_path: Path):
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


def propose(ledger: Ledger, n: int | None = None, **changes: Any) -> int:
    return ledger.propose(n=n, parent="p" * 40, researcher="playbook", hypothesis="deeper is better",
                          evidence="loss fell to the end", changes={"model.depth": 5}, recipe=RECIPE | changes)


def keep(ledger: Ledger, n: int, sha: str) -> None:
    ledger.commit(n, sha)
    ledger.decide(n, "keep", "better")
    ledger.finish(n)


def test_an_experiment_comes_back_as_it_went_in(ledger: Ledger):
    n = propose(ledger)
    ledger.commit(n, "a" * 40)
    trial = ledger.start_trial(n, 1, "screen", 30.0, {"device": "cpu", "threads": 2})
    curve = (Point(1, 0.5, 7.6), Point(2, 1.0, 6.5, 2.1))
    ledger.end_trial(trial, "ok", scores=[VAL], curve=curve, steps=2, tokens=512, train_s=30.1, total_s=41.0,
                     params=1000, peak_memory_bytes=2**30, utilisation=0.4, log_tail="fine\n", weights="trials/1/w",
                     facts={"warm_up_s": 2.0})
    ledger.decide(n, "discard", "no better")
    e = ledger.experiment(n)
    assert (e.n, e.parent, e.sha, e.state) == (1, "p" * 40, "a" * 40, "decided")
    assert (e.verdict, e.reason) == ("discard", "no better")
    assert (e.hypothesis, e.evidence, e.changes, e.recipe) == (
        "deeper is better", "loss fell to the end", {"model.depth": 5}, RECIPE)
    [t] = e.trials
    assert t.scores == (VAL,) and t.curve == curve and t.facts == {"device": "cpu", "threads": 2, "warm_up_s": 2.0}
    assert (t.steps, t.tokens, t.train_s, t.total_s, t.params) == (2, 512, 30.1, 41.0, 1000)
    assert (t.peak_memory_bytes, t.utilisation, t.log_tail, t.weights) == (2**30, 0.4, "fine\n", "trials/1/w")
    assert e.bpb() == pytest.approx(1000.5 / math.log(2) / 900)


def test_numpy_numbers_are_stored_as_numbers(ledger: Ledger):
    n = propose(ledger, **{"model.depth": np.int64(6)})
    trial = ledger.start_trial(n, 1, "screen", None, {"ceiling": np.float32(2.5)})
    ledger.end_trial(trial, "ok", steps=np.int64(3), utilisation=np.float32(0.5),
                     curve=[Point(1, 1.0, np.float32(0.25))],
                     scores=[Score("val", np.float64(2.0), np.int64(1), np.int64(1), np.int64(1), np.int64(1))])
    e = ledger.experiment(n)
    t = e.trials[0]
    assert (e.recipe["model.depth"], t.steps, t.utilisation, t.facts) == (6, 3, 0.5, {"ceiling": 2.5})
    assert t.curve[0].train_nats == 0.25 and t.scores[0].tokens == 1


def test_numbers_count_from_one_whatever_the_fixed_ones_are(ledger: Ledger):
    propose(ledger, REFERENCE)
    assert propose(ledger) == 1
    propose(ledger, BASELINE)
    assert propose(ledger) == 2
    assert [e.n for e in ledger.experiments()] == [-1, 0, 1, 2]


def test_a_bare_proposal_may_be_made_again_and_one_with_a_trial_may_not(ledger: Ledger):
    propose(ledger, BASELINE)
    propose(ledger, BASELINE, **{"model.depth": 2})
    assert ledger.experiment(BASELINE).recipe["model.depth"] == 2
    ledger.commit(BASELINE, "a" * 40)
    with pytest.raises(ValueError, match="can't be proposed again"):
        propose(ledger, BASELINE)


def test_steps_of_the_journal_may_be_repeated_and_never_contradicted(ledger: Ledger):
    n = propose(ledger)
    with pytest.raises(ValueError, match="no commit"):
        ledger.decide(n, "keep", "")
    with pytest.raises(ValueError, match="decide it"):
        ledger.finish(n)
    for _ in range(2):
        ledger.commit(n, "a" * 40)
    for _ in range(2):
        ledger.decide(n, "keep", "better")
    for _ in range(2):
        ledger.finish(n)
    with pytest.raises(ValueError, match="can't become"):
        ledger.decide(n, "discard", "")
    with pytest.raises(ValueError, match="done"):
        ledger.commit(n, "b" * 40)
    with pytest.raises(ValueError, match="no experiment 9"):
        ledger.decide(9, "discard", "")
    with pytest.raises(ValueError, match="must be one of keep"):
        ledger.decide(propose(ledger), "splendid", "")


def test_a_commit_with_trials_is_not_replaced(ledger: Ledger):
    n = propose(ledger)
    ledger.commit(n, "a" * 40)
    ledger.commit(n, "b" * 40)
    crashed = ledger.start_trial(n, 1, "screen", 30.0, {})
    with pytest.raises(ValueError, match="has trials"):
        ledger.commit(n, "c" * 40)
    ledger.end_trial(crashed, "crash")
    ledger.commit(n, "c" * 40, RECIPE | {"batch.micro_rows": 4})
    assert ledger.experiment(n).recipe["batch.micro_rows"] == 4
    ledger.end_trial(ledger.start_trial(n, 1, "screen", 30.0, {}), "ok", scores=[VAL])
    with pytest.raises(ValueError, match="has trials"):
        ledger.commit(n, "d" * 40)
    assert ledger.experiment(n).sha == "c" * 40


def test_what_was_read_once_is_what_stands_there_now(ledger: Ledger):
    """Whoever changed it: this object, or another process."""
    n = propose(ledger)
    ledger.commit(n, "a" * 40)
    trial = ledger.start_trial(n, 1, "screen", 30.0, {})
    with Ledger.open(ledger.file.path) as other:
        def agree() -> list[object]:
            fresh = Ledger.open(ledger.file.path, readonly=True)
            with fresh:
                assert ledger.experiments() == other.experiments() == fresh.experiments()
                assert ledger.incumbent() == other.incumbent() == fresh.incumbent()
            return [(e.state, e.verdict, [t.status for t in e.trials]) for e in ledger.experiments()]

        assert agree() == [("committed", "", ["running"])]
        ledger.end_trial(trial, "ok", scores=[VAL], curve=[Point(1, 0.5, 7.6)])
        assert agree() == [("committed", "", ["ok"])]
        other.replace_score(trial, Score("val", 2000.0, 800, 1800, 1780, 14))
        other.decide(n, "keep", "")
        assert agree() == [("decided", "keep", ["ok"])] and ledger.experiment(n).trials[0].scores[0].rows == 14
        second = propose(other)
        other.start_trial(second, 1, "screen", 30.0, {})
        ledger.finish(n)
        assert agree()[1] == ("proposed", "", ["running"])
        ledger.abandon_running()
        assert agree() == [("done", "keep", ["ok"]), ("proposed", "", ["interrupted"])]


def test_ending_a_trial_is_all_or_nothing(ledger: Ledger):
    trial = ledger.start_trial(propose(ledger), 1, "screen", 30.0, {})
    with pytest.raises(ValueError, match="finite"):
        ledger.end_trial(trial, "ok", steps=9, scores=[VAL, Score("confirm", math.nan, 1, 1, 1, 1)])
    t = ledger.experiment(1).trials[0]
    assert (t.status, t.steps, t.scores) == ("running", 0, ())
    with pytest.raises(ValueError, match="already has a score on val"):
        ledger.end_trial(trial, "ok", scores=[VAL, VAL])
    ledger.end_trial(trial, "ok", scores=[VAL])
    with pytest.raises(ValueError, match="only a running trial"):
        ledger.end_trial(trial, "ok", scores=[VAL])
    with pytest.raises(TypeError, match="stepz"):
        ledger.end_trial(trial, "ok", stepz=1)


def test_a_diverged_curve_and_half_a_surrogate_pair_are_kept(ledger: Ledger):
    trial = ledger.start_trial(propose(ledger), 1, "screen", 30.0, {})
    ledger.end_trial(trial, "crash", "loss is NaN \udc80", curve=[Point(1, 0.1, math.nan)], log_tail="\ud800 boom")
    t = ledger.experiment(1).trials[0]
    assert math.isnan(t.curve[0].train_nats or 0) and t.log_tail == "? boom" and t.reason == "loss is NaN ?"


def test_the_incumbent_is_what_was_kept_last_not_the_highest_number(ledger: Ledger):
    assert ledger.incumbent() is None
    propose(ledger, BASELINE)
    ledger.commit(BASELINE, "0" * 40)
    assert ledger.incumbent() is None
    keep(ledger, BASELINE, "0" * 40)
    one, two = propose(ledger), propose(ledger)
    keep(ledger, two, "2" * 40)
    keep(ledger, one, "1" * 40)
    three = propose(ledger)
    ledger.decide(three, "discard", "")
    incumbent = ledger.incumbent()
    assert incumbent is not None and incumbent.n == one


def test_the_reference_never_becomes_the_incumbent(ledger: Ledger):
    propose(ledger, REFERENCE)
    ledger.commit(REFERENCE, "f" * 40)
    ledger.finish(REFERENCE)
    assert ledger.incumbent() is None and ledger.experiment(REFERENCE).state == "done"


def test_pairs_and_reads_are_counted(ledger: Ledger):
    n = propose(ledger)
    first, second = (ledger.start_trial(n, seed, "screen", 30.0, {}) for seed in (1, 2))
    ledger.pair(n, second, first, -0.01)
    ledger.pair(n, second, first, -0.02)
    assert [(p.trial, p.incumbent_trial, p.delta_bpb) for p in ledger.pairs(n)] == [(second, first, -0.02)]
    ledger.read("confirm", first)
    ledger.read("confirm", first)
    ledger.read("holdout", second)
    assert (ledger.reads("confirm"), ledger.reads("holdout"), ledger.reads("val")) == (2, 1, 0)
    assert ledger.reads("confirm", besides="verify") == 2


def test_a_second_look_through_the_weights_of_a_verification_is_not_the_verifications(ledger: Ledger):
    n = propose(ledger)
    verified = [ledger.start_trial(n, seed, "verify", 30.0, {}) for seed in (1001, 1002)]
    for trial in verified:
        ledger.read("holdout", trial)
    assert ledger.reads("holdout", besides="verify") == 0
    ledger.read("holdout", verified[0])
    assert ledger.reads("holdout", besides="verify") == 1


def test_an_entry_of_the_queue_is_taken_with_its_commit_or_not_at_all(ledger: Ledger):
    entry, n = ledger.queue.add("deeper", {"model.depth": 6}), propose(ledger)
    with pytest.raises(ValueError, match="no experiment 99"):
        ledger.commit(99, "f" * 40, queued=entry)
    assert [q.id for q in ledger.queue.waiting()] == [entry], "what is not committed still waits"
    ledger.commit(n, "f" * 40, queued=entry)
    assert ledger.queue.waiting() == []


def test_facts_are_json_values(ledger: Ledger):
    ledger.set_fact("spread_bpb", 0.01)
    ledger.set_fact("spread_bpb", 0.02)
    ledger.set_fact("device", {"name": "a CPU", "cores": 2})
    assert ledger.fact("spread_bpb") == 0.02 and ledger.fact("none", 7) == 7
    assert ledger.facts() == {"spread_bpb": 0.02, "device": {"name": "a CPU", "cores": 2}}


def test_only_running_trials_are_abandoned(ledger: Ledger):
    n = propose(ledger)
    done, dead = (ledger.start_trial(n, seed, "screen", 30.0, {}) for seed in (1, 2))
    ledger.end_trial(done, "ok", scores=[VAL])
    assert (ledger.abandon_running(), ledger.abandon_running()) == (1, 0)
    by_id = {t.id: t for t in ledger.experiment(n).trials}
    assert by_id[done].status == "ok" and by_id[dead].status == "interrupted" and "ended" in by_id[dead].reason


def test_another_process_reads_while_this_one_writes(ledger: Ledger):
    propose(ledger)
    code = "import sys; from autoresearch.research.ledger import Ledger\n" \
           "with Ledger.open(sys.argv[1], readonly=True) as ledger: print(len(ledger.experiments()))"
    with ledger.file.transaction() as db:
        db.execute("UPDATE experiments SET reason = 'not committed yet'")
        out = subprocess.run([sys.executable, "-c", code, str(ledger.file.path)], capture_output=True, text=True,
                             check=True, cwd=Path(__file__).parents[2])
    assert out.stdout.strip() == "1"


def test_a_reader_can_not_write(ledger: Ledger):
    with Ledger.open(ledger.file.path, readonly=True) as reader, pytest.raises(UserError, match="can't be written"):
        reader.set_fact("a", 1)


def test_thousands_of_experiments_take_as_many_queries_as_one(ledger: Ledger):
    count = 2000
    with ledger.file.transaction() as db:
        for n in range(1, count + 1):
            db.execute("INSERT INTO experiments VALUES "
                       "(?, 'p', 's', 'r', 'h', 'e', '{}', '{}', 'done', 'discard', '', '', ?)", (n, n))
            db.execute("INSERT INTO trials (id, experiment, seed, purpose, status, started) VALUES (?, ?, 1, 'screen', "
                       "'ok', '')", (n, n))
            db.execute("INSERT INTO scores VALUES (?, 'val', 1.0, 1, 1, 1, 1)", (n,))
    statements: list[str] = []
    with ledger.file.transaction() as db:
        db.set_trace_callback(statements.append)
    experiments = ledger.experiments()
    assert sum("SELECT" in s for s in statements) == 3
    assert len(experiments) == count and all(e.trials[0].scores for e in experiments)


def test_it_is_durable_by_its_settings(ledger: Ledger):
    settings = {p: ledger.file.rows(f"PRAGMA {p}")[0][0]
                for p in ("journal_mode", "synchronous", "foreign_keys", "fullfsync", "checkpoint_fullfsync")}
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "fullfsync": 1,
                        "checkpoint_fullfsync": 1}


def test_rows_that_name_nothing_are_refused(ledger: Ledger):
    with pytest.raises(ValueError, match="FOREIGN KEY"):
        ledger.read("confirm", 99)
    with pytest.raises(UserError, match="no experiment 5"):
        ledger.experiment(5)


def test_a_newer_ledger_is_left_alone(tmp_path: Path):
    path = tmp_path / "ledger.sqlite"
    Ledger.open(path).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(UserError) as e:
        Ledger.open(path)
    assert str(path) in e.value.message and "git pull" in e.value.hint


@pytest.mark.parametrize("readonly", [True, False])
def test_a_damaged_ledger_names_the_file_and_a_way_out(tmp_path: Path, readonly: bool):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database, " * 500)
    with pytest.raises(UserError) as e:
        Ledger.open(path, readonly)
    assert str(path) in e.value.message and "damaged" in e.value.message and ".recover" in e.value.hint


def test_damage_in_the_middle_is_found_on_opening(tmp_path: Path):
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        for _ in range(100):
            propose(ledger)
    content = bytearray(path.read_bytes())
    content[4096 * 2:4096 * 6] = b"\xff" * 4096 * 4
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        Ledger.open(path)


@pytest.mark.parametrize("readonly", [True, False])
def test_some_other_database_is_not_taken_over(tmp_path: Path, readonly: bool):
    path = tmp_path / "ledger.sqlite"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE photos (name)")
    db.commit()
    db.close()
    with pytest.raises(UserError, match="not a ledger"):
        Ledger.open(path, readonly)
    assert sqlite3.connect(path).execute("SELECT name FROM sqlite_master").fetchall() == [("photos",)]


def test_a_missing_ledger_or_a_folder_in_its_place_is_explained(tmp_path: Path):
    with pytest.raises(UserError, match="there is no ledger"):
        Ledger.open(tmp_path / "ledger.sqlite", readonly=True)
    with pytest.raises(UserError, match="can't"):
        Ledger.open(tmp_path)


def test_a_ledger_of_the_first_version_is_read_as_it_is_and_brought_up_to_date_when_it_is_written(tmp_path: Path):
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.set_fact("created", "long ago")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in ("DROP TABLE spending", "DROP TABLE queue", "PRAGMA user_version = 1"):
            db.execute(statement)
    with Ledger.open(path, readonly=True) as ledger:
        assert ledger.fact("created") == "long ago"
        assert ledger.account.entries() == [] and ledger.queue.waiting() == []
    with Ledger.open(path) as ledger:
        assert ledger.queue.add("deeper", {"model.depth": 6}) == 1
    with Ledger.open(path, readonly=True) as ledger:
        assert [q.hypothesis for q in ledger.queue.waiting()] == ["deeper"] and ledger.fact("created") == "long ago"
