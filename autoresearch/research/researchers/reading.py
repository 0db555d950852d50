"""What the ledger says, for a researcher that reasons from it.

    Attempt    a past experiment seen from the one it changed: the change and its worth
    attempts   all of them
    stale      how many since the last keep
    signals    facts about the incumbent: starved, overfit, plenty, steep, small_data, diverged, shaky
    cite       a result in words, short and in full
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch.records import BASELINE, Experiment, Trial
from autoresearch.research.researchers.base import Context

DIVERGED = re.compile(r"\bnan\b|diverg|not finite|non-finite", re.IGNORECASE)


@dataclass(frozen=True)
class Attempt:
    """A past experiment seen from the experiment it changed."""

    experiment: Experiment
    parent: Experiment
    diff: dict[str, Any]  # recipe keys that changed, with their new values
    delta: float | None  # bits per byte against it, negative is better: Context.gains the other way round
    keeps: int  # experiments kept before it

    @property
    def diverged(self) -> bool:
        return diverged(self.experiment)

    def cite(self) -> tuple[str, str]:
        return cite(self.experiment, self.delta)


def attempts(context: Context) -> list[Attempt]:
    """Every decided experiment but the baseline and the reference, against the one it changed."""
    by_sha = {e.sha: e for e in context.experiments if e.sha}
    top, keeps, found = context.incumbent, 0, []
    for e in context.experiments:
        if e.n == BASELINE:
            top = e
        if e.n <= BASELINE or not e.verdict:
            continue
        parent = by_sha.get(e.parent, top)
        diff = {k: v for k, v in e.recipe.items() if parent.recipe.get(k) != v}
        gained = context.gains.get(e.n)
        found.append(Attempt(e, parent, diff, None if gained is None else -gained, keeps))
        if e.verdict == "keep":
            top, keeps = e, keeps + 1
    return found


def stale(past: Sequence[Attempt]) -> int:
    """How many experiments have been tried since the last that was kept."""
    count = 0
    for a in past:
        count = 0 if a.experiment.verdict == "keep" else count + (not a.experiment.is_spoilt)
    return count


def signals(context: Context) -> dict[str, str]:
    """What the incumbent's trials say about the next move: name -> the measurement in words."""
    found: dict[str, str] = {}
    if diverged(context.incumbent) or context.incumbent.bpb() is None:
        found["diverged"] = f"#{context.incumbent.n} has no score"
    if recent := [e for e in context.experiments[-3:] if diverged(e)]:
        found["shaky"] = f"#{recent[-1].n} diverged"
    tokens = context.train_tokens.get(context.recipe.data.tokenizer, 0)
    if 0 < tokens < 10_000_000:
        found["small_data"] = f"only {tokens / 1e6:.1f}M training tokens"
    if trial := context.incumbent.screened():
        if trial.steps < 500:
            found["starved"] = f"only {trial.steps:,} steps"
        if words := _overfits(trial, trial.tokens / tokens if tokens else 0.0, context.spread_bpb):
            found["overfit"] = words
        elif trial.steps >= 5000:
            found["plenty"] = f"{trial.steps:,} steps"
        curve = list(trial.curve)
        late = [p.dev_bpb for p in curve if p.dev_bpb is not None and p.elapsed_s >= 0.7 * curve[-1].elapsed_s]
        if len(late) > 1 and late[0] - late[-1] > 0.04 * late[-1]:
            found["steep"] = f"dev still falling, {late[0]:.3f} to {late[-1]:.3f}"
    return found


def _overfits(trial: Trial, epochs: float, spread_bpb: float) -> str:
    """The sign of overfitting in words, or nothing."""
    if epochs > 1.5:
        return f"{epochs:.1f} epochs"
    dev = trial.dev_bpb
    if dev and dev[-1] > min(dev) + spread_bpb:
        return f"dev rose from {min(dev):.3f} to {dev[-1]:.3f}"
    nats = [p.train_nats for p in trial.curve if p.train_nats is not None][-20:]
    val = next((s for s in trial.scores if s.split == "val"), None)
    if dev and nats and val:
        train = sum(nats) / len(nats) / math.log(2) * val.tokens / val.bytes  # nats per token -> bits per byte
        if dev[-1] - train > 0.05 * dev[-1]:
            return f"train {train:.3f} against dev {dev[-1]:.3f}"
    return ""


def diverged(e: Experiment) -> bool:
    return bool(DIVERGED.search(" ".join([e.reason, *(t.reason for t in e.trials)])))


def cite(e: Experiment, delta: float | None = None) -> tuple[str, str]:
    """An experiment's result in a word or two and in full; without a delta, its own score."""
    verdict, bpb = "baseline" if e.n == BASELINE else e.verdict, e.bpb()
    own = "" if bpb is None else f"{bpb:.4f}"
    facts = [f"{screened.steps:,} steps"] if (screened := e.screened()) else []
    facts += [f"{delta:+.4f} bpb"] if delta is not None else [f"val_bpb {own}"] if own else []
    facts += ["diverged"] if diverged(e) else []
    brief = f"#{e.n} {verdict}" + (f" {delta:+.4f}" if delta is not None else f" at {own}" if own else "")
    return brief, f"#{e.n} {verdict}" + (f": {', '.join(facts)}" if facts else "")
