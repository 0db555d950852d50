"""Keys that help only together, as the preset `modern` has them: ideas for recipes that started elsewhere.

Muon at AdamW's learning rate takes steps a seventieth of its own, and so on: a line along one key (moves.py) would try
each alone, and drop it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch.research.researchers.reading import Attempt
from autoresearch.research.researchers.runnable import FOLLOWERS
from backends.recipe import load, preset_file

PRESET = "modern"


@dataclass(frozen=True)
class Bundle:
    """The first key says whether a recipe has it."""

    label: str
    prior: float  # as a move's
    why: str
    keys: tuple[str, ...]


BUNDLES: tuple[Bundle, ...] = (
    Bundle("update rule", 14, "orthogonal updates for matrices, at the rate and decay that go with them",
           ("optim.matrix_rule", "optim.matrix_lr", "optim.matrix_decay", "optim.cautious_matrices", "optim.clip_norm",
            "schedule.final_decay_frac")),
    Bundle("tables", 12, "a table of its own to predict with, large embeddings, and rates to match",
           ("model.tied_embeddings", "model.embed_norm", "init.embedding_std", "init.unembedding_std",
            "optim.embedding_lr", "optim.unembedding_lr", "optim.embedding_decay", "optim.adam_beta1")),
    Bundle("positions", 8, "distances, not places, and queries and keys of one length",
           ("model.positions", "model.qk_norm")),
    Bundle("norms", 5, "norms without gains and means, matrices without biases: cheaper steps",
           ("model.norm", "model.norm_eps", "model.norm_gain", "model.biases")),
    Bundle("initial projections", 5, "blocks begin as the identity",
           ("init.projection_scale", "init.matrix_std", "init.matrix_scale")),
    Bundle("schedule", 7, "full speed at once, and an anneal to nothing",
           ("schedule.warmdown_frac", "schedule.warmup_frac", "schedule.final_lr_frac")),
    Bundle("residual stream", 4, "every block weighs its past and sees the input",
           ("model.resid_lambdas", "model.input_lambdas")),
)


@functools.cache
def preset() -> dict[str, Any]:
    return load(preset_file(PRESET)).flat()


def wishes(flat: Mapping[str, Any], start: Mapping[str, Any]) -> Iterator[tuple[Bundle, dict[str, Any]]]:
    """What of each bundle a recipe lacks, where its first key is still as it was at the study's start, and not as in
    the preset: what a study has turned itself is not turned back."""
    for bundle in BUNDLES:
        first = bundle.keys[0]
        if flat[first] == start[first] != preset()[first]:
            yield bundle, {key: preset()[key] for key in bundle.keys if flat[key] != preset()[key]}


def was_tried(wished: Mapping[str, Any], past: Sequence[Attempt]) -> bool:
    """Whether just this change came to a verdict, on whatever incumbent."""
    return any({k: v for k, v in a.diff.items() if k not in FOLLOWERS} == wished for a in past
               if not a.experiment.is_spoilt)
