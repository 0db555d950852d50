"""The model card of an exported model: what it is, what it was trained on, how it scored and how sure that is.

The head is metadata as the Hugging Face Hub reads it; the rest is for people. Hypotheses and names are strangers' text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autoresearch import words
from autoresearch.data.manifest import Source
from autoresearch.models import EXPORTED, VOCABULARY, Model
from autoresearch.records import Trial
from autoresearch.research import verify
from autoresearch.research.stack import Change
from autoresearch.research.verify import Summary

SCRIPT = "generate.py"  # in the folder: writes text without this package
SPLITS = {"val": "val, which experiments were judged on", "confirm": "confirm, which selected nothing",
          "holdout": "holdout"}


@dataclass(frozen=True)
class Origin:
    """What a study knows of one of its models."""

    tag: str
    n: int
    sha: str
    device: dict[str, Any]
    trial: Trial  # of these weights
    summary: Summary | None  # of the champion, where this is it
    kept: list[Change]  # what it has over the baseline


@dataclass(frozen=True)
class Facts:
    """All that a card says."""

    name: str
    model: Model
    params: int
    text: Source | None  # where the text is still prepared here
    origin: Origin | None  # None of what `ar train` wrote


def card(facts: Facts) -> str:
    parts = [_head(facts), f"# {words.escape(facts.name)}", _what(facts), _use(facts), _scores(facts), _kept(facts),
             _training(facts), _limits(facts)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(facts: Facts) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    name, scores = facts.model.about.data_name, facts.origin.trial.scores if facts.origin else ()
    results = [EvalResult(task_type="text-generation", dataset_type=name, dataset_name=name, dataset_split=s.split,
                          metric_type="bits_per_byte", metric_value=round(s.bpb, 6)) for s in scores]
    data = ModelCardData(library_name="autoresearch", pipeline_tag="text-generation", model_name=facts.name,
                         tags=["autoresearch", "small-language-model"], eval_results=results or None)
    return f"---\n{data.to_yaml()}\n---"


def _what(facts: Facts) -> str:
    about, m = facts.model.about, facts.model.recipe().model
    budget = f"{about.budget_s:g} s" if about.budget_s else f"{about.steps:,} steps"
    origin = facts.origin
    told = (f"A GPT of {facts.params / 1e6:.2f}M parameters ({m.depth} blocks of {m.width} channels, a context of "
            f"{m.seq_len:,} tokens), trained from scratch in {budget} on one machine.")
    if origin is None:
        return told
    changes = f", after {len(origin.kept)} kept change{'s' if len(origin.kept) != 1 else ''}" if origin.kept else ""
    return f"{told} It is experiment {origin.n} of the study {words.escape(origin.tag)} of autoresearch{changes}."


def _use(facts: Facts) -> str:
    about = facts.model.about
    return (f"## How to run it\n\n```bash\npip install numpy safetensors tiktoken tomlkit "
            f"{'mlx' if about.backend == 'mlx' else 'torch'}\n"
            f"python {SCRIPT} \"Once upon a time\" {about.backend}\n```\n\n"
            f"`{SCRIPT}` runs the Python files of this folder, which were written by whoever made the model: read them "
            "first. In a clone of autoresearch, `ar sample FOLDER` runs them in a sandbox, and `ar eval FOLDER` scores "
            f"the model. `{EXPORTED}` holds float32 tensors, `{VOCABULARY}` every token in hexadecimal.")


def _scores(facts: Facts) -> str:
    origin = facts.origin
    if origin is None:
        return "## Scores\n\nThis model belongs to no study, and what it scored was not recorded with it."
    rows = ["| split | bits per byte | bits per character | rows | bytes |", "|---|--:|--:|--:|--:|"]
    rows += [f"| {SPLITS.get(s.split, s.split)} | {s.bpb:.4f} | {s.bpc:.4f} | {s.rows:,} | {s.bytes:,} |"
             for s in origin.trial.scores]
    parts = ["## Scores", f"These weights, seed {origin.trial.seed}:", "\n".join(rows)]
    if origin.trial.purpose != verify.PURPOSE:
        parts.append("This seed was among those that selected the model, so its score is optimistic. "
                     "`ar verify` measures it on seeds and text that selected nothing.")
    summary = origin.summary
    if summary is not None:
        arm = summary.arms[-1]
        spread = verify.interval(list(arm.bpb))
        parts.append(f"The same recipe over {len(arm.bpb)} fresh seeds: {arm.mean:.4f} bits per byte on "
                     f"confirm{spread}.")
        parts.append(f"**{summary.sentence}**")
        parts += [told for told in (verify.optimism(summary), verify.holdout(summary)) if told]
    return "\n\n".join(parts)


def _kept(facts: Facts) -> str:
    kept = facts.origin.kept if facts.origin else []
    if not kept:
        return ""
    rows = [f"- #{c.n} ({c.scope}): {words.escape(c.hypothesis, 300)}" for c in kept]
    return "## What was changed against the baseline\n\n" + "\n".join(rows)


def _training(facts: Facts) -> str:
    about, text, origin = facts.model.about, facts.text, facts.origin
    memory = f", {words.gib(origin.trial.peak_memory_bytes)} peak memory" if origin else ""
    rows = [("hardware", f"{words.escape(about.device)}, {about.backend}, {about.precision}{memory}"),
            ("budget", f"{about.train_s:.1f} s: {about.steps:,} steps, {about.tokens:,} tokens, seed {about.seed}"),
            ("text", f"{words.escape(about.data_name)} (digest `{about.data_digest}`)")]
    if text is not None:
        source = f"{words.escape(words.source(text.kind, text.source))}, {text.bytes:,} bytes"
        rows += [("its source", source + (f", revision {words.escape(text.revision)}" if text.revision else "")),
                 ("its sha256", f"`{text.sha256}`"), ("its licence", words.escape(text.licence) or "not recorded")]
    rows += [("tokenizer", f"{words.escape(str(about.recipe.get('data.tokenizer')))}, {about.vocab:,} ids (digest "
                           f"`{about.tokenizer_digest}`)"),
             ("trained by", f"{words.escape(about.tool)} (trainer `{about.frozen_digest}`), "
                            f"{words.escape(about.created)}")]
    if origin:
        rows.append(("commit", f"`{origin.sha}`"))
    return "## Training\n\n" + "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _limits(facts: Facts) -> str:
    return ("## Limits\n\nA small model of one text: it continues text like it, knows little, and was not made to be "
            "asked questions. Scores compare only with models scored on the same rows. No licence is set here: what "
            "may be done with the weights depends on the text they were trained on.")
