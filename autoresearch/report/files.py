"""Writing whole files or none."""

from __future__ import annotations

import os
from pathlib import Path


def put(path: Path, content: bytes) -> Path:
    """The path, whose content is replaced at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)
    return path
