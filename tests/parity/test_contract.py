"""What every backend promises (backends/base.py), asked of each in turn. One that can't be loaded fails here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import backends
from backends.base import Backend, Device, resolve_precision
from backends.gpt import mlx_optim, params, torch_optim
from backends.torch_backend import TorchBackend
from tests.parity import compare


@pytest.fixture(scope="module", params=compare.BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return backends.load(request.param)


@pytest.fixture
def p() -> compare.Problem:
    return compare.problem("defaults")


@pytest.fixture
def state(backend: Backend, p: compare.Problem) -> Any:
    return backend.init(p.recipe, compare.VOCAB, dict(p.weights))


def cross_entropy(logits_BTV: np.ndarray, targets_BT: np.ndarray) -> float:
    """Mean nats per token, in float64."""
    x = logits_BTV.astype(np.float64)
    log_z = np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1)) + x.max(-1)
    return float((log_z - np.take_along_axis(x, targets_BT[..., None].astype(np.int64), -1)[..., 0]).mean())


def test_weights_come_back_bit_for_bit(backend: Backend, p: compare.Problem, state: Any) -> None:
    out = backend.weights(state)
    assert list(out) == list(p.weights)
    for name, w in out.items():
        assert w.dtype == np.float32
        np.testing.assert_array_equal(w, p.weights[name])


@pytest.mark.parametrize("variant", compare.VARIANTS)
def test_names_and_shapes_are_the_parameter_table_before_and_after_a_step(backend: Backend, variant: str) -> None:
    p = compare.problem(variant)
    state = backend.init(p.recipe, compare.VOCAB, dict(p.weights))
    for _ in range(2):
        shapes = {name: w.shape for name, w in backend.weights(state).items()}
        assert shapes == {row.name: row.shape for row in params.table(p.spec)}
        backend.step(state, p.batches[0], 0.5)


@pytest.mark.parametrize("variant", ["windows", "shifts", "gpt2"])
def test_what_comes_later_changes_nothing(backend: Backend, variant: str) -> None:
    p = compare.problem(variant)
    state = backend.init(p.recipe, compare.VOCAB, dict(p.weights))
    tokens_BT, at = p.batches[0][:, :-1], 9
    other_BT = np.concatenate([tokens_BT[:, :at], (tokens_BT[:, at:] + 1) % compare.VOCAB], axis=1)
    before, after = (backend.logits(state, x) for x in (tokens_BT, other_BT))
    np.testing.assert_allclose(before[:, :at], after[:, :at], atol=1e-5)
    assert np.abs(before[:, at:] - after[:, at:]).max() > 0.01


def test_a_run_neither_shares_the_callers_arrays_nor_another_runs(backend: Backend, p: compare.Problem) -> None:
    given = {k: v.copy() for k, v in p.weights.items()}
    state, other = (backend.init(p.recipe, compare.VOCAB, given) for _ in range(2))
    kept = backend.weights(state)
    held = {k: v.copy() for k, v in kept.items()}
    backend.step(state, p.batches[0], 0.5)
    for name, w in p.weights.items():
        np.testing.assert_array_equal(given[name], w)
        np.testing.assert_array_equal(backend.weights(other)[name], w)
        np.testing.assert_array_equal(kept[name], held[name], err_msg="weights() must be a snapshot")


def test_logits_have_one_row_per_token_at_any_length(backend: Backend, p: compare.Problem, state: Any) -> None:
    for tokens_BT in (p.long_BT, p.long_BT[:1], p.long_BT[:2, :1]):
        logits = backend.logits(state, tokens_BT)
        assert isinstance(logits, np.ndarray)
        assert (logits.shape, logits.dtype) == ((*tokens_BT.shape, compare.VOCAB), np.float32)


def test_logits_depend_on_no_later_token_and_no_other_row(backend: Backend, p: compare.Problem, state: Any) -> None:
    tokens = p.long_BT.copy()
    before = backend.logits(state, tokens)
    tokens[0, 10:] = (tokens[0, 10:] + 1) % compare.VOCAB
    after = backend.logits(state, tokens)
    np.testing.assert_allclose(after[0, :10], before[0, :10], atol=1e-5)
    np.testing.assert_allclose(after[1:], before[1:], atol=1e-5)
    assert np.abs(after[0, 10:] - before[0, 10:]).max() > 0.1


def test_loss_is_the_cross_entropy_of_the_logits(backend: Backend, p: compare.Problem, state: Any) -> None:
    batch = p.batches[0]
    expected = cross_entropy(backend.logits(state, batch[:, :-1]), batch[:, 1:])
    assert backend.loss(state, batch) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("variant", ["defaults", "gradient accumulation"])
def test_a_step_returns_the_loss_before_its_update(backend: Backend, variant: str) -> None:
    p = compare.problem(variant)
    state = backend.init(p.recipe, compare.VOCAB, dict(p.weights))
    for batch in p.batches[:3]:
        expected = backend.loss(state, batch)
        assert float(backend.step(state, batch, 0.5)) == pytest.approx(expected, abs=1e-5)
        assert backend.loss(state, batch) < expected


def test_micro_batches_change_the_memory_and_not_the_result(backend: Backend) -> None:
    whole, parts = compare.problem("defaults"), compare.problem("gradient accumulation")
    assert whole.recipe.micro_rows > parts.recipe.micro_rows
    moved = []
    for p in (whole, parts):
        state = backend.init(p.recipe, compare.VOCAB, dict(whole.weights))
        backend.step(state, whole.batches[0], 0.5)
        moved.append({k: v - whole.weights[k] for k, v in backend.weights(state).items()})
    for name in moved[0]:
        assert np.abs(moved[0][name] - moved[1][name]).mean() < 1e-3 * np.abs(moved[0][name]).mean(), name


def test_a_batch_that_is_not_the_recipes_is_taken_whole(backend: Backend) -> None:
    p = compare.problem("gradient accumulation")
    state = backend.init(p.recipe, compare.VOCAB, dict(p.weights))
    assert np.isfinite(float(backend.step(state, p.batches[0][:1], 0.5)))


def test_the_same_start_and_text_give_the_same_run(backend: Backend, p: compare.Problem) -> None:
    runs = []
    for _ in range(2):
        state = backend.init(p.recipe, compare.VOCAB, dict(p.weights))
        runs.append((compare.curve_of(backend, state, p, 5), backend.weights(state)))
    assert runs[0][0] == runs[1][0]
    for name, w in runs[0][1].items():
        np.testing.assert_array_equal(w, runs[1][1][name])


def test_the_seed_of_the_weights_decides_the_run(backend: Backend, p: compare.Problem) -> None:
    states = [backend.init(p.recipe, compare.VOCAB, dict(compare.problem("defaults", seed=s).weights)) for s in (0, 1)]
    first, other = (compare.curve_of(backend, state, p, 2) for state in states)
    assert first != other


def test_a_rate_of_zero_moves_nothing(backend: Backend) -> None:
    """Progress reaches the update: at the end of the warm-down every learning rate is zero."""
    p = compare.problem("decays")
    state = backend.init(p.recipe, compare.VOCAB, dict(p.weights))
    backend.step(state, p.batches[0], 1.0)
    for name, w in backend.weights(state).items():
        np.testing.assert_array_equal(w, p.weights[name])


def test_device_facts_are_plausible(backend: Backend) -> None:
    device = backend.device()
    assert device.name
    assert device.memory_bytes > 2**30
    assert device.precisions
    assert set(device.precisions) <= {"float32", "bfloat16", "float16"}
    assert "float32" in device.precisions


def test_memory_and_speed_are_measured(backend: Backend, p: compare.Problem, state: Any) -> None:
    backend.step(state, p.batches[0], 0.5)
    backend.sync()
    assert backend.peak_memory_bytes() > sum(w.nbytes for w in p.weights.values())
    assert min(backend.matmul_flops("float32", seconds) for seconds in (0.0, 0.05)) > 1e7


def test_diagnostics_are_the_true_sizes_per_role(backend: Backend, p: compare.Problem, state: Any) -> None:
    found, oracle = backend.diagnostics(state, p.batches[0]), compare.oracle("defaults", 1)
    roles = params.roles(p.spec)
    expected = {f"{what}_rms.{role}": np.sqrt(np.mean(np.concatenate(
                    [a.ravel() for name, a in arrays.items() if roles[name] == role]) ** 2))
                for what, arrays in (("weight", p.weights), ("grad", oracle.grads)) for role in roles.values()}
    assert set(found) == set(expected)
    assert found == pytest.approx(expected, rel=1e-4)


def test_what_is_scored_and_saved_is_the_average_that_a_candidate_keeps(
        backend: Backend, p: compare.Problem, state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, half = p.batches[0], {k: w / 2 for k, w in p.weights.items()}
    averaged = backend.init(p.recipe, compare.VOCAB, half)
    logits, loss = backend.logits(averaged, tokens[:, :-1]), backend.loss(averaged, tokens)
    trained = float(backend.step(backend.init(p.recipe, compare.VOCAB, dict(p.weights)), tokens, 0.5))
    optim = mlx_optim if backend.name == "mlx" else torch_optim
    monkeypatch.setattr(optim, "eval_weights", lambda weights, moments: {k: w / 2 for k, w in weights.items()})
    for name, w in backend.weights(state).items():
        np.testing.assert_array_equal(w, half[name])
    np.testing.assert_array_equal(backend.logits(state, tokens[:, :-1]), logits)
    assert backend.loss(state, tokens) == loss != trained
    assert float(backend.step(state, tokens, 0.5)) == trained, "what trains are the weights themselves"


def test_gradients_have_no_dropout(backend: Backend, p: compare.Problem) -> None:
    found = [backend.gradients(backend.init(p.recipe.replace({"model.dropout": share}), compare.VOCAB, dict(p.weights)),
                               p.batches[0]) for share in (0.0, 0.5)]
    assert found[0][0] == found[1][0]
    for name, g in found[0][1].items():
        np.testing.assert_array_equal(g, found[1][1][name])


def test_on_a_device_that_compiles_nothing_compile_is_as_false(p: compare.Problem,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    card = Device("GTX 1080 Ti", 11 << 30, ("float32",), compiles=False)
    monkeypatch.setattr(TorchBackend, "device", lambda self: card)
    monkeypatch.setattr("torch.compile", lambda *args, **kwargs: pytest.fail("compiled"))
    curves = []
    for compiled in (True, False):
        backend, recipe = backends.load("cpu"), p.recipe.replace({"runtime.compile": compiled})
        curves.append(compare.curve_of(backend, backend.init(recipe, compare.VOCAB, dict(p.weights)), p, 2))
    assert curves[0] == curves[1]


def test_a_precision_the_device_lacks_is_refused() -> None:
    card = Device("GTX 1660 Ti", 6 * 2**30, ("float32",))
    assert resolve_precision("auto", card) == "float32"
    with pytest.raises(ValueError, match=r"bfloat16.*GTX 1660 Ti offers float32"):
        resolve_precision("bfloat16", card)


def test_a_backend_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"'tpu'.*mlx, cuda, cpu"):
        backends.load("tpu")


def test_a_loss_of_any_number_of_rows_is_their_mean(backend: Backend) -> None:
    p = compare.problem("gradient accumulation")
    state = backend.init(p.recipe, compare.VOCAB, dict(p.weights))
    rows = np.concatenate([*p.batches[:2]])[: p.recipe.micro_rows + 1]
    each = [backend.loss(state, row[None]) for row in rows]
    assert backend.loss(state, rows) == pytest.approx(np.mean(each), abs=1e-5)


def test_a_token_that_is_everywhere_keeps_its_whole_gradient_in_bf16(backend: Backend) -> None:
    """Sums in bf16 stop growing at 256 times an addend."""
    p = compare.problem("defaults")
    rng = np.random.default_rng(0)
    tokens = np.where(rng.random((32, 257)) < 0.9, 3, rng.integers(0, compare.VOCAB, (32, 257))).astype(np.int32)
    found = {}
    for precision in ("float32", "bfloat16"):
        recipe = p.recipe.replace({"runtime.precision": precision})
        state = backend.init(recipe, compare.VOCAB, dict(p.weights))
        found[precision] = backend.gradients(state, tokens)[1]
    for name in (n for n in p.weights if n.endswith("embed.weight")):
        exact, low = (found[precision][name][3] for precision in ("float32", "bfloat16"))
        assert np.linalg.norm(low - exact) < 0.1 * np.linalg.norm(exact), name
