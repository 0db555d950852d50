"""The ledger: everything a study knows, in one SQLite file that survives a kill at any moment.

    study         facts about the study as JSON values
    experiments   one row for each candidate, with its journalled state
    trials        one row for each training run
    scores        sums over the rows of one split, for one trial
    pairs         a trial against the incumbent's trial of the same seed
    reads         every look at confirm and holdout
    spending      what proposing has cost (account.py)
    queue         what a person wants tried next (queue.py)

What a method returned from is on disk. The file beneath is ledger_file.py's.
"""

from __future__ import annotations

import json
import math
import numbers
import os
import sqlite3
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from autoresearch.errors import UserError
from autoresearch.records import BASELINE, VERDICTS, Curve, Experiment, Pair, Point, Score, Trial
from autoresearch.research.account import Account
from autoresearch.research.ledger_file import LedgerFile
from autoresearch.research.queue import Queue, became


def unicode(text: str) -> str:
    """As UTF-8 can hold it: a candidate's output may carry half a surrogate pair, a command line any bytes."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


_TRIAL_COLUMNS = ("id, experiment, seed, purpose, status, budget_s, started, reason, steps, tokens, train_s, total_s, "
                  "params, peak_memory_bytes, utilisation, curve, log_tail, weights, facts")
_EXPERIMENT_COLUMNS = ("n, parent, sha, researcher, hypothesis, evidence, changes, recipe, state, verdict, reason, "
                       "created")
# What `end_trial` takes, with the type it is stored as: SQLite would store a NumPy integer as a blob.
_MEASURED: dict[str, Callable[[Any], Any]] = {
    "steps": int, "tokens": int, "train_s": float, "total_s": float, "params": int, "peak_memory_bytes": int,
    "utilisation": float, "log_tail": unicode, "weights": str}


class Ledger:
    """One study's record. Use it from one thread; other processes may read at the same time."""

    def __init__(self, file: LedgerFile):
        self.file = file
        self._known: dict[int, Experiment] = {}  # a study's thousands are read once, then those that changed
        self._changed: set[int] = set()
        self._version = -1  # of the file, as other processes write it

    @classmethod
    def open(cls, path: Path, readonly: bool = False) -> Ledger:
        """The ledger at `path`, created unless `readonly`. UserError for a file that can't be one."""
        return cls(LedgerFile.open(path, readonly))

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # Facts about the study

    def set_fact(self, key: str, value: Any) -> None:
        with self.file.transaction() as db:
            db.execute("INSERT INTO study VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                       (key, _json(value)))

    def fact(self, key: str, default: Any = None) -> Any:
        found = self.file.rows("SELECT value FROM study WHERE key = ?", key)
        return json.loads(found[0][0]) if found else default

    def facts(self) -> dict[str, Any]:
        return {key: json.loads(value) for key, value in self.file.rows("SELECT key, value FROM study ORDER BY key")}

    # The journal of an experiment: proposed -> committed -> decided -> done. Repeating a step is harmless.

    def propose(self, *, n: int | None = None, parent: str, researcher: str, hypothesis: str, evidence: str,
                changes: dict[str, Any], recipe: dict[str, Any]) -> int:
        """Its number: `n`, else the next from 1. A proposal with no trials yet may be replaced by its number."""
        with self.file.transaction() as db:
            if n is None:
                n = db.execute("SELECT coalesce(max(n), 0) + 1 FROM experiments WHERE n > 0").fetchone()[0]
            elif taken := db.execute("SELECT state FROM experiments WHERE n = ?", (n,)).fetchone():
                trials = db.execute("SELECT count(*) FROM trials WHERE experiment = ?", (n,)).fetchone()[0]
                if taken[0] != "proposed" or trials:
                    raise ValueError(f"experiment {n} is {taken[0]}, with {trials} trials: it can't be proposed again")
                db.execute("DELETE FROM experiments WHERE n = ?", (n,))
            self._changed.add(int(n))
            db.execute(f"INSERT INTO experiments ({_EXPERIMENT_COLUMNS}) "
                       "VALUES (?, ?, '', ?, ?, ?, ?, ?, 'proposed', '', '', ?)",
                       (n, parent, researcher, unicode(hypothesis), unicode(evidence), _json(changes), _json(recipe),
                        _now()))
        assert n is not None
        return n

    def commit(self, n: int, sha: str, recipe: dict[str, Any] | None = None, queued: int | None = None) -> None:
        """The candidate of experiment `n` is the commit `sha`. While no trial runs or has succeeded another may take
        its place, with the `recipe` that it runs. `queued`: the entry of the queue that it came from."""
        with self.file.transaction() as db:
            state, old, _ = self._journal(db, n)
            if state in ("decided", "done") and old != sha:
                raise ValueError(f"experiment {n} is {state} with commit {old or 'none'}, not {sha}")
            if old != sha and db.execute("SELECT 1 FROM trials WHERE experiment = ? AND status IN ('running', 'ok')",
                                         (n,)).fetchone():
                raise ValueError(f"experiment {n} has trials of commit {old or 'none'}: it can't become {sha}")
            if state in ("proposed", "committed"):
                db.execute("UPDATE experiments SET sha = ?, state = 'committed' WHERE n = ?", (sha, n))
                if recipe is not None:
                    db.execute("UPDATE experiments SET recipe = ? WHERE n = ?", (_json(recipe), n))
            if queued is not None:
                became(db, queued, n)

    def decide(self, n: int, verdict: str, reason: str) -> None:
        """Acknowledges a verdict ("" only for the reference). It is final."""
        if verdict and verdict not in VERDICTS:
            raise ValueError(f"verdict {verdict!r}: must be one of {', '.join(VERDICTS)}")
        with self.file.transaction() as db:
            state, sha, old = self._journal(db, n)
            if verdict == "keep" and not sha:
                raise ValueError(f"experiment {n} has no commit: it can't be kept")
            if state in ("decided", "done"):
                if old != verdict:
                    raise ValueError(f"experiment {n} is {state} as {old!r}: it can't become {verdict!r}")
                return
            db.execute("UPDATE experiments SET state = 'decided', verdict = ?, reason = ?, "
                       "decided = (SELECT coalesce(max(decided), 0) + 1 FROM experiments) WHERE n = ?",
                       (verdict, unicode(reason), n))

    def finish(self, n: int) -> None:
        """What the verdict asks for has been done to the branch. A keep must have been decided first."""
        with self.file.transaction() as db:
            state, _, _ = self._journal(db, n)
            if state in ("proposed", "committed") and n >= BASELINE:
                raise ValueError(f"experiment {n} is {state}: decide it before finishing it")
            db.execute("UPDATE experiments SET state = 'done' WHERE n = ?", (n,))

    # Trials

    def start_trial(self, n: int, seed: int, purpose: str, budget_s: float | None, facts: dict[str, Any]) -> int:
        with self.file.transaction() as db:
            self._journal(db, n)
            budget = None if budget_s is None else float(budget_s)
            cursor = db.execute("INSERT INTO trials (experiment, seed, purpose, status, budget_s, started, facts) "
                                "VALUES (?, ?, ?, 'running', ?, ?, ?)",
                                (n, int(seed), purpose, budget, _now(), _json(facts)))
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def end_trial(self, trial_id: int, status: str, reason: str = "", *, scores: tuple[Score, ...] | list[Score] = (),
                  curve: tuple[Point, ...] | list[Point] = (), facts: dict[str, Any] | None = None,
                  **measured: Any) -> None:
        """Status, scores, curve and measurements (fields of Trial) of a running trial, all or nothing.
        `facts` are added to those it started with."""
        if unknown := measured.keys() - _MEASURED.keys():
            raise TypeError(f"end_trial: no measurement {', '.join(sorted(unknown))}; there are {', '.join(_MEASURED)}")
        if status != "ok" and status not in VERDICTS:
            raise ValueError(f"status {status!r}: must be ok or a verdict")
        values = {k: _MEASURED[k](v) for k, v in measured.items() if v is not None}
        values |= {"status": status, "reason": unicode(reason), "curve": _json([_point(p) for p in curve])}
        with self.file.transaction() as db:
            row = db.execute("SELECT status, facts, experiment FROM trials WHERE id = ?", (trial_id,)).fetchone()
            if row is None or row[0] != "running":
                raise ValueError(f"trial {trial_id} is {row[0] if row else 'unknown'}: only a running trial can end")
            self._changed.add(row[2])
            values["facts"] = _json(json.loads(row[1]) | (facts or {}))
            sets = ", ".join(f"{k} = ?" for k in values)
            db.execute(f"UPDATE trials SET {sets} WHERE id = ?", (*values.values(), trial_id))
            for score in scores:
                _insert_score(db, trial_id, score)

    def replace_score(self, trial_id: int, score: Score) -> None:
        """The same weights scored on more rows of the same split."""
        with self.file.transaction() as db:
            db.execute("DELETE FROM scores WHERE trial = ? AND split = ?", (trial_id, score.split))
            self._changed |= {n for n, in db.execute("SELECT experiment FROM trials WHERE id = ?", (trial_id,))}
            _insert_score(db, trial_id, score)

    def abandon_running(self) -> int:
        """How many trials a dead process had left running; they become interrupted. Hold the study's lock."""
        with self.file.transaction() as db:
            self._version = -1
            return db.execute("UPDATE trials SET status = 'interrupted', reason = ? WHERE status = 'running'",
                              ("the process running it ended before it did",)).rowcount

    # Pairs and reads

    def pair(self, n: int, trial_id: int, incumbent_trial_id: int, delta_bpb: float) -> None:
        """`delta_bpb` is the trial's val_bpb less the incumbent trial's. The same pair again replaces it."""
        with self.file.transaction() as db:
            db.execute("INSERT INTO pairs VALUES (?, ?, ?, ?) "
                       "ON CONFLICT (trial, incumbent_trial) DO UPDATE SET delta_bpb = excluded.delta_bpb",
                       (n, trial_id, incumbent_trial_id, _finite("delta_bpb", delta_bpb)))

    def pairs(self, n: int | None = None) -> list[Pair]:
        """Of experiment `n`, or all of them."""
        return [Pair(*row) for row in self.file.rows(
            "SELECT experiment, trial, incumbent_trial, delta_bpb FROM pairs WHERE ?1 IS NULL OR experiment = ?1 "
            "ORDER BY rowid", n)]

    def gains(self) -> dict[int, float]:
        """{experiment: its gain over its incumbent}, of all that have one."""
        found: dict[int, list[Pair]] = {}
        for pair in self.pairs():
            found.setdefault(pair.experiment, []).append(pair)
        return {e.n: gain for e in self.experiments() if (gain := e.gain_bpb(found.get(e.n, ()))) is not None}

    def read(self, split: str, trial_id: int) -> None:
        """Counts one look at a split. Record it before looking, so that a kill can't hide it."""
        with self.file.transaction() as db:
            db.execute("INSERT INTO reads VALUES (?, ?, ?)", (split, trial_id, _now()))

    def reads(self, split: str, besides: str = "") -> int:
        """How many looks there were, but for the one that each trial of the purpose `besides` was made with: its
        weights may have been looked at again since."""
        looks = self.file.rows("SELECT reads.trial, purpose FROM reads JOIN trials ON trials.id = reads.trial "
                               "WHERE split = ?", split)
        return len(looks) - len({trial for trial, purpose in looks if purpose == besides})

    @property
    def account(self) -> Account:
        """What proposing has cost."""
        return Account(self.file)

    @property
    def queue(self) -> Queue:
        """What a person wants tried next."""
        return Queue(self.file)

    # Experiments

    def experiments(self) -> list[Experiment]:
        """All of them by number, trials and scores attached."""
        self._read_what_changed()
        return [self._known[n] for n in sorted(self._known)]

    def experiment(self, n: int) -> Experiment:
        self._read_what_changed()
        if n not in self._known:
            raise UserError(f"there is no experiment {n} in this study", "List the experiments with: ar log")
        return self._known[n]

    def incumbent(self) -> Experiment | None:
        """The experiment kept last; the baseline too counts as kept."""
        found = self.file.rows("SELECT n FROM experiments WHERE n >= 0 AND state IN ('decided', 'done') "
                               "AND verdict = 'keep' ORDER BY decided DESC LIMIT 1")
        return self.experiment(found[0][0]) if found else None

    def _read_what_changed(self) -> None:
        version = self.file.rows("PRAGMA data_version")[0][0]
        if version != self._version:
            self._known = {e.n: e for e in self._experiments("1")}
        elif self._changed:
            marks = ", ".join("?" * len(self._changed))
            self._known |= {e.n: e for e in self._experiments(f"n IN ({marks})", *self._changed)}
        self._version, self._changed = version, set()

    def _experiments(self, where: str, *args: Any) -> list[Experiment]:
        with self.file.snapshot() as db:
            rows = db.execute(f"SELECT {_EXPERIMENT_COLUMNS} FROM experiments WHERE {where} ORDER BY n", args)
            experiments = rows.fetchall()
            trials = _trials(db, where, args)
        found = []
        for row in experiments:
            fields = dict(zip(_names(_EXPERIMENT_COLUMNS), row, strict=True))
            fields |= {k: _object(fields[k]) for k in ("changes", "recipe")}
            found.append(Experiment(**fields, trials=tuple(trials.get(fields["n"], ()))))
        return found

    def _journal(self, db: sqlite3.Connection, n: int) -> tuple[str, str, str]:
        """State, commit and verdict of an experiment that is about to change."""
        self._changed.add(n)
        row = db.execute("SELECT state, sha, verdict FROM experiments WHERE n = ?", (n,)).fetchone()
        if row is None:
            raise ValueError(f"there is no experiment {n}")
        return row[0], row[1], row[2]


def _trials(db: sqlite3.Connection, where: str, args: tuple[Any, ...]) -> dict[int, list[Trial]]:
    """{experiment number: its trials in order} for the experiments that `where` picks."""
    inside = f"experiment IN (SELECT n FROM experiments WHERE {where})"
    scores: dict[int, list[Score]] = {}
    for trial_id, *sums in db.execute(
            "SELECT trial, split, nats, tokens, bytes, chars, rows FROM scores "
            f"WHERE trial IN (SELECT id FROM trials WHERE {inside}) ORDER BY rowid", args):
        scores.setdefault(trial_id, []).append(Score(*sums))
    trials: dict[int, list[Trial]] = {}
    for row in db.execute(f"SELECT {_TRIAL_COLUMNS} FROM trials WHERE {inside} ORDER BY id", args):
        fields = dict(zip(_names(_TRIAL_COLUMNS), row, strict=True))
        fields |= {"facts": _object(fields["facts"]), "curve": Curve(fields["curve"])}
        trials.setdefault(fields["experiment"], []).append(
            Trial(**fields, scores=tuple(scores.get(fields["id"], ()))))
    return trials


def _insert_score(db: sqlite3.Connection, trial_id: int, score: Score) -> None:
    if db.execute("SELECT 1 FROM scores WHERE trial = ? AND split = ?", (trial_id, score.split)).fetchone():
        raise ValueError(f"trial {trial_id} already has a score on {score.split}")
    db.execute("INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?, ?)",
               (trial_id, score.split, _finite("nats", score.nats), int(score.tokens), int(score.bytes),
                int(score.chars), int(score.rows)))


def _names(columns: str) -> list[str]:
    return columns.replace(" ", "").split(",")


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{name} = {value}: must be finite")
    return float(value)


def _point(p: Point) -> list[Any]:
    return [p.step, p.elapsed_s, p.train_nats, p.dev_bpb]


def _object(text: str) -> Any:
    """A JSON object. Its keys are those of thousands of others, and held once."""
    return json.loads(text, object_pairs_hook=lambda pairs: {sys.intern(key): value for key, value in pairs})


def _json(value: Any) -> str:
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """What JSON lacks, as what it has: NumPy scalars, paths."""
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} can't be kept in the ledger: {value!r}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
