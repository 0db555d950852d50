"""What the supervisor asks of the processes it starts, as values that cross as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

DEV_FRACTIONS = (0.2, 0.4, 0.6, 0.8, 0.95)  # of the budget; dev loss is measured there

Job = TypeVar("Job")


@dataclass(frozen=True)
class TrialJob:
    """Train a candidate. Descriptors are numbers inherited by the child."""

    backend: str
    recipe: dict[str, Any]
    vocab: int
    seed: int
    budget_s: float | None
    steps: int | None
    dev_rows: int
    folder: str  # where the weights go
    control: int
    ring: int
    filled: int
    free: int


@dataclass(frozen=True)
class ServerJob:
    """Serve logits of saved weights over two shared buffers: tokens in, logits out."""

    backend: str
    recipe: dict[str, Any]
    vocab: int
    weights: str
    batch: int
    length: int  # tokens per row
    control: int
    tokens: int
    logits: int


@dataclass(frozen=True)
class FeederJob:
    """Feed one trial: `shards` hold the train split as tokens, `dev_shard` the dev split."""

    shards: list[str]
    dev_shard: str
    dtype: str
    bos: int
    rows: int
    seq_len: int
    dev_rows: int
    seed: int
    ring: int
    filled: int
    free: int


@dataclass(frozen=True)
class ScoreJob:
    """Score saved weights on a split, or replay what an earlier score recorded."""

    prepared: str
    tokenizer: str
    split: str
    rows: int | None  # a prefix of the row list; None: as many as `seconds` allows, all without it
    seconds: float | None
    backend: str
    recipe: dict[str, Any]
    weights: str
    tree: str
    folder: str
    recorded: str  # .npz of logits at secret positions: written when scoring, read when replaying; "": not wanted
    own_rows: str = ""  # .npz of rows of a person's own text, scored in place of the split's
    per_row: int = 1  # positions recorded at random in each row, beside the one predicted best
    nonce: str = ""  # the answer carries it in its seal


@dataclass(frozen=True)
class MeasureJob:
    """Measure on one backend what is asked over the channel."""

    backend: str
    control: int


def dump(job: Any) -> str:
    return json.dumps(asdict(job))


def parse(cls: type[Job], text: str) -> Job:
    return cls(**json.loads(text))
