"""Three devices, one contract: `load("cpu" | "cuda" | "mlx")`. A framework is imported only when asked for."""

from __future__ import annotations

import importlib.util
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.base import Backend

NAMES = ("mlx", "cuda", "cpu")


def installed() -> list[str]:
    """Backends whose framework is importable here, found without importing one."""
    found = []
    if importlib.util.find_spec("mlx") and importlib.util.find_spec("mlx.core"):
        found.append("mlx")
    if importlib.util.find_spec("torch"):
        found += ["cuda", "cpu"]
    return found


def detect(has_nvidia: bool) -> str:
    """The backend this machine should use. Raises RuntimeError when no framework is installed."""
    names = installed()
    if "mlx" in names and platform.system() == "Darwin":
        return "mlx"
    if "cuda" in names and has_nvidia:
        return "cuda"
    for name in ("cpu", "mlx"):
        if name in names:
            return name
    raise RuntimeError("neither torch nor mlx is installed; `make setup` installs the right one")


def load(name: str) -> Backend:
    """The backend, its framework imported. Raises ValueError for a name that is none of NAMES,
    RuntimeError where the framework or the device is missing."""
    if name not in NAMES:
        raise ValueError(f"backend {name!r}: must be one of {', '.join(NAMES)}")
    if name not in installed():
        raise RuntimeError(f"the {name} backend needs {'mlx' if name == 'mlx' else 'torch'}, which is not installed")
    if name == "mlx":
        from backends.mlx_backend import MLXBackend

        return MLXBackend()
    from backends.torch_backend import TorchBackend

    return TorchBackend(name)
