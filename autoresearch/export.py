"""A trained model as a folder to hand on: for `ar sample`, `ar eval`, a plain script, and the Hugging Face Hub.

    chosen   the model that a person names; of a study, weights whose own scores selected nothing, where there are any
    write    makes the folder

    README.md           the model card
    model.safetensors   the checkpoint as it was written, record and signature included
    vocabulary.json     the tokenizer: its tokens in hexadecimal, its pattern, BOS
    recipe.toml         every key of it
    config.json         how it came to be and how it scored, for programs
    generate.py         examples/generate.py: writes text with nothing of this package but what is in the folder
    backends/           the code that runs it: the candidate's, and what it stands on
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import tomlkit

from autoresearch import models, paths
from autoresearch.card import SCRIPT, Facts, Origin, card
from autoresearch.errors import UserError
from autoresearch.harness import assemble, checkpoint
from autoresearch.models import EXPORTED, VOCABULARY, Model
from autoresearch.records import BASELINE
from autoresearch.research import verify
from autoresearch.research.stack import stack
from autoresearch.research.study import Study

EXAMPLES = assemble.PACKAGE / "examples"


def chosen(name: str, tag: str | None) -> Model:
    found = models.find(name, tag)
    if found.study is None or Path(name).exists():
        return found
    with Study.open(paths.clone(), found.study, readonly=True) as study:
        for experiment in study.ledger.experiments():
            if found.trial_id not in {t.id for t in experiment.trials}:
                continue
            for trial in reversed(experiment.trials):
                measured = trial.purpose == verify.PURPOSE and trial.status == "ok"
                if measured and models.weights_path(study, trial).is_file():
                    return models.of_trial(study, experiment, trial)
    return found


def write(model: Model, folder: Path) -> None:
    """The whole folder or nothing. UserError where it exists."""
    if folder.exists():
        raise UserError(f"{folder} exists already", "Name a folder that does not, so that nothing is overwritten.")
    facts = gather(model, folder.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    partial.mkdir()
    try:
        for name, content in _files(model).items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (partial / "README.md").write_text(card(facts), encoding="utf-8")
        (partial / "config.json").write_text(json.dumps(_config(facts), indent=2) + "\n")
        shutil.copyfile(model.weights, partial / EXPORTED)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def gather(model: Model, name: str) -> Facts:
    text = None
    with contextlib.suppress(UserError):
        text = model.prepared().manifest.corpus
    return Facts(name, model, checkpoint.weights_in(model.weights), text, _origin(model))


def _origin(model: Model) -> Origin | None:
    if model.study is None:
        return None
    with Study.open(paths.clone(), model.study, readonly=True) as study:
        experiments = study.ledger.experiments()
        experiment = next(e for e in experiments if any(t.id == model.trial_id for t in e.trials))
        trial = next(t for t in experiment.trials if t.id == model.trial_id)
        champion = study.ledger.incumbent()
        is_champion = champion is not None and champion.n == experiment.n
        summary = verify.summarise(experiments, study.ledger.fact(verify.LOOKS, [])) if is_champion else None
        kept = [c for c in stack(study.workspace, experiments, experiment.n) if c.n != BASELINE]
        return Origin(study.tag, experiment.n, experiment.sha, study.ledger.fact("device") or {}, trial, summary, kept)


def _files(model: Model) -> dict[str, bytes]:
    """All but the card and the weights. The recipe is the one that ran, whatever the file beside the code says."""
    document: dict[str, dict[str, Any]] = {}
    for key, value in model.recipe().flat().items():
        table, _, name = key.partition(".")
        document.setdefault(table, {})[name] = value
    code = {name: content for name, content in model.about.files().items() if name.endswith(".py")}
    frozen = {name: content for name, content in assemble.frozen_files().items() if name.startswith("backends/")}
    return {
        "recipe.toml": tomlkit.dumps(document).encode(), VOCABULARY: model.tokenizer().to_json().encode(),
        SCRIPT: (EXAMPLES / SCRIPT).read_bytes(), **frozen,
        **{f"backends/gpt/{name}": content for name, content in code.items()}}


def _config(facts: Facts) -> dict[str, Any]:
    about = dataclasses.asdict(facts.model.about)
    del about["code"]
    origin = facts.origin
    scores = {s.split: s.bpb for s in origin.trial.scores} if origin else {}
    return {"model_type": "autoresearch", "params": facts.params, "bits_per_byte": scores, "record": about} | (
        {"study": origin.tag, "experiment": origin.n, "commit": origin.sha} if origin else {})
