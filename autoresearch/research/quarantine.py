"""Quarantine: a gain that is larger than noise and history make likely has to show elsewhere before it is kept.

    likely_bpb   how large a gain may be before it is doubted
    examine      what is left of it on fresh seeds, on the confirm split and in a larger replay

Whoever wrote a candidate may have read the validation text, and code can carry it. Such a model predicts that text from
its past alone, which no replay can tell from skill; but it predicts no other text. So the same weights are scored on
the confirm split, beside the incumbent's, and every look at it is counted.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from autoresearch.records import Trial
from autoresearch.research.decide import Noise
from autoresearch.research.lab import Candidate, Lab

FACT = "quarantined"  # of the study: {experiment: what was found}
NOISE_SDS = 6.0
SHARE = 0.03  # of the incumbent's score: upstream's best night won 2.8%, with 23 kept changes together
TIMES = 3.0  # the median of what was kept so far
LEFT = 0.5  # of a gain that is of the model and not of the text it was measured on
SEEDS = 2
PER_ROW = 4  # positions replayed at random in each row, where every other score has one
RECORDS = "confirm.npz"


@dataclass(frozen=True)
class Found:
    """Gains in bits per byte: claimed, the largest that would be likely, the mean on fresh seeds, on confirm."""

    gain_bpb: float
    likely_bpb: float
    fresh_bpb: float
    confirm_bpb: float
    replay: str  # the finding of the larger one
    held: bool

    def __str__(self) -> str:
        verdict = "the gain holds" if self.held else \
            "it is a gain on the text that it was measured on, not of the model"
        return (f"quarantined, as a gain of {self.gain_bpb:.4f} is larger than likely (up to {self.likely_bpb:.4f}): "
                f"{self.fresh_bpb:+.4f} on fresh seeds, {self.confirm_bpb:+.4f} on the confirm split, "
                f"{self.replay}: {verdict}")


def likely_bpb(incumbent_bpb: float, noise: Noise, kept: Sequence[float]) -> float:
    """`kept` are the gains of the study so far. What noise may add comes on top of what changes have been worth."""
    usual = statistics.median(kept) if kept else 0.0
    return NOISE_SDS * float(noise.sd) + max(SHARE * incumbent_bpb, TIMES * usual)


def examine(lab: Lab, mine: tuple[Candidate, Trial], theirs: tuple[Candidate, Trial], gain: float, likely: float,
            fresh: Sequence[float]) -> Found:
    """Scores both on confirm and replays more of the candidate there than of any other score. `fresh` are the gains on
    fresh seeds. Raises TrialFailed where the replay finds the score unearned. Remembered as a fact of the study."""
    (candidate, trial), (incumbent, before) = mine, theirs
    theirs_bpb = lab.confirm(incumbent, before).bpb
    confirm = theirs_bpb - lab.confirm(candidate, trial, RECORDS, PER_ROW).bpb
    finding = lab.audit(candidate, trial, "confirm", RECORDS)
    mean = statistics.fmean(fresh) if fresh else 0.0
    found = Found(gain, likely, mean, confirm, finding, min(mean, confirm) >= LEFT * gain)
    lab.ledger.set_fact(FACT, lab.ledger.fact(FACT, {}) | {str(candidate.n): asdict(found)})
    (lab.folder(trial.id) / RECORDS).unlink(missing_ok=True)
    return found
