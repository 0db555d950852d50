"""Simulated nights: what each rule for keeping changes keeps, and what it claims. The tables of docs/decisions.md.

    python -m benchmarks.decision_rules                       10,000 nights of every regime
    python -m benchmarks.decision_rules --regime "r = 0.7"    one regime
    python -m benchmarks.decision_rules --nights 1000         quicker

A night has 100 trials, whatever they are spent on. Scores are in standard deviations over seeds (sigma). A trial of a
recipe on a seed scores

    the recipe's level + the seed's part (variance r) + its own part (variance 1 - r) + drift

so that r is the correlation of two recipes over seeds. An idea helps with the regime's probability, by a gamma variate
of shape 2 and the regime's mean; of the others half do nothing and half do harm of the same size. On a null night all
of them do nothing, the hardest case for keeping nothing false. The rules are the functions of
autoresearch/research/decide.py themselves, called with one array element a night.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from autoresearch.research import decide

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

TRIALS = 100
BASELINE_SEEDS = 3
SEEDS = 1 + decide.CAREFUL.seeds  # the screening seed and the fresh ones
PAST = 14  # recipes with repeated trials that a night remembers


@dataclass(frozen=True)
class Regime:
    name: str
    kind: str = decide.NEW_SHAPES  # what the careful rule is told that the changes are
    r: float = 0.7
    helpful: float = 0.1
    harmful: float = 0.5  # of the others
    mean_gain: float = 1.0
    heavy_tails: bool = False  # of a trial's own part: Student's t with 3 degrees of freedom
    drift: float = 0.0  # over the night, up or down

REGIMES = [
    Regime("r = 0", decide.TOKENIZER, r=0.0),
    Regime("r = 0.7"),
    Regime("r = 0.98", decide.SAME_SHAPES, r=0.98),
    Regime("r = 0.7, small gains (0.5)", mean_gain=0.5),
    Regime("r = 0.7, large gains (2)", mean_gain=2.0),
    Regime("r = 0.7, heavy tails", heavy_tails=True),
    Regime("r = 0.7, drift of 1", drift=1.0),
    Regime("r = 0.3, taken for 0.82", decide.SAME_SHAPES, r=0.3),
]


@dataclass
class Nights:
    """Many nights at once, the incumbent's true level always 0."""

    regime: Regime
    n: int
    rng: np.random.Generator
    baseline_seeds: int = BASELINE_SEEDS
    claims: list[Floats] = field(default_factory=list)  # rows: night, claimed gain, low, high, true gain

    def __post_init__(self) -> None:
        n = self.n
        self.every = np.arange(n)
        self.seed_part = np.sqrt(self.regime.r) * self.rng.standard_normal((n, SEEDS))
        self.slope = self.regime.drift / TRIALS * self.rng.choice([-1.0, 1.0], n)
        self.incumbent = np.full((n, SEEDS), np.nan)
        self.spent, self.ideas = np.zeros(n, int), np.zeros(n, int)
        self.kept, self.false, self.gain = np.zeros(n, int), np.zeros(n, int), np.zeros(n)
        for seed in range(self.baseline_seeds):
            self.incumbent[:, seed] = self.trial(self.every, np.zeros(n), np.full(n, seed))

    def idea(self, i: Ints) -> Floats:
        """The true gain of the next idea in each of the nights `i`."""
        self.ideas[i] += 1
        size = self.rng.gamma(2, self.regime.mean_gain / 2, len(i))
        useless = np.where(self.rng.random(len(i)) < self.regime.harmful, -size, 0.0)
        return np.where(self.rng.random(len(i)) < self.regime.helpful, size, useless)

    def trial(self, i: Ints, level: Floats, seed: Ints) -> Floats:
        own = self.rng.standard_t(3, len(i)) / np.sqrt(3) if self.regime.heavy_tails else \
            self.rng.standard_normal(len(i))
        drift = self.slope[i] * self.spent[i]
        self.spent[i] += 1
        return level + self.seed_part[i, seed] + np.sqrt(1 - self.regime.r) * own + drift

    def keep(self, i: Ints, gain: Floats, scores: Floats, claimed: Floats, low: Floats, high: Floats) -> None:
        self.claims.append(np.stack([i, claimed, low, high, gain], axis=1))
        self.kept[i] += 1
        self.false[i] += gain <= 0
        self.gain[i] += gain
        self.incumbent[i] = scores + gain[:, None]

    @property
    def spread(self) -> Floats:
        return np.asarray(np.std(self.incumbent[:, :self.baseline_seeds], axis=1, ddof=1))


def on_one_seed(nights: Nights, wins: Callable[[Floats], npt.NDArray[np.bool_]]) -> None:
    """Greedy and fast: each idea has one trial, on the incumbent's seed."""
    while (nights.spent < TRIALS).any():
        true = nights.idea(nights.every)
        score = nights.trial(nights.every, -true, np.zeros(nights.n, int))
        gain = nights.incumbent[:, 0] - score
        k = np.flatnonzero(wins(gain))
        scores = np.full((len(k), SEEDS), np.nan)
        scores[:, 0] = score[k]
        nights.keep(k, true[k], scores, gain[k], gain[k], gain[k])


def bootstrap(nights: Nights) -> None:
    """The peers' rule: dropped when the first run is no better than the incumbent's mean; else three runs, kept when
    95% of resamples of both have the better mean. Three values have 27 resamples: all pairs are counted."""
    resamples = np.array(list(product(range(3), repeat=3)))
    for _ in range(TRIALS):
        i = np.flatnonzero(nights.spent < TRIALS)
        true = nights.idea(i)
        scores = np.full((len(i), SEEDS), np.nan)
        scores[:, 0] = nights.trial(i, -true, np.zeros(len(i), int))
        ok = scores[:, 0] < nights.incumbent[i, :3].mean(1)
        i, true, scores = i[ok], true[ok], scores[ok]
        for seed in (1, 2):
            scores[:, seed] = nights.trial(i, -true, np.full(len(i), seed))
        mine, theirs = (x[:, resamples].mean(2) for x in (scores[:, :3], nights.incumbent[i, :3]))
        differences = (theirs[:, :, None] - mine[:, None, :]).reshape(len(i), len(resamples) ** 2)
        won = ((differences > 0).mean(1) >= 0.95) & (nights.spent[i] <= TRIALS)
        low, high = np.quantile(differences[won], (0.025, 0.975), axis=1) if won.any() else (np.empty(0), np.empty(0))
        claimed = nights.incumbent[i[won], :3].mean(1) - scores[won, :3].mean(1)
        nights.keep(i[won], true[won], scores[won], claimed, low, high)


class Careful:
    """Screen, then confirm on fresh paired seeds, as the loop does it; every night is at its own step."""

    def __init__(self, nights: Nights):
        n, self.nights = nights.n, nights
        self.spread = nights.spread
        self.squares, self.dof = np.zeros(n), np.zeros(n)  # of finished confirmations
        self.true, self.screened, self.most = np.zeros(n), np.zeros(n), np.ones(n)
        self.fresh = np.zeros(n, int)  # how many fresh seeds the candidate is on; 0: it is yet to be screened
        self.candidate = np.full((n, SEEDS), np.nan)
        self.scores = np.full((n, PAST, SEEDS), np.nan)  # of the incumbent, then of past recipes
        self.next_past = np.ones(n, int)

    def run(self) -> None:
        while (on := np.flatnonzero(self.nights.spent < TRIALS)).size:
            confirming = self.fresh[on] > 0
            self.screen(on[~confirming])
            self.confirm(on[confirming])

    def noise(self, i: Ints, squares: Floats | float = 0.0, dof: Floats | float = 0.0) -> decide.Noise:
        return decide.pooled(self.nights.regime.kind, self.spread[i], self.squares[i] + squares, self.dof[i] + dof)

    def screen(self, i: Ints) -> None:
        if not i.size:
            return
        nights, noise = self.nights, self.noise(i)
        self.true[i] = nights.idea(i)
        self.candidate[i] = np.nan
        self.candidate[i, 0] = nights.trial(i, -self.true[i], np.zeros(len(i), int))
        self.scores[i, 0] = nights.incumbent[i]
        self.screened[i] = decide.reference(self.scores[i], noise, self.spread[i])[:, 0] - self.candidate[i, 0]
        self.fresh[i] = decide.promising(self.screened[i], noise)
        self.most[i] = decide.most_seeds(noise, self.spread[i])

    def confirm(self, i: Ints) -> None:
        nights, seed = self.nights, self.fresh[i]
        missing = np.isnan(nights.incumbent[i, seed])
        m = i[missing]
        nights.incumbent[m, seed[missing]] = nights.trial(m, np.zeros(len(m)), seed[missing])
        self.candidate[i, seed] = nights.trial(i, -self.true[i], seed)
        gains = (nights.incumbent[i] - self.candidate[i])[:, 1:]
        gains[np.arange(SEEDS - 1) >= seed[:, None]] = np.nan
        total = np.nansum(gains, axis=1)
        seen = decide.Fresh(seed, total, np.nansum((gains - (total / seed)[:, None]) ** 2, axis=1))
        noise = self.noise(i, seen.squares, seed - 1)
        verdict = decide.look(seen, self.most[i], self.screened[i], noise, nights.kept[i])
        verdict[nights.spent[i] > TRIALS] = decide.DROP  # the night ended before this trial
        self.conclude(i, verdict, seen, noise)

    def conclude(self, i: Ints, verdict: npt.NDArray[np.int_], seen: decide.Fresh, noise: decide.Noise) -> None:
        claimed, low, high = decide.claim(seen, self.most[i], noise)
        done, kept, dropped = verdict != decide.GO_ON, verdict == decide.KEEP, verdict == decide.DROP
        self.squares[i[done]] += seen.squares[done]
        self.dof[i[done]] += seen.n[done] - 1
        self.fresh[i] = np.where(done, 0, seen.n + 1)
        self.remember(i[dropped], self.candidate[i[dropped]])
        k = i[kept]
        self.remember(k, self.nights.incumbent[k])
        self.scores[k] += self.true[k, None, None]  # levels are relative to the incumbent's
        self.nights.keep(k, self.true[k], self.candidate[k], claimed[kept], low[kept], high[kept])

    def remember(self, i: Ints, scores: Floats) -> None:
        self.scores[i, self.next_past[i]] = scores
        self.next_past[i] = np.where(self.next_past[i] == PAST - 1, 1, self.next_past[i] + 1)


def simulate(rule: str, regime: Regime, n: int, seed: int) -> Nights:
    nights = Nights(regime, n, np.random.default_rng(seed), 1 if rule == "greedy" else BASELINE_SEEDS)
    if rule == "greedy":
        on_one_seed(nights, decide.greedy)
    elif rule == "fast":
        spread = nights.spread
        on_one_seed(nights, lambda gain: decide.fast(gain, spread))
    elif rule == "bootstrap":
        bootstrap(nights)
    else:
        Careful(nights).run()
    return nights


RULES = ("greedy", "fast", "bootstrap", "careful")


def row(rule: str, share: str, nights: Nights, greedy_gain: float) -> str:
    claims = np.concatenate([*nights.claims, np.empty((0, 5))])
    _, claimed, low, high, true = claims.T
    cells = [rule, share, f"{nights.ideas.mean():.0f}", f"{nights.kept.mean():.2f}", f"{nights.false.mean():.2f}",
             f"{(nights.gain < 0).mean():.1%}", f"{nights.gain.mean():+.2f}",
             f"{nights.gain.mean() / greedy_gain:.0%}" if greedy_gain > 0 else "",
             f"{claimed.sum() / nights.n:+.2f}", f"{(claimed - true).mean():+.2f}" if len(claims) else ""]
    covers = ((low <= true) & (true <= high)).mean() if len(claims) and rule in ("bootstrap", "careful") else None
    return "| " + " | ".join([*cells, "" if covers is None else f"{covers:.0%}"]) + " |"


HEADING = ("| rule | ideas that help | ideas tried | kept | false keeps | ends worse | true gain | of greedy's | "
           "claimed gain | bias of a claim | interval covers |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")


def table(regime: Regime, n: int, seed: int) -> str:
    lines = [f"### {regime.name}", "", HEADING]
    for share, helpful, harmful in (("null", 0.0, 0.0), ("0%", 0.0, 0.5), ("3%", 0.03, 0.5), ("10%", 0.1, 0.5)):
        now = replace(regime, helpful=helpful, harmful=harmful)
        found = {rule: simulate(rule, now, n, seed) for rule in RULES}
        greedy_gain = float(found["greedy"].gain.mean())
        lines += [row(rule, share, found[rule], greedy_gain) for rule in RULES]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--regime", choices=[r.name for r in REGIMES], action="append", help="default: all of them")
    options = parser.parse_args()
    for regime in REGIMES:
        if not options.regime or regime.name in options.regime:
            began = time.monotonic()
            print(table(regime, options.nights, options.seed), flush=True)
            print(f"\n{options.nights:,} nights, seed {options.seed}, {time.monotonic() - began:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
