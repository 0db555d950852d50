"""nanoGPT, karpathy/autoresearch and this trainer behind one small interface, for peers.py and learning.py.

    NanoGPT       model.py of a clone as it is; optimizer, clipping, cosine schedule as its train.py does them
    Upstream      classes of a clone's train.py; FlashAttention-3 replaced by PyTorch's attention, CUDA by the CPU
    Ours          a recipe through the cpu backend
    crops         rows as nanoGPT draws them
    train         for so many seconds
    scored        bits per byte of a split

What the peers need to run on a CPU is done here, at run time, to the source in the clones; none of it is kept. With
seed 1 they start from their own seeds, and this trainer from what trials of seed 1 start from.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autoresearch.data.prepared import Prepared
from autoresearch.data.tokenizer import Tokenizer
from autoresearch.harness.scorer import surprise

ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}  # what this trainer sets for itself
SCORED_ROWS = 8  # at a time


@dataclass(frozen=True)
class Shape:
    depth: int
    width: int
    head_dim: int
    seq_len: int
    vocab: int


class Trainer(ABC):
    @abstractmethod
    def step(self, tokens_BT1: np.ndarray, progress: float) -> float:
        """One optimizer step; the training loss in nats."""

    @abstractmethod
    def logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        """float32 (B, T, V)."""


def shifted(tokens_BT1: np.ndarray) -> tuple[Tensor, Tensor]:
    """Inputs and targets."""
    tokens = torch.from_numpy(np.ascontiguousarray(tokens_BT1, dtype=np.int64))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


class NanoGPT(Trainer):
    """float32 on a CPU, as its train.py runs there. Learning rates of its character-level configuration."""

    LR, MIN_LR, WARMUP_FRAC, SEED = 1e-3, 1e-4, 0.05, 1337

    def __init__(self, clone: Path, shape: Shape, seed: int):
        torch.manual_seed(self.SEED + seed - 1)
        spec = importlib.util.spec_from_file_location("nanogpt_model", clone / "model.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # its dataclass looks itself up there
        spec.loader.exec_module(module)
        config = module.GPTConfig(block_size=shape.seq_len, vocab_size=shape.vocab, n_layer=shape.depth,
                                  n_head=shape.width // shape.head_dim, n_embd=shape.width, dropout=0.0, bias=False)
        self.raw = module.GPT(config)
        self.optimizer = self.raw.configure_optimizers(0.1, self.LR, (0.9, 0.99), "cpu")
        self.model: Any = torch.compile(self.raw)

    def step(self, tokens_BT1: np.ndarray, progress: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(progress)
        x, y = shifted(tokens_BT1)
        _, loss = self.model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.raw.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.item())

    def _lr(self, progress: float) -> float:
        if progress < self.WARMUP_FRAC:
            return self.LR * progress / self.WARMUP_FRAC
        cosine = 0.5 * (1 + math.cos(math.pi * (progress - self.WARMUP_FRAC) / (1 - self.WARMUP_FRAC)))
        return self.MIN_LR + cosine * (self.LR - self.MIN_LR)

    def logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(tokens_BT.astype(np.int64))
        with torch.no_grad():
            logits: np.ndarray = self.raw(x, x)[0].numpy()  # without targets it would give the last position only
        return logits


class Upstream(Trainer):
    """Compiled, in bf16 autocast or float32, with the hyper-parameters and schedules of its train.py."""

    BEGIN, END = "# GPT Model\n", "# Hyperparameters"
    SEED = 42

    def __init__(self, clone: Path, shape: Shape, autocast: bool, seed: int):
        torch.manual_seed(self.SEED + seed - 1)
        self.autocast = autocast
        source = (clone / "train.py").read_text(encoding="utf-8")
        if self.BEGIN not in source or self.END not in source:
            raise SystemExit(f"{clone}/train.py is laid out in another way than this script knows")
        names: dict[str, Any] = {"torch": torch, "nn": torch.nn, "F": F, "math": math, "dataclass": dataclass,
                                 "fa3": Attention, "__name__": "upstream"}
        sys.modules.setdefault("upstream", type(sys)("upstream"))
        exec(compile(source[source.index(self.BEGIN):source.index(self.END)], "train.py", "exec"), names)
        heads = shape.width // shape.head_dim
        self.raw = names["GPT"](names["GPTConfig"](
            sequence_len=shape.seq_len, vocab_size=shape.vocab, n_layer=shape.depth, n_head=heads, n_kv_head=heads,
            n_embd=shape.width, window_pattern="SSSL"))
        self.raw.init_weights()
        if not autocast:
            self.raw.float()  # its tables are bf16
        self.optimizer = self.raw.setup_optimizer(unembedding_lr=0.004, embedding_lr=0.6, scalar_lr=0.5,
                                                  adam_betas=(0.8, 0.95), matrix_lr=0.04, weight_decay=0.2)
        self.model: Any = torch.compile(self.raw, dynamic=False)
        self.steps = 0

    def step(self, tokens_BT1: np.ndarray, progress: float) -> float:
        x, y = shifted(tokens_BT1)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            loss = self.model(x, y)
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * min(1.0, (1 - progress) / 0.5)
            if group["kind"] == "muon":
                group["momentum"] = 0.85 + 0.1 * min(self.steps / 300, 1)
                group["weight_decay"] = 0.2 * (1 - progress)
        self.optimizer.step()
        self.raw.zero_grad(set_to_none=True)
        self.steps += 1
        return float(loss.item())

    def logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            logits: np.ndarray = self.raw(torch.from_numpy(tokens_BT.astype(np.int64))).float().numpy()
        return logits


class Attention:
    """FlashAttention-3's call by PyTorch's: (B, T, H, D), causal, each position sees `window` before it."""

    @staticmethod
    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, causal: bool, window_size: tuple[int, int]) -> Tensor:
        length, window = q.size(1), window_size[0]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v.to(q.dtype)))
        if window >= length:
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)
        age = torch.arange(length)[:, None] - torch.arange(length)[None]
        seen = (age >= 0) & (age <= window)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2)


class Ours(Trainer):
    def __init__(self, recipe_file: Path, changes: dict[str, Any], vocab: int, seed: int):
        import backends
        from backends.gpt import params
        from backends.recipe import load
        from backends.spec import GPTSpec

        self.recipe = load(recipe_file).replace(changes)
        self.backend = backends.load("cpu")
        weights = params.initial(self.recipe, GPTSpec.of(self.recipe, vocab), np.random.default_rng([seed, 0]))
        self.state = self.backend.init(self.recipe, vocab, weights, seed)

    def step(self, tokens_BT1: np.ndarray, progress: float) -> float:
        return float(self.backend.step(self.state, tokens_BT1, progress))

    def logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        return self.backend.logits(self.state, tokens_BT)


def crops(streams: Sequence[np.ndarray], length: int, seed: int) -> Iterator[np.ndarray]:
    """Rows from anywhere, as nanoGPT draws them; the others' begin with BOS."""
    rng, tokens = np.random.default_rng(seed), np.concatenate(streams)
    while True:
        start = rng.integers(len(tokens) - length)
        yield tokens[start:start + length + 1].astype(np.int32)


def train(trainer: Trainer, batches: Iterator[np.ndarray], seconds: float) -> int:
    """How many steps it made."""
    began, steps = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds:
        trainer.step(next(batches), elapsed / seconds)
        steps += 1
    return steps


def scored(trainer: Trainer, text: Prepared, split: str, tokenizer: Tokenizer, length: int, own_start: bool) -> float:
    """Bits per byte of a split, in blocks of `length` targets that begin as training rows do: with BOS (`own_start`),
    or with the token before. BOS has no bytes and, as in upstream's score and our own, costs nothing as a target."""
    tokens = np.concatenate(text.tokens(split, tokenizer.name)).astype(np.int64)
    count = (len(tokens) - 1) // length
    inputs = tokens[:count * length].reshape(count, length).copy()
    targets = tokens[1:count * length + 1].reshape(count, length)
    if own_start:
        inputs[:, 0] = tokenizer.bos
    nats = 0.0
    for start in range(0, count, SCORED_ROWS):
        some = slice(start, start + SCORED_ROWS)
        nats_BT = surprise(trainer.logits(inputs[some]).astype(np.float64), targets[some])
        nats += float(nats_BT[targets[some] != tokenizer.bos].sum())
    return nats / math.log(2) / int(tokenizer.token_bytes[targets].sum())
