"""One experiment in detail, beyond what a Story holds: what it changes, and each seed on which it met its incumbent."""

from __future__ import annotations

from typing import Any

from autoresearch.harness.text import clean
from autoresearch.report.story import Attempt
from autoresearch.research.study import Study

DIFF_CHARS = 1 << 20


def diff(a: Attempt, study: Study) -> str:
    """What the candidate changes, as printable text."""
    return clean(study.workspace.diff(a.experiment.parent, a.experiment.sha), DIFF_CHARS) if a.experiment.sha else ""


def paired(a: Attempt, study: Study) -> list[dict[str, Any]]:
    """The screening seed decides who goes on, fresh seeds what is kept."""
    trials = {t.id: t for e in study.ledger.experiments() for t in e.trials}
    return [{"seed": trials[p.trial].seed, "fresh": trials[p.trial].purpose == "repeat",
             "val_bpb": trials[p.trial].bpb(), "incumbent_bpb": trials[p.incumbent_trial].bpb(),
             "delta_bpb": p.delta_bpb} for p in a.pairs]
