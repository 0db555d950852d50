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
VARIANT = "everything"
# What is planted: (module, line as it is, line as it is not).
BUGS = {
    # the forward pass
    "rotary sign": ("mlx_model", "[a * cos + b * sin, b * cos - a * sin]", "[a * cos - b * sin, b * cos + a * sin]"),
    "rotary frequencies": ("mlx_model", "-half * 2 / spec.head_dim", "-half / spec.head_dim"),
    "missing residual lambda": ("mlx_model", 'w["resid_lambdas"][i] * x +', "x +"),
    "missing input lambda": ("mlx_model", ' + w["input_lambdas"][i] * x0', " + x0"),
    "lambda of another block": ("mlx_model", 'w["input_lambdas"][i]', 'w["input_lambdas"][0]'),
    "missing softcap": ("mlx_model", "if spec.softcap else logits", "if False else logits"),
    "gate without its 2": ("mlx_model", "2 * mx.sigmoid(", "mx.sigmoid("),
    "gate reads other channels": ("mlx_model", "x_BTC[..., : spec.value_gate_channels]",
                                  "x_BTC[..., -spec.value_gate_channels :]"),
    "no value embedding": ("mlx_model", " + gate_BTK[..., None] * value", " + 0 * value"),
    "window off by one": ("mlx_model", "age_TT < window", "age_TT <= window"),
    "window ignored": ("mlx_model", "if window >= T", "if True"),
    "sees the future": ("mlx_model", "(age_TT >= 0) & ", ""),
    "missing qk scale": ("mlx_model", "spec.qk_scale / spec.head_dim**0.5", "1 / spec.head_dim**0.5"),
    "missing query norm": ("mlx_model", "norm(rotate(q, cos, sin))", "rotate(q, cos, sin)"),
    "missing key norm": ("mlx_model", "norm(rotate(k, cos, sin))", "rotate(k, cos, sin)"),
    "relu not squared": ("mlx_model", "mx.square(mx.maximum(", "(mx.maximum("),
    "no norm before the mlp": ("mlx_model", "mlp(w, block, norm(x))", "mlp(w, block, x)"),
    "another norm epsilon": ("mlx_model", "None, 1e-6", "None, 1e-3"),
    "targets not shifted": ("mlx_model", "tokens_BT1[:, 1:])", "tokens_BT1[:, :-1])"),
    # the update rule
    "Adam epsilon of a library": ("mlx_optim", 'h["eps"]', "1e-8"),
    "Adam epsilon under the root": ("mlx_optim", 'mx.sqrt(v / h["bias2"]) + h["eps"]',
                                    'mx.sqrt(v / h["bias2"] + h["eps"])'),
    "first bias correction off": ("mlx_optim", "lr / bias1 * m", "lr * m"),
    "second bias correction off": ("mlx_optim", 'v / h["bias2"]', "v"),
    "decay coupled": ("mlx_optim", 'w = w * (1 - lr * h[f"{role}_decay"])', 'g = g + h[f"{role}_decay"] * w'),
    "decay not scaled by the rate": ("mlx_optim", '1 - lr * h[f"{role}_decay"]', '1 - h[f"{role}_decay"]'),
    "lambdas with the common beta": ("mlx_optim", '(h["input_beta1"], h["input_bias1"])', '(h["beta1"], h["bias1"])'),
    "wrong Muon scale": ("mlx_optim", "max(1.0, w.shape[-2] / w.shape[-1]) ** 0.5", "1.0"),
    "Muon without Nesterov": ("mlx_optim", 'lerp(g, m, h["momentum"])', "m"),
    "Muon decay not cautious": ("mlx_optim", " * (u * w >= 0)", ""),
    "Muon without its second moment": ("mlx_optim", "mx.rsqrt(mx.maximum(v, 1e-10))", "mx.ones_like(v)"),
    "Muon variance along the other axis": ("mlx_optim", "axis = -1 if w.shape[-2] >=", "axis = -1 if w.shape[-2] <"),
    "another number of iterations": ("mlx_optim", "POLAR_EXPRESS[:steps]", "POLAR_EXPRESS[: steps - 1]"),
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
    "oracle: gradients summed": ("torch", "k: g / count for", "k: g for"),
}
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
def clean_mlx() -> compare.Facts:
    return compare.mlx_facts(compare.problem(VARIANT), STEPS)


def measure(module_name: str) -> dict[str, float]:
    """Only the side in which the bug may be is computed again."""
    if module_name.startswith("mlx"):
        return compare.measure(VARIANT, STEPS)
    return compare.deviations(compare.torch_facts(compare.problem(VARIANT), STEPS), clean_mlx())


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_breaks_parity(bug: str) -> None:
    compare.oracle(VARIANT, STEPS)
    clean_mlx()
    with planted(*BUGS[bug]):
        found = compare.beyond(measure(BUGS[bug][0]))
    assert found, "the suite would let this bug through"


@pytest.mark.parametrize("module_name", MODULES)
def test_the_planting_itself_breaks_nothing(module_name: str) -> None:
    compare.oracle(VARIANT, STEPS)
    clean_mlx()
    with planted(module_name, "from __future__ import annotations", "from __future__ import annotations\n"):
        assert compare.beyond(measure(module_name)) == []
