"""The report's samples: baseline and champion go on from the same words, with the same seed."""

from __future__ import annotations

from dataclasses import dataclass

from autoresearch.data.prepared import Prepared
from autoresearch.data.text import decode
from autoresearch.errors import UserError
from autoresearch.report.story import Story
from autoresearch.research.study import Study
from autoresearch.sample import Options, default_prompt, generate

TOKENS = 180


@dataclass(frozen=True)
class Sample:
    label: str
    prompt: str
    text: str  # after the prompt; "" where it could not be written
    problem: str = ""


def write(study: Study, prepared: Prepared, story: Story, tokens: int = TOKENS) -> list[Sample]:
    """One of each model there is; where a model can't be run, why."""
    prompt = default_prompt(prepared)
    wanted = [("The baseline", story.baseline)]
    if story.champion and story.champion.n > 0:
        wanted.append((f"The champion, #{story.champion.n}", story.champion))
    found = []
    for label, attempt in wanted:
        if attempt is None:
            continue
        try:
            written = b"".join(generate(study, prepared, attempt.experiment, prompt, Options(tokens=tokens)))
            found.append(Sample(label, decode(prompt), written.decode("utf-8", "replace")))
        except UserError as e:
            found.append(Sample(label, decode(prompt), "", e.message))
    return found
