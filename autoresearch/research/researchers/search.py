"""Numeric search: CMA-ES or TPE over the axes of space.py, taught by every experiment in the ledger.

    Search     the researcher
    Sampler    where to look next: `Cma`, `Tpe`, and `Uniform`, the yardstick
    State      what the sampler believes, in numbers and in words for whoever proposes beside it

Nothing is kept that the ledger does not give again: the same ledger gives the same proposal, in any process.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from autoresearch.research.researchers.base import Context, Proposal, Researcher
from autoresearch.research.researchers.playbook import Playbook
from autoresearch.research.researchers.reading import attempts, cite
from autoresearch.research.researchers.runnable import in_words, seen, settle
from autoresearch.research.researchers.space import FAILED, Axis, Scored, axes, baseline, evidence, importance

if TYPE_CHECKING:
    import cmaes
    import optuna

SAMPLERS = ("cma", "tpe", "random")
STEP = 0.5  # strides: the first standard deviation of every axis
POPULATION = 6  # of CMA-ES: half of what its dimension asks for, since a night has few generations
TRIES = 50  # samples that may turn out not to run, or to have run; then steps around the best point
STARTUP = 10  # scored experiments before TPE has anything to divide


@dataclass(frozen=True)
class State:
    """What a sampler believes after `learned` experiments: on every axis, where it looks and how widely."""

    name: str
    learned: int
    mean_A: np.ndarray
    step_A: np.ndarray  # standard deviations, in strides


class Sampler(ABC):
    name: str

    @abstractmethod
    def samples(self, along: list[Axis], points: list[Scored], seed: int) -> Iterator[np.ndarray]:
        """Places to try next, without end: the first that can run is taken."""

    @abstractmethod
    def state(self, along: list[Axis], points: list[Scored], seed: int) -> State: ...


class Search(Researcher):
    name = "search"

    def __init__(self, sampler: str = "cma"):
        self.sampler: Sampler = Cma() if sampler == "cma" else Tpe() if sampler == "tpe" else Uniform()

    def propose(self, context: Context) -> Proposal:
        along, points = known(context)
        seed, flat, ran = _seed(context), context.recipe.flat(), seen(context)
        sampled = self.sampler.samples(along, points, seed)
        for places_A in chain(islice(sampled, TRIES), islice(around(along, points, seed), TRIES)):
            wish = flat | {axis.key: axis.value(place) for axis, place in zip(along, places_A, strict=True)}
            if recipe := settle(context, wish, ran):
                return self._worded(context, points, flat, recipe.flat())
        return replace(Playbook().propose(context), researcher=Playbook.name)

    def state(self, context: Context) -> str:
        """What it has learned, for whoever proposes beside it."""
        along, points = known(context)
        return told(self.sampler.state(along, points, _seed(context)), along, points)

    def _worded(self, context: Context, points: list[Scored], old: dict[str, Any], new: dict[str, Any]) -> Proposal:
        changes = {k: v for k, v in new.items() if old.get(k) != v}
        best = min(points, key=lambda p: p.value)
        found = next((e for e in context.experiments if e.n == best.n), context.incumbent)
        brief, cites = cite(found, best.value if best.n != baseline(context).n else None)
        evidence_told = f"{self.sampler.name} over {len(points)} results; best so far {cites}"
        return Proposal(f"{self.sampler.name}: {in_words(old, changes)} (after {brief})", evidence_told, changes)


def known(context: Context) -> tuple[list[Axis], list[Scored]]:
    """The axes, and what the ledger says about them."""
    past = attempts(context)
    along = axes(context, past)
    return along, evidence(context, past, along)


class Uniform(Sampler):
    """Anywhere within reach."""

    name = "random search"

    def samples(self, along: list[Axis], points: list[Scored], seed: int) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(seed)
        low_A, high_A = bounds(along).T
        while True:
            yield rng.uniform(low_A, high_A)

    def state(self, along: list[Axis], points: list[Scored], seed: int) -> State:
        low_A, high_A = bounds(along).T
        return State(self.name, 0, (low_A + high_A) / 2, (high_A - low_A) / math.sqrt(12))


class Cma(Sampler):
    """CMA-ES (Hansen, arXiv 1604.00772): the ledger in its order, a generation at a time. Alone it is the plain
    algorithm; what others proposed enters as injected points (Hansen, arXiv 1110.4181)."""

    name = "CMA-ES"

    def samples(self, along: list[Axis], points: list[Scored], seed: int) -> Iterator[np.ndarray]:
        optimizer, _ = self._taught(along, points, seed)
        while True:
            yield optimizer.ask()

    def state(self, along: list[Axis], points: list[Scored], seed: int) -> State:
        optimizer, learned = self._taught(along, points, seed)
        covariance_AA = optimizer._sigma**2 * optimizer._C
        return State(self.name, learned, optimizer.mean, np.sqrt(covariance_AA.diagonal()))

    def _taught(self, along: list[Axis], points: list[Scored], seed: int) -> tuple[cmaes.CMA, int]:
        import cmaes

        optimizer = cmaes.CMA(np.zeros(len(along)), STEP, bounds(along), seed=seed % 2**32,
                              population_size=POPULATION)
        size = optimizer.population_size
        learned = len(points) // size * size
        for begin in range(0, learned, size):
            generation = points[begin:begin + size]
            optimizer.tell([(injected(optimizer, p.places_A), finite(p.value)) for p in generation])
        return optimizer, learned


def injected(optimizer: cmaes.CMA, places_A: np.ndarray) -> np.ndarray:
    """A point that the optimizer may not have sampled itself, no further from the mean than it could have been: from
    far away a single one would blow the step size up."""
    b_AA, d_A = optimizer._eigen_decomposition()
    away_A = places_A - optimizer.mean
    length = float(np.linalg.norm(b_AA.T @ away_A / d_A)) / optimizer._sigma
    longest = math.sqrt(optimizer.dim) + 2 * optimizer.dim / (optimizer.dim + 2)
    return optimizer.mean + away_A * min(1.0, longest / max(length, 1e-12))


class Tpe(Sampler):
    """The tree-structured Parzen estimator (Bergstra et al. 2011), multivariate, as Optuna has it."""

    name = "TPE"

    def __init__(self) -> None:
        # What the storage below was told; it is made anew where the ledger says something else.
        self._along: list[Axis] = []
        self._told: list[tuple[int, float]] = []
        self._storage: optuna.storages.InMemoryStorage | None = None

    def samples(self, along: list[Axis], points: list[Scored], seed: int) -> Iterator[np.ndarray]:
        if len(points) < STARTUP:
            yield from around(along, points, seed)
        import optuna

        study, ranges = self._taught(along, points), distributions(along)
        sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=1, constant_liar=False)
        coming = optuna.create_trial(state=optuna.trial.TrialState.RUNNING)
        while True:
            # Not study.ask(), which looks through all trials for what they have in common, and keeps what it asks.
            drawn = sampler.sample_relative(study, coming, ranges)
            yield np.array([axis.at(drawn[axis.key]) if axis.places else drawn[axis.key] for axis in along])

    def state(self, along: list[Axis], points: list[Scored], seed: int) -> State:
        """Where the best quarter lies, which is what TPE samples from."""
        best_PA = np.stack([p.places_A for p in ranked(points)[:max(1, len(points) // 4)]])
        return State(self.name, len(points), best_PA.mean(0), np.maximum(best_PA.std(0), STEP / 4))

    def _taught(self, along: list[Axis], points: list[Scored]) -> optuna.Study:
        import optuna

        values, ranges = [(p.n, p.value) for p in points], distributions(along)
        if self._storage is None or self._along != along or values[:len(self._told)] != self._told:
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            self._storage, self._along, self._told = optuna.storages.InMemoryStorage(), along, []
            optuna.create_study(storage=self._storage, study_name=self.name)
        study = optuna.load_study(storage=self._storage, study_name=self.name)  # one that has looked at nothing yet
        study.add_trials([
            optuna.create_trial(value=finite(p.value), distributions=ranges, params={
                axis.key: axis.value(place) if axis.places else place
                for axis, place in zip(along, p.places_A.tolist(), strict=True)})
            for p in points[len(self._told):]])
        self._told = values
        return study


def distributions(along: Sequence[Axis]) -> dict[str, optuna.distributions.BaseDistribution]:
    import optuna

    return {axis.key: optuna.distributions.CategoricalDistribution(list(axis.places)) if axis.places
            else optuna.distributions.FloatDistribution(axis.low, axis.high) for axis in along}


def around(along: Sequence[Axis], points: Sequence[Scored], seed: int) -> Iterator[np.ndarray]:
    """Steps from the best point, along every axis a little; each time round a little wider."""
    rng, best_A = np.random.default_rng(seed), ranked(points)[0].places_A
    low_A, high_A = bounds(along).T
    width = STEP
    while True:
        yield np.clip(rng.normal(best_A, width), low_A, high_A)
        width *= 1.05


def bounds(along: Sequence[Axis]) -> np.ndarray:
    return np.array([(axis.low, axis.high) for axis in along])


def ranked(points: Sequence[Scored]) -> list[Scored]:
    return sorted(points, key=lambda p: p.value)


def finite(value: float) -> float:
    """Worse than any score: only the order matters to what learns from it."""
    return 1e6 if value == FAILED else value


def told(state: State, along: Sequence[Axis], points: Sequence[Scored]) -> str:
    """A sampler's state in words: what it turns, where it looks, what was best, and what mattered."""
    lines = [f"{state.name} has learned from {state.learned} results and looks here next (one standard deviation "
             "either way):"]
    for axis, mean, step in zip(along, state.mean_A, state.step_A, strict=True):
        low, middle, high = (axis.value(min(max(mean + s * step, axis.low), axis.high)) for s in (-1, 0, 1))
        lines.append(f"  {axis.key}: {middle}" + (f" ({low} to {high})" if low != high else ""))
    lines.append("The best points, in bits per byte against the baseline, and what in them is not the baseline's:")
    for p in ranked(points)[:3]:
        away = sorted(zip(along, p.places_A, strict=True), key=lambda pair: -abs(pair[1]))
        turned = [f"{axis.key} {axis.value(place)}" for axis, place in away[:6] if abs(place) > 0.05]
        lines.append(f"  #{p.n} {p.value:+.4f}: {', '.join(turned) or 'the baseline'}")
    matters = [f"{key} {'higher' if shift > 0 else 'lower'} ({abs(shift):.1f} sd)"
               for key, shift in list(importance(along, points).items())[:5] if abs(shift) > 0.5]
    if matters:
        lines.append(f"The best quarter differs from the rest most in: {', '.join(matters)}")
    return "\n".join(lines)


def _seed(context: Context) -> int:
    """Of the study and the experiment that comes next."""
    text = f"{baseline(context).sha}:{len(context.experiments)}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
