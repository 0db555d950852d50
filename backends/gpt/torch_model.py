"""The GPT in PyTorch: weights in, logits or loss out. No modules, no state.

Axes: B rows, T tokens, C channels, H query heads, K key/value heads, D channels of a head, R = D/2 pairs of
channels that rotate, M channels of the MLP, G channels that a value gate reads, V vocabulary. `x` alone: any shape.
`w` maps parameter names to tensors in the compute precision; what the recipe leaves out has no entry there and no
operation here. Norms, softcap and loss are float32.
The functions, their names and their order are those of `mlx_model`, and tests/parity holds the two equal. PyTorch's
kernels and compiler alone ask for `band`, `flashes`, `attention_in_parts` and `squash`; `recomputed` and
`cross_entropy`, which MLX's file has, PyTorch brings.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from backends.spec import GPTSpec

Weights = dict[str, Tensor]
Rotation = tuple[Tensor, Tensor] | None


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def lookup(w: Weights, name: str, tokens_BT: Tensor) -> Tensor:
    """Rows of a table, looked up in float32: in bf16 the gradients of a token that is everywhere stop adding up."""
    table = w[f"{name}.weight"]
    return F.embedding(tokens_BT, table.float()).to(table.dtype)


def norm(w: Weights, name: str, x: Tensor, spec: GPTSpec) -> Tensor:
    """RMSNorm (arXiv 1910.07467) or LayerNorm (arXiv 1607.06450), with the gain and bias that the table has."""
    gain, bias = w.get(f"{name}.weight"), w.get(f"{name}.bias")
    if spec.norm == "layer":
        return F.layer_norm(x, (x.shape[-1],), gain, bias, spec.norm_eps)
    return F.rms_norm(x, (x.shape[-1],), gain, spec.norm_eps)


def mix(x: Tensor) -> Tensor:
    """One round of an integer hash on 32 bits, held in 64 so that no product overflows."""
    return ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF


def dropout(x: Tensor, spec: GPTSpec, salt: Tensor | None, place: int) -> Tensor:
    """Dropout (JMLR 15, 2014) of the elements that a hash of salt, place and index chooses: the same in every
    framework. Without salt, as in scoring, nothing."""
    if salt is None or not spec.dropout:
        return x
    key = mix(mix(salt.long() + 1) ^ (place + 1))
    hashed = mix(mix(mix(torch.arange(x.numel(), device=x.device) + 1) ^ key))  # with a round less masks correlate
    keep = (hashed ^ (hashed >> 16)) >= int(spec.dropout * 2**32)
    return x * keep.view_as(x) / (1 - spec.dropout)


def rotary(T: int, spec: GPTSpec, like: Tensor) -> Rotation:
    """cos and sin of position x frequency, (T, 1, R). None where positions are learned."""
    if spec.max_positions:
        return None
    index_R = torch.arange(spec.head_dim // 2, dtype=torch.float32, device=like.device)
    # By exp: what took one, Inductor keeps on a CPU; a power it computes again for each element of every block.
    frequency_R = torch.exp(index_R * (-2 / spec.head_dim * math.log(spec.rope_base)))
    angle_TR = torch.outer(torch.arange(T, dtype=torch.float32, device=like.device), frequency_R)
    return angle_TR.cos()[:, None].to(like.dtype), angle_TR.sin()[:, None].to(like.dtype)


def rotate(x_BTHD: Tensor, rotation: Rotation) -> Tensor:
    """RoPE (arXiv 2104.09864) on the two halves of each head, turning towards negative angles."""
    if rotation is None:
        return x_BTHD
    (cos, sin), (a, b) = rotation, x_BTHD.chunk(2, dim=-1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


def placed(w: Weights, name: str, x_BTHD: Tensor, rotation: Rotation, spec: GPTSpec) -> Tensor:
    """Queries or keys with their position, normalised (QK-norm, arXiv 2010.04245) before or after that."""
    if spec.qk_norm == "before":
        return rotate(norm(w, name, x_BTHD, spec), rotation)
    x_BTHD = rotate(x_BTHD, rotation)
    return norm(w, name, x_BTHD, spec) if spec.qk_norm == "after" else x_BTHD


def before(x: Tensor) -> Tensor:
    """Along T, what stands one place earlier; before the first, zeros."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)


def shifted(w: Weights, name: str, x_BTC: Tensor) -> Tensor:
    """Token shift (arXiv 2305.13048): the token before is added, by a learned weight per channel."""
    return x_BTC + w[f"{name}.shift.weight"] * before(x_BTC) if f"{name}.shift.weight" in w else x_BTC


def look_back(k_BTKD: Tensor) -> Tensor:
    """Keys of which half, the channels that rotate slowly, are of the token before (after arXiv 2411.19574): one block
    can then find what followed this token the last time."""
    D = k_BTKD.shape[-1]
    slow_D = torch.arange(D, device=k_BTKD.device) % (D // 2) >= D // 4
    return torch.where(slow_D, before(k_BTKD), k_BTKD)


def band(T: int, window: int, like: Tensor) -> Tensor:
    """True where a token may look: at itself and the `window - 1` before it."""
    age_TT = torch.arange(T, device=like.device)[:, None] - torch.arange(T, device=like.device)[None]
    return (age_TT >= 0) & (age_TT < window)


def window_mask(T: int, window: int, like: Tensor) -> Tensor | None:
    """The mask of a window; None: plain causal."""
    return None if window >= T else band(T, window, like)


def flashes(q_BHTD: Tensor, mask_TT: Tensor | None) -> bool:
    """Whether FlashAttention (arXiv 2307.08691) runs on this card."""
    fits = mask_TT is None and q_BHTD.dtype != torch.float32
    return fits and torch.cuda.get_device_properties(q_BHTD.device).major >= 8


def attention_in_parts(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, mask_TT: Tensor | None, scale: float) -> Tensor:
    """Products and a softmax, a quarter of the queries at a time against the keys up to their last. Compiled for a CPU
    it trains up to three times as fast as PyTorch's fused kernel, whose gradient is slow there."""
    T = q_BHTD.shape[2]
    mask_TT = band(T, T, q_BHTD) if mask_TT is None else mask_TT
    parts, size = [], max(128, -(-T // 4))
    for start in range(0, T, size):
        end = min(start + size, T)
        scores_BHTT = (q_BHTD[:, :, start:end] @ k_BHTD[:, :, :end].mT).float() * scale
        weights_BHTT = scores_BHTT.masked_fill(~mask_TT[start:end, :end], -torch.inf).softmax(-1)
        parts.append(weights_BHTT.to(v_BHTD.dtype) @ v_BHTD[:, :, :end])
    return torch.cat(parts, dim=2)


def causal_attention(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, mask_TT: Tensor | None, spec: GPTSpec) -> Tensor:
    """Softmax attention to the tokens that the mask allows, (B, T, H*D)."""
    B, T = q_BTHD.shape[:2]
    q_BHTD, k_BKTD, v_BKTD = (x.transpose(1, 2) for x in (q_BTHD, k_BTKD, v_BTKD))
    shared, scale = spec.heads // spec.kv_heads, spec.qk_scale / spec.head_dim**0.5
    in_parts = q_BHTD.device.type == "cpu" and torch.compiler.is_compiling()
    if shared > 1 and (in_parts or (q_BHTD.is_cuda and not flashes(q_BHTD, mask_TT))):
        # No other fused kernel takes fewer key heads: PyTorch would go over to one that writes out all T x T weights.
        k_BKTD, v_BKTD, shared = k_BKTD.repeat_interleave(shared, 1), v_BKTD.repeat_interleave(shared, 1), 1  # K is H
    if in_parts:
        y_BHTD = attention_in_parts(q_BHTD, k_BKTD, v_BKTD, mask_TT, scale)
    else:
        y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BKTD, v_BKTD, attn_mask=mask_TT, is_causal=mask_TT is None,
                                                scale=scale, enable_gqa=shared > 1)
    return y_BHTD.transpose(1, 2).reshape(B, T, -1)


def attention(w: Weights, name: str, x_BTC: Tensor, tokens_BT: Tensor, mask_TT: Tensor | None,
              rotation: Rotation, spec: GPTSpec) -> Tensor:
    """Grouped-query attention (arXiv 2305.13245)."""
    B, T, _ = x_BTC.shape
    x_BTC = shifted(w, name, x_BTC)
    q_BTHD = linear(w, f"{name}.q_proj", x_BTC).view(B, T, spec.heads, spec.head_dim)
    k_BTKD = linear(w, f"{name}.k_proj", x_BTC).view(B, T, spec.kv_heads, spec.head_dim)
    v_BTKD = linear(w, f"{name}.v_proj", x_BTC).view(B, T, spec.kv_heads, spec.head_dim)
    if f"{name}.value_embed.weight" in w:
        # Value residual (arXiv 2410.17897) from a table of its own, gated per head; the gate starts at 1.
        value_BTKD = lookup(w, f"{name}.value_embed", tokens_BT).view_as(v_BTKD)
        if spec.value_gate:
            gate_BTK = 2 * torch.sigmoid(linear(w, f"{name}.value_gate", x_BTC[..., : spec.value_gate_channels]))
            value_BTKD = gate_BTK[..., None] * value_BTKD
        v_BTKD = v_BTKD + value_BTKD
    q_BTHD = placed(w, f"{name}.q_norm", q_BTHD, rotation, spec)
    k_BTKD = placed(w, f"{name}.k_norm", k_BTKD, rotation, spec)
    k_BTKD = look_back(k_BTKD) if spec.key_shift else k_BTKD
    return linear(w, f"{name}.o_proj", causal_attention(q_BTHD, k_BTKD, v_BTKD, mask_TT, spec))


def mlp(w: Weights, name: str, x_BTC: Tensor, spec: GPTSpec) -> Tensor:
    """Squared ReLU (arXiv 2109.08668), GELU by tanh (arXiv 1606.08415), SiLU, or SwiGLU (arXiv 2002.05202)."""
    x_BTC = shifted(w, name, x_BTC)
    h_BTM = linear(w, f"{name}.up_proj", x_BTC)
    if spec.activation == "relu2":
        h_BTM = F.relu(h_BTM).square()
    elif spec.activation == "gelu":
        h_BTM = F.gelu(h_BTM, approximate="tanh")
    elif spec.activation == "silu":
        h_BTM = F.silu(h_BTM)
    else:
        h_BTM = F.silu(linear(w, f"{name}.gate_proj", x_BTC)) * h_BTM
    return linear(w, f"{name}.down_proj", h_BTM)


def block(w: Weights, i: int, x_BTC: Tensor, x0_BTC: Tensor, tokens_BT: Tensor, mask_TT: Tensor | None,
          rotation: Rotation, spec: GPTSpec, salt: Tensor | None) -> Tensor:
    """The residual stream x after block i; x0 is what it began as."""
    name = f"blocks.{i}"
    x_BTC = w["resid_lambdas"][i] * x_BTC if spec.resid_lambdas else x_BTC
    x_BTC = x_BTC + w["input_lambdas"][i] * x0_BTC if spec.input_lambdas else x_BTC
    y_BTC = norm(w, f"{name}.attn.norm", x_BTC, spec)
    y_BTC = attention(w, f"{name}.attn", y_BTC, tokens_BT, mask_TT, rotation, spec)
    x_BTC = x_BTC + dropout(y_BTC, spec, salt, 2 * i + 1)
    y_BTC = mlp(w, f"{name}.mlp", norm(w, f"{name}.mlp.norm", x_BTC, spec), spec)
    return x_BTC + dropout(y_BTC, spec, salt, 2 * i + 2)


def embed(w: Weights, tokens_BT: Tensor, spec: GPTSpec) -> Tensor:
    x_BTC = lookup(w, "embed", tokens_BT)
    if spec.max_positions:
        x_BTC = x_BTC + w["positions.weight"][: tokens_BT.shape[1]]
    return norm(w, "embed_norm", x_BTC, spec) if spec.embed_norm else x_BTC


def hidden(w: Weights, tokens_BT: Tensor, spec: GPTSpec, salt: Tensor | None = None) -> Tensor:
    """Final normalised residual stream, (B, T, C)."""
    T = tokens_BT.shape[1]
    x_BTC = x0_BTC = dropout(embed(w, tokens_BT, spec), spec, salt, 0)
    rotation = rotary(T, spec, x_BTC)
    masks = {window: window_mask(T, window, x_BTC) for window in set(spec.windows)}
    for i in range(spec.depth):
        given = (w, i, x_BTC, x0_BTC, tokens_BT, masks[spec.windows[i]], rotation, spec, salt)
        # Keep only the block's input and compute the rest again when it is needed (arXiv 1604.06174).
        x_BTC = checkpoint(block, *given, use_reentrant=False) if spec.checkpoint else block(*given)
    return norm(w, "norm", x_BTC, spec)


def squash(x: Tensor, most: float) -> Tensor:
    """Into ±most (arXiv 2408.00118)."""
    if torch.compiler.is_compiling():  # tanh u = 2 sigmoid(2u) - 1: on a CPU the loss takes a third less time
        return most * (2 * torch.sigmoid(x * (2 / most)) - 1)
    return most * torch.tanh(x / most)


def head(w: Weights, x_BTC: Tensor, spec: GPTSpec) -> Tensor:
    """float32 logits, (B, T, V), squashed where the recipe has a softcap."""
    logits_BTV = F.linear(x_BTC, w["embed.weight" if spec.tied_embeddings else "head.weight"]).float()
    return squash(logits_BTV, spec.softcap) if spec.softcap else logits_BTV


def logits(w: Weights, tokens_BT: Tensor, spec: GPTSpec, salt: Tensor | None = None) -> Tensor:
    return head(w, hidden(w, tokens_BT, spec, salt), spec)


def loss(w: Weights, tokens_BT1: Tensor, spec: GPTSpec, salt: Tensor | None = None) -> Tensor:
    """The training objective: mean nats per token of predicting tokens 1..T from 0..T-1."""
    logits_BTV = logits(w, tokens_BT1[:, :-1], spec, salt)
    return F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT1[:, 1:].flatten())
