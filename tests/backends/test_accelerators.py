"""What is done on a card and on a Mac alone, with stand-ins for their drivers on a machine that has neither."""

from __future__ import annotations

import platform
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
import torch

from backends import torch_backend
from backends.gpt import params, torch_model
from backends.mlx_backend import MLXBackend
from backends.recipe import Recipe
from backends.spec import GPTSpec
from backends.torch_backend import Pending, TorchBackend


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a stand-in for a card was asked to do. It copies when the copy's own event is waited for, and no other."""
    asked: list[str] = []
    empty = torch.empty

    class Event:
        def record(self) -> None:
            asked.append("record")

        def synchronize(self) -> None:
            asked.append("wait for its event")

    def pinned(*size: object, pin_memory: bool = False, **kind: object) -> torch.Tensor:
        asked.append("pin" if pin_memory else "do not pin")
        return empty(*size, **kind)

    monkeypatch.setattr(torch_backend, "torch", SimpleNamespace(
        empty=pinned, float32=torch.float32, cuda=SimpleNamespace(Event=Event)))
    return asked


def test_a_loss_is_read_when_its_own_step_is_done(queue: list[str]) -> None:
    loss = torch.tensor(2.5, dtype=torch.bfloat16)
    pending = Pending(loss)
    loss.fill_(9.0)  # the next step may write its own there
    assert queue == ["pin", "record"]
    assert float(pending) == 2.5
    assert queue[2:] == ["wait for its event"]


def test_a_step_on_a_card_does_not_wait_and_one_on_a_processor_needs_not(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe().replace({"model.depth": 1, "model.width": 32, "model.head_dim": 16, "model.seq_len": 16,
                               "model.value_gate_channels": 8, "batch.tokens_per_step": 64, "runtime.compile": False,
                               "runtime.precision": "float32"})
    backend = TorchBackend("cpu")
    weights = params.initial(recipe, GPTSpec.of(recipe, 20), np.random.default_rng(0))
    tokens = np.random.default_rng(1).integers(0, 20, (4, 17), dtype=np.int32)
    plain = backend.step(backend.init(recipe, 20, weights), tokens, 0.5)
    monkeypatch.setattr(torch_backend, "Pending", lambda loss: ("pending", float(loss)))
    monkeypatch.setattr(TorchBackend, "_sent", lambda self, x: x)
    state = backend.init(recipe, 20, weights)
    backend.name = "cuda"
    assert isinstance(plain, torch.Tensor)
    assert backend.step(state, tokens, 0.5) == ("pending", pytest.approx(float(plain), abs=1e-5))


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="the properties of a card can't be made up there")
@pytest.mark.parametrize(("major", "expected"), [(7, -1.0), (8, 1.0), (9, 1.0)])
def test_what_a_card_can_do_is_a_constant_of_the_compiled_step(monkeypatch: pytest.MonkeyPatch, major: int,
                                                               expected: float) -> None:
    card = object.__new__(torch.cuda._CudaDeviceProperties)
    card.major, card.minor = major, 0
    for name, fake in {"_lazy_init": lambda: None, "device_count": lambda: 1, "_get_device_properties": lambda i: card,
                       "_get_device_index": lambda device, optional=False, allow_cpu=False: 0}.items():
        monkeypatch.setattr(torch.cuda, name, fake, raising=False)
    graphs: list[torch.fx.GraphModule] = []

    def compiler(graph: torch.fx.GraphModule, given: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    asked = torch.compile(lambda q: q + 1 if torch_model.flashes(q, None) else q - 1, backend=compiler, fullgraph=True)
    assert asked(torch.zeros(1, dtype=torch.bfloat16)).item() == expected
    assert [node.op for node in graphs[0].graph.nodes] == ["placeholder", "call_function", "output"]
    torch._dynamo.reset()


@pytest.mark.parametrize("available", [True, False])
def test_mlx_takes_no_more_than_metal_keeps_resident(monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    limits: dict[str, int] = {}
    monkeypatch.setattr(mx.metal, "is_available", lambda: available)
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": "Apple M4", "max_recommended_working_set_size": 800})
    monkeypatch.setattr(platform, "system", lambda: "Darwin" if available else "Linux")
    monkeypatch.setattr(mx, "set_memory_limit", lambda limit: limits.update(memory=limit))
    MLXBackend()
    assert limits == ({"memory": 800} if available else {})
