"""The queue: a person's own experiments, which come before anything a researcher proposes.

It is a table of the ledger, so it survives whatever the study does; and adding to it takes one transaction, so the
study need not be stopped for it.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from autoresearch.research.ledger_file import LedgerFile


@dataclass(frozen=True)
class Queued:
    id: int
    hypothesis: str
    changes: dict[str, Any]  # {"table.key": value} of the recipe
    patch: str  # as `git diff` writes it, applied before the changes; "" for none
    added: str  # UTC, ISO 8601


@dataclass(frozen=True)
class Queue:
    file: LedgerFile

    def waiting(self) -> list[Queued]:
        """In the order they will run."""
        found = self.file.rows("SELECT id, hypothesis, changes, patch, added FROM queue WHERE experiment IS NULL "
                               "ORDER BY id")
        return [Queued(id, hypothesis, json.loads(changes), patch, added)
                for id, hypothesis, changes, patch, added in found]

    def add(self, hypothesis: str, changes: dict[str, Any], patch: str = "") -> int:
        """The new entry's id."""
        with self.file.transaction() as db:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            cursor = db.execute("INSERT INTO queue (hypothesis, changes, patch, added) VALUES (?, ?, ?, ?)",
                                (hypothesis, json.dumps(changes), patch, now))
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def remove(self, id: int) -> bool:
        """False where nothing of that id waits."""
        if abs(id) >= 1 << 63:  # more than SQLite takes
            return False
        with self.file.transaction() as db:
            return db.execute("DELETE FROM queue WHERE id = ? AND experiment IS NULL", (id,)).rowcount > 0

    def refused(self, id: int, experiment: int) -> None:
        """Say so once the refusal is decided: until then a kill would lose the entry."""
        with self.file.transaction() as db:
            became(db, id, experiment)


def became(db: sqlite3.Connection, id: int, experiment: int) -> None:
    """Within the transaction that makes the experiment what it is: a kill must neither lose the entry nor run it
    twice."""
    db.execute("UPDATE queue SET experiment = ? WHERE id = ?", (experiment, id))
