"""Models that no researcher proposed: the champion without a change, or at another size.

They are experiments with numbers below the reference's, so that their trials are journalled as all others, and nothing
that counts, plots or decides on ideas sees them. Who they are is (researcher, hypothesis, parent, recipe): asked for
again, the same one is found, with its trials.
"""

from __future__ import annotations

from autoresearch.paths import CANDIDATE
from autoresearch.records import REFERENCE, Experiment
from autoresearch.research import gate
from autoresearch.research.lab import Candidate, Lab
from autoresearch.research.stack import Files
from backends.recipe import Recipe, changed


def variant(lab: Lab, researcher: str, name: str, parent: Experiment, files: Files, kind: str = "") -> Candidate:
    """The model that `files` make of `parent`. Raises gate.Refused."""
    recipe = gate.check([], files, CANDIDATE, lab.runner.prepared.tokenizers())
    experiments = lab.ledger.experiments()
    found = next((e for e in experiments if is_variant(e, researcher, name, parent.sha, recipe)), None)
    n = found.n if found else min(REFERENCE, *(e.n for e in experiments)) - 1
    if found is None or found.state == "proposed":
        record(lab, n, researcher, name, "", parent, files, recipe)
    if found is None or found.state != "done":
        lab.ledger.finish(n)
    return Candidate(n, files, recipe, kind, name)


def is_variant(e: Experiment, researcher: str, name: str, parent: str, recipe: Recipe | None = None) -> bool:
    return e.n < REFERENCE and (e.researcher, e.hypothesis, e.parent) == (researcher, name, parent) \
        and recipe in (None, Recipe().replace(e.recipe))


def record(lab: Lab, n: int, researcher: str, hypothesis: str, evidence: str, parent: Experiment, files: Files,
           recipe: Recipe) -> None:
    """Journal it, then make its commit: `parent` with these files instead of its own."""
    before = lab.study.workspace.candidate_files(parent.sha)
    edits = {f"{CANDIDATE}/{name}": files.get(name) for name in {**before, **files}
             if before.get(name) != files.get(name)}
    changes = changed(parent.recipe, recipe.flat())
    lab.ledger.propose(n=n, parent=parent.sha, researcher=researcher, hypothesis=hypothesis, evidence=evidence,
                       changes=changes, recipe=recipe.flat())
    sha = lab.study.workspace.propose_commit(parent.sha, edits, f"{hypothesis}\n\n{evidence}".strip(), n)
    lab.ledger.commit(n, sha)
