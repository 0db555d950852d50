"""The researcher's contract: a context in, one proposal out. Researchers never run anything themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from autoresearch.records import Experiment
from backends.recipe import Recipe


@dataclass(frozen=True)
class Context:
    """All that a researcher is told: the ledger, the machine, the data's size and the brief."""

    incumbent: Experiment
    recipe: Recipe  # the incumbent's
    experiments: list[Experiment]  # the whole ledger, trials and curves included, in order
    spread_bpb: float  # noise: how far seeds of the same recipe lie apart
    tokenizers: list[str]  # prepared, so allowed
    vocab: dict[str, int]  # tokens in each tokenizer's vocabulary
    train_tokens: dict[str, int]  # tokens in the train split, by tokenizer
    device: dict[str, Any]  # name, backend, memory_bytes, precisions (the first is what "auto" means)
    budget_s: float | None  # None in fixed-step mode
    seconds_left: float | None  # of the study; None: no end is set
    brief: str  # program.md
    fits: Callable[[Recipe], bool]  # the memory model: will it run on this device?


@dataclass(frozen=True)
class Proposal:
    """One idea: what it should do, the result it answers, and the edit that tests it."""

    hypothesis: str  # one line
    evidence: str  # cites the results it answers by number, such as "#4 kept: 1,432 steps, -0.012 bpb"
    changes: dict[str, Any]  # {"table.key": value} of recipe.toml
    files: dict[str, str] = field(default_factory=dict)  # new contents of files, by path relative to backends/gpt/


class Researcher(ABC):
    """Proposes experiments. All it needs is in the context, so a study killed at any point can go on."""

    name: str

    @abstractmethod
    def propose(self, context: Context) -> Proposal:
        """The next experiment, on top of the incumbent: valid, within memory, and never run before."""
