"""The ledger's SQLite file: its tables, its versions, its transactions, and in words what can go wrong with it.

What a transaction returned from is on disk: WAL with synchronous=FULL, and fullfsync where macOS needs it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoresearch.errors import UserError

SCHEMA_VERSION = 2
BUSY_TIMEOUT_S = 30

# The experiment is the one that comes next: it is not proposed yet when money is spent on proposing it.
_SPENDING = """CREATE TABLE spending (
    id INTEGER PRIMARY KEY AUTOINCREMENT, experiment INTEGER NOT NULL, at TEXT NOT NULL,
    researcher TEXT NOT NULL, model TEXT NOT NULL, status TEXT NOT NULL, request_id TEXT NOT NULL,
    attempt INTEGER NOT NULL, latency_s REAL NOT NULL, waited_s REAL NOT NULL, input_tokens INTEGER,
    output_tokens INTEGER, cache_write_5m_tokens INTEGER, cache_write_1h_tokens INTEGER, cache_read_tokens INTEGER,
    usd REAL, priced TEXT NOT NULL)"""
# `experiment` is what became of an entry; NULL while it waits. What was taken stays: a patch is a person's work.
_QUEUE = """CREATE TABLE queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hypothesis TEXT NOT NULL, changes TEXT NOT NULL, patch TEXT NOT NULL,
    added TEXT NOT NULL, experiment INTEGER REFERENCES experiments (n))"""
_NEW_IN_2 = (_SPENDING, _QUEUE)  # tables that version 1 lacks
_SCHEMA = (
    "CREATE TABLE study (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE experiments (
        n INTEGER PRIMARY KEY, parent TEXT NOT NULL, sha TEXT NOT NULL DEFAULT '', researcher TEXT NOT NULL,
        hypothesis TEXT NOT NULL, evidence TEXT NOT NULL, changes TEXT NOT NULL, recipe TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('proposed', 'committed', 'decided', 'done')),
        verdict TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '', created TEXT NOT NULL,
        decided INTEGER UNIQUE)""",  # order of decisions, which need not be the order of numbers
    """CREATE TABLE trials (
        id INTEGER PRIMARY KEY AUTOINCREMENT, experiment INTEGER NOT NULL REFERENCES experiments (n),
        seed INTEGER NOT NULL, purpose TEXT NOT NULL, status TEXT NOT NULL, budget_s REAL, started TEXT NOT NULL,
        reason TEXT NOT NULL DEFAULT '', steps INTEGER NOT NULL DEFAULT 0, tokens INTEGER NOT NULL DEFAULT 0,
        train_s REAL NOT NULL DEFAULT 0, total_s REAL NOT NULL DEFAULT 0, params INTEGER NOT NULL DEFAULT 0,
        peak_memory_bytes INTEGER NOT NULL DEFAULT 0, utilisation REAL, curve TEXT NOT NULL DEFAULT '[]',
        log_tail TEXT NOT NULL DEFAULT '', weights TEXT NOT NULL DEFAULT '', facts TEXT NOT NULL DEFAULT '{}')""",
    "CREATE INDEX trials_by_experiment ON trials (experiment)",
    """CREATE TABLE scores (
        trial INTEGER NOT NULL REFERENCES trials (id), split TEXT NOT NULL, nats REAL NOT NULL, tokens INTEGER NOT NULL,
        bytes INTEGER NOT NULL, chars INTEGER NOT NULL, rows INTEGER NOT NULL, PRIMARY KEY (trial, split))""",
    """CREATE TABLE pairs (
        experiment INTEGER NOT NULL REFERENCES experiments (n), trial INTEGER NOT NULL REFERENCES trials (id),
        incumbent_trial INTEGER NOT NULL REFERENCES trials (id), delta_bpb REAL NOT NULL,
        PRIMARY KEY (trial, incumbent_trial))""",
    "CREATE INDEX pairs_by_experiment ON pairs (experiment)",
    "CREATE TABLE reads (split TEXT NOT NULL, trial INTEGER NOT NULL REFERENCES trials (id), at TEXT NOT NULL)",
    *_NEW_IN_2,
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


class LedgerError(UserError):
    """The file, not what was to be written: it is in use, can't be written to, or is damaged."""


class LedgerFile:
    """One connection, for one thread; other processes may use the file at the same time."""

    def __init__(self, path: Path, db: sqlite3.Connection):
        self.path, self._db = path, db

    @classmethod
    def open(cls, path: Path, readonly: bool = False) -> LedgerFile:
        """The file at `path`, created unless `readonly`. UserError for one that can't be a ledger."""
        path = Path(path)
        if readonly and not path.is_file():
            raise UserError(f"there is no ledger at {path}", "Start a study with: ar loop")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            uri = path.absolute().as_uri() + ("?mode=ro" if readonly else "?mode=rwc")
            db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S)
        except (OSError, sqlite3.Error) as e:
            raise UserError(f"can't open {path}: {e}", "Check that the folder exists and may be written to.") from None
        file = cls(path, db)
        try:
            with file._explained():
                file._set_up(readonly)
        except BaseException:
            db.close()
            raise
        return file

    def close(self) -> None:
        self._db.close()

    def rows(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        with self._explained():
            return self._db.execute(sql, args).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, on disk when it ends."""
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """What is read inside belongs together, whoever writes meanwhile."""
        with self._explained():
            self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                self._db.execute("ROLLBACK")

    def _set_up(self, readonly: bool) -> None:
        db = self._db
        for pragma in ("foreign_keys = ON", f"busy_timeout = {BUSY_TIMEOUT_S * 1000}", "synchronous = FULL",
                       "fullfsync = ON", "checkpoint_fullfsync = ON"):
            db.execute(f"PRAGMA {pragma}")
        if not readonly:
            db.execute("PRAGMA journal_mode = WAL").fetchone()
            db.execute("BEGIN IMMEDIATE")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        has_tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 0
        if version > SCHEMA_VERSION:
            raise UserError(f"{self.path} was written by a newer autoresearch: it has ledger version {version}, "
                            f"this one reads up to {SCHEMA_VERSION}",
                            "Update this clone (git pull), or start a new study with --tag.")
        if version < 1 and (has_tables or readonly):
            raise UserError(f"{self.path} is not a ledger of autoresearch",
                            "Move that file away, or start a new study with --tag.")
        if readonly:
            if version < 2:  # nothing is written to it before somebody goes on with the study
                for statement in _NEW_IN_2:
                    db.execute(statement.replace("CREATE TABLE", "CREATE TEMP TABLE"))
            return
        if version < 1:
            for statement in _SCHEMA:
                db.execute(statement)
        elif version < 2:
            for statement in (*_NEW_IN_2, f"PRAGMA user_version = {SCHEMA_VERSION}"):
                db.execute(statement)
        db.execute("COMMIT")
        if (fault := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise _damaged(self.path, fault)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors that a person can cause, in words."""
        try:
            yield
        except sqlite3.DatabaseError as e:
            message = str(e)
            if "readonly database" in message:
                raise LedgerError(f"{self.path} can't be written to",
                                  "Check its permissions and the folder's.") from None
            if "locked" in message or "busy" in message:
                raise LedgerError(f"{self.path} has been in use by another program for {BUSY_TIMEOUT_S} s",
                                  "Close the program that has it open, then try again.") from None
            if "is full" in message:
                raise LedgerError(f"no space left to write {self.path}",
                                  "Free some disk space, then continue.") from None
            if isinstance(e, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise ValueError(f"ledger: {message}") from e
            if "disk I/O error" in message or "unable to open" in message:
                raise LedgerError(f"{self.path} can't be read or written: {message}",
                                  "Check the disk, and that the folder still exists and may be written to.") from None
            if isinstance(e, sqlite3.OperationalError) and "malformed" not in message:
                raise  # an error of ours, such as a wrong statement
            raise _damaged(self.path, message) from None


def _damaged(path: Path, what: str) -> LedgerError:
    rescue = f'sqlite3 "{path}" .recover | sqlite3 rescued.sqlite'
    return LedgerError(f"{path} is damaged: {what}",
                       f"Put back a copy, or rescue what is in it with: {rescue}\n"
                       f"  Every candidate is still in git. To go on without it, start a new study with --tag.")
