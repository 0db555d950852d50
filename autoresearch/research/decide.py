"""Deciding: is the candidate better than the incumbent by more than chance is? Pure functions of floats or arrays.

    spread_bpb     how far the baseline's seeds lie apart
    pooled         noise: how far paired differences lie apart, and how well that is known
    greedy, fast   the ratchets that decide on one paired seed
    reference      what the incumbent should score on each seed, from every repeated trial
    promising      careful: does a screening trial earn a confirmation on fresh seeds?
    most_seeds     careful: of how many at most
    look           careful: one look at the fresh seeds so far: keep, go on, or drop
    claim          the gain, with its interval
    allowance      what a simplification may lose

A gain is the incumbent's score less the candidate's on the same seed, in bits per byte: positive is better.
benchmarks/decision_rules.py runs these functions over simulated nights, an array element for each; docs/decisions.md
has what came out. The constants were found there.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np

Reals = Any  # a float, or an array with one element for each simulated night

RATCHETS = ("careful", "fast", "greedy")
KEEP, GO_ON, DROP = 1, 0, -1
SMALLEST_SPREAD_BPB = 1e-4

# What paired differences are expected to vary by before any were repeated, in spreads of seeds: sqrt(2 (1 - r)) for a
# correlation r of the two scores. Measured r: 0.98 for a learning rate, 0.72 for an activation. A learning rate
# gets less trust than was measured, since on a busy machine time adds noise that no seed explains. Another tokenizer
# changes the data order too, so more is expected of it than of independent seeds (1.41), to be on the safe side.
SAME_SHAPES, NEW_SHAPES, TOKENIZER, CODE = "same shapes", "new shapes", "tokenizer", "code"
EXPECTED = {SAME_SHAPES: 0.6, NEW_SHAPES: 0.77, TOKENIZER: 1.8, CODE: 0.77}
EXPECTED_DOF = 3.0  # how many degrees of freedom that expectation is worth


@dataclass(frozen=True)
class Careful:
    """The constants of the careful ratchet."""

    screen: float = 0.5  # standard deviations of a paired difference that a screening gain has to exceed
    seeds: int = 6  # fresh seeds of one confirmation, at most
    power: float = 3.0  # so many that a gain of one spread lies this many standard errors from zero
    keep: float = 1.5  # bound of the Brownian motion B(t): standard errors that a look at the end asks
    drop: float = 0.1  # where the lower line begins, below zero
    per_keep: float = 0.1  # every keep of the study lowers the bound by as much,
    keeps: int = 3  # so many times
    interval: float = 1.95  # as `keep`, for the claimed interval: two-sided
    shrink: float = 1.0  # of the claimed gain, in units of 1/z^2


CAREFUL = Careful()


@dataclass(frozen=True)
class Noise:
    """Of paired differences: their standard deviation, and the degrees of freedom it was estimated with."""

    sd: Reals
    dof: Reals


@dataclass(frozen=True)
class Fresh:
    """The gains on fresh seeds so far: their number, sum, and squares about their mean."""

    n: Reals
    total: Reals
    squares: Reals

    @classmethod
    def of(cls, gains: list[float]) -> Fresh:
        mean = statistics.fmean(gains)
        return cls(len(gains), sum(gains), sum((g - mean) ** 2 for g in gains))


def spread_bpb(baseline: list[float]) -> float:
    """Standard deviation over seeds, in bits per byte. Raises ValueError for fewer than two."""
    return max(SMALLEST_SPREAD_BPB, statistics.stdev(baseline))


def pooled(kind: str, spread: Reals, squares: Reals, dof: Reals) -> Noise:
    """The expectation for that kind of change, and what repeated trials say: `squares` of gains about their own
    candidate's mean, with `dof` degrees of freedom. The mean of a scaled inverse chi-squared posterior's parameters
    (Gelman et al., Bayesian Data Analysis, section 2.6)."""
    total = EXPECTED_DOF + dof
    return Noise(np.sqrt((EXPECTED_DOF * (EXPECTED[kind] * spread) ** 2 + squares) / total), total)


def greedy(gain: Reals) -> Reals:
    """Upstream's rule: any decrease."""
    return gain > 0


def fast(gain: Reals, spread: Reals) -> Reals:
    """A margin of one standard deviation over seeds."""
    return gain > spread


def reference(scores: Reals, noise: Noise, spread: Reals) -> Reals:
    """What the incumbent should score on each seed: (..., recipes, seeds) -> (..., seeds). The incumbent is recipe 0;
    NaN where a recipe has no trial.

    Its one trial on the screening seed was lucky or not, and every candidate would inherit that. The two-way model
    score = recipe + seed + rest takes most of it out: recipes fixed, seeds random with the variance that pairs show
    (best linear unbiased prediction, Henderson 1975; the rows of recipes with one trial drop out)."""
    ran = ~np.isnan(scores)
    counts = np.maximum(ran.sum(-1, keepdims=True), 1)
    filled = np.where(ran, scores, 0.0)
    centred = np.where(ran, filled - filled.sum(-1, keepdims=True) / counts, 0.0)
    weights = ran.astype(float)
    own = np.clip((noise.sd / spread) ** 2 / 2, 0.01, 0.9)  # the share of the variance that the seed doesn't explain
    equations = -np.einsum("...rs,...rt->...st", weights / counts, weights)
    diagonal = np.arange(scores.shape[-1])
    equations[..., diagonal, diagonal] += weights.sum(-2) + np.asarray(own / (1 - own))[..., None]
    seed = np.linalg.solve(equations, centred.sum(-2)[..., None])[..., 0]
    level = ((filled[..., 0, :] - seed) * weights[..., 0, :]).sum(-1) / counts[..., 0, 0]
    return level[..., None] + seed


def promising(gain: Reals, noise: Noise) -> Reals:
    """Whether a screening gain earns fresh seeds. It only says where to spend trials: no error depends on it."""
    return gain > CAREFUL.screen * noise.sd


def most_seeds(noise: Noise, spread: Reals) -> Reals:
    """Fresh seeds enough to see a gain of one spread. Fixed before the first of them is looked at."""
    return np.clip(np.ceil((CAREFUL.power * noise.sd / spread) ** 2), 1, CAREFUL.seeds)


def bound(keeps: Reals) -> Reals:
    """Of B(t), lower after keeps: a night that finds something may spend more error (alpha-investing, Foster and Stine
    2008), a night that finds nothing doesn't."""
    return CAREFUL.keep - CAREFUL.per_keep * np.minimum(keeps, CAREFUL.keeps)


def look(fresh: Fresh, most: Reals, screened: Reals, noise: Noise, keeps: Reals) -> Reals:
    """KEEP, GO_ON or DROP after `fresh.n` of `most` seeds. `noise` includes these gains.

    With t = n / most, B(t) = z sqrt(t) moves as a Brownian motion. Keep when it reaches a constant, which asks
    z = bound / sqrt(t) of an early look (O'Brien and Fleming 1979). Drop when it falls to the line through -drop at
    t = 0 and the bound at t = 1, the inner wedge of Pampallona and Tsiatis (1994). The screening gain counts for
    dropping, which can't add false keeps, and never for keeping."""
    upper = bound(keeps)
    t = fresh.n / most
    b = z_score(fresh, noise) * np.sqrt(t)
    t_all = (fresh.n + 1) / (most + 1)
    b_all = _z(fresh.total + screened, fresh.n + 1, noise) * np.sqrt(t_all)
    hopeless = (b_all <= (upper + CAREFUL.drop) * t_all - CAREFUL.drop) | (fresh.n >= most)
    return np.where(b >= upper, KEEP, np.where(hopeless, DROP, GO_ON))


def asked(n: Reals, most: Reals, keeps: Reals) -> Reals:
    """Standard errors that a look after `n` seeds asks for."""
    return bound(keeps) * np.sqrt(most / n)


def claim(fresh: Fresh, most: Reals, noise: Noise) -> tuple[Reals, Reals, Reals]:
    """(gain, low, high) from the fresh seeds alone. The interval is a repeated confidence interval, valid whenever the
    looks stop (Jennison and Turnbull 1989). Stopping early flatters the mean, so it is shrunk by 1 - 1/z^2 (the
    positive-part estimator of James and Stein 1961, in one dimension)."""
    mean, error = fresh.total / fresh.n, noise.sd / np.sqrt(fresh.n)
    half = as_t(CAREFUL.interval * np.sqrt(most / fresh.n), noise.dof) * error
    z = z_score(fresh, noise)
    shrunk = mean * (1 - np.minimum(1.0, CAREFUL.shrink / np.maximum(z * z, 1e-12)))
    return np.clip(shrunk, mean - half, mean + half), mean - half, mean + half


def allowance(spread: float, simplifications: int) -> float:
    """How much a simplification may lose and still count as equal: half a spread, halved by every one kept before,
    so that all of a study's together lose less than one spread. Testing gain + allowance > 0 is the lower of the two
    one-sided tests of equivalence (Schuirmann 1987); the upper one would refuse what is better."""
    return 0.5 * spread / 2**simplifications


def z_score(fresh: Fresh, noise: Noise) -> Reals:
    """The mean gain in standard errors, as a normal deviate."""
    return _z(fresh.total, fresh.n, noise)


def _z(total: Reals, n: Reals, noise: Noise) -> Reals:
    """Student's t of a sum of gains, as the normal deviate with the same tail (Wallace 1959)."""
    t, dof = total / (noise.sd * np.sqrt(n)), noise.dof
    return np.sign(t) * np.sqrt(dof * np.log1p(t * t / dof)) * (8 * dof + 1) / (8 * dof + 3)


def as_t(z: Reals, dof: Reals) -> Reals:
    """The inverse: the t whose normal deviate is `z`."""
    z = z * (8 * dof + 3) / (8 * dof + 1)
    return np.sign(z) * np.sqrt(dof * np.expm1(z * z / dof))
