"""GPTSpec: the model's shape, derived from a recipe and a vocabulary, the same for every backend.

`flops_per_token` and `training_bytes` are of the model that the recipe describes; a candidate
whose code computes something else is measured by the clock, not by these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backends.recipe import Recipe


@dataclass(frozen=True)
class GPTSpec:
    """Sizes in tokens and channels; `windows` and `has_value_embed` have one entry per block.
    Options are those of the recipe, under their names there."""

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
    max_positions: int | None  # the longest row the model can read; None: of any length
    value_gate: bool
    value_gate_channels: int
    rope_base: float
    norm: str
    norm_eps: float
    norm_gain: bool
    embed_norm: bool
    qk_norm: str
    qk_scale: float
    key_shift: bool
    token_shift: bool
    activation: str
    biases: bool
    dropout: float
    resid_lambdas: bool
    input_lambdas: bool
    tied_embeddings: bool
    softcap: float
    checkpoint: bool
    loss_scaling: bool  # float16: an update can be taken back
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
            max_positions=m.seq_len if m.positions == "learned" else None,
            value_gate=m.value_gate, value_gate_channels=m.value_gate_channels, rope_base=m.rope_base,
            norm=m.norm, norm_eps=m.norm_eps, norm_gain=m.norm_gain, embed_norm=m.embed_norm, qk_norm=m.qk_norm,
            qk_scale=m.qk_scale, key_shift=m.key_shift, token_shift=m.token_shift, activation=m.activation,
            biases=m.biases, dropout=m.dropout, resid_lambdas=m.resid_lambdas, input_lambdas=m.input_lambdas,
            tied_embeddings=m.tied_embeddings, softcap=m.softcap, checkpoint=recipe.runtime.checkpoint,
            loss_scaling=recipe.runtime.precision == "float16", extra=recipe.extra,
        )

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def mlp_matrices(self) -> int:
        return 3 if self.activation == "swiglu" else 2

    def matmul_params(self) -> int:
        """Weights that take part in a matrix product for every token (embeddings do not, but for a tied table)."""
        attention = 2 * self.width * self.width + 2 * self.width * self.kv_width
        gates = sum(self.has_value_embed) * self.kv_heads * self.value_gate_channels if self.value_gate else 0
        mlp = self.mlp_matrices * self.width * self.mlp_width
        return self.depth * (attention + mlp) + gates + self.width * self.vocab

    def embedding_params(self) -> int:
        """Tables that are only looked up. A tied one is counted with the products."""
        tables = (0 if self.tied_embeddings else self.width) + sum(self.has_value_embed) * self.kv_width
        return self.vocab * tables + (self.max_positions or 0) * self.width

    def vector_params(self) -> int:
        """Gains, biases, shifts and lambdas."""
        C, L = self.width, self.depth
        norms = 2 * L + 1 + self.embed_norm
        gains = norms * C + 2 * L * self.head_dim * (self.qk_norm != "none") if self.norm_gain else 0
        gains += norms * C if self.norm_gain and self.norm == "layer" and self.biases else 0
        outputs = 3 * C + self.kv_width + (self.mlp_matrices - 1) * self.mlp_width  # of q, v, o, up, gate and down
        return gains + L * (outputs * self.biases + 2 * C * self.token_shift + self.resid_lambdas + self.input_lambdas)

    def params(self) -> int:
        return self.matmul_params() + self.embedding_params() + self.vector_params()

    def flops_per_token(self) -> float:
        """Forward and backward: 6 per matmul weight, and attention over the tokens a window lets it see.
        What checkpointing computes twice is counted once: it is not work that the model asks for."""
        def mean_context(window: int) -> float:
            inside = min(window, self.seq_len)
            return inside - inside * (inside - 1) / (2 * self.seq_len)  # causal: the first tokens see fewer

        attention = sum(12 * self.heads * self.head_dim * mean_context(w) for w in self.windows)
        return 6 * self.matmul_params() + attention

    def block_activations(self) -> int:
        """Numbers of one token that a block keeps for the backward pass."""
        kept = 14 * self.width + 4 * self.kv_width + 2 * self.mlp_matrices * self.mlp_width
        kept += 4 * self.width * (self.dropout > 0)  # two masks and what they leave
        return kept + 2 * self.width * self.token_shift

    def training_bytes(self, micro_rows: int, compute_bytes: int) -> int:
        """Upper estimate of the memory of one training step: float32 weights, gradients and two moments, the
        compute-precision copy, and the larger of two: the activations kept for the backward pass with the logits, or in
        float16 the copies of weights and moments by which an update is taken back."""
        state, copies = self.params() * (4 * 4 + compute_bytes), self.params() * 3 * 4 * self.loss_scaling
        block = self.block_activations()
        # Checkpointing keeps every block's input, and the inside of one block and its gradients.
        blocks = self.depth * self.width + 2 * block if self.checkpoint else self.depth * block
        per_token = blocks * compute_bytes + self.vocab * (3 * 4 + compute_bytes)
        return int(1.3 * (state + max(copies, micro_rows * self.seq_len * per_token)))
