"""The GPT in MLX: weights in, logits or loss out. No modules, no state.

Axes: B rows, T tokens, C channels, H query heads, K key/value heads, D channels of a head, V vocabulary.
`w` maps parameter names to arrays in the compute precision; norms, softcap and loss are float32.
The functions and their names are those of `torch_model`; tests/parity holds the two equal.
"""

from __future__ import annotations

import mlx.core as mx

from backends.spec import GPTSpec

Weights = dict[str, mx.array]


def norm(x: mx.array) -> mx.array:
    """RMSNorm without a gain (arXiv 1910.07467)."""
    return mx.fast.rms_norm(x, None, 1e-6)


def rotary(T: int, spec: GPTSpec, like: mx.array) -> tuple[mx.array, mx.array]:
    """cos and sin of position x frequency, (T, 1, D/2)."""
    half = mx.arange(spec.head_dim // 2, dtype=mx.float32)
    angle_TD = mx.outer(mx.arange(T, dtype=mx.float32), spec.rope_base ** (-half * 2 / spec.head_dim))
    return mx.cos(angle_TD)[:, None].astype(like.dtype), mx.sin(angle_TD)[:, None].astype(like.dtype)


def rotate(x_BTHD: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """RoPE (arXiv 2104.09864) on the two halves of each head, turning towards negative angles
    (`mx.fast.rope` turns the other way)."""
    a, b = mx.split(x_BTHD, 2, axis=-1)
    return mx.concatenate([a * cos + b * sin, b * cos - a * sin], axis=-1)


def window_mask(T: int, window: int, like: mx.array) -> mx.array | None:
    """True where a token may look: at itself and the `window - 1` before it. None: plain causal."""
    if window >= T:
        return None
    age_TT = mx.arange(T)[:, None] - mx.arange(T)[None]
    return (age_TT >= 0) & (age_TT < window)


def causal_attention(q_BTHD: mx.array, k_BTKD: mx.array, v_BTKD: mx.array, mask_TT: mx.array | None,
                     spec: GPTSpec) -> mx.array:
    """Softmax attention to the tokens that the mask allows, (B, T, H*D)."""
    B, T = q_BTHD.shape[:2]
    q, k, v = (x.swapaxes(1, 2) for x in (q_BTHD, k_BTKD, v_BTKD))
    y_BHTD = mx.fast.scaled_dot_product_attention(
        q, k, v, scale=spec.qk_scale / spec.head_dim**0.5, mask="causal" if mask_TT is None else mask_TT
    )
    return y_BHTD.swapaxes(1, 2).reshape(B, T, -1)


def attention(w: Weights, block: str, x_BTC: mx.array, tokens_BT: mx.array, mask_TT: mx.array | None,
              cos: mx.array, sin: mx.array, spec: GPTSpec) -> mx.array:
    B, T, _ = x_BTC.shape
    q = (x_BTC @ w[f"{block}.attn.q_proj.weight"].T).reshape(B, T, spec.heads, spec.head_dim)
    k = (x_BTC @ w[f"{block}.attn.k_proj.weight"].T).reshape(B, T, spec.kv_heads, spec.head_dim)
    v = (x_BTC @ w[f"{block}.attn.v_proj.weight"].T).reshape(B, T, spec.kv_heads, spec.head_dim)
    if f"{block}.attn.value_embed.weight" in w:
        # Value residual (arXiv 2410.17897) from a table of its own, gated per head; the gate starts at 1.
        value = w[f"{block}.attn.value_embed.weight"][tokens_BT].reshape(v.shape)
        gate_BTK = 2 * mx.sigmoid(x_BTC[..., : spec.value_gate_channels] @ w[f"{block}.attn.value_gate.weight"].T)
        v = v + gate_BTK[..., None] * value
    q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))  # QK-norm (arXiv 2010.04245)
    return causal_attention(q, k, v, mask_TT, spec) @ w[f"{block}.attn.o_proj.weight"].T


def mlp(w: Weights, block: str, x_BTC: mx.array) -> mx.array:
    """Squared ReLU (arXiv 2109.08668)."""
    h_BTM = mx.square(mx.maximum(x_BTC @ w[f"{block}.mlp.up_proj.weight"].T, 0))
    return h_BTM @ w[f"{block}.mlp.down_proj.weight"].T


def hidden(w: Weights, tokens_BT: mx.array, spec: GPTSpec) -> mx.array:
    """Final normalised residual stream, (B, T, C)."""
    T = tokens_BT.shape[1]
    x = norm(w["embed.weight"][tokens_BT])
    x0, (cos, sin) = x, rotary(T, spec, x)
    masks = {window: window_mask(T, window, x) for window in set(spec.windows)}
    for i in range(spec.depth):
        block = f"blocks.{i}"
        x = w["resid_lambdas"][i] * x + w["input_lambdas"][i] * x0
        x = x + attention(w, block, norm(x), tokens_BT, masks[spec.windows[i]], cos, sin, spec)
        x = x + mlp(w, block, norm(x))
    return norm(x)


def head(w: Weights, x_BTC: mx.array, spec: GPTSpec) -> mx.array:
    """float32 logits, (B, T, V), squashed into ±softcap (arXiv 2408.00118)."""
    logits = (x_BTC @ w["head.weight"].T).astype(mx.float32)
    return spec.softcap * mx.tanh(logits / spec.softcap) if spec.softcap else logits


def logits(w: Weights, tokens_BT: mx.array, spec: GPTSpec) -> mx.array:
    return head(w, hidden(w, tokens_BT, spec), spec)


def cross_entropy(logits_BTV: mx.array, targets_BT: mx.array) -> mx.array:
    """Mean nats per token."""
    chosen_BT = mx.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1).squeeze(-1)
    return (mx.logsumexp(logits_BTV, axis=-1) - chosen_BT).mean()


def loss(w: Weights, tokens_BT1: mx.array, spec: GPTSpec) -> mx.array:
    """The training objective: mean nats per token of predicting tokens 1..T from 0..T-1."""
    return cross_entropy(logits(w, tokens_BT1[:, :-1], spec), tokens_BT1[:, 1:])
