"""Trained models by the names that people give them.

    find            champion, baseline, #12, a checkpoint, its folder, or what `ar export` wrote -> Model
    of_experiment   of a study
    Model           weights, and all it takes to run them
    check_code      whether its code may run here
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from autoresearch import paths, words
from autoresearch.data import prepared as sets
from autoresearch.data.prepared import Prepared
from autoresearch.data.tokenizer import Tokenizer
from autoresearch.errors import UsageError, UserError
from autoresearch.harness import checkpoint
from autoresearch.harness.checkpoint import Record
from autoresearch.records import BASELINE, Experiment, Trial
from autoresearch.research.study import Study
from backends.recipe import Recipe, RecipeError

EXPORTED = "model.safetensors"  # as the Hugging Face Hub calls it
VOCABULARY = "vocabulary.json"  # beside it


@dataclass(frozen=True)
class Model:
    label: str
    weights: Path
    about: Record
    is_ours: bool  # written on this machine
    study: str | None = None  # the tag, where the weights are a study's
    trial_id: int | None = None

    def recipe(self) -> Recipe:
        try:
            return Recipe().replace(self.about.recipe)
        except RecipeError as e:
            raise UserError(f"{self.label} has a recipe that this version does not know: {'; '.join(e.problems)}",
                            f"It was written by {self.about.tool}: check out that version.") from None

    def prepared(self, name: str | None = None) -> Prepared:
        """The text it was trained on, or the one named, if it holds the tokenizer that the model was trained with."""
        found = sets.find(name) if name else sets.same(self.about.data_name, self.about.data_digest, self.label)
        self._check_tokenizer(found)
        return found

    def tokenizer(self) -> Tokenizer:
        """The one that lies beside the weights, or that of its text."""
        beside = self.weights.with_name(VOCABULARY)
        if not beside.is_file():
            return self.prepared().tokenizer(self.recipe().data.tokenizer)
        try:
            found = Tokenizer.from_json(beside.read_text(encoding="utf-8"))
        except ValueError as e:
            raise UserError(f"{beside} is damaged: {e}", "Take another copy of it.") from None
        if found.digest != self.about.tokenizer_digest:
            raise UserError(f"{beside} is not the tokenizer that {self.label} was trained with (digest {found.digest}, "
                            f"not {self.about.tokenizer_digest})", "Take another copy of both.")
        return found

    def _check_tokenizer(self, prepared: Prepared) -> None:
        name = self.recipe().data.tokenizer
        facts = prepared.manifest.tokenizers.get(name)
        if facts is None:
            raise UserError(f"{self.label} reads the tokenizer {name}, which {prepared.name} lacks: it has "
                            f"{', '.join(prepared.tokenizers())}",
                            f"Add it, from the same text: ar prepare ... --tokenizer {name}")
        if facts.digest != self.about.tokenizer_digest:
            raise UserError(f"the tokenizer {name} of {prepared.name} is not the one that {self.label} was trained "
                            f"with (digest {facts.digest}, not {self.about.tokenizer_digest}): its numbers stand for "
                            "other pieces of text", f"Score it on the text it was trained on, {self.about.data_name}.")


def find(name: str, tag: str | None = None) -> Model:
    """`champion`, `baseline`, `#12` and `12` are experiments of a study; anything else is a file or a folder."""
    number = re.fullmatch(r"#?(\d{1,9})", name)
    if number or name in ("champion", "baseline"):
        if tag is None and not Study.tags(paths.clone()):
            raise UserError(f"there is no study in {paths.studies()} yet, so no {name} either",
                            "Name what `ar train` wrote, such as checkpoints/nov21-073000, or start one: ar loop")
        with Study.open(paths.clone(), tag, readonly=True) as study:
            return of_experiment(study, int(number[1]) if number else BASELINE if name == "baseline" else None)
    if tag is not None:
        raise UsageError(f"--tag {tag} names a study, and {name!r} is no experiment of one",
                         "Experiments are champion, baseline, or a number such as 12.")
    path = Path(name).expanduser()
    if path.is_dir():
        path = path / (EXPORTED if (path / EXPORTED).is_file() else checkpoint.WEIGHTS)
    if not path.exists():
        raise UserError(f"{name!r} is neither an experiment nor a checkpoint: there is no {path}",
                        "Name champion, baseline, a number such as 12, or what `ar train` wrote.")
    return _of_file(path, name)


def of_experiment(study: Study, n: int | None = None) -> Model:
    """Of the trial that `weights_of` names. None: the champion."""
    chosen = study.ledger.incumbent() if n is None else study.ledger.experiment(n)
    if chosen is None:
        raise UserError(f"study {study.tag!r} has no trained model yet: its baseline is not done",
                        f"Finish it with: ar loop --tag {study.tag}")
    return of_trial(study, chosen, weights_of(study, chosen))


def of_trial(study: Study, experiment: Experiment, trial: Trial) -> Model:
    name = f"experiment {experiment.n} of {study.tag}" if experiment.n else f"the baseline of {study.tag}"
    weights = weights_path(study, trial)
    about, is_ours = checkpoint.read(weights)
    return Model(name, weights, about, is_ours, study.tag, trial.id)


def weights_of(study: Study, experiment: Experiment) -> Trial:
    """The trial on the screening seed, which every experiment has, so that those of two compare; where its weights are
    gone, the newest that has some. UserError, with the remedy, where there is none."""
    screened = experiment.screened()
    for trial in (*([screened] if screened else []), *reversed(experiment.screens())):
        if weights_path(study, trial).is_file():
            return trial
    if not experiment.screens():
        raise UserError(f"experiment {experiment.n} has no weights: none of its trials came as far as a score",
                        f"Finish it with: ar loop --tag {study.tag}. Or name another one; `ar log` lists them.")
    if experiment.verdict != "keep":
        raise UserError(f"experiment {experiment.n} has no weights: those of ideas that were not kept are deleted",
                        "Name one that was kept; `ar log` lists them.")
    raise UserError(f"the weights of experiment {experiment.n} are gone from {study.trials}",
                    f"Train it again: git worktree add /tmp/again {experiment.sha[:12]} && cd /tmp/again && "
                    f"{words.train(study.ledger.facts())}")


def weights_path(study: Study, trial: Trial) -> Path:
    return study.trials / str(trial.id) / checkpoint.WEIGHTS


def check_code(model: Model, trusted: bool) -> None:
    """A checkpoint brings code, and running the model runs it. UserError for code that is neither from this machine,
    nor of a study, nor what the clone holds, unless the person trusts it."""
    if trusted or model.is_ours or model.study:
        return
    folder = paths.clone() / paths.CANDIDATE
    here = {name: (folder / name).read_bytes() for name in model.about.code if (folder / name).is_file()}
    if any(here.get(name) != content for name, content in model.about.files().items() if name != "recipe.toml"):
        raise UserError(f"{model.label} was written on another machine and brings Python code of its own, which would "
                        "run with your rights",
                        "Read it with `ar eval ... --about --json`. If you trust whoever made it, add --trust-code.")


def _of_file(path: Path, name: str) -> Model:
    about, is_ours = checkpoint.read(path)
    model = Model(name, path.absolute(), about, is_ours)
    try:  # weights inside a study are the study's, however they are named
        tag, folder, trial, _ = path.resolve().relative_to(paths.studies().resolve()).parts
    except (ValueError, UserError):
        return model
    is_trial = folder == "trials" and trial.isdigit() and tag in Study.tags(paths.clone())
    return replace(model, study=tag, trial_id=int(trial)) if is_trial else model
