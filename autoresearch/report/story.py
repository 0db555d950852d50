"""What a study's ledger tells, in the numbers that status, log, picture and page share.

    Attempt    one idea and how it went
    Story      the whole study
    tell       a study's story

Gains compare trials of the same seed, so those on `val` are differences of paired runs; they selected what they
measure, though those on fresh seeds much less, which is why only `Story.summary` may call a gain real.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from autoresearch.errors import UserError
from autoresearch.records import BASELINE, Experiment, Pair, Trial
from autoresearch.research.account import Entry
from autoresearch.research.study import Study
from autoresearch.research.verify import LOOKS, PURPOSE, Summary, summarise

UNDER_WAY, UNDECIDED = "under way", "undecided"  # of an idea without a verdict; the second where nothing runs


@dataclass(frozen=True)
class Attempt:
    experiment: Experiment
    trial: Trial | None  # on the screening seed; the last one where none succeeded
    gain_bpb: float | None  # Experiment.gain_bpb
    parent: Experiment | None  # its incumbent
    pairs: tuple[Pair, ...] = ()  # trials against the incumbent's of the same seed, the screening one first

    @property
    def n(self) -> int:
        return self.experiment.n

    @property
    def verdict(self) -> str:
        return self.experiment.verdict

    @property
    def bpb(self) -> float | None:
        return self.trial.bpb() if self.trial else None

    @property
    def gain_percent(self) -> float | None:
        return None if self.gain_bpb is None or not self.bpb else 100 * self.gain_bpb / (self.bpb + self.gain_bpb)

    @property
    def tokens_per_s(self) -> float | None:
        return self.trial.tokens / self.trial.train_s if self.trial and self.trial.train_s else None


@dataclass(frozen=True)
class Story:
    tag: str
    facts: dict[str, Any]
    is_running: bool  # some process works on it
    baseline: Attempt | None  # None until it is scored
    champion: Attempt | None
    ideas: list[Attempt]  # by number, those under way included
    summary: Summary | None  # of what was measured on fresh seeds and the confirm split
    confirm_reads: int
    holdout_reads: int
    holdout_evals: int  # of these, those that were no verification's
    experiments: list[Experiment]
    spending: list[Entry]  # on asking language models

    def standing(self, a: Attempt) -> str:
        """Its verdict in a word, or what it waits for."""
        return "baseline" if a.n == BASELINE else a.verdict or (UNDER_WAY if self.is_running else UNDECIDED)

    @property
    def attempts(self) -> list[Attempt]:
        """The baseline once it is scored, then the ideas."""
        return [*([self.baseline] if self.baseline else []), *self.ideas]

    def attempt(self, n: int) -> Attempt:
        """Of an experiment that is in the ledger."""
        found = next((a for a in self.attempts if a.n == n), None)
        if found is None:
            raise UserError("the baseline has no score yet", f"Finish it with: ar loop --tag {self.tag}")
        return found

    @property
    def judged(self) -> list[Attempt]:
        return [a for a in self.ideas if a.verdict]

    @property
    def kept(self) -> list[Attempt]:
        return [a for a in self.ideas if a.verdict == "keep"]

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(a.verdict for a in self.judged))

    @property
    def spread_bpb(self) -> float | None:
        return self.facts.get("spread_bpb")

    @property
    def quarantined(self) -> dict[int, dict[str, Any]]:
        """{experiment: what was found} where a gain was larger than likely, and so was examined before it was kept."""
        return {int(n): found for n, found in (self.facts.get("quarantined") or {}).items()}

    @property
    def ratchet(self) -> str:
        return str(self.facts.get("ratchet", "careful"))

    @property
    def seed(self) -> int | None:
        """The one that ideas are screened on."""
        return self.baseline.trial.seed if self.baseline and self.baseline.trial else None

    @property
    def gain_bpb(self) -> float | None:
        """Of the champion over the baseline, on the screening seed and the split that selected it."""
        if not self.baseline or not self.champion or self.baseline.bpb is None or self.champion.bpb is None:
            return None
        return self.baseline.bpb - self.champion.bpb

    @property
    def gain_percent(self) -> float | None:
        gain = self.gain_bpb
        return None if gain is None or not self.baseline or not self.baseline.bpb else 100 * gain / self.baseline.bpb


def tell(study: Study) -> Story:
    ledger = study.ledger
    experiments = ledger.experiments()
    incumbent = ledger.incumbent()
    baseline = next((e for e in experiments if e.n == BASELINE), None)
    screened = baseline.screens() if baseline else []
    seed = screened[0].seed if screened else None
    by_sha = {e.sha: e for e in experiments if e.sha and e.n >= BASELINE and e.verdict == "keep"}

    def attempt(e: Experiment) -> Attempt:
        pairs = tuple(ledger.pairs(e.n))
        return Attempt(e, _trial(e, seed), e.gain_bpb(pairs), by_sha.get(e.parent) if e.n > BASELINE else None, pairs)

    return Story(
        tag=study.tag, facts=ledger.facts(), is_running=study.owner() is not None,
        baseline=attempt(baseline) if baseline and screened else None,
        champion=attempt(incumbent) if incumbent else None,
        ideas=[attempt(e) for e in experiments if e.n > BASELINE],
        summary=summarise(experiments, ledger.fact(LOOKS, [])), confirm_reads=ledger.reads("confirm"),
        holdout_reads=ledger.reads("holdout"), holdout_evals=ledger.reads("holdout", besides=PURPOSE),
        experiments=experiments, spending=ledger.account.entries())


def _trial(e: Experiment, seed: int | None) -> Trial | None:
    screens = e.screens()
    of_these = [t for t in screens if t.seed == seed] or screens or e.trials
    return of_these[-1] if of_these else None
