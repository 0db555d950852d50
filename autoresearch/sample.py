"""Text written by a trained model: one token at a time, drawn here from logits that a logits server computes.

    Options          how to draw
    generate         the bytes of each token, as they come
    default_prompt   a few lines of the dev split
    prepared_of      the text that a study trains on

The model runs in its own process, as when it is scored; this one only picks tokens.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoresearch.data import prepared as sets
from autoresearch.data.prepared import Prepared
from autoresearch.data.text import char_boundary
from autoresearch.data.tokenizer import Tokenizer
from autoresearch.errors import UserError
from autoresearch.harness import assemble
from autoresearch.harness.serving import LogitsServer, Served, ServerFailed
from autoresearch.records import Experiment, Trial
from autoresearch.research.study import Study
from backends.recipe import Recipe, RecipeError

PROMPT_BYTES = (24, 120)  # of a default prompt: at least, at most


@dataclass(frozen=True)
class Options:
    tokens: int = 200
    temperature: float = 0.8  # 0: always the likeliest token
    top_k: int = 50  # 0: any token
    seed: int = 1


def generate(study: Study, prepared: Prepared, experiment: Experiment, prompt: bytes,
             options: Options = Options()) -> Generator[bytes, None, None]:
    """The bytes of each new token. Close it (contextlib.closing) when leaving early: a process stands behind it.
    UserError where the weights are gone or the model can't be run."""
    trial = weights_of(study, experiment)
    try:
        recipe = Recipe().replace(experiment.recipe)
    except RecipeError as e:
        raise UserError(f"experiment {experiment.n} has a recipe that this version does not know: {e}",
                        "Check out the version of autoresearch that ran the study.") from None
    tokenizer = prepared.tokenizer(recipe.data.tokenizer)
    ids = [tokenizer.bos, *map(int, tokenizer.encode(prompt))]
    length = min(recipe.model.seq_len, len(ids) + options.tokens)
    with tempfile.TemporaryDirectory(prefix=".sample-", dir=study.root, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        assemble.assemble(folder / "tree", study.workspace.candidate_files(experiment.sha))
        served = Served(study.ledger.fact("backend"), recipe.flat(), tokenizer.vocab, str(_weights_path(study, trial)),
                        str(folder / "tree"), str(folder), str(folder / "cache"))
        try:
            with LogitsServer(served, length, max_batch=1) as server:
                yield from _draw(server, tokenizer, ids, options)
        except ServerFailed as e:
            raise UserError(f"the model of experiment {experiment.n} can't be run: {e.reason.strip()}",
                            "Try another one: ar sample --experiment N") from None


def weights_of(study: Study, experiment: Experiment) -> Trial:
    """The newest scored trial whose weights are still there. UserError, with the remedy, where there is none."""
    for trial in reversed(experiment.screens()):
        if _weights_path(study, trial).is_file():
            return trial
    if experiment.verdict != "keep":
        raise UserError(f"experiment {experiment.n} has no weights: those of ideas that were not kept are deleted",
                        "Sample one that was kept; `ar log` lists them.")
    raise UserError(f"the weights of experiment {experiment.n} are gone from {study.trials}",
                    f"Train it again: git worktree add /tmp/again {experiment.sha[:12]} && cd /tmp/again && ar train")


def default_prompt(prepared: Prepared, seed: int = 1) -> bytes:
    """Whole lines of the dev split, from a line start that the seed picks."""
    text = prepared.text("dev")
    least, most = PROMPT_BYTES
    lines = text.splitlines(keepends=True)
    starts = [i for i, line in enumerate(lines) if line.strip()]
    if not starts:
        return text[:most]
    prompt = b""
    for line in lines[starts[int(np.random.default_rng(seed).integers(len(starts)))]:]:
        prompt += line
        if len(prompt) >= least:
            break
    return prompt[:char_boundary(prompt, most)]


def prepared_of(study: Study) -> Prepared:
    """The text that the study trains on, where it was or by its name. UserError where it is gone or has changed."""
    name, digest = study.ledger.fact("data_name"), study.ledger.fact("data_digest")
    for look in (lambda: sets.load(study.ledger.fact("data_root") or ""), lambda: sets.find(str(name))):
        with contextlib.suppress(UserError):
            found = look()
            if found.digest == digest:
                return found
    raise UserError(f"the text of study {study.tag!r}, {name} (digest {digest}), is not in the cache any more",
                    f"Prepare the same files again: ar prepare --text PATH --name {name}")


def _weights_path(study: Study, trial: Trial) -> Path:
    return study.trials / str(trial.id) / "weights.safetensors"


def _draw(server: LogitsServer, tokenizer: Tokenizer, ids: list[int], options: Options) -> Generator[bytes, None, None]:
    """BOS and as many of the last tokens as the model was trained to see, padded at the end: it looks only back."""
    rng = np.random.default_rng(options.seed)
    for _ in range(options.tokens):
        window = ids if len(ids) <= server.length else [tokenizer.bos, *ids[len(ids) - server.length + 1:]]
        row_T = np.full(server.length, tokenizer.bos, np.int32)
        row_T[:len(window)] = window
        logits_V = server.ask(row_T[None])[0, len(window) - 1].astype(np.float64)
        if not np.isfinite(logits_V).all():
            raise ServerFailed("invalid", "its logits are not finite numbers")
        logits_V[tokenizer.bos] = -np.inf  # the end of a document: the text that was asked for goes on
        ids.append(pick(logits_V, options.temperature, options.top_k, rng))
        yield tokenizer.tokens[ids[-1]]


def pick(logits_V: np.ndarray, temperature: float, top_k: int, rng: np.random.Generator) -> int:
    """A token drawn from softmax(logits / temperature) among the `top_k` likeliest."""
    if temperature <= 0:
        return int(np.argmax(logits_V))
    if 0 < top_k < len(logits_V):
        logits_V = np.where(logits_V >= np.partition(logits_V, -top_k)[-top_k], logits_V, -np.inf)
    weights_V = np.exp((logits_V - logits_V.max()) / temperature)
    return int(rng.choice(len(weights_V), p=weights_V / weights_V.sum()))
