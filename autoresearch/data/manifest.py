"""manifest.json: what a prepared set holds, as values."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from dataclasses import dataclass
from typing import Any

from autoresearch.data.splits import SPLITS

FORMAT = 1


@dataclass(frozen=True)
class Source:
    kind: str  # stdlib or text
    source: str  # in words
    bytes: int
    sha256: str  # of the raw text
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    documents: int
    bytes: int
    chars: int  # UTF-8 characters; invalid bytes count as one each
    sha256: str  # of the text
    ends_sha256: str  # of where its documents end
    rows: int  # of the yardstick
    rows_sha256: str  # of them in their order


@dataclass(frozen=True)
class TokenizerFacts:
    vocab: int
    digest: str
    tokens: dict[str, int]  # by split


@dataclass(frozen=True)
class File:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    format: int
    tool: str
    created: str  # UTC, ISO 8601
    corpus: Source
    policy: str  # hash or span
    row_bytes: int
    splits: dict[str, Split]
    tokenizers: dict[str, TokenizerFacts]
    files: dict[str, File]

    def digest(self) -> str:
        """Equal for equal text, equally split and scored by the same rows. Tokenizers have digests of their own."""
        content = {"format": self.format, "policy": self.policy, "row_bytes": self.row_bytes,
                   "splits": {name: dataclasses.asdict(split) for name, split in self.splits.items()}}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def parse(text: str) -> Manifest:
    """Raises ValueError, with the entry, for anything `to_json` did not write."""
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"not valid JSON: {e}") from None
    if isinstance(stored, dict) and stored.get("format") != FORMAT:
        raise ValueError(f"format {stored.get('format')!r}: this program reads format {FORMAT}")
    manifest: Manifest = _parse(Manifest, stored, "manifest")
    if set(manifest.splits) != set(SPLITS):
        raise ValueError(f"splits are {', '.join(manifest.splits)}: must be {', '.join(SPLITS)}")
    if unsafe := [name for name in manifest.files if "/" in name or name.startswith(".")]:
        raise ValueError(f"file {unsafe[0]!r} is not in the folder of the manifest")
    return manifest


def _parse(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`: a dataclass, int, str, dict of them or tuple of them."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        kinds = typing.get_type_hints(kind)
        if not isinstance(value, dict) or set(value) != set(kinds):
            raise ValueError(f"{where} must have the entries {', '.join(kinds)}")
        return typing.cast(Any, kind)(**{name: _parse(kinds[name], value[name], f"{where}.{name}") for name in kinds})
    if origin is dict and isinstance(value, dict):
        return {str(name): _parse(arguments[1], entry, f"{where}.{name}") for name, entry in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_parse(arguments[0], entry, where) for entry in value)
    if kind in (int, str) and type(value) is kind:
        return value
    raise ValueError(f"{where} is {value!r}: must be {kind}")
