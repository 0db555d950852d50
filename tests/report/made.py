"""Studies made by hand: a real repository and a real ledger, with trials that nobody ran.

    repository    a clone with a candidate in it
    Made          a study in one, and what it takes to add to it
    night         forty ideas in a study; `forty_ideas`: in one of its own, to be read
    pretended     a prepared text, as far as a loop asks
    copied        what took many git processes to make, from the second time on by copying its files
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from autoresearch.paths import CANDIDATE
from autoresearch.records import BASELINE, Point, Score
from autoresearch.research.study import Study
from backends.recipe import edit, parse

TAG = "mar8"
RECIPE = f"{CANDIDATE}/recipe.toml"
START = """# The recipe.
[data]
tokenizer = "byte"

[model]
depth = 1
width = 32
head_dim = 16
seq_len = 32

[batch]
tokens_per_step = 128

[runtime]
precision = "float32"
compile = false
"""
FACTS = {"budget_s": 300.0, "backend": "cpu", "data_name": "letters", "data_digest": "0123456789abcdef",
         "data_root": "/nowhere/letters", "device": {"name": "Toaster 9000", "memory_bytes": 17 << 30,
                                                    "precisions": ["float32"]}, "frozen_digest": "feedfacefeedface"}


def copied(build: Callable[[Path], object], root: Path) -> Path:
    """What `build` makes in an empty folder. It does so once in a process; that is copied to every `root`."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in _files(build).items():
        if content is None:
            (root / name).mkdir(exist_ok=True)
        else:
            (root / name).write_bytes(content)
    for pointer in root.glob("studies/*/worktree/.git"):  # what ties it to its repository are two absolute paths
        ours = root.resolve() / ".git/worktrees" / Path(pointer.read_text().strip()).name
        pointer.write_text(f"gitdir: {ours}\n")
        (ours / "gitdir").write_text(f"{pointer.resolve()}\n")
    return root


@functools.cache
def _files(build: Callable[[Path], object]) -> dict[str, bytes | None]:
    """By path, folders (None) before what is in them."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        build(root)
        return {str(p.relative_to(root)): None if p.is_dir() else p.read_bytes() for p in sorted(root.rglob("*"))}


def repository(root: Path, files: dict[str, bytes] | None = None) -> Path:
    """A git repository with a candidate in it."""
    if files is None and not (root.exists() and any(root.iterdir())):
        return copied(_started, root)
    return _started(root, files)


def _started(root: Path, files: dict[str, bytes] | None = None) -> Path:
    folder = root / CANDIDATE
    folder.mkdir(parents=True)
    for name, content in ({"recipe.toml": START.encode()} | (files or {})).items():
        (folder / name).write_bytes(content)
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "maintenance.auto=false"]
    for args in (["init", "--quiet", "--template="], ["add", "-A"], ["commit", "--quiet", "-m", "start"]):
        subprocess.run([*git, *args], check=True)
    return root


@dataclass
class Made:
    """A study and what it takes to add to it by hand."""

    study: Study
    spread: float = 0.004
    _best: dict[int, int] = field(default_factory=dict)  # seed -> trial of the incumbent

    @classmethod
    def create(cls, clone: Path, tag: str = TAG, **facts: Any) -> Made:
        if tag != TAG or not _is_as_it_started(clone):
            return cls(Study.create(clone, tag, facts=FACTS | facts))
        study = Study.open(copied(_begun, clone), tag)
        for key, value in facts.items():
            study.ledger.set_fact(key, value)
        return cls(study)

    def baseline(self, *bpb: float) -> None:
        """With one seed for each score."""
        ledger, head = self.study.ledger, self.study.workspace.head()
        recipe = parse(START)
        ledger.propose(n=BASELINE, parent=head, researcher="probe", hypothesis="Baseline: the starting recipe",
                       evidence="fits this device", changes={}, recipe=recipe.flat())
        ledger.commit(BASELINE, self.study.workspace.propose_commit(head, {}, "Baseline", BASELINE))
        for seed, score in enumerate(bpb, start=1):
            self._best[seed] = self.trial(BASELINE, score, seed)
        ledger.set_fact("spread_bpb", self.spread)
        self.study.conclude(BASELINE, "keep", f"the baseline; seed spread {self.spread} bits per byte")

    def idea(self, verdict: str, bpb: float | None = None, hypothesis: str = "More steps help", reason: str = "because",
             changes: dict[str, Any] | None = None, log_tail: str = "", files: dict[str, bytes] | None = None) -> int:
        ledger, workspace = self.study.ledger, self.study.workspace
        parent = workspace.head()
        text = workspace.read(parent, RECIPE).decode()
        changed = changes or {}
        n = ledger.propose(parent=parent, researcher="playbook", hypothesis=hypothesis, evidence="#0: 700 steps",
                           changes=changed, recipe=parse(text).replace(changed).flat())
        edits: dict[str, bytes | None] = {f"{CANDIDATE}/{name}": content for name, content in (files or {}).items()}
        if changed:
            edits[RECIPE] = edit(text, changed).encode()
        ledger.commit(n, workspace.propose_commit(parent, edits, "idea", n))
        if bpb is None:
            trial = ledger.start_trial(n, 1, "screen", 300.0, {})
            ledger.end_trial(trial, verdict, reason, log_tail=log_tail)
        else:
            before = ledger.incumbent()
            assert before is not None
            trial = self.trial(n, bpb)
            ledger.pair(n, trial, self._best[1], bpb - (before.screens()[0].bpb() or 0.0))
            if verdict == "keep":
                self._best[1] = trial
        self.study.conclude(n, verdict, reason)
        return n

    def trial(self, n: int, bpb: float, seed: int = 1, purpose: str = "screen", split: str = "val",
              facts: dict[str, Any] | None = None) -> int:
        ledger = self.study.ledger
        trial = ledger.start_trial(n, seed, purpose, 300.0, {"backend": "cpu", "precision": "float32"})
        curve = [Point(step, step * 0.4, 5.0 / step**0.2, 2.5 if step == 601 else None) for step in range(1, 702, 10)]
        if split != "val":
            ledger.read(split, trial)
        ledger.end_trial(trial, "ok", facts=facts, scores=[score(bpb, split)], curve=curve, steps=701, tokens=701 * 128,
                         train_s=300.0, total_s=320.0, params=3_400_000, peak_memory_bytes=900 << 20, utilisation=0.41,
                         log_tail="all went well", weights=f"trials/{trial}/weights.safetensors")
        return trial

    def verify(self, n: int, *bpb: float) -> None:
        for seed, found in enumerate(bpb, start=1001):
            self.trial(n, found, seed, "verify", "confirm")


def _begun(root: Path) -> None:
    Study.create(copied(_started, root), TAG, facts=FACTS).close()


def _is_as_it_started(clone: Path) -> bool:
    """Whether nothing was done in a copy of `_started` that a copy of `_begun` would undo."""
    return not (clone / "studies").exists() and all(
        (clone / name).is_file() and (clone / name).read_bytes() == content
        for name, content in _files(_started).items() if content is not None)


def pretended(tokenizer: str = "byte", vocab: int = 257, train_tokens: int = 1000, rows: int = 100_000) -> Any:
    """What a loop asks of a prepared text, for runners that train nothing."""
    return SimpleNamespace(
        digest="d", tokenizers=lambda: [tokenizer], tokenizer=lambda name: SimpleNamespace(vocab=vocab),
        manifest=SimpleNamespace(tokenizers={tokenizer: SimpleNamespace(tokens={"train": train_tokens})},
                                 splits={name: SimpleNamespace(rows=rows, bytes=100 * rows)
                                         for name in ("val", "confirm", "holdout")}))


def score(bpb: float, split: str = "val") -> Score:
    size = 100_000
    return Score(split, bpb * 0.6931471805599453 * size, 40_000, size, 90_000, 400)


def night(made: Made) -> Made:
    """Forty ideas, as an ordinary night on a laptop brings them."""
    made.baseline(2.3104, 2.3151, 2.3062)
    made.idea("keep", 2.2411, "Half the tokens per step: twice the updates", changes={"batch.tokens_per_step": 96})
    made.idea("keep", 2.2135, "Again half", changes={"batch.tokens_per_step": 64})
    made.idea("discard", 2.2198, "Again half", changes={"batch.tokens_per_step": 32})
    made.idea("discard", 2.2702, "One block more", changes={"model.depth": 2})
    made.idea("crash", None, "Wider", "out of memory: tried to allocate 3.1 GiB", {"model.width": 4096},
              "Traceback (most recent call last):\n  File \"trial.py\", line 3\nRuntimeError: out of memory")
    made.idea("keep", 2.1874, "Muon can go faster here", changes={"optim.matrix_lr": 0.06})
    made.idea("discard", 2.1931, "Faster still", changes={"optim.matrix_lr": 0.09})
    made.idea("discard", 2.1859, "Value embeddings off", changes={"model.value_embeds": "none"})
    made.idea("keep", 2.1702, "Warm down longer", changes={"schedule.warmdown_frac": 0.7})
    for i in range(8):
        made.idea("discard", 2.1702 + [0.004, 0.021, 0.0009, 0.052, 0.38, 0.013, -0.0021, 0.03][i], f"Idea {i}",
                  changes={"optim.adam_beta2": 0.95 + i / 1000})
    made.idea("keep", 2.1598, "Embedding learning rate up", changes={"optim.embedding_lr": 0.9})
    made.idea("timeout", None, "Deep and thin", "trained for 341.0 s of a budget of 300 s", {"model.depth": 12})
    for i in range(6):
        made.idea("discard", 2.1598 + [0.002, 0.011, 0.0252, 0.0061, 0.0171, 0.041][i], f"Idea {i}",
                  changes={"init.embedding_std": 0.5 + i / 10})
    made.idea("keep", 2.1507, "A sharper QK scale", changes={"model.qk_scale": 1.3})
    made.idea("invalid", None, "A cleverer tokenizer", "only files in backends/gpt/ may change", {})
    for i in range(7):
        made.idea("discard", 2.1507 + [0.0032, 0.014, 0.001, 0.0222, 0.009, 0.0305, -0.001][i], f"Idea {i}",
                  changes={"schedule.final_lr_frac": (i + 1) / 100})
    made.idea("keep", 2.1443, "Softer softcap: let the logits speak", files={"schedule.py": b"# slower\n"})
    for i in range(5):
        made.idea("discard", 2.1443 + [0.0012, 0.0072, 0.019, 0.0262, 0.0045][i], f"Idea {i}",
                  changes={"optim.muon_momentum": 0.9 + i / 100})
    return made


def forty_ideas(root: Path) -> Made:
    """A study of them in a folder of its own, to be read."""
    return Made(Study.open(copied(_slept, root), TAG))


def _slept(root: Path) -> None:
    night(Made.create(repository(root))).study.close()
