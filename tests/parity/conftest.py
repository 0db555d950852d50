"""float32 that is float32, and one torch thread."""

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
