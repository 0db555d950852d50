"""When two proposals are one: the same effective recipe, and code that is the same program.

    effective     a flat recipe with every key that changes nothing at its default
    fingerprint   equal for recipes that are the same run
    repeat_of     the experiment that a proposal would only run again

A second run of what has run is a second draw of the same lot: after enough of them one looks like progress.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from autoresearch.records import BASELINE, Experiment
from backends.recipe import Recipe

RECIPE = "recipe.toml"
DEFAULTS = Recipe().flat()
Flat = Mapping[str, Any]

# Keys that nothing reads while a condition holds. tests/researchers/test_repeats.py trains both ways.
IDLE: tuple[tuple[Callable[[Flat], bool], tuple[str, ...]], ...] = (
    (lambda f: f["model.value_embeds"] == "none",
     ("optim.value_embedding_lr", "optim.value_embedding_decay", "model.value_gate", "model.value_gate_channels")),
    (lambda f: not f["model.value_gate"], ("model.value_gate_channels",)),
    (lambda f: f["optim.matrix_rule"] == "adamw",
     ("optim.muon_momentum", "optim.muon_variance", "optim.muon_beta2", "optim.muon_polynomial", "optim.muon_steps",
      "schedule.momentum_start", "schedule.momentum_warmup_frac")),
    (lambda f: not f["optim.muon_variance"], ("optim.muon_beta2",)),
    (lambda f: not f["schedule.momentum_warmup_frac"], ("schedule.momentum_start",)),
    (lambda f: not f["optim.matrix_decay"], ("optim.cautious_matrices", "schedule.final_decay_frac")),
    (lambda f: not (f["optim.embedding_decay"] or f["optim.value_embedding_decay"] or f["optim.unembedding_decay"]),
     ("optim.cautious_tables",)),
    (lambda f: not (f["model.norm_gain"] or f["model.biases"] or f["model.token_shift"]), ("optim.vector_lr",)),
    (lambda f: not f["model.input_lambdas"], ("init.input_lambda",)),
    (lambda f: not (f["model.input_lambdas"] or f["model.resid_lambdas"]), ("optim.scalar_lr",)),
    (lambda f: f["model.tied_embeddings"],
     ("optim.unembedding_lr", "optim.unembedding_decay", "init.unembedding_std")),
    (lambda f: f["model.positions"] == "learned", ("model.rope_base",)),
    (lambda f: f["schedule.seq_parts"] == 1, ("schedule.seq_warmup_frac",)),
    (lambda f: "S" not in f["model.window_pattern"], ("model.short_window_frac",)),
)
# What `effective` never touches.
ALWAYS_COUNT = DEFAULTS.keys() - {"model.window_pattern", "model.kv_heads", "batch.micro_rows"} \
    - {name for _, names in IDLE for name in names}


def effective(flat: Flat) -> dict[str, Any]:
    f = DEFAULTS | dict(flat)
    for holds, names in IDLE:
        if holds(f):
            f |= {name: DEFAULTS[name] for name in names}
    pattern, depth = f["model.window_pattern"], f["model.depth"]
    f["model.window_pattern"] = (pattern * depth)[:depth]
    if f["model.kv_heads"] == f["model.width"] // f["model.head_dim"]:
        f["model.kv_heads"] = 0
    if f["batch.micro_rows"] == f["batch.tokens_per_step"] // f["model.seq_len"]:
        f["batch.micro_rows"] = 0
    return f


def fingerprint(flat: Flat) -> frozenset[Any]:
    return frozenset(effective(flat).items())


def repeat_of(recipe: Flat, files: Mapping[str, bytes], experiments: Iterable[Experiment],
              files_of: Callable[[Experiment], Mapping[str, bytes]]) -> Experiment | None:
    """The latest decided experiment with the same effective recipe and program, unless the machine has spoilt it.
    `files` are the candidate's, by path below backends/gpt/; `files_of` is asked only where the recipe is the same."""
    wanted = effective(recipe)
    for e in sorted(experiments, key=lambda e: -e.n):
        if e.n >= BASELINE and e.sha and e.verdict and not e.is_spoilt and _is_run(e.recipe, wanted) \
                and program(files) == program(files_of(e)):
            return e
    return None


def _is_run(flat: Flat, wanted: Flat) -> bool:
    """Most differ in a key that always counts, which is quickly seen."""
    return all(flat.get(key, DEFAULTS[key]) == wanted[key] for key in ALWAYS_COUNT) and effective(flat) == wanted


def program(files: Mapping[str, bytes]) -> dict[str, str | bytes]:
    """What the files say apart from the recipe: Python without its comments, docstrings and layout."""
    return {name: _said(content) if name.endswith(".py") else content
            for name, content in files.items() if name != RECIPE}


@functools.lru_cache(maxsize=256)
def _said(content: bytes) -> str | bytes:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return content
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) \
                and ast.get_docstring(node, clean=False) is not None:
            node.body[:1] = [] if len(node.body) > 1 else [ast.Pass()]
    return ast.dump(tree)
