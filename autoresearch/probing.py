"""The measurements behind `ar probe`, in under a minute, or in some more for who waits for a compiler.

    Found     what was measured
    Probing   one measurement of this machine, for one recipe and budget

A measuring process times a ladder of small models, smallest first and none whose predicted memory does not fit; a cost
model is fitted to these and checked on runs that were held out. The model it recommends is then tried in a process of
its own, a low precision is compared with float32 on it, and its step is compiled where time allows.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autoresearch import costs, machine, settle, sizes
from autoresearch.costs import Costs, Measured
from autoresearch.errors import UserError
from autoresearch.harness import caches
from autoresearch.harness.measuring import Measuring
from autoresearch.harness.supervise import TrialFailed
from autoresearch.records import MEMORY
from autoresearch.settle import Settled
from autoresearch.sizes import TokenizedText
from backends.base import Device
from backends.recipe import Model, Recipe

LADDER = ((1, 64), (2, 128), (3, 192), (4, 256), (6, 384), (8, 512), (10, 640), (12, 768), (16, 1024))
MEASURED_TOKENS = 4096
OTHER_BATCHES = (1024, 8192)
LEAST_STEPS = 3
LIMIT_S, LADDER_S, EACH_S = 55.0, 24.0, 0.4  # at most; a short budget is not worth a long look
SETTLE_S = 20.0  # for the proposed model all the same
COMPILE_PAYS_S = 20.0  # budgets from here on: a compiled step is faster, and the minute it takes is not on the clock
COMPILE_GAIN = 1.7  # assumed where there is no time to measure it: of five sizes, 1.5 to 2.2 (docs/log.md)
PATIENCE_S = 300.0  # of a study: what is compiled here, its baseline of that size need not compile
COMPILED_S = 1.5  # of steps: the first ones after compiling are slower
COMPILED_SIZES = 2  # at most: a measured gain may recommend another size, whose gain is another
ASSUMED = "assumed"
LESS_MEMORY, LEAST_MEMORY = 0.7, 1 << 26  # what is assumed to be there where less was than the device says


@dataclass(frozen=True)
class Found:
    """Steps were timed uncompiled; `gain` is how much faster compiling makes them, `gain_how` how that is known."""

    device: dict[str, Any]  # name, memory_bytes that can be used, precisions
    ceiling_flops: dict[str, float]  # of a large product, by precision
    products_flops: dict[str, float]  # of the recommended model's products together, by precision
    runs: list[dict[str, Any]]  # depth, width, tokens_per_step, step_s, memory_bytes; predicted_s where held out
    cost_weights: dict[str, float]  # of the fitted model, in the precision that was chosen
    memory_factor: float
    precision: str
    verdicts: list[dict[str, Any]]  # precision, allowed, reason
    compiled: bool
    gain: float
    gain_how: str
    measured_at: str  # UTC, ISO 8601

    def costs(self) -> Costs:
        """Of compiled steps, where they are to be compiled."""
        return self.uncompiled().faster(self.gain)

    def uncompiled(self) -> Costs:
        return Costs(tuple(self.cost_weights.values()), self.memory_factor)

    @property
    def is_assumed(self) -> bool:
        """The gain was not measured."""
        return self.gain_how.startswith(ASSUMED)

    def held_out_error(self) -> float | None:
        """The largest relative error of the predicted seconds of runs that were held out."""
        return max((abs(r["predicted_s"] / r["step_s"] - 1) for r in self.runs if r["predicted_s"]), default=None)


class Probing:
    """`patient`: waits for the compiler."""

    def __init__(self, candidate: dict[str, bytes], base: Recipe, backend: str, text: TokenizedText, budget_s: float,
                 patient: bool = False):
        self._candidate, self._base, self._backend = candidate, base, backend
        self._text, self._vocab, self._budget_s, self._patient = text, text.vocab, budget_s, patient
        self._end = math.inf
        self._runs: list[Measured] = []
        self._over = False  # the process that measures them has ended
        self._predicted: dict[int, float] = {}  # seconds of the runs that were held out, by their place

    def run(self) -> Found:
        """Raises UserError where not even the smallest size can be trained."""
        try:
            with self._process() as process:
                self._end = time.monotonic() + LIMIT_S  # a framework that starts slowly is not the machine's speed
                device = process.device
                ceilings = {p: process.ceiling(p, EACH_S, self._left())[0] for p in device.precisions}
                self._base = self._base.replace({"runtime.precision": _first(device, ceilings)})
                sizes.require_room(self._base, self._vocab, device.memory_bytes)
                fitted = self._ladder(process, device)
            device, settled = self._settle(device, fitted)
        except TrialFailed as e:
            tried = self._runs[-1].recipe.model if self._runs else None
            what = f"a model beyond depth {tried.depth}, width {tried.width}" if tried else "even the smallest model"
            raise UserError(f"the probe could not train {what} on {self._backend}: {e.reason}",
                            "Check the installation: ar train --steps 2") from None
        before = self._base.runtime.precision  # the ladder was timed in it
        fitted = fitted.faster(settled.speed_ratios[settled.precision] / settled.speed_ratios.get(before, 1.0))
        return self.compiled(Found(
            device=asdict(device) | {"precisions": list(device.precisions)},
            ceiling_flops=ceilings, products_flops=settled.products_flops,
            runs=[_described(m, self._predicted.get(i)) for i, m in enumerate(self._runs)],
            cost_weights=dict(zip(costs.TERMS, fitted.weights, strict=True)), memory_factor=fitted.memory_factor,
            precision=settled.precision, verdicts=[asdict(v) for v in settled.verdicts], compiled=False, gain=1.0,
            gain_how="", measured_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())))

    def compiled(self, found: Found) -> Found:
        """Whether to compile, how much faster that makes the recommended step, and how that is known."""
        device, fitted = Device(**found.device), found.uncompiled()
        if not self._compiles(device):
            why = "the budget is too short for it to pay, or nothing here can compile"
            return replace(found, gain_how=f"not compiled: {why}")
        self._base = self._base.replace({"runtime.precision": found.precision})
        if self._patient:
            self._end = time.monotonic() + PATIENCE_S
        gain, how, tried = COMPILE_GAIN, f"{ASSUMED}: it was not compiled within {self._left():.0f} s", None
        for _ in range(COMPILED_SIZES):
            chosen = self._recommended(fitted.faster(gain), device)
            if chosen == tried:
                break
            try:
                gain = fitted.step_s(chosen, self._vocab) / self._compiled_step_s(chosen)
            except TrialFailed as e:
                if e.status == "timeout":
                    break
                why = e.reason.strip().splitlines()[-1][:200]
                return replace(found, compiled=False, gain=1.0, gain_how=f"not compiled, since it fails: {why}")
            how, tried = "measured", chosen
        if gain <= 1:
            return replace(found, compiled=False, gain=1.0, gain_how="not compiled: that makes it slower")
        return replace(found, compiled=True, gain=gain, gain_how=how)

    def _process(self, compiled: Path | None = None) -> Measuring:
        return Measuring(self._candidate, self._backend, compiled)

    def _left(self) -> float:
        return max(1.0, self._end - time.monotonic())

    # The cost model

    def _ladder(self, process: Measuring, device: Device) -> Costs:
        """Climbs; then other batches, the size that this recommends, and two beside it that are held out."""
        end = time.monotonic() + min(LADDER_S, 2 + self._budget_s)
        top = self._climb(process, device, end)
        for tokens in OTHER_BATCHES:
            self._more(process, device, end, (top.depth, top.width, tokens))
        fitted = costs.fit(self._runs)
        best = self._recommended(self._hoped(fitted, device), device)
        depth, width, tokens = best.model.depth, best.model.width, best.batch.tokens_per_step
        self._more(process, device, end, (depth, width, tokens))
        fitted = costs.fit(self._runs)
        for shape in ((depth + 1, width, tokens // 2), (depth, width + 64, tokens)):
            predicted_s = fitted.step_s(self._sized(device, *shape), self._vocab)
            if self._more(process, device, end, shape):
                self._predicted[len(self._runs) - 1] = predicted_s
        return costs.fit(self._runs)

    def _climb(self, process: Measuring, device: Device, end: float) -> Model:
        """From the smallest size to the one after that which should score best; that one."""
        scores = [math.inf]
        for depth, width in LADDER:
            recipe = self._sized(device, depth, width, MEASURED_TOKENS)
            if (self._runs and not self._in_time(recipe, end)) or not self._measure(process, device, recipe):
                break
            rows = sizes.batches(self._base, depth, width, self._base.data.tokenizer, self._text,
                                 self._hoped(costs.fit(self._runs), device), self._budget_s, device.memory_bytes)
            scores.append(min((row.score for row in rows), default=math.inf))
            if scores[-1] > scores[-2]:
                break
        return self._runs[-2 if len(self._runs) > 1 else -1].recipe.model

    def _more(self, process: Measuring, device: Device, end: float, shape: tuple[int, int, int]) -> bool:
        """Measures one more shape, where that is new and can be done in the time that is left."""
        recipe = self._sized(device, *shape)
        known = any(m.recipe == recipe for m in self._runs)
        return not known and self._in_time(recipe, end) and self._measure(process, device, recipe)

    def _in_time(self, recipe: Recipe, end: float) -> bool:
        takes_s = (2 + LEAST_STEPS) * costs.fit(self._runs).step_s(recipe, self._vocab)
        return time.monotonic() + takes_s < end

    def _measure(self, process: Measuring, device: Device, recipe: Recipe) -> bool:
        """False where it does not fit, or failed, which ends the process; for the very first run that is raised."""
        most_bytes = sizes.MEMORY_SHARE * device.memory_bytes
        if self._over or (self._runs and costs.estimated_bytes(recipe, self._vocab) > most_bytes):
            return False
        try:
            process.begin(recipe, self._vocab, self._left())
            timed = process.time(EACH_S, self._left(), LEAST_STEPS)
        except TrialFailed:
            if not self._runs:
                raise
            self._over = True
            return False
        above, estimated = timed.peak_memory_bytes - process.idle_bytes, costs.estimated_bytes(recipe, self._vocab)
        # A peak stays what it was; what a smaller run adds to it is some pages.
        own = all(above > m.memory_bytes and estimated > costs.estimated_bytes(m.recipe, m.vocab) for m in self._runs)
        self._runs.append(Measured(recipe, self._vocab, statistics.median(timed.step_s), above if own else 0))
        return True

    def _sized(self, device: Device, depth: int, width: int, tokens: int) -> Recipe:
        recipe = sizes.sized(self._base, depth, width, tokens)
        return sizes.within_memory(recipe, self._vocab, sizes.MEMORY_SHARE * device.memory_bytes)

    def _hoped(self, fitted: Costs, device: Device) -> Costs:
        """Before it is known what compiling gains."""
        return fitted.faster(COMPILE_GAIN) if self._compiles(device) else fitted

    def _recommended(self, fitted: Costs, device: Device) -> Recipe:
        tokenizer = self._base.data.tokenizer
        rows = sizes.table(self._base, {tokenizer: self._text}, fitted, self._budget_s, device.memory_bytes)
        s = sizes.choose(rows, tokenizer)
        return sizes.sized(self._base, s.depth, s.width, s.tokens_per_step, s.micro_rows)

    # The recommended model

    def _settle(self, device: Device, fitted: Costs) -> tuple[Device, Settled]:
        """Tries the recommended model where nothing is lost if it fails, a smaller one where memory ran out; then
        settles its precision: float32 where there is no time to compare."""
        while True:
            chosen = self._recommended(self._hoped(fitted, device), device)
            try:
                with self._process() as process:
                    left_s = max(SETTLE_S, self._left())
                    process.begin(chosen, self._vocab, left_s)
                    return device, settle.compare(process, chosen, self._vocab, self._compiles(device), left_s)
            except TrialFailed as e:
                if e.status == "timeout":
                    return device, Settled("float32", (), {"float32": 0.0}, {"float32": 1.0})
                if e.cause != MEMORY or device.memory_bytes < LEAST_MEMORY:
                    raise
            device = replace(device, memory_bytes=int(LESS_MEMORY * device.memory_bytes))

    def _compiles(self, device: Device) -> bool:
        compiler = self._backend != "cpu" or machine.cxx() is not None
        return device.compiles and compiler and self._budget_s >= COMPILE_PAYS_S

    def _compiled_step_s(self, recipe: Recipe) -> float:
        """What it compiles, trials of the same code find."""
        with self._process(caches.of(self._candidate)) as process:
            process.begin(recipe.replace({"runtime.compile": True}), self._vocab, self._left())
            return statistics.median(process.time(COMPILED_S, self._left()).step_s)


def _first(device: Device, ceilings: dict[str, float]) -> str:
    first = device.precisions[0]
    return first if ceilings[first] >= settle.WORTH_COMPARING * ceilings["float32"] else "float32"


def _described(run: Measured, predicted_s: float | None) -> dict[str, Any]:
    r = run.recipe
    return {"depth": r.model.depth, "width": r.model.width, "tokens_per_step": r.batch.tokens_per_step,
            "step_s": run.step_s, "memory_bytes": run.memory_bytes, "predicted_s": predicted_s}
