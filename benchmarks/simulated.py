"""A study without training: a function of the recipe plays the trainer, and a list the ledger.

    Study      runs a researcher against an objective, as the loop would
    Trainer    an objective with what makes real ones hard: a clock, memory, interactions, divergence, noise

Nothing here knows what a researcher does, so tests and benchmarks put all of them through the same nights.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autoresearch.records import BASELINE, Experiment, Score, Trial
from autoresearch.research import decide
from autoresearch.research.researchers.base import Context, Proposal, Researcher
from autoresearch.research.researchers.playbook import Playbook
from backends.recipe import Recipe
from backends.spec import GPTSpec

# One more than bpe-<n> has: the figures in docs/log.md were made with these.
VOCAB = {"byte": 257, "bpe-1024": 1025, "bpe-2048": 2049, "bpe-4096": 4097}
SPREAD = 0.002
Outcome = float | str  # val_bpb, or the verdict of a trial without a score: "crash: why"


def trial_of(n: int, bpb: float | None, status: str = "ok", reason: str = "", **fields: Any) -> Trial:
    score = Score("val", nats=(bpb or 0) * math.log(2) * 1000, tokens=300, bytes=1000, chars=1000, rows=4)
    given: dict[str, Any] = {"steps": 1000, "tokens": 1_000_000} | fields
    return Trial(n + 10, n, 1, "screen", status, 30.0, "2026-01-01T00:00:00Z", reason, scores=(score,) if bpb else (),
                 **given)


def experiment(n: int, recipe: Recipe, outcome: Outcome, verdict: str, parent: str = "", researcher: str = "playbook",
               **fields: Any) -> Experiment:
    bpb = outcome if isinstance(outcome, float) else None
    reason = "" if isinstance(outcome, float) else outcome.partition(": ")[2]
    trial = trial_of(n, bpb, "ok" if bpb else verdict, reason, **fields)
    return Experiment(n, parent, f"sha{n}", researcher, "", "", {}, recipe.flat(), "done", verdict, reason,
                      "2026-01-01T00:00:00Z", (trial,))


class Study:
    """Runs a researcher against a function of the recipe. `context` overrides fields of the researcher's context."""

    def __init__(self, start: Recipe, objective: Callable[[Recipe], Outcome], researcher: Researcher | None = None,
                 **context: Any):
        self.objective, self.recipe, self.researcher = objective, start, researcher or Playbook()
        self.fields: dict[str, Any] = context.pop("trial", {})
        self.top = experiment(BASELINE, start, objective(start), "keep", **self.fields)
        self.ledger, self.gains = [self.top], dict[int, float]()
        self.proposals: list[Proposal] = []
        self.given: dict[str, Any] = dict(
            spread_bpb=SPREAD, tokenizers=list(VOCAB), vocab=VOCAB, seconds_left=None, brief="",
            train_tokens=dict.fromkeys(VOCAB, 10**9), budget_s=300.0, fits=lambda r: True,
            device={"name": "cpu", "backend": "cpu", "precisions": ("float32",)}) | context

    def context(self) -> Context:
        return Context(incumbent=self.top, recipe=self.recipe, experiments=list(self.ledger),
                       gains=dict(self.gains), **self.given)

    def record(self, changes: dict[str, Any], researcher: str = "playbook", **fields: Any) -> Experiment:
        """What becomes of a change; `fields` are the trial's."""
        recipe = self.recipe.replace(changes)
        outcome, n = self.objective(recipe), len(self.ledger)
        if isinstance(outcome, float):
            kept = decide.fast((self.top.bpb() or 9) - outcome, self.given["spread_bpb"])
            verdict = "keep" if kept else "discard"
        else:
            verdict = outcome.partition(":")[0]
        e = experiment(n, recipe, outcome, verdict, self.top.sha, researcher, **self.fields | fields)
        self.ledger.append(e)
        if isinstance(outcome, float) and (best := self.top.bpb()) is not None:
            self.gains[n] = best - outcome
        if verdict == "keep":
            self.top, self.recipe = e, recipe
        return e

    def step(self) -> Proposal:
        proposal = self.researcher.propose(self.context())
        self.proposals.append(proposal)
        self.record(proposal.changes, proposal.researcher or self.researcher.name)
        return proposal

    def run(self, count: int) -> Study:
        for _ in range(count):
            self.step()
        return self


START = Recipe().replace({"model.depth": 3, "model.width": 192, "batch.tokens_per_step": 4096})


@dataclass(frozen=True)
class Trainer:
    """Five minutes on a machine that nobody has seen: the seed draws its best recipe, and how much each key matters.

    The score is a scaling law of parameters and of tokens that the clock allows, with batches that stop paying where
    they are large, learning rates that follow batch and width, and a bowl along every other key, most of them shallow.
    Too high a rate diverges, too large a model runs out of memory. `noise_bpb` is a seed's, `level` has none.
    """

    seed: int
    noise_bpb: float = SPREAD
    memory_bytes: float = 1.2e9

    def __call__(self, recipe: Recipe) -> Outcome:
        if GPTSpec.of(recipe, VOCAB[recipe.data.tokenizer]).training_bytes(recipe.micro_rows, 4) > self.memory_bytes:
            return "crash: out of memory"
        if self._octaves(recipe, "optim.matrix_lr", 0.03, 0.6) + self._follows(recipe) > 2.5:
            return "crash: training diverged: the loss was nan"
        return self.level(recipe) + random.Random(f"{self.seed}:{recipe.digest()}").gauss(0, self.noise_bpb)

    def fits(self, recipe: Recipe) -> bool:
        spec = GPTSpec.of(recipe, VOCAB[recipe.data.tokenizer])
        return spec.training_bytes(recipe.micro_rows, 4) < 0.7 * self.memory_bytes

    def level(self, recipe: Recipe) -> float:
        spec = GPTSpec.of(recipe, VOCAB[recipe.data.tokenizer])
        weights, batch = spec.matmul_params(), recipe.batch.tokens_per_step
        steps = 300 * 8e11 * (1.0 - 0.1 * recipe.optim.muon_steps / 5) / (6 * weights + 2e6) / (batch + 400)
        critical = 3000.0 * 2 ** self._drawn("critical", 0.7)
        learned = steps * batch / (1 + batch / critical)
        law = 0.75 + 0.30 * (5e5 / weights) ** 0.35 + 0.45 * (6e6 / learned) ** 0.4
        return law + 0.4 * math.tanh(self._bowls(recipe) / 0.4)

    def _bowls(self, recipe: Recipe) -> float:
        rate = self._octaves(recipe, "optim.matrix_lr", 0.03, 0.6) + self._follows(recipe)
        others = (("optim.embedding_lr", 0.5, 1.0), ("optim.unembedding_lr", 0.006, 1.0),
                  ("optim.value_embedding_lr", 0.4, 1.0), ("model.qk_scale", 1.2, 0.5), ("model.mlp_ratio", 3.5, 0.5),
                  ("model.head_dim", 64, 0.5), ("model.rope_base", 5000, 2.0))
        total = 0.012 * rate**2
        for key, best, spread in others:
            total += self._weight(key) * self._octaves(recipe, key, best, spread) ** 2
        flat = recipe.flat()
        for key, best, unit in (("schedule.warmdown_frac", 0.7, 0.3), ("schedule.final_lr_frac", 0.05, 0.1),
                                ("schedule.warmup_frac", 0.02, 0.1), ("optim.matrix_decay", 0.15, 0.3),
                                ("optim.muon_momentum", 0.95, 0.03), ("optim.adam_beta1", 0.8, 0.1)):
            total += self._weight(key) * ((flat[key] - best) / unit + self._drawn(key, 0.5)) ** 2
        return total + sum(self._weight(f"{key}={flat[key]}") for key in ("model.value_embeds", "data.tokenizer",
                                                                          "model.activation", "model.window_pattern"))

    def _follows(self, recipe: Recipe) -> float:
        """How far the best learning rate has moved with batch and width, in octaves, downwards."""
        return 0.5 * math.log2(4096 / recipe.batch.tokens_per_step) + 0.5 * math.log2(recipe.model.width / 192)

    def _octaves(self, recipe: Recipe, key: str, best: float, spread: float) -> float:
        return math.log2(recipe.flat()[key] / best) + self._drawn(key, spread)

    def _weight(self, what: str) -> float:
        """Of a key, or of what a choice costs: skewed, a few matter much."""
        return 0.0025 * random.Random(f"{self.seed}:weight:{what}").expovariate(1)

    def _drawn(self, what: str, spread: float) -> float:
        return random.Random(f"{self.seed}:{what}").gauss(0, spread)
