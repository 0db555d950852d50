"""Text written by a trained model: one token at a time, drawn here from logits that a logits server computes.

    Options          how to draw
    generate         the bytes of each token, as they come
    default_prompt   a few lines of the dev split

The model runs in its own process, as when it is scored; this one only picks tokens.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from autoresearch import scratch
from autoresearch.data.prepared import Prepared
from autoresearch.data.text import char_boundary
from autoresearch.data.tokenizer import Tokenizer
from autoresearch.errors import UserError
from autoresearch.harness import assemble
from autoresearch.harness.serving import LogitsServer, Served, ServerFailed
from autoresearch.models import Model

PROMPT_BYTES = (24, 120)  # of a default prompt: at least, at most


@dataclass(frozen=True)
class Options:
    tokens: int = 200
    temperature: float = 0.8  # 0: always the likeliest token
    top_k: int = 50  # 0: any token
    seed: int = 1


def generate(model: Model, prompt: bytes, options: Options = Options(),
             backend: str | None = None) -> Generator[bytes, None, None]:
    """The bytes of each new token. Close it (contextlib.closing) when leaving early: a process stands behind it.
    `backend`: None for the one it was trained on. UserError where the model can't be run."""
    recipe, tokenizer = model.recipe(), model.tokenizer()
    ids = [tokenizer.bos, *map(int, tokenizer.encode(prompt))]
    length = min(recipe.model.seq_len, len(ids) + options.tokens)
    with scratch.folder() as folder:
        assemble.assemble(folder / "tree", model.about.files())
        served = Served(backend or model.about.backend, recipe.flat(), tokenizer.vocab, str(model.weights),
                        str(folder / "tree"), str(folder))
        try:
            with LogitsServer(served, length, max_batch=1) as server:
                yield from _draw(server, tokenizer, ids, options)
        except ServerFailed as e:
            raise UserError(f"the model of {model.label} can't be run: {e.reason.strip()}",
                            "Try another one: ar sample baseline, or ar sample N") from None


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
