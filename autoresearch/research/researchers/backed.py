"""A researcher that may have no proposal, backed by one that always has: no night ends because a service is down."""

from __future__ import annotations

from dataclasses import replace

from autoresearch.research.researchers.base import Context, NoProposal, Proposal, Researcher


class Backed(Researcher):
    """Asks `first`, and `then` where that has none. What it does instead is said once for every new reason."""

    def __init__(self, first: Researcher, then: Researcher):
        self.name, self._first, self._then = first.name, first, then
        self._said = ""

    def propose(self, context: Context) -> Proposal:
        try:
            proposal = self._first.propose(context)
            self._said = ""
            return proposal
        except NoProposal as e:
            if str(e) != self._said:
                context.note(f"{self._first.name}: {e}; {self._then.name} proposes")
            self._said = str(e)
            proposal = self._then.propose(context)
            return replace(proposal, researcher=proposal.researcher or self._then.name)
