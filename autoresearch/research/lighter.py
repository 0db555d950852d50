"""A recipe that ran out of memory, made lighter: the same tokens a step, in smaller forward passes."""

from __future__ import annotations

from autoresearch.records import MEMORY, Experiment
from backends.recipe import Recipe


def halved(recipe: Recipe) -> dict[str, object]:
    """The change of the recipe; none where a forward pass holds a single row."""
    rows = next((r for r in range(recipe.micro_rows // 2, 0, -1) if recipe.rows_per_step % r == 0), 0)
    return {"batch.micro_rows": rows} if rows else {}


def wants_it(experiment: Experiment) -> bool:
    """Whether its only trial that ran out of memory was its last, and none has succeeded: it is made lighter once, and
    all of its scores are of one recipe."""
    trials = experiment.trials
    starved = [t for t in trials if t.facts.get("cause") == MEMORY]
    return len(starved) == 1 and starved[0] == trials[-1] and all(t.status != "ok" for t in trials)
