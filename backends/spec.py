"""GPTSpec: the model's shape, derived from a recipe and a vocabulary, the same for every backend.

`flops_per_token` and `activation_bytes` are of the model that the recipe describes; a candidate
whose code computes something else is measured by the clock, not by these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backends.recipe import Recipe


@dataclass(frozen=True)
class GPTSpec:
    """Sizes in tokens and channels; `windows` and `has_value_embed` have one entry per block."""

    vocab: int
    depth: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    seq_len: int
    windows: tuple[int, ...]
    has_value_embed: tuple[bool, ...]
    value_gate_channels: int
    rope_base: float
    qk_scale: float
    softcap: float
    extra: Mapping[str, float]

    @classmethod
    def of(cls, recipe: Recipe, vocab: int) -> GPTSpec:
        m = recipe.model
        heads = m.width // m.head_dim
        short = max(1, round(m.seq_len * m.short_window_frac))
        windows = [short if m.window_pattern[i % len(m.window_pattern)] == "S" else m.seq_len for i in range(m.depth)]
        windows[-1] = m.seq_len  # the last block always sees the whole context
        embeds = {
            "none": lambda i: False,
            "all": lambda i: True,
            "alternate": lambda i: i % 2 == (m.depth - 1) % 2,  # the last block always has one
        }[m.value_embeds]
        return cls(
            vocab=vocab, depth=m.depth, width=m.width, heads=heads, kv_heads=m.kv_heads or heads,
            head_dim=m.head_dim, mlp_width=max(1, round(m.width * m.mlp_ratio)), seq_len=m.seq_len,
            windows=tuple(windows), has_value_embed=tuple(embeds(i) for i in range(m.depth)),
            value_gate_channels=m.value_gate_channels, rope_base=m.rope_base, qk_scale=m.qk_scale,
            softcap=m.softcap, extra=recipe.extra,
        )

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    def matmul_params(self) -> int:
        """Weights that take part in a matrix product for every token (embeddings do not)."""
        attention = 2 * self.width * self.width + 2 * self.width * self.kv_width
        gates = sum(self.has_value_embed) * self.kv_heads * self.value_gate_channels
        return self.depth * (attention + 2 * self.width * self.mlp_width) + gates + self.width * self.vocab

    def embedding_params(self) -> int:
        return self.vocab * (self.width + sum(self.has_value_embed) * self.kv_width)

    def params(self) -> int:
        return self.matmul_params() + self.embedding_params() + 2 * self.depth

    def flops_per_token(self) -> float:
        """Forward and backward: 6 per matmul weight, and attention over the tokens a window lets it see."""
        def mean_context(window: int) -> float:
            inside = min(window, self.seq_len)
            return inside - inside * (inside - 1) / (2 * self.seq_len)  # causal: the first tokens see fewer

        attention = sum(12 * self.heads * self.head_dim * mean_context(w) for w in self.windows)
        return 6 * self.matmul_params() + attention

    def training_bytes(self, micro_rows: int, compute_bytes: int) -> int:
        """Upper estimate of the memory of one training step: float32 weights, gradients and two
        moments, the compute-precision copy, the activations kept for the backward pass, the logits."""
        state = self.params() * (4 * 4 + compute_bytes)
        per_token_block = 14 * self.width + 4 * self.kv_width + 4 * self.mlp_width
        per_token = self.depth * per_token_block * compute_bytes + self.vocab * (3 * 4 + compute_bytes)
        return int(1.3 * (state + micro_rows * self.seq_len * per_token))
