"""A study as an Optuna study, for optuna-dashboard and Optuna's own plots."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoresearch.errors import UserError
from autoresearch.records import BASELINE, Experiment
from autoresearch.research.researchers.repeats import DEFAULTS
from backends.recipe import Key, keys

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def export(experiments: Sequence[Experiment], path: Path, name: str) -> int:
    """Writes a new SQLite file with every decided experiment, over the keys that were ever turned; how many."""
    import optuna

    if path.exists():
        raise UserError(f"{path} exists already", "Give the name of a new file.")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent}", f"Make it first: mkdir -p {path.parent}")
    ideas = [e for e in experiments if e.n >= BASELINE and e.verdict]
    flats = [DEFAULTS | e.recipe for e in ideas]
    turned = {k.name: k for k in keys() if len({flat[k.name] for flat in flats}) > 1}
    ranges = {name: _range(key, [flat[name] for flat in flats]) for name, key in turned.items()}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    storage = optuna.storages.RDBStorage(f"sqlite:///{partial}")
    try:
        study = optuna.create_study(storage=storage, study_name=name)
        for e, flat in zip(ideas, flats, strict=True):
            bpb = e.bpb() if e.counts else None
            study.add_trial(optuna.create_trial(
                state=optuna.trial.TrialState.FAIL if bpb is None else optuna.trial.TrialState.COMPLETE, value=bpb,
                params={key: flat[key] for key in turned}, distributions=ranges,
                user_attrs={"experiment": e.n, "verdict": e.verdict, "researcher": e.researcher,
                            "hypothesis": e.hypothesis, "reason": e.reason}))
        storage.remove_session()
        storage.engine.dispose()
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return len(ideas)


def _range(key: Key, values: list[Any]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if key.low is None or key.high is None:
        return CategoricalDistribution(sorted(set(values), key=str))
    if key.type is int:
        return IntDistribution(int(key.low), int(key.high), log=key.log)
    return FloatDistribution(key.low, key.high, log=key.log)
