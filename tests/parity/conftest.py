"""float32 that is float32, one torch thread, and float16 where no card has it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# From the M5 on, Metal multiplies float32 matrices in TF32 unless told otherwise; read once, by the first product.
os.environ["MLX_ENABLE_TF32"] = "0"


@pytest.fixture(scope="session", autouse=True)
def single_thread() -> Iterator[None]:
    """For arrays this small, threads that wait for each other on busy cores cost 40 times the arithmetic."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def has_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's backends offer it, as on a card that has it. The CPU's is slow and exact; it is never offered there."""
    from backends.base import Device
    from backends.torch_backend import TorchBackend

    card = Device("a card", 1 << 33, ("float32", "float16", "bfloat16"))
    monkeypatch.setattr(TorchBackend, "device", lambda self: card)
