"""The GPT in MLX: weights in, logits or loss out. No modules, no state.

Axes: B rows, T tokens, C channels, H query heads, K key/value heads, D channels of a head, R = D/2 pairs of
channels that rotate, M channels of the MLP, G channels that a value gate reads, V vocabulary. `x` alone: any shape.
`w` maps parameter names to arrays in the compute precision; what the recipe leaves out has no entry there and no
operation here. Norms, softcap and loss are float32.
The functions, their names and their order are those of `torch_model`, and tests/parity holds the two equal. MLX alone
asks for `recomputed` and `cross_entropy`; what PyTorch's file has beside them serves its kernels and its compiler.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from backends.spec import GPTSpec

Weights = dict[str, mx.array]
Rotation = tuple[mx.array, mx.array] | None


def linear(w: Weights, name: str, x: mx.array) -> mx.array:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def lookup(w: Weights, name: str, tokens_BT: mx.array) -> mx.array:
    """Rows of a table, looked up in float32: in bf16 the gradients of a token that is everywhere stop adding up."""
    table = w[f"{name}.weight"]
    return table.astype(mx.float32)[tokens_BT].astype(table.dtype)


def norm(w: Weights, name: str, x: mx.array, spec: GPTSpec) -> mx.array:
    """RMSNorm (arXiv 1910.07467) or LayerNorm (arXiv 1607.06450), with the gain and bias that the table has."""
    gain, bias = w.get(f"{name}.weight"), w.get(f"{name}.bias")
    if spec.norm == "layer":
        return mx.fast.layer_norm(x, gain, bias, spec.norm_eps)
    return mx.fast.rms_norm(x, gain, spec.norm_eps)


def mix(x: mx.array) -> mx.array:
    """One round of an integer hash on 32 bits."""
    return (x ^ (x >> 16)) * mx.array(0x45D9F3B, mx.uint32)


def dropout(x: mx.array, spec: GPTSpec, salt: mx.array | None, place: int) -> mx.array:
    """Dropout (JMLR 15, 2014) of the elements that a hash of salt, place and index chooses: the same in every
    framework. Without salt, as in scoring, nothing."""
    if salt is None or not spec.dropout:
        return x
    key = mix(mix(salt.astype(mx.uint32) + 1) ^ (place + 1))
    hashed = mix(mix(mix(mx.arange(x.size, dtype=mx.uint32) + 1) ^ key))  # with a round less masks correlate
    keep = (hashed ^ (hashed >> 16)) >= mx.array(int(spec.dropout * 2**32), mx.uint32)
    return x * keep.reshape(x.shape) / (1 - spec.dropout)


def rotary(T: int, spec: GPTSpec, like: mx.array) -> Rotation:
    """cos and sin of position x frequency, (T, 1, R). None where positions are learned."""
    if spec.max_positions:
        return None
    index_R = mx.arange(spec.head_dim // 2, dtype=mx.float32)
    angle_TR = mx.outer(mx.arange(T, dtype=mx.float32), spec.rope_base ** (-index_R * 2 / spec.head_dim))
    return mx.cos(angle_TR)[:, None].astype(like.dtype), mx.sin(angle_TR)[:, None].astype(like.dtype)


def rotate(x_BTHD: mx.array, rotation: Rotation) -> mx.array:
    """RoPE (arXiv 2104.09864) on the two halves of each head, turning towards negative angles
    (`mx.fast.rope` turns the other way)."""
    if rotation is None:
        return x_BTHD
    (cos, sin), (a, b) = rotation, mx.split(x_BTHD, 2, axis=-1)
    return mx.concatenate([a * cos + b * sin, b * cos - a * sin], axis=-1)


def placed(w: Weights, name: str, x_BTHD: mx.array, rotation: Rotation, spec: GPTSpec) -> mx.array:
    """Queries or keys with their position, normalised (QK-norm, arXiv 2010.04245) before or after that."""
    if spec.qk_norm == "before":
        return rotate(norm(w, name, x_BTHD, spec), rotation)
    x_BTHD = rotate(x_BTHD, rotation)
    return norm(w, name, x_BTHD, spec) if spec.qk_norm == "after" else x_BTHD


def before(x: mx.array) -> mx.array:
    """Along T, what stands one place earlier; before the first, zeros."""
    return mx.concatenate([mx.zeros_like(x[:, :1]), x[:, :-1]], axis=1)


def shifted(w: Weights, name: str, x_BTC: mx.array) -> mx.array:
    """Token shift (arXiv 2305.13048): the token before is added, by a learned weight per channel."""
    return x_BTC + w[f"{name}.shift.weight"] * before(x_BTC) if f"{name}.shift.weight" in w else x_BTC


def look_back(k_BTKD: mx.array) -> mx.array:
    """Keys of which half, the channels that rotate slowly, are of the token before (after arXiv 2411.19574): one block
    can then find what followed this token the last time."""
    D = k_BTKD.shape[-1]
    slow_D = mx.arange(D) % (D // 2) >= D // 4
    return mx.where(slow_D, before(k_BTKD), k_BTKD)


def window_mask(T: int, window: int) -> mx.array | None:
    """True where a token may look: at itself and the `window - 1` before it. None: plain causal."""
    if window >= T:
        return None
    age_TT = mx.arange(T)[:, None] - mx.arange(T)[None]
    return (age_TT >= 0) & (age_TT < window)


def causal_attention(q_BTHD: mx.array, k_BTKD: mx.array, v_BTKD: mx.array, mask_TT: mx.array | None,
                     spec: GPTSpec) -> mx.array:
    """Softmax attention to the tokens that the mask allows, (B, T, H*D)."""
    B, T = q_BTHD.shape[:2]
    q_BHTD, k_BKTD, v_BKTD = (x.swapaxes(1, 2) for x in (q_BTHD, k_BTKD, v_BTKD))
    y_BHTD = mx.fast.scaled_dot_product_attention(
        q_BHTD, k_BKTD, v_BKTD, scale=spec.qk_scale / spec.head_dim**0.5,
        mask="causal" if mask_TT is None else mask_TT)
    return y_BHTD.swapaxes(1, 2).reshape(B, T, -1)


def attention(w: Weights, name: str, x_BTC: mx.array, tokens_BT: mx.array, mask_TT: mx.array | None,
              rotation: Rotation, spec: GPTSpec) -> mx.array:
    """Grouped-query attention (arXiv 2305.13245)."""
    B, T, _ = x_BTC.shape
    x_BTC = shifted(w, name, x_BTC)
    q_BTHD = linear(w, f"{name}.q_proj", x_BTC).reshape(B, T, spec.heads, spec.head_dim)
    k_BTKD = linear(w, f"{name}.k_proj", x_BTC).reshape(B, T, spec.kv_heads, spec.head_dim)
    v_BTKD = linear(w, f"{name}.v_proj", x_BTC).reshape(B, T, spec.kv_heads, spec.head_dim)
    if f"{name}.value_embed.weight" in w:
        # Value residual (arXiv 2410.17897) from a table of its own, gated per head; the gate starts at 1.
        value_BTKD = lookup(w, f"{name}.value_embed", tokens_BT).reshape(v_BTKD.shape)
        if spec.value_gate:
            gate_BTK = 2 * mx.sigmoid(linear(w, f"{name}.value_gate", x_BTC[..., : spec.value_gate_channels]))
            value_BTKD = gate_BTK[..., None] * value_BTKD
        v_BTKD = v_BTKD + value_BTKD
    q_BTHD = placed(w, f"{name}.q_norm", q_BTHD, rotation, spec)
    k_BTKD = placed(w, f"{name}.k_norm", k_BTKD, rotation, spec)
    k_BTKD = look_back(k_BTKD) if spec.key_shift else k_BTKD
    return linear(w, f"{name}.o_proj", causal_attention(q_BTHD, k_BTKD, v_BTKD, mask_TT, spec))


def mlp(w: Weights, name: str, x_BTC: mx.array, spec: GPTSpec) -> mx.array:
    """Squared ReLU (arXiv 2109.08668), GELU by tanh (arXiv 1606.08415), SiLU, or SwiGLU (arXiv 2002.05202)."""
    x_BTC = shifted(w, name, x_BTC)
    h_BTM = linear(w, f"{name}.up_proj", x_BTC)
    if spec.activation == "relu2":
        h_BTM = mx.square(mx.maximum(h_BTM, 0))
    elif spec.activation == "gelu":
        h_BTM = h_BTM * mx.sigmoid((8 / mx.pi) ** 0.5 * h_BTM * (1 + 0.044715 * mx.square(h_BTM)))
    elif spec.activation == "silu":
        h_BTM = h_BTM * mx.sigmoid(h_BTM)
    else:
        gate_BTM = linear(w, f"{name}.gate_proj", x_BTC)
        h_BTM = gate_BTM * mx.sigmoid(gate_BTM) * h_BTM
    return linear(w, f"{name}.down_proj", h_BTM)


def block(w: Weights, i: int, x_BTC: mx.array, x0_BTC: mx.array, tokens_BT: mx.array, mask_TT: mx.array | None,
          rotation: Rotation, spec: GPTSpec, salt: mx.array | None) -> mx.array:
    """The residual stream x after block i; x0 is what it began as."""
    name = f"blocks.{i}"
    x_BTC = w["resid_lambdas"][i] * x_BTC if spec.resid_lambdas else x_BTC
    x_BTC = x_BTC + w["input_lambdas"][i] * x0_BTC if spec.input_lambdas else x_BTC
    y_BTC = norm(w, f"{name}.attn.norm", x_BTC, spec)
    y_BTC = attention(w, f"{name}.attn", y_BTC, tokens_BT, mask_TT, rotation, spec)
    x_BTC = x_BTC + dropout(y_BTC, spec, salt, 2 * i + 1)
    y_BTC = mlp(w, f"{name}.mlp", norm(w, f"{name}.mlp.norm", x_BTC, spec), spec)
    return x_BTC + dropout(y_BTC, spec, salt, 2 * i + 2)


def recomputed(w: Weights, i: int, x_BTC: mx.array, x0_BTC: mx.array, *fixed: Any) -> mx.array:
    """`block` that keeps only its input, and computes the rest again when it is needed (arXiv 1604.06174).
    The gradient is handed on once the block's own are done: `mx.checkpoint` leaves that open, and a lazy graph then
    holds what all blocks computed again."""
    own = [k for k in w if k.startswith(f"blocks.{i}.") or k in ("resid_lambdas", "input_lambdas")]

    def plain(x_BTC: mx.array, x0_BTC: mx.array, *values: mx.array) -> list[mx.array]:
        return [block(dict(zip(own, values, strict=True)), i, x_BTC, x0_BTC, *fixed)]

    run: Any = mx.custom_function(lambda *given: plain(*given)[0])

    @run.vjp
    def backward(given: tuple[mx.array, ...], cotangent: mx.array, _: mx.array) -> tuple[mx.array, ...]:
        to_x, to_x0, *to_values = mx.vjp(plain, mx.depends(list(given), [cotangent]), [cotangent])[1]
        return *mx.depends([to_x, to_x0], to_values), *to_values

    y_BTC: mx.array = run(x_BTC, x0_BTC, *(w[k] for k in own))
    return y_BTC


def embed(w: Weights, tokens_BT: mx.array, spec: GPTSpec) -> mx.array:
    x_BTC = lookup(w, "embed", tokens_BT)
    if spec.max_positions:
        x_BTC = x_BTC + w["positions.weight"][: tokens_BT.shape[1]]
    return norm(w, "embed_norm", x_BTC, spec) if spec.embed_norm else x_BTC


def hidden(w: Weights, tokens_BT: mx.array, spec: GPTSpec, salt: mx.array | None = None) -> mx.array:
    """Final normalised residual stream, (B, T, C)."""
    T = tokens_BT.shape[1]
    x_BTC = x0_BTC = dropout(embed(w, tokens_BT, spec), spec, salt, 0)
    rotation = rotary(T, spec, x_BTC)
    masks = {window: window_mask(T, window) for window in set(spec.windows)}
    run = recomputed if spec.checkpoint else block
    for i in range(spec.depth):
        x_BTC = run(w, i, x_BTC, x0_BTC, tokens_BT, masks[spec.windows[i]], rotation, spec, salt)
    return norm(w, "norm", x_BTC, spec)


def head(w: Weights, x_BTC: mx.array, spec: GPTSpec) -> mx.array:
    """float32 logits, (B, T, V), squashed into ±softcap (arXiv 2408.00118)."""
    logits_BTV = (x_BTC @ w["embed.weight" if spec.tied_embeddings else "head.weight"].T).astype(mx.float32)
    return spec.softcap * mx.tanh(logits_BTV / spec.softcap) if spec.softcap else logits_BTV


def logits(w: Weights, tokens_BT: mx.array, spec: GPTSpec, salt: mx.array | None = None) -> mx.array:
    return head(w, hidden(w, tokens_BT, spec, salt), spec)


def cross_entropy(logits_BTV: mx.array, targets_BT: mx.array) -> mx.array:
    """Mean nats per token."""
    chosen_BT = mx.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1).squeeze(-1)
    return (mx.logsumexp(logits_BTV, axis=-1) - chosen_BT).mean()


def loss(w: Weights, tokens_BT1: mx.array, spec: GPTSpec, salt: mx.array | None = None) -> mx.array:
    """The training objective: mean nats per token of predicting tokens 1..T from 0..T-1."""
    return cross_entropy(logits(w, tokens_BT1[:, :-1], spec, salt), tokens_BT1[:, 1:])
