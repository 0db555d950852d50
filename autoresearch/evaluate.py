"""A trained model scored again: on a split of its text, or on a file of a person's own, by the processes that score a
trial.
"""

from __future__ import annotations

from pathlib import Path

from autoresearch import paths, scratch
from autoresearch.data import corpus, yardstick
from autoresearch.data.prepared import Prepared
from autoresearch.errors import UserError
from autoresearch.harness import assemble, caches
from autoresearch.harness.runner import Runner
from autoresearch.harness.scorer import save_rows
from autoresearch.harness.supervise import TrialFailed
from autoresearch.models import Model
from autoresearch.records import Evaluation
from autoresearch.research.study import Study

SPLITS = ("val", "confirm", "holdout")
COUNTED = ("confirm", "holdout")  # every look at them is recorded in the study
TEXT_MAX_BYTES = 64_000_000  # of a person's file: its rows are held in memory while they are scored


def rows_of(path: Path) -> tuple[list[bytes], tuple[str, ...]]:
    """(the rows of a person's file, in the yardstick's order; what a person should know). UserError as `ar prepare`."""
    text = corpus.text([path], TEXT_MAX_BYTES)
    return yardstick.rows(text.documents()), tuple(text.remarks())


def evaluate(model: Model, prepared: Prepared, backend: str, split: str, rows: int | None = None,
             own_rows: list[bytes] | None = None) -> Evaluation:
    """`prepared` is one that `model.prepared` gave. A look at confirm or holdout is recorded in the study that the
    model belongs to, before it is taken."""
    if own_rows is None and split in COUNTED and model.study and model.trial_id:
        with Study.open(paths.clone(), model.study) as study:
            study.ledger.read(split, model.trial_id)
    runner = Runner(prepared, backend, caches.home())
    with scratch.folder() as folder:
        if own_rows is not None:
            save_rows(folder / "rows.npz", own_rows)
        try:
            return runner.evaluate(model.about.files(), model.recipe(), folder, model.weights, split, rows,
                                   None if own_rows is None else folder / "rows.npz")
        except TrialFailed as e:
            other = assemble.digest(assemble.frozen_files()) != model.about.frozen_digest
            hint = f"It was trained by another version, {model.about.tool}: check that out." if other else ""
            raise UserError(f"{model.label} can't be scored: {e.status}: {e.reason}", hint) from None
