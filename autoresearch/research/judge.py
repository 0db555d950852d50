"""Judging one experiment: screen it, confirm it on fresh seeds, audit it, doubt what is too good.

Trials and pairs are journalled as they end and everything else is computed from the journal, so the same call after a
kill goes on where it was: no recipe is trained twice on a seed.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from autoresearch.harness.runner import DIVERGED_IN
from autoresearch.harness.supervise import TrialFailed
from autoresearch.records import BASELINE, MACHINE, Experiment, Trial
from autoresearch.research import decide, gate, quarantine
from autoresearch.research.decide import Fresh, Noise
from autoresearch.research.lab import Candidate, Lab
from autoresearch.research.ledger import Ledger
from autoresearch.research.until import Paused

BASELINE_SEEDS = (1, 2, 3)
SCREENING_SEED = 1
FRESH_SEEDS = tuple(range(2, 4 + decide.CAREFUL.seeds))  # two to spare, where the incumbent fails on one
SIMPLIFICATIONS = "simplifications"  # fact: experiments kept for being simpler, at an equal score


@dataclass(frozen=True)
class Judgement:
    verdict: str
    reason: str
    gain_bpb: float | None = None
    by_machine: bool = False  # a process of ours failed, not the candidate


@dataclass(frozen=True)
class Confirmation:
    """The fresh seeds of a candidate so far, and the verdict they come to."""

    gains: list[float]
    most: int
    noise: Noise
    verdict: int
    allowance: float
    keeps: int  # of the study before it

    @property
    def fresh(self) -> Fresh:
        return Fresh.of(self.gains)

    @property
    def by_allowance(self) -> bool:
        """Kept for being simpler: by its gain alone it would not have been."""
        return self.allowance > 0 and float(decide.z_score(self.fresh, self.noise)) < self.asked

    @property
    def asked(self) -> float:
        """Standard errors that its gain, the allowance included, had to be worth."""
        return float(decide.asked(len(self.gains), self.most, self.keeps))


@dataclass(frozen=True)
class Judge:
    lab: Lab
    ratchet: str
    stop: Callable[[], bool]  # between trials of a confirmation

    def judge(self, candidate: Candidate, incumbent: Candidate, simpler: str) -> Judgement:
        """Raises Paused. `simpler` says in words why the candidate may be kept at an equal score, or is empty."""
        trial = self._screened(candidate)
        score = trial.bpb()
        if trial.status != "ok" or score is None:
            return Judgement(trial.status, trial.reason)
        theirs = self._partner(trial, incumbent) or self._incumbents(incumbent, SCREENING_SEED)
        best = theirs.bpb()
        assert best is not None
        self.lab.ledger.pair(candidate.n, trial.id, theirs.id, score - best)
        compared = f"{score:.4f} against {best:.4f} on the same seed, {score - best:+.4f} bits per byte"
        if best - score > self._likely(candidate, best):  # no fresh seeds for what fails its replay anyway
            audited = self._audited(candidate, Judgement("keep", compared, best - score))
            if audited.verdict != "keep":
                return audited
        if self.ratchet == "careful":
            unless = Judgement("discard", compared, best - score)
            judgement = self._carefully(candidate, incumbent, simpler, score, unless)
        else:
            judgement = self._at_once(best - score, compared)
        return self._examined(candidate, incumbent, judgement) if judgement.verdict == "keep" else judgement

    # The ratchets

    def _at_once(self, gain: float, compared: str) -> Judgement:
        spread = self.lab.ledger.fact("spread_bpb")
        if self.ratchet == "greedy":
            won, asked = bool(decide.greedy(gain)), "a decrease, however small"
        else:
            won, asked = bool(decide.fast(gain, spread)), f"a decrease of more than the seed spread, {spread:.4f}"
        met = "which it is" if won else "which it is not"
        return Judgement("keep" if won else "discard", f"{compared}: {self.ratchet} asks for {asked}, {met}", gain)

    def _carefully(self, candidate: Candidate, incumbent: Candidate, simpler: str, score: float,
                   unless: Judgement) -> Judgement:
        """`score` is the screening trial's, `unless` what is said of it where it earns no fresh seeds."""
        ledger = self.lab.ledger
        spread, noise = ledger.fact("spread_bpb"), self._noise(candidate)
        allowance = decide.allowance(spread, len(ledger.fact(SIMPLIFICATIONS, []))) if simpler else 0.0
        expected = self._expected(candidate, incumbent, noise, spread)
        screened = expected - score + allowance
        if not decide.promising(screened, noise):
            below = expected + allowance - decide.CAREFUL.screen * noise.sd
            why = f"to earn fresh seeds it had to score below {below:.4f}, as the incumbent is expected at " \
                  f"{expected:.4f} there and the noise is {noise.sd:.4f}"
            return replace(unless, reason=f"{unless.reason}: {why}")
        most = int(decide.most_seeds(noise, spread))
        found = self._confirm(candidate, incumbent, screened, most, allowance)
        if isinstance(found, Judgement):
            return found
        if found.verdict == decide.KEEP and found.by_allowance:
            ledger.set_fact(SIMPLIFICATIONS, sorted({*ledger.fact(SIMPLIFICATIONS, []), candidate.n}))
        return Judgement("keep" if found.verdict == decide.KEEP else "discard", self._sentence(found, simpler),
                         statistics.fmean(found.gains))

    def _confirm(self, candidate: Candidate, incumbent: Candidate, screened: float, most: int,
                 allowance: float) -> Confirmation | Judgement:
        """Seed after seed, the incumbent's trial just before the candidate's where it has none yet."""
        gains: list[float] = []
        for seed in FRESH_SEEDS:
            try:
                gain = self._paired(candidate, incumbent, seed)
            except TrialFailed as e:
                return Judgement(e.status, e.reason)
            if gain is None:
                continue
            gains.append(gain)
            noise = self._noise(candidate, gains)
            shifted = Fresh.of([g + allowance for g in gains])
            keeps = self._keeps()
            verdict = int(decide.look(shifted, most, screened, noise, keeps))
            if verdict != decide.GO_ON:
                return Confirmation(gains, most, noise, verdict, allowance, keeps)
        return Judgement("interrupted", "the incumbent could not be trained on enough fresh seeds to compare with")

    # What the journal says

    def _noise(self, candidate: Candidate, own: list[float] | None = None) -> Noise:
        return noise_of(self.lab.ledger, candidate.n, candidate.kind, own)

    def _expected(self, candidate: Candidate, incumbent: Candidate, noise: Noise, spread: float) -> float:
        """What the incumbent should score on the screening seed."""
        experiments = {e.n: e for e in self.lab.ledger.experiments() if e.n >= BASELINE and e.n != candidate.n}
        others = [e for e in experiments.values() if e.n != incumbent.n and len(e.on_val()) > 1]
        seeds = (SCREENING_SEED, *FRESH_SEEDS)
        scores = np.array([[e.on_val().get(seed, np.nan) for seed in seeds]
                           for e in (experiments[incumbent.n], *others)])
        return float(decide.reference(scores, noise, spread)[0])

    def _keeps(self) -> int:
        return sum(e.verdict == "keep" and e.n > BASELINE for e in self.lab.ledger.experiments())

    def _trial(self, n: int, seed: int) -> Trial | None:
        """A recipe's finished trial on a seed; its scored one where there are several. None of the machine's making."""
        found = [t for t in self.lab.ledger.experiment(n).trials if t.seed == seed and t.purpose in ("screen", "repeat")
                 and t.status not in ("running", "interrupted") and t.facts.get("cause") != MACHINE]
        return max(found, key=lambda t: (t.status == "ok", t.id), default=None)

    # Trials

    def _screened(self, candidate: Candidate) -> Trial:
        """From before a kill where its weights are still there, and whole, for the audit."""
        trial = self._trial(candidate.n, SCREENING_SEED)
        if trial is not None and self._recorded(trial):
            return trial
        return self.lab.screen(candidate, SCREENING_SEED)

    def _incumbents(self, incumbent: Candidate, seed: int) -> Trial:
        """Run again where the machine has become faster or slower since: scores are never scaled."""
        found = self._trial(incumbent.n, seed)
        if found is None or found.status != "ok" or not self.lab.drifted(found):
            return self._on(incumbent, seed)
        if self.stop():
            raise Paused
        self.lab.view.note(f"the machine's speed has changed since {incumbent.label} trained on seed {seed}: once more")
        self._run(incumbent, seed)
        return self._trial(incumbent.n, seed) or found

    def _on(self, candidate: Candidate, seed: int) -> Trial:
        if (found := self._trial(candidate.n, seed)) is not None:
            return found
        if self.stop():
            raise Paused
        return self._run(candidate, seed)

    def _run(self, candidate: Candidate, seed: int) -> Trial:
        trial = self.lab.repeat(candidate, seed)
        if self.lab.ledger.experiment(candidate.n).verdict:  # the incumbent's: nothing will ask for its weights
            self.lab.discard_files(trial)
        return trial

    def _paired(self, candidate: Candidate, incumbent: Candidate, seed: int) -> float | None:
        """The gain on a fresh seed; None where the incumbent has no score there. Raises TrialFailed, and Paused."""
        mine = self._trial(candidate.n, seed)
        theirs = self._incumbents(incumbent, seed) if mine is None else \
            self._partner(mine, incumbent) or self._on(incumbent, seed)
        if (best := theirs.bpb()) is None:
            return None
        mine = self._on(candidate, seed)
        if (score := mine.bpb()) is None:
            raise TrialFailed(mine.status, f"on seed {seed}: {mine.reason}")
        self.lab.ledger.pair(candidate.n, mine.id, theirs.id, score - best)
        return best - score

    def _partner(self, trial: Trial, incumbent: Candidate) -> Trial | None:
        """The incumbent's trial that it was compared with before: a later one may be of a faster or slower machine."""
        ids = {p.incumbent_trial for p in self.lab.ledger.pairs(trial.experiment) if p.trial == trial.id}
        return next((t for t in self.lab.ledger.experiment(incumbent.n).trials if t.id in ids), None)

    def _recorded(self, trial: Trial) -> bool:
        return self.lab.is_whole(trial)

    def _audited(self, candidate: Candidate, judgement: Judgement) -> Judgement:
        """Every score that counted is replayed."""
        trials = [t for t in self.lab.ledger.experiment(candidate.n).trials if t.status == "ok" and self._recorded(t)]
        findings = []
        for trial in trials:
            try:
                findings.append(self.lab.audit(candidate, trial))
            except TrialFailed as e:
                if e.cause == MACHINE:
                    return Judgement("interrupted", e.reason, by_machine=True)
                return Judgement(e.status, e.reason, judgement.gain_bpb)
        if not findings:
            return Judgement("invalid", "no trial has records that could be replayed", judgement.gain_bpb)
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        return Judgement("keep", f"{judgement.reason}; {findings[0]}{more}", judgement.gain_bpb)

    def _examined(self, candidate: Candidate, incumbent: Candidate, judgement: Judgement) -> Judgement:
        """Replayed; and where the gain is larger than likely, kept only if it shows elsewhere too."""
        mine = self._trial(candidate.n, SCREENING_SEED)
        # Its screening trial, whose weights are kept, also where it was run again since.
        screens = [t for t in self.lab.ledger.experiment(incumbent.n).screens() if t.seed == SCREENING_SEED]
        theirs = screens[-1] if screens else None
        best = theirs.bpb() if theirs else None
        assert mine is not None and theirs is not None and best is not None
        gain, likely = judgement.gain_bpb or 0.0, self._likely(candidate, best)
        if gain <= likely:
            return self._audited(candidate, judgement)
        self.lab.view.note(f"{candidate.label} is in quarantine: a gain of {gain:.4f} is larger than likely")
        try:
            gains = (self._paired(candidate, incumbent, seed) for seed in FRESH_SEEDS)
            fresh = list(itertools.islice((g for g in gains if g is not None), quarantine.SEEDS))
            audited = self._audited(candidate, judgement)
            if audited.verdict != "keep":
                return audited
            found = quarantine.examine(self.lab, (candidate, mine), (incumbent, theirs), gain, likely, fresh)
        except TrialFailed as e:
            return Judgement(e.status, f"{judgement.reason}; in quarantine: {e.reason}", gain)
        return Judgement("keep" if found.held else "invalid", f"{audited.reason}; {found}", gain)

    def _likely(self, candidate: Candidate, incumbent_bpb: float) -> float:
        """Gains up to this are believed. The history is the mean over seeds of every experiment that was kept."""
        gains: dict[int, list[float]] = {e.n: [] for e in self.lab.ledger.experiments()
                                         if e.verdict == "keep" and e.n > BASELINE}
        for pair in self.lab.ledger.pairs():
            if pair.experiment in gains:
                gains[pair.experiment].append(-pair.delta_bpb)
        return quarantine.likely_bpb(incumbent_bpb, self._noise(candidate),
                                     [statistics.fmean(of_one) for of_one in gains.values() if of_one])

    # Words

    def _sentence(self, c: Confirmation, simpler: str) -> str:
        shrunk, low, high = (float(x) for x in decide.claim(c.fresh, c.most, c.noise))
        n, gain = len(c.gains), statistics.fmean(c.gains)
        shifted = Fresh.of([g + c.allowance for g in c.gains])
        z = float(decide.z_score(shifted, c.noise))
        measured = f"{'better' if gain >= 0 else 'worse'} by {abs(gain):.4f} bits per byte on {n} fresh " \
                   f"seed{'s' if n > 1 else ''}"
        if c.verdict == decide.KEEP and shrunk > 0:
            measured += f" ({shrunk:.4f} after shrinkage)"
        interval = f"95% interval {low:+.4f} to {high:+.4f}"
        met = "at least" if c.verdict == decide.KEEP else "short of"
        errors = f"{z:.1f} standard errors, {met} the {c.asked:.1f} asked after {n} of at most {c.most}"
        if c.allowance:
            errors += f", with {c.allowance:.4f} allowed for a simplification ({simpler})"
        if c.verdict == decide.KEEP and low <= 0 < gain and not c.allowance:  # the bound is one-sided, and lower
            return f"{measured}: {errors}; enough to keep it, not to say how much it gains: its {interval} includes " \
                   "zero"
        return f"{measured}, {interval}: {errors}"


def noise_of(ledger: Ledger, n: int, kind: str, own: list[float] | None = None) -> Noise:
    """Of paired differences of this kind of change: the expectation, all repeated trials of experiments but `n`, and
    `own` gains."""
    squares, dof = 0.0, 0
    for gains in [*_fresh_gains(ledger, n, kind), own or []]:
        if len(gains) > 1:
            squares += Fresh.of(gains).squares
            dof += len(gains) - 1
    return decide.pooled(kind, ledger.fact("spread_bpb"), squares, dof)


def _fresh_gains(ledger: Ledger, n: int, kind: str) -> list[list[float]]:
    """Of every other experiment with the same kind of change."""
    kinds = {t.id: t.facts.get("kind") for e in ledger.experiments() for t in e.trials
             if t.purpose == "repeat" and e.n != n}
    found: dict[int, list[float]] = {}
    for pair in ledger.pairs():
        if kinds.get(pair.trial) == kind:
            found.setdefault(pair.experiment, []).append(-pair.delta_bpb)
    return list(found.values())


def again(experiment: Experiment) -> str:
    """What a verdict adds where trials diverged in low precision; each of them was run again in float32."""
    low = sorted({str(t.facts[DIVERGED_IN]) for t in experiment.trials if DIVERGED_IN in t.facts})
    return f"; {' and '.join(low)} broke down, so it was trained again in float32" if low else ""


def kind_of(changes: dict[str, object], paths: list[str], folder: str) -> str:
    """What was changed, as far as seeds care: `paths` are the changed files."""
    if any(path != f"{folder}/{gate.RECIPE}" for path in paths):
        return decide.CODE
    if "data.tokenizer" in changes:
        return decide.TOKENIZER
    tables = {key.partition(".")[0] for key in changes}
    return decide.NEW_SHAPES if tables & {"model", "batch", "data", "extra"} else decide.SAME_SHAPES


def used_files(experiment: Experiment) -> list[Trial]:
    """Trials whose weights nobody needs once the experiment is decided."""
    return [t for t in experiment.trials if experiment.verdict
            and t.purpose in ("screen", "repeat") and (experiment.verdict != "keep" or t.purpose == "repeat")]
