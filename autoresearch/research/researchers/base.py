"""The researcher's contract: a context in, one proposal out. Researchers never run anything themselves.

    Context      all that a researcher is told, and what it may ask
    Proposal     one idea: hypothesis, evidence, edits
    NoProposal   not this time; the study goes on with somebody else
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autoresearch.records import Experiment, Spend, Spent
from backends.recipe import Recipe


@dataclass(frozen=True)
class Context:
    """All that a researcher is told: the ledger, the machine, the data's size and the brief."""

    incumbent: Experiment
    recipe: Recipe  # the incumbent's
    experiments: list[Experiment]  # the whole ledger, trials and curves included, in order
    gains: Mapping[int, float]  # {experiment: Experiment.gain_bpb}, of those that have one
    spread_bpb: float  # noise: how far seeds of the same recipe lie apart
    tokenizers: list[str]  # prepared, so allowed
    vocab: dict[str, int]  # tokens in each tokenizer's vocabulary
    train_tokens: dict[str, int]  # tokens in the train split, by tokenizer
    device: dict[str, Any]  # name, backend, memory_bytes, precisions (the first is what "auto" means)
    budget_s: float | None  # None in fixed-step mode
    seconds_left: float | None  # of the study; None: no end is set
    brief: str  # program.md
    fits: Callable[[Recipe], bool]  # the memory model: will it run on this device?
    noise_bpb: Mapping[str, float] = field(default_factory=dict)  # of paired differences, by kind of change
    files: dict[str, str] = field(default_factory=dict)  # the incumbent's, by path relative to backends/gpt/
    guidance: str = ""  # guidance.md: what a person wants from here on
    hints: str = ""  # what one researcher wants another to know
    spent: Spent = field(default_factory=Spent)  # by this study, so far
    refusal: Callable[[Proposal], str] = lambda proposal: ""  # why it would not be run, in words; "" where it would
    diff: Callable[[int], str] = lambda n: ""  # of an experiment against the one it changed
    note: Callable[[str], None] = lambda text: None  # a line for the person
    spend: Callable[[Spend], None] = lambda spend: None  # journals a request as soon as it has ended
    stopping: Callable[[], bool] = lambda: False  # a stop was asked for, or time is up: wait no longer


@dataclass(frozen=True)
class Proposal:
    """One idea: what it should do, the result it answers, and the edit that tests it."""

    hypothesis: str  # one line
    evidence: str  # cites the results it answers by number, such as "#4 kept: 1,432 steps, -0.012 bpb"
    changes: dict[str, Any]  # {"table.key": value} of recipe.toml
    files: dict[str, str | None] = field(default_factory=dict)  # new contents (None: removed), as in Context.files
    researcher: str = ""  # whose idea, where a researcher speaks for several


class NoProposal(Exception):
    """The researcher has none this time, for the reason given."""


class Researcher(ABC):
    """Proposes experiments. All it needs is in the context, so a study killed at any point can go on."""

    name: str

    @abstractmethod
    def propose(self, context: Context) -> Proposal:
        """The next experiment, on top of the incumbent: valid, within memory, and never run before. May raise
        NoProposal, unless it is the one that a study falls back on."""
