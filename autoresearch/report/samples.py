"""The report's samples: baseline and champion go on from the same words, with the same seed.

    write    let them write; kept in report/samples.json
    stored   what they wrote last
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass

from autoresearch import models
from autoresearch.data.prepared import Prepared
from autoresearch.data.text import decode
from autoresearch.errors import UserError
from autoresearch.report.files import put
from autoresearch.report.story import Story
from autoresearch.research.study import Study
from autoresearch.sample import Options, default_prompt, generate

TOKENS = 180
FILE = "samples.json"


@dataclass(frozen=True)
class Sample:
    n: int
    label: str
    prompt: str
    text: str  # after the prompt; "" where it could not be written
    problem: str = ""


def write(study: Study, prepared: Prepared, story: Story) -> list[Sample]:
    """One of each model there is; where a model can't be run, why."""
    prompt, options = default_prompt(prepared), Options(tokens=TOKENS)
    wanted = [("The baseline", story.baseline)]
    if story.champion and story.champion.n > 0:
        wanted.append((f"The champion, #{story.champion.n}", story.champion))
    found = []
    for label, attempt in wanted:
        if attempt is None:
            continue
        try:
            written = b"".join(generate(models.of_experiment(study, attempt.n), prompt, options))
            found.append(Sample(attempt.n, label, decode(prompt), written.decode("utf-8", "replace")))
        except UserError as e:
            found.append(Sample(attempt.n, label, decode(prompt), "", e.message))
    put(study.report / FILE, json.dumps([asdict(sample) for sample in found]).encode())
    return found


def stored(study: Study) -> list[Sample]:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return [Sample(**sample) for sample in json.loads((study.report / FILE).read_text(encoding="utf-8"))]
    return []
