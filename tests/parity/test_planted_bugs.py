"""The parity check notices bugs: one line of one backend is changed at a time, and it must fail each time."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest

from tests.parity import compare

STEPS = 5
# What is planted, by variant: (module, line as it is, line as it is not).
BUGS: dict[str, dict[str, tuple[str, str, str]]] = {"everything": {
    # the forward pass
    "rotary sign": ("mlx_model", "[a * cos + b * sin, b * cos - a * sin]", "[a * cos - b * sin, b * cos + a * sin]"),
    "rotary frequencies": ("mlx_model", "-index_R * 2 / spec.head_dim", "-index_R / spec.head_dim"),
    "missing residual lambda": ("mlx_model", "if spec.resid_lambdas else x_BTC", "if False else x_BTC"),
    "missing input lambda": ("mlx_model", 'x_BTC + w["input_lambdas"][i] * x0_BTC', "x_BTC + x0_BTC"),
    "lambda of another block": ("mlx_model", 'w["input_lambdas"][i]', 'w["input_lambdas"][0]'),
    "missing softcap": ("mlx_model", "if spec.softcap else logits_BTV", "if False else logits_BTV"),
    "gate without its 2": ("mlx_model", "2 * mx.sigmoid(", "mx.sigmoid("),
    "gate reads other channels": ("mlx_model", "x_BTC[..., : spec.value_gate_channels]",
                                  "x_BTC[..., -spec.value_gate_channels :]"),
    "no value embedding": ("mlx_model", "v_BTKD = v_BTKD + value_BTKD", "v_BTKD = v_BTKD + 0 * value_BTKD"),
    "window off by one": ("mlx_model", "age_TT < window", "age_TT <= window"),
    "window ignored": ("mlx_model", "if window >= T", "if True"),
    "sees the future": ("mlx_model", "(age_TT >= 0) & ", ""),
    "missing qk scale": ("mlx_model", "spec.qk_scale / spec.head_dim**0.5", "1 / spec.head_dim**0.5"),
    "missing query norm": ("mlx_model", 'placed(w, f"{name}.q_norm", q_BTHD, rotation, spec)',
                           "rotate(q_BTHD, rotation)"),
    "missing key norm": ("mlx_model", 'placed(w, f"{name}.k_norm", k_BTKD, rotation, spec)',
                         "rotate(k_BTKD, rotation)"),
    "relu not squared": ("mlx_model", "mx.square(mx.maximum(h_BTM, 0))", "mx.maximum(h_BTM, 0)"),
    "no norm before the mlp": ("mlx_model", 'norm(w, f"{name}.mlp.norm", x_BTC, spec)', "x_BTC"),
    "another norm epsilon": ("mlx_model", "rms_norm(x, gain, spec.norm_eps)", "rms_norm(x, gain, 1e-3)"),
    "targets not shifted": ("mlx_model", "tokens_BT1[:, 1:])", "tokens_BT1[:, :-1])"),
    # the update rule
    "Adam epsilon of a library": ("mlx_optim", 'h["eps"]', "1e-8"),
    "Adam epsilon under the root": ("mlx_optim", 'mx.sqrt(v / h["bias2"]) + h["eps"]',
                                    'mx.sqrt(v / h["bias2"] + h["eps"])'),
    "first bias correction off": ("mlx_optim", "lr / bias1 * m", "lr * m"),
    "second bias correction off": ("mlx_optim", 'v / h["bias2"]', "v"),
    "decay coupled": ("mlx_optim", "m = lerp(m, g, 1 - beta1)",
                      'm = lerp(m, g + h.get(f"{role}_decay", 0) * w, 1 - beta1)'),
    "decay not scaled by the rate": ("mlx_optim", 'decay = lr * h[f"{role}_decay"]', 'decay = h[f"{role}_decay"]'),
    "lambdas with the common beta": ("mlx_optim", '(h["input_beta1"], h["input_bias1"])', '(h["beta1"], h["bias1"])'),
    "wrong Muon scale": ("mlx_optim", "max(1.0, w.shape[-2] / w.shape[-1]) ** 0.5", "1.0"),
    "Muon without Nesterov": ("mlx_optim", 'lerp(g, m, h["momentum"])', "m"),
    "Muon decay not cautious": ("mlx_optim", "decay * (u * w >= 0)", "decay"),
    "Muon without its second moment": ("mlx_optim", "mx.rsqrt(mx.maximum(v, 1e-10))", "mx.ones_like(v)"),
    "Muon variance along the other axis": ("mlx_optim", "axis = -1 if u.shape[-2] >=", "axis = -1 if u.shape[-2] <"),
    "another number of iterations": ("mlx_optim", "[: optim.muon_steps]", "[: optim.muon_steps - 1]"),
    # the step around them
    "steps counted from two": ("mlx", "state.steps += 1", "state.steps += 1 + (state.steps == 0)"),
    "schedule stands still": ("mlx", "schedule.hyper(state.recipe, progress,", "schedule.hyper(state.recipe, 0.5,"),
    "gradients summed, not averaged": ("mlx", "k: g / count for", "k: g for"),
    "only the first micro-batch": ("mlx", "k: g + more[k] for", "k: g for"),
    "loss summed, not averaged": ("mlx", "return loss / count", "return loss"),
    "moments forgotten": ("mlx", "loss, state.weights, state.moments = ", "loss, state.weights, _ = "),
    # the same check sees the oracle's own faults
    "oracle: rotary sign": ("torch_model", "[a * cos + b * sin, b * cos - a * sin]",
                            "[a * cos - b * sin, b * cos + a * sin]"),
    "oracle: bias correction off": ("torch_optim", "lr / bias1 * m", "lr * m"),
    "oracle: window off by one": ("torch_model", "age_TT < window", "age_TT <= window"),
    "oracle: gradients summed": ("torch", "grads[k] = grads[k] / count", "pass"),
}, "grouped heads": {
    "heads tiled, not repeated": ("mlx_model", "(x.swapaxes(1, 2) for x", "(mx.concatenate([x.swapaxes(1, 2)] * "
                                  "(spec.heads // x.shape[2]), axis=1) for x"),
}, "plain LayerNorm": {
    "LayerNorm epsilon of a library": ("mlx_model", "layer_norm(x, gain, bias, spec.norm_eps)",
                                       "layer_norm(x, gain, bias, 1e-5)"),
    "RMSNorm for LayerNorm": ("mlx_model", 'spec.norm == "layer"', "False"),
    "embedding norm though off": ("mlx_model", "if spec.embed_norm else x_BTC", "if True else x_BTC"),
    "oracle: LayerNorm epsilon": ("torch_model", "gain, bias, spec.norm_eps", "gain, bias, 1e-5"),
}, "SwiGLU": {
    "missing gain": ("mlx_model", "layer_norm(x, gain, bias", "layer_norm(x, None, bias"),
    "missing bias of a norm": ("mlx_model", "layer_norm(x, gain, bias", "layer_norm(x, gain, None"),
    "missing bias": ("mlx_model", 'y + w[f"{name}.bias"] if', "y if"),
    "gate and input exchanged": ("mlx_model", "gate_BTM * mx.sigmoid(gate_BTM) * h_BTM",
                                 "gate_BTM * mx.sigmoid(h_BTM) * h_BTM"),
    "QK-norm after the rotation": ("mlx_model", "rotate(norm(w, name, x_BTHD, spec), rotation)",
                                   "norm(w, name, rotate(x_BTHD, rotation), spec)"),
    "biases learn at another rate": ("mlx_optim", 'lr = h[f"{role}_lr"]', 'lr = h["unembedding_lr"]'),
}, "SiLU": {
    "ReLU for SiLU": ("mlx_model", "h_BTM = h_BTM * mx.sigmoid(h_BTM)", "h_BTM = mx.maximum(h_BTM, 0)"),
    "QK-norm though off": ("mlx_model", 'if spec.qk_norm == "after" else', "if True else"),
}, "gpt2": {
    "missing positions": ("mlx_model", 'x_BTC = x_BTC + w["positions.weight"]',
                          'x_BTC = x_BTC + 0 * w["positions.weight"]'),
    "positions from behind": ("mlx_model", '[: tokens_BT.shape[1]]', "[::-1]"),
    "GELU by the error function": (
        "mlx_model", "mx.sigmoid((8 / mx.pi) ** 0.5 * h_BTM * (1 + 0.044715 * mx.square(h_BTM)))",
        "(1 + mx.erf(h_BTM / 2**0.5)) / 2"),
    "tied head without its gradient": ("mlx_model", 'w["embed.weight" if spec.tied_embeddings else "head.weight"].T',
                                       'mx.stop_gradient(w["embed.weight"]).T'),
    "tied embedding without its gradient": ("mlx_model", 'x_BTC = lookup(w, "embed", tokens_BT)',
                                            'x_BTC = mx.stop_gradient(lookup(w, "embed", tokens_BT))'),
    "oracle: tied head without its gradient": (
        "torch_model", 'w["embed.weight" if spec.tied_embeddings else "head.weight"]', 'w["embed.weight"].detach()'),
}, "gpt2 with dropout": {
    "dropout scale": ("mlx_model", " / (1 - spec.dropout)", ""),
    "dropout of the others": ("mlx_model", "int(spec.dropout * 2**32)", "int((1 - spec.dropout) * 2**32)"),
    "one mask everywhere": ("mlx_model", " ^ (place + 1)", ""),
    "one mask for all micro-batches": ("mlx", "salt + i", "salt"),
    "one mask for all steps": ("mlx", 'salt = h["salt"]', 'salt = 0 * h["salt"]'),
    "no dropout": ("mlx", 'h["salt"] if spec.dropout else None', "None"),
    "oracle: dropout scale": ("torch_model", " / (1 - spec.dropout)", ""),
    "oracle: one mask for all micro-batches": ("torch", "salt + i", "salt"),
}, "checkpointing": {
    "gradient of another row": ("mlx_model", "return *mx.depends([to_x, to_x0], to_values), *to_values",
                                "return mx.roll(to_x, 1, axis=0), to_x0, *to_values"),
    "input without its gradient": ("mlx_model", "mx.depends([to_x, to_x0], to_values)", "[to_x, 0 * to_x0]"),
    "another mask the second time": ("mlx_model", "dropout(y_BTC, spec, salt, 2 * i + 2)",
                                     "dropout(y_BTC, spec, salt, 2 * i)"),
    "oracle: the wrong leaves": ("torch", "w.detach().requires_grad_()", "(w * 1.01).detach().requires_grad_()"),
}, "clipping": {
    "no clipping": ("mlx_optim", "if optim.clip_norm", "if False"),
    "clipped before the mean": ("mlx", "k: g / count for k, g in grads.items()",
                                'k: g / count for k, g in mlx_optim.clip(grads, h["clip_norm"]).items()'),
    "clipped by the largest array": ("mlx_optim", "for g in grads.values()]).sum()", "for g in grads.values()]).max()"),
    "oracle: clipped before the mean": ("torch", "        for k in grads:\n            grads[k] = grads[k] / count",
                                        '        grads = {k: g / count for k, g in torch_optim.clip('
                                        'grads, h["clip_norm"]).items()}'),
}, "AdamW for matrices": {
    "cautious against the step": ("mlx_optim", "(m * w >= 0)", "(m * w <= 0)"),
    "tables not cautious": ("mlx_optim", "1 - decay * (m * w >= 0) if cautious", "1 - decay if cautious"),
    "matrices as cautious as tables": ("mlx_optim", 'if roles[name] == "matrix" else', "if False else"),
}, "Newton-Schulz": {
    "the other polynomial": ("mlx_optim", "POLYNOMIALS[optim.muon_polynomial]", 'POLYNOMIALS["polar_express"]'),
    "the other polynomial's margin": ("mlx_optim", "* margin + 1e-6", "* 1.02 + 1e-6"),
    "cautious though off": ("mlx_optim", "if optim.cautious_matrices else decay)", "if True else decay)"),
}, "shifts": {
    "no token shift": ("mlx_model", 'x_BTC + w[f"{name}.shift.weight"] * before(x_BTC)', "x_BTC + 0 * before(x_BTC)"),
    "shifted the other way": ("mlx_model", "[mx.zeros_like(x[:, :1]), x[:, :-1]]",
                              "[x[:, 1:], mx.zeros_like(x[:, :1])]"),
    "no key shift": ("mlx_model", "if spec.key_shift else k_BTKD", "if False else k_BTKD"),
    "the other half of each key": ("mlx_model", "% (D // 2) >= D // 4", "% (D // 2) < D // 4"),
    "oracle: keys of two tokens before": ("torch_model", "before(k_BTKD), k_BTKD", "before(before(k_BTKD)), k_BTKD"),
}, "short rows first": {
    "rows always whole": ("mlx", "schedule.row_parts(state.recipe, progress)", "1"),
}}
MODULES = {"mlx": "backends.mlx_backend", "torch": "backends.torch_backend"} | {
    name: f"backends.gpt.{name}" for name in ("mlx_model", "mlx_optim", "torch_model", "torch_optim")}


@contextmanager
def planted(module_name: str, old: str, new: str) -> Iterator[None]:
    """The module runs with one piece of its source changed. The piece must occur exactly once."""
    module = importlib.import_module(MODULES[module_name])
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in {module.__name__}"
    saved = dict(module.__dict__)
    try:
        exec(compile(source.replace(old, new), module.__file__ or module_name, "exec"), module.__dict__)
        yield
    finally:
        module.__dict__.clear()
        module.__dict__.update(saved)


@cache
def clean_mlx(variant: str) -> compare.Facts:
    return compare.mlx_facts(compare.problem(variant), STEPS)


def measure(variant: str, module_name: str) -> dict[str, float]:
    """Only the side in which the bug may be is computed again."""
    if module_name.startswith("mlx"):
        return compare.measure(variant, STEPS)
    return compare.deviations(compare.torch_facts(compare.problem(variant), STEPS), clean_mlx(variant))


@pytest.mark.parametrize(("variant", "bug"), [(variant, bug) for variant, bugs in BUGS.items() for bug in bugs])
def test_a_planted_bug_breaks_parity(variant: str, bug: str) -> None:
    compare.oracle(variant, STEPS)
    clean_mlx(variant)
    with planted(*BUGS[variant][bug]):
        found = compare.beyond(measure(variant, BUGS[variant][bug][0]))
    assert found, "the suite would let this bug through"


@pytest.mark.parametrize("module_name", MODULES)
@pytest.mark.parametrize("variant", ["everything", "gpt2 with dropout"])
def test_the_planting_itself_breaks_nothing(variant: str, module_name: str) -> None:
    compare.oracle(variant, STEPS)
    clean_mlx(variant)
    with planted(module_name, "from __future__ import annotations", "from __future__ import annotations\n"):
        assert compare.beyond(measure(variant, module_name)) == []
