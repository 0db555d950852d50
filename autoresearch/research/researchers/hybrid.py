"""Two researchers in one study.

    Hybrid   a numeric optimizer, and now and then somebody who can write: a language model or an agent
    Relay    one until it stalls, then the other until something is kept

Whose turn it is follows from the ledger, like everything else that a researcher does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from autoresearch.research.researchers.backed import Backed
from autoresearch.research.researchers.base import Context, Proposal, Researcher
from autoresearch.research.researchers.playbook import PLATEAU
from autoresearch.research.researchers.reading import attempts, stale
from autoresearch.research.researchers.search import Search

LEAST, MOST = 0.1, 0.7  # what earning more or less can make of a share
TRUST = 10  # experiments of each that a first impression is worth
GOLDEN = (5**0.5 - 1) / 2

DIVISION = """A numeric optimizer works beside you and proposes the other {rest:.0%} of the experiments. It turns the \
numbers below better than anybody can by hand, and learns from what you try.
Propose what no number can say: first a change of the code or the structure of the model, the update rule or the \
schedule. Change one of its numbers only where your change asks for it."""


class Hybrid(Researcher):
    """The numeric optimizer tells the other its state and learns from what both tried. Which of them proposes follows
    a share that starts at `share` and moves with what each has earned for its minutes."""

    name = "hybrid"

    def __init__(self, numeric: Search, llm: Researcher, share: float = 0.3):
        self.numeric, self.llm, self.asked_share = numeric, Backed(llm, numeric), share

    def propose(self, context: Context) -> Proposal:
        share = self.share(context)
        if not among(len(context.experiments) - 1, share):
            return signed(self.numeric, context)
        hints = (context.hints, DIVISION.format(rest=1 - share), self.numeric.state(context))
        return signed(self.llm, replace(context, hints="\n\n".join(filter(None, hints))))

    def share(self, context: Context) -> float:
        """Of the next proposals, the language model's. The odds that were asked for, times what it earned a minute over
        what the optimizer did; before either has earned anything both are taken to gain one spread of the noise in
        TRUST experiments."""
        ours, theirs = earned(context, self.llm.name), earned(context, self.numeric.name)
        trials = ours.experiments + theirs.experiments
        if not trials or not 0 < self.asked_share < 1:
            return self.asked_share
        typical = (ours.minutes + theirs.minutes) / trials

        def rate(e: Earned) -> float:
            return (e.gain_bpb + context.spread_bpb) / max(e.minutes + TRUST * typical, 1e-9)

        odds = self.asked_share / (1 - self.asked_share) * rate(ours) / max(rate(theirs), 1e-12)
        return min(max(odds / (1 + odds), min(LEAST, self.asked_share)), max(MOST, self.asked_share))


class Relay(Researcher):
    """`first` proposes; after `patience` experiments in a row without a keep `then` does, until something is kept."""

    name = "relay"

    def __init__(self, first: Researcher, then: Researcher, patience: int = PLATEAU):
        self.first, self.then, self.patience = first, then, patience

    def propose(self, context: Context) -> Proposal:
        return signed(self.then if stale(attempts(context)) >= self.patience else self.first, context)


@dataclass(frozen=True)
class Earned:
    """What one researcher's experiments have gained, and the minutes of training and scoring they took."""

    experiments: int
    gain_bpb: float
    minutes: float


def earned(context: Context, name: str) -> Earned:
    own = [a for a in attempts(context) if a.experiment.researcher == name]
    gains = [max(0.0, -a.delta) for a in own if a.experiment.verdict == "keep" and a.delta is not None]
    return Earned(len(own), sum(gains), sum(t.whole_s for a in own for t in a.experiment.trials) / 60)


def among(n: int, share: float) -> bool:
    """Whether the n-th of a sequence belongs to an evenly spread `share` of it; the first does. Steps of the golden
    ratio spread any share evenly, so it may change at any time."""
    return n * GOLDEN % 1 < share


def signed(researcher: Researcher, context: Context) -> Proposal:
    proposal = researcher.propose(context)
    return replace(proposal, researcher=proposal.researcher or researcher.name)
