"""Honest edits of kinds that a harness may not expect, for both frameworks: every layer has to let them through."""

from __future__ import annotations

from collections.abc import Mapping

from autoresearch.data.prepared import Prepared
from tests.cheats.edits import Edit

AVERAGED = {"mlx": '''
_init, _update = init, update
def init(weights, roles, optim):
    return {**_init(weights, roles, optim), **{f"{k}.mean": v for k, v in weights.items()}}
def update(weights, grads, state, h, roles, optim, dtype):
    weights, new = _update(weights, grads, state, h, roles, optim, dtype)
    return weights, new | {f"{k}.mean": lerp(state[f"{k}.mean"], v, mx.array(0.1)) for k, v in weights.items()}
def eval_weights(weights, state):
    return {k: state[f"{k}.mean"] for k in weights}
''', "cpu": '''
_init, _update = init, update
def init(weights, roles, optim):
    return {**_init(weights, roles, optim), **{f"{k}.mean": v.clone() for k, v in weights.items()}}
def update(weights, grads, state, h, roles, optim, dtype):
    _update(weights, grads, state, h, roles, optim, dtype)
    for k, v in weights.items():
        state[f"{k}.mean"].lerp_(v, 0.1)
def eval_weights(weights, state):
    return {k: state[f"{k}.mean"] for k in weights}
'''}

LION = {"mlx": '''
def adamw(w, g, m, v, h, role, cautious):
    """Lion (arXiv 2302.06675)."""
    step = mx.sign(lerp(m, g, 1 - h["beta1"]))
    return w - 0.1 * h[f"{role}_lr"] * step, lerp(m, g, 1 - h["beta2"]), v
''', "cpu": '''
def adamw(w, g, m, v, h, role, cautious):
    """Lion (arXiv 2302.06675)."""
    w.sub_(0.1 * h[f"{role}_lr"] * m.lerp(g, 1 - h["beta1"]).sign())
    m.lerp_(g, 1 - h["beta2"])
'''}

NORMALISED_SGD = {"mlx": '''
def muon(w, g, m, v, h, optim, dtype):
    """Momentum, normalised for each matrix (arXiv 2002.03305)."""
    m = lerp(m, g, 1 - h["momentum"])
    size = mx.sqrt(mx.square(m).mean(axis=(-2, -1), keepdims=True)) + 1e-8
    return w - 0.2 * h["matrix_lr"] * m / size, m, v
''', "cpu": '''
def muon(w, g, m, v, h, optim, dtype):
    """Momentum, normalised for each matrix (arXiv 2002.03305)."""
    m.lerp_(g, 1 - h["momentum"])
    return w - 0.2 * h["matrix_lr"] * m / (m.square().mean(dim=(-2, -1), keepdim=True).sqrt() + 1e-8)
'''}


def added(rows: str, each_block: str = "") -> str:
    """Parameters of its own: rows of the table, some of them for each block i."""
    blocks = f"\n    for i in range(spec.depth):\n        rows += {each_block}" if each_block else ""
    return f"_table = table\ndef table(spec):\n    C, M = spec.width, spec.mlp_width\n" \
           f"    rows = [*_table(spec), {rows}]{blocks}\n    return rows\n"


def _bytes_of_tokens(text: Prepared) -> Mapping[str, bytes]:
    tokenizer = text.tokenizer("bpe-512")
    tokens = [tokenizer.decode([i]) if i != tokenizer.bos else b"" for i in range(tokenizer.vocab)]
    return {"tokens.py": f"BYTES = {tokens!r}\n".encode()}


HONEST: dict[str, Edit] = {
    "another normalisation": Edit(model='''
def norm(w, name, x, spec):
    """Dynamic tanh (arXiv 2503.10622)."""
    return xp.tanh(0.5 * x)
'''),
    "distances as a bias of attention": Edit(model='''
def rotate(x_BTHD, rotation):
    return x_BTHD
def causal_attention(q, k, v, mask_TT, spec):
    """ALiBi (arXiv 2108.12409)."""
    B, T, H, D = q.shape
    age_TT = xp.arange(T, q)[:, None] - xp.arange(T, q)[None]
    slope_H = 0.5 ** (8 * (xp.arange(H, q) + 1) / H)
    scores = xp.einsum("bthd,bshd->bhts", q, k) / D**0.5 - slope_H[:, None, None] * age_TT
    weights = xp.softmax(xp.where(age_TT >= 0, scores, -1e9))
    return xp.einsum("bhts,bshd->bthd", weights, v).reshape(B, T, H * D)
'''),
    "a causal convolution": Edit(params=added('Param("conv.weight", (4, C), "vector", "zero")'), model='''
_embed = embed
def embed(w, tokens_BT, spec):
    x = _embed(w, tokens_BT, spec)
    return x + sum(w["conv.weight"][n] * (past(x, n) if n else x) for n in range(4))
'''),
    "a shift by one token": Edit(model='''
_embed = embed
def embed(w, tokens_BT, spec):
    """Half of the channels come from the token before (RWKV, arXiv 2305.13048)."""
    x, half = _embed(w, tokens_BT, spec), spec.width // 2
    return xp.cat([x[..., :half], past(x, 1)[..., half:]], -1)
'''),
    "a mixture of experts with an auxiliary loss": Edit(
        params=added("", '[Param(f"blocks.{i}.mlp.router.weight", (2, C), "matrix", "uniform"), '
                         'Param(f"blocks.{i}.mlp.second.up_proj.weight", (M, C), "matrix", "uniform"), '
                         'Param(f"blocks.{i}.mlp.second.down_proj.weight", (C, M), "matrix", "projection")]'),
        model='''
_mlp, _loss, _shares = mlp, loss, []
def mlp(w, name, x, spec):
    """The likelier of two (arXiv 2101.03961), both computed."""
    gates = xp.softmax(xp.number(linear(w, f"{name}.router", x)))
    chosen = xp.number(gates >= xp.max(gates)[..., None]) * gates
    _shares.append(gates.mean((0, 1)))
    return chosen[..., :1] * _mlp(w, name, x, spec) + chosen[..., 1:] * _mlp(w, f"{name}.second", x, spec)
def loss(w, tokens_BT1, spec, salt=None):
    _shares.clear()
    main = _loss(w, tokens_BT1, spec, salt)
    return main + 0.02 * sum((share**2).sum() for share in _shares)
'''),
    "layers that share their weights": Edit(recipe={"depth = 1": "depth = 2"}, model='''
_block = block
def block(w, i, *rest):
    return _block(w, 0, *rest)
'''),
    "a recurrence in place of attention": Edit(model='''
def attention(w, name, x, tokens_BT, mask_TT, rotation, spec):
    """Retention (arXiv 2307.08621): a state for each head that fades, here in its parallel form."""
    B, T, C = x.shape
    v = linear(w, f"{name}.v_proj", x).reshape(B, T, spec.heads, C // spec.heads)
    age_TT = xp.arange(T, x)[:, None] - xp.arange(T, x)[None]
    fade_H = 0.5 ** (xp.arange(spec.heads, x) + 2.0)
    decay_HTT = xp.where(age_TT >= 0, xp.exp(xp.log(1 - fade_H)[:, None, None] * age_TT), 0.0)
    y = xp.einsum("hts,bshd->bthd", decay_HTT, v).reshape(B, T, C)
    return linear(w, f"{name}.o_proj", xp.sigmoid(linear(w, f"{name}.q_proj", x)) * y)
'''),
    "averaged weights for scoring": Edit(optim=AVERAGED),
    "blocks left out at random": Edit(recipe={"width = 32\n": "width = 32\ndropout = 0.01\n"}, model='''
from dataclasses import replace
_block = block
def block(w, i, x, *rest):
    """Stochastic depth (arXiv 1603.09382), by the salt that is handed out where there is dropout."""
    y, (spec, salt) = _block(w, i, x, *rest), rest[-2:]
    if salt is None: return y
    return x + (y - x) * dropout(xp.ones_like(x[:1, :1, :1]), replace(spec, dropout=0.2), salt, 99 + i)
'''),
    "Lion": Edit(optim=LION),
    "normalised momentum": Edit(optim=NORMALISED_SGD),
    "products of 8-bit integers": Edit(model='''
def quantised(x):
    """A scale for each row, which no other row knows; gradients pass unchanged."""
    scale = xp.maximum(xp.max(xp.abs(x)), 1e-6)[..., None] / 127
    return x + xp.stop(xp.round(x / scale) * scale - x)
def linear(w, name, x):
    y = quantised(x) @ quantised(w[f"{name}.weight"]).T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y
'''),
    "orthogonal initial weights": Edit(params='''
_initial = initial
def initial(recipe, spec, rng):
    weights = _initial(recipe, spec, rng)
    for p in table(spec):
        if p.init == "uniform" and len(p.shape) == 2:
            q, _ = np.linalg.qr(rng.standard_normal((max(p.shape), min(p.shape))))
            weights[p.name] = np.ascontiguousarray(q if p.shape[0] >= p.shape[1] else q.T, np.float32)
    return weights
'''),
    "an embedding that knows a token's bytes": Edit(
        recipe={'tokenizer = "byte"': 'tokenizer = "bpe-512"'}, files=_bytes_of_tokens,
        params=added('Param("bytes.weight", (256, C), "embedding", "embedding")'), model='''
from backends.gpt.tokens import BYTES
COUNTS = np.array([[token.count(b) for b in range(256)] for token in BYTES], np.float32)
_embed = embed
def embed(w, tokens_BT, spec):
    return _embed(w, tokens_BT, spec) + xp.array(COUNTS, tokens_BT)[tokens_BT] @ w["bytes.weight"]
'''),
    "activations computed again": Edit(recipe={"compile = false\n": "compile = false\ncheckpoint = true\n"}),
    "short rows first": Edit(schedule='''
def row_parts(recipe, progress):
    return 8 if progress < 0.25 else 4 if progress < 0.5 else 1
'''),
    "a loss that keeps logits small": Edit(model='''
def loss(w, tokens_BT1, spec, salt=None):
    """z-loss (arXiv 2204.02311)."""
    x = logits(w, tokens_BT1[:, :-1], spec, salt)
    z = xp.logsumexp(x)
    chosen = (x * xp.one_hot(tokens_BT1[:, 1:], spec.vocab)).sum(-1)
    return (z - chosen).mean() + 1e-4 * (z * z).mean()
'''),
    "several things at once": Edit(
        optim=AVERAGED, params=added('Param("gain.weight", (C,), "vector", "one")'), model='''
_embed, _mlp = embed, mlp
def embed(w, tokens_BT, spec):
    return _embed(w, tokens_BT, spec) * w["gain.weight"]
def mlp(w, name, x, spec):
    return _mlp(w, name, (x + past(x, 1)) / 2, spec)
'''),
}
