"""The GPT in PyTorch: weights in, logits or loss out. No modules, no state.

Axes: B rows, T tokens, C channels, H query heads, K key/value heads, D channels of a head,
G channels that a value gate reads, V vocabulary.
`w` maps parameter names to tensors in the compute precision; norms, softcap and loss are float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backends.spec import GPTSpec

Weights = dict[str, Tensor]


def norm(x: Tensor) -> Tensor:
    """RMSNorm without a gain (arXiv 1910.07467)."""
    return F.rms_norm(x, (x.shape[-1],), eps=1e-6)


def rotary(T: int, spec: GPTSpec, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of position x frequency, (T, 1, D/2)."""
    half = torch.arange(spec.head_dim // 2, dtype=torch.float32, device=like.device)
    angle_TD = torch.outer(torch.arange(T, dtype=torch.float32, device=like.device),
                           spec.rope_base ** (-half * 2 / spec.head_dim))
    return angle_TD.cos()[:, None].to(like.dtype), angle_TD.sin()[:, None].to(like.dtype)


def rotate(x_BTHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE (arXiv 2104.09864) on the two halves of each head, turning towards negative angles."""
    a, b = x_BTHD.chunk(2, dim=-1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


def window_mask(T: int, window: int, like: Tensor) -> Tensor | None:
    """True where a token may look: at itself and the `window - 1` before it. None: plain causal."""
    if window >= T:
        return None
    age_TT = torch.arange(T, device=like.device)[:, None] - torch.arange(T, device=like.device)[None]
    return (age_TT >= 0) & (age_TT < window)


def causal_attention(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, mask_TT: Tensor | None, spec: GPTSpec) -> Tensor:
    """Softmax attention to the tokens that the mask allows, (B, T, H*D)."""
    B, T = q_BTHD.shape[:2]
    q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BTKD, v_BTKD))
    y_BHTD = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask_TT, is_causal=mask_TT is None,
        scale=spec.qk_scale / spec.head_dim**0.5, enable_gqa=spec.kv_heads != spec.heads,
    )
    return y_BHTD.transpose(1, 2).reshape(B, T, -1)


def attention(w: Weights, block: str, x_BTC: Tensor, tokens_BT: Tensor, mask_TT: Tensor | None,
              cos: Tensor, sin: Tensor, spec: GPTSpec) -> Tensor:
    B, T, _ = x_BTC.shape
    q = F.linear(x_BTC, w[f"{block}.attn.q_proj.weight"]).view(B, T, spec.heads, spec.head_dim)
    k = F.linear(x_BTC, w[f"{block}.attn.k_proj.weight"]).view(B, T, spec.kv_heads, spec.head_dim)
    v = F.linear(x_BTC, w[f"{block}.attn.v_proj.weight"]).view(B, T, spec.kv_heads, spec.head_dim)
    if f"{block}.attn.value_embed.weight" in w:
        # Value residual (arXiv 2410.17897) from a table of its own, gated per head; the gate starts at 1.
        value = F.embedding(tokens_BT, w[f"{block}.attn.value_embed.weight"]).view_as(v)
        read_BTG = x_BTC[..., : spec.value_gate_channels]
        gate_BTK = 2 * torch.sigmoid(F.linear(read_BTG, w[f"{block}.attn.value_gate.weight"]))
        v = v + gate_BTK[..., None] * value
    q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))  # QK-norm (arXiv 2010.04245)
    return F.linear(causal_attention(q, k, v, mask_TT, spec), w[f"{block}.attn.o_proj.weight"])


def mlp(w: Weights, block: str, x_BTC: Tensor) -> Tensor:
    """Squared ReLU (arXiv 2109.08668)."""
    h_BTM = F.relu(F.linear(x_BTC, w[f"{block}.mlp.up_proj.weight"])).square()
    return F.linear(h_BTM, w[f"{block}.mlp.down_proj.weight"])


def hidden(w: Weights, tokens_BT: Tensor, spec: GPTSpec) -> Tensor:
    """Final normalised residual stream, (B, T, C)."""
    T = tokens_BT.shape[1]
    x = norm(F.embedding(tokens_BT, w["embed.weight"]))
    x0, (cos, sin) = x, rotary(T, spec, x)
    masks = {window: window_mask(T, window, x) for window in set(spec.windows)}
    for i in range(spec.depth):
        block = f"blocks.{i}"
        x = w["resid_lambdas"][i] * x + w["input_lambdas"][i] * x0
        x = x + attention(w, block, norm(x), tokens_BT, masks[spec.windows[i]], cos, sin, spec)
        x = x + mlp(w, block, norm(x))
    return norm(x)


def head(w: Weights, x_BTC: Tensor, spec: GPTSpec) -> Tensor:
    """float32 logits, (B, T, V), squashed into ±softcap (arXiv 2408.00118)."""
    logits = F.linear(x_BTC, w["head.weight"]).float()
    return spec.softcap * torch.tanh(logits / spec.softcap) if spec.softcap else logits


def logits(w: Weights, tokens_BT: Tensor, spec: GPTSpec) -> Tensor:
    return head(w, hidden(w, tokens_BT, spec), spec)


def loss(w: Weights, tokens_BT1: Tensor, spec: GPTSpec) -> Tensor:
    """The training objective: mean nats per token of predicting tokens 1..T from 0..T-1."""
    logits_BTV = logits(w, tokens_BT1[:, :-1], spec)
    return F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT1[:, 1:].flatten())
