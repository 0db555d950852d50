"""A switch for each layer that keeps a score honest: off, it does what a harness without it would do.

    python -m tests.cheats.layers '{"off": ["audit"]}' try -m "an edit"      `ar` without a layer

The sandbox has a switch of its own, AUTORESEARCH_SANDBOX=off, and so have the ratchets. All others are off in tests
alone: here they are taken out of the supervisor, and out of the trusted processes that it starts. What runs a
candidate's code is left as it is.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from autoresearch.harness import (
    audit,
    caches,
    checkpoint,
    jobs,
    launch,
    runner,
    sandbox,
    scorer,
    serving,
    supervise,
    text,
    watch,
)
from autoresearch.harness.supervise import Outcome, Supervised
from autoresearch.records import Score
from autoresearch.research import gate, judge, lab
from backends.recipe import parse

SWITCHES: dict[str, Callable[[], None]] = {}


def layer(switch: Callable[[], None]) -> Callable[[], None]:
    SWITCHES[switch.__name__.strip("_").replace("_", " ")] = switch
    return switch


def off(names: list[str]) -> None:
    for name in names:
        SWITCHES[name]()
    if names:
        launch.trusted = lambda module, *arguments, descriptors=(): _trusted(names, module, *arguments,
                                                                             descriptors=descriptors)


@layer
def _gate() -> None:
    """Any commit will do whose recipe can be read."""
    gate.check = lambda changed, files, folder, tokenizers: parse(files[gate.RECIPE].decode())


@layer
def _audit() -> None:
    """No score is replayed."""
    runner.Runner.audit = lambda *_, **__: "not replayed"


@layer
def _known_precision() -> None:
    """What a trial says it computes in is believed, and decides how strict its audit is."""
    lab.Lab._runs = lambda self, candidate: candidate.recipe
    judge_ = audit.judge
    audit.judge = lambda result, precision: judge_(result, "bfloat16")


@layer
def _device() -> None:
    """All scores are compared, whatever devices they say they are of."""
    lab.Lab._check_device = lambda self, name: None


@layer
def _far_replay() -> None:
    """Replays change the next 64 tokens only, as a check of a window would."""
    whole = audit.replayed

    def near(inputs_RT: np.ndarray, rows: np.ndarray, positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        far = np.arange(inputs_RT.shape[1])[None] > positions[:, None] + 64
        return np.where(far, inputs_RT[rows], whole(inputs_RT, rows, positions, rng))

    audit.replayed = near


@layer
def _replay() -> None:
    """No scored row is asked again; random ones are, with one future and another."""
    def probe(job: jobs.ScoreJob) -> dict[str, object]:
        rng, length = np.random.default_rng(0), 256
        served = serving.Served(job.backend, job.recipe, 257, job.weights, job.tree, job.folder)
        rows_RT = rng.integers(0, 256, (4, length), np.int32)
        others_RT = np.where(np.arange(length) < length // 2, rows_RT, rng.integers(0, 256, rows_RT.shape, np.int32))
        with audit.LogitsServer(served, length) as server:
            logits_RTV, others_RTV = server.ask(rows_RT), server.ask(others_RT)
        difference = np.abs(logits_RTV - others_RTV)[:, : length // 2].max()
        return {"status": "ok", "positions": 4, "difference": float(difference), "gain_nats": 0.0, "gain_error": 0.0}

    audit.replay = probe


@layer
def _quarantine() -> None:
    """However large a gain is, it is believed."""
    judge.Judge._examined = lambda self, candidate, incumbent, judgement: self._audited(candidate, judgement)


@layer
def _ratchet() -> None:
    """Every candidate that is scored is better than the incumbent."""
    judge.decide.greedy = lambda gain: True


@layer
def _clock() -> None:
    """The trial's own clock is believed."""
    Supervised._grace_s = Supervised._hand_over_s = lambda self, *_: 600.0
    Supervised._judge_time = lambda self, *_: None


@layer
def _served_in_time() -> None:
    """A logits server is waited for, as one that hangs."""
    serving.allowed_s = lambda weights, tokens: None


@layer
def _feeder() -> None:
    """Text is there from the start, as where the file that trains reads its own data."""
    follow = Supervised.follow

    def fed(self: Supervised, outcome: Outcome) -> None:
        self.feeder.stdin.write(b"\0")
        self.feeder.stdin.flush()
        follow(self, outcome)

    Supervised.follow = fed


@layer
def _taken_weights() -> None:
    """What lies in the weights' place is moved, whatever it is, and may be written to still."""
    def move(folder: Path, most_bytes: int = 0) -> Path:
        taken = folder / checkpoint.WEIGHTS
        os.replace(folder / launch.SCRATCH / checkpoint.WEIGHTS, taken)
        return taken

    supervise.take_weights = move


@layer
def _compile_cache() -> None:
    """What was compiled is copied as it lies there."""
    def copied(own: Path, kept: Path) -> None:
        if own.is_dir():
            shutil.copytree(own, kept, dirs_exist_ok=True)

    caches.keep = copied


@layer
def _stamp() -> None:
    """A checkpoint is loaded as torch.load does it where nobody says weights_only."""
    def load(self: Any, candidate: Any, recipe: Any, seed: Any, budget_s: Any, outcome: Outcome) -> None:
        assert outcome.weights is not None
        pickle.loads(outcome.weights.read_bytes())

    runner.Runner._stamp = load


@layer
def _finite() -> None:
    """A scorer that leaves out what is not a number."""
    def sloppy(logits_BTV: np.ndarray, targets_BT: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(_log_softmax_nats(logits_BTV, targets_BT), nan=0.0, posinf=0.0, neginf=0.0)

    scorer.surprise = audit.surprise = sloppy


@layer
def _normalised() -> None:
    """A scorer that takes logits for the logarithms of probabilities."""
    scorer.surprise = audit.surprise = lambda logits_BTV, targets_BT: \
        -np.take_along_axis(logits_BTV, targets_BT[..., None], axis=2)[..., 0].astype(np.float64)


@layer
def _scorer() -> None:
    """The score is the last that the trial tells of itself: in its log, as upstream's agent reads it, or else its
    own loss."""
    train, score = runner.Runner.train, runner.Runner.score
    said: dict[Path, float] = {}

    def heard(self: Any, candidate: Any, recipe: Any, seed: Any, folder: Path, *rest: Any, **more: Any) -> Outcome:
        outcome = train(self, candidate, recipe, seed, folder, *rest, **more)
        losses = [p.dev_bpb for p in outcome.curve if p.dev_bpb is not None]
        printed = re.findall(r"^val_bpb:\s*(\S+)$", (folder / "log.txt").read_text(), re.M)
        said[folder] = float(printed[-1]) if printed else losses[-1] if losses else 9.9
        return outcome

    def told(self: Any, candidate: Any, recipe: Any, folder: Path, *rest: Any, **more: Any) -> Score:
        true = score(self, candidate, recipe, folder, *rest, **more)
        return Score(true.split, said[folder] * np.log(2) * true.bytes, true.tokens, true.bytes, true.chars, true.rows)

    runner.Runner.train, runner.Runner.score = heard, told


@layer
def _limits() -> None:
    """Neither the kernel nor the watchdog bounds a trial."""
    sandbox.limits = lambda scratch: {}
    watch.Watch._excess = lambda self: ""


@layer
def _descriptors() -> None:
    """A trial inherits whatever its supervisor has open."""
    popen = subprocess.Popen

    def inheriting(*arguments: Any, pass_fds: Any = (), **more: Any) -> Any:
        for fd in pass_fds:
            os.set_inheritable(fd, True)
        return popen(*arguments, close_fds=False, **more)

    launch.subprocess = SimpleNamespace(**vars(subprocess) | {"Popen": inheriting})


@layer
def _words() -> None:
    """What a candidate prints is shown as it is."""
    text.ESCAPES = text.CONTROLS = re.compile("(?!)")


def _log_softmax_nats(logits_BTV: np.ndarray, targets_BT: np.ndarray) -> np.ndarray:
    """Whatever numbers they are."""
    top_BT1 = logits_BTV.max(axis=2, keepdims=True)
    total_BT = np.exp(logits_BTV - top_BT1).sum(axis=2, dtype=np.float64)
    return np.log(total_BT) + top_BT1[..., 0] - np.take_along_axis(logits_BTV, targets_BT[..., None], axis=2)[..., 0]


def _trusted(names: list[str], module: str, *arguments: str, descriptors: Any = ()) -> subprocess.Popen[bytes]:
    """As launch.trusted, with the same layers off."""
    code = f"from tests.cheats import layers; layers.off({names!r}); " \
           f"from autoresearch.harness import {module}; {module}.main()"
    return subprocess.Popen([sys.executable, "-c", code, *arguments], pass_fds=descriptors, start_new_session=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def main() -> None:
    """Also lets a machine be smaller than it is, and holds a file open that children could inherit."""
    told = json.loads(sys.argv.pop(1))
    if "memory_bytes" in told:
        sandbox.memory_bytes = lambda: told["memory_bytes"]
    if "disk_bytes" in told:
        sandbox.disk_bytes = lambda folder: told["disk_bytes"]
    if "tasks" in told:
        watch.TASKS, watch.TASKS_PER_CORE, watch.LOOK_EVERY_S = told["tasks"], 0, 0.05
    if "hold" in told:
        os.set_inheritable(os.open(told["hold"], os.O_RDONLY), True)
    off(told["off"])
    from autoresearch.cli import main as ar

    sys.argv[0] = "autoresearch"
    ar()


if __name__ == "__main__":
    main()
