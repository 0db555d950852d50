"""nanoGPT, karpathy/autoresearch and this trainer behind one small interface, for peers.py.

    NanoGPT       model.py of a clone as it is; optimizer, clipping, cosine schedule as its train.py does them
    Upstream      classes of a clone's train.py; FlashAttention-3 replaced by PyTorch's attention, CUDA by the CPU
    Ours          a recipe through the cpu backend

What the peers need to run on a CPU is done here, at run time, to the source in the clones; none of it is kept.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    depth: int
    width: int
    head_dim: int
    seq_len: int
    rows: int
    vocab: int


class Trainer(ABC):
    @abstractmethod
    def step(self, tokens_BT1: np.ndarray, progress: float) -> float:
        """One optimizer step; the training loss in nats."""

    @abstractmethod
    def logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        """float32 (B, T, V)."""


def split(tokens_BT1: np.ndarray) -> tuple[Tensor, Tensor]:
    tokens = torch.from_numpy(np.ascontiguousarray(tokens_BT1, dtype=np.int64))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


class NanoGPT(Trainer):
    """float32 on a CPU, as its train.py runs there. Learning rates of its character-level configuration."""

    LR, MIN_LR, WARMUP_FRAC = 1e-3, 1e-4, 0.05

    def __init__(self, clone: Path, shape: Shape):
        torch.manual_seed(1337)
        spec = importlib.util.spec_from_file_location("nanogpt_model", clone / "model.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # its dataclass looks itself up there
        spec.loader.exec_module(module)
        config = module.GPTConfig(block_size=shape.seq_len, vocab_size=shape.vocab, n_layer=shape.depth,
                                  n_head=shape.width // shape.head_dim, n_embd=shape.width, dropout=0.0, bias=False)
        self.raw = module.GPT(config)
        self.optimizer = self.raw.configure_optimizers(0.1, self.LR, (0.9, 0.99), "cpu")
        self.model = torch.compile(self.raw)

    def step(self, tokens_BT1: np.ndarray, progress: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(progress)
        x, y = split(tokens_BT1)
        _, loss = self.model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.raw.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def _lr(self, progress: float) -> float:
        if progress < self.WARMUP_FRAC:
            return self.LR * progress / self.WARMUP_FRAC
        cosine = 0.5 * (1 + math.cos(math.pi * (progress - self.WARMUP_FRAC) / (1 - self.WARMUP_FRAC)))
        return self.MIN_LR + cosine * (self.LR - self.MIN_LR)

    def logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(tokens_BT.astype(np.int64))
        with torch.no_grad():
            return self.raw(x, x)[0].numpy()  # without targets it would give the last position only


class Upstream(Trainer):
    """Compiled, in bf16 autocast or float32, with the hyper-parameters and schedules of its train.py."""

    BEGIN, END = "# GPT Model\n", "# Hyperparameters"

    def __init__(self, clone: Path, shape: Shape, autocast: bool):
        torch.manual_seed(42)
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
        self.model = torch.compile(self.raw, dynamic=False)
        self.steps = 0

    def step(self, tokens_BT1: np.ndarray, progress: float) -> float:
        x, y = split(tokens_BT1)
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
        return loss.item()

    def logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return self.raw(torch.from_numpy(tokens_BT.astype(np.int64))).float().numpy()


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
    def __init__(self, recipe_file: Path, changes: dict[str, Any], vocab: int):
        import backends
        from backends.gpt import params
        from backends.recipe import load
        from backends.spec import GPTSpec

        self.recipe = load(recipe_file).replace(changes)
        self.backend = backends.load("cpu")
        weights = params.initial(self.recipe, GPTSpec.of(self.recipe, vocab), np.random.default_rng([1, 0]))
        self.state = self.backend.init(self.recipe, vocab, weights)

    def step(self, tokens_BT1: np.ndarray, progress: float) -> float:
        return float(self.backend.step(self.state, tokens_BT1, progress))

    def logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        return self.backend.logits(self.state, tokens_BT)
