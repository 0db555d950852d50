"""manifest.json: what a prepared set holds, as values."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from dataclasses import dataclass
from typing import Any

FORMAT = 2
CHECK = "check"  # the entry of a stored manifest that holds the digest of all others
SPLITS = ("train", "dev", "val", "confirm", "holdout")


class OtherFormat(ValueError):
    """A manifest of another version of this program."""

    def __init__(self, found: int):
        self.found = found
        super().__init__(f"format {found}: this program reads format {FORMAT}")


@dataclass(frozen=True)
class Source:
    kind: str  # stdlib, text, or the name of a published corpus
    source: str  # in words
    revision: str  # where the source has one
    licence: str
    documents: int
    pinned: int  # of these, the last ones
    bytes: int
    sha256: str  # of the raw text
    ends_sha256: str  # of where its documents end
    notes: tuple[str, ...]
    paths: tuple[str, ...] = ()  # files and folders that it was read from, resolved; sets of earlier versions lack them


@dataclass(frozen=True)
class Split:
    documents: int
    bytes: int
    chars: int  # UTF-8 characters; invalid bytes count as one each
    sha256: str  # of the text
    ends_sha256: str  # of where its documents end
    rows: int  # of the yardstick; none of train, which is not scored
    rows_sha256: str  # of them in their order


@dataclass(frozen=True)
class Overlap:
    judged: int  # rows long enough to be looked for in train
    found: int  # of these, in train or nearly


@dataclass(frozen=True)
class TokenizerFacts:
    vocab: int
    digest: str
    tokens: dict[str, int]  # by split; of train, in the shards that are encoded
    shards: tuple[int, ...]  # tokens of each shard of train that is encoded, from the first on


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
    policy: str  # hash, span or pinned
    holdout_chars: int  # what the tail of the text gives to holdout; 0: it is split like the others
    row_bytes: int
    splits: dict[str, Split]
    shards: tuple[int, ...]  # where each shard of the train text ends, in bytes; the same for every tokenizer
    overlap: dict[str, Overlap]  # of each scored split with train
    tokenizers: dict[str, TokenizerFacts]
    files: dict[str, File]

    def digest(self) -> str:
        """Equal for equal text, equally split and scored by the same rows. Tokenizers have digests of their own."""
        return _digest({"format": self.format, "policy": self.policy, "row_bytes": self.row_bytes,
                        "splits": {name: dataclasses.asdict(split) for name, split in self.splits.items()}})

    def origin(self) -> str:
        """Equal for sets of the same text, to be split in the same way."""
        source = self.corpus
        return origin(source.sha256, source.ends_sha256, source.pinned, self.holdout_chars)

    def to_json(self) -> str:
        """With a digest of its own, so that a flipped bit in it is noticed as in any other file."""
        content = dataclasses.asdict(self)
        return json.dumps(content | {CHECK: _digest(content)}, indent=2) + "\n"


def origin(sha256: str, ends_sha256: str, pinned: int, holdout_chars: int) -> str:
    return _digest({"format": FORMAT, "text": sha256, "ends": ends_sha256, "pinned": pinned, "tail": holdout_chars})


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def parse(text: str) -> Manifest:
    """Raises OtherFormat, or ValueError with the entry for anything else that `to_json` did not write."""
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"not valid JSON: {e}") from None
    if isinstance(stored, dict) and type(stored.get("format")) is int and stored["format"] != FORMAT:
        raise OtherFormat(stored["format"])
    check = stored.pop(CHECK, None) if isinstance(stored, dict) else None
    manifest: Manifest = _parse(Manifest, stored, "manifest")
    if set(manifest.splits) != set(SPLITS):
        raise ValueError(f"splits are {', '.join(manifest.splits)}: must be {', '.join(SPLITS)}")
    for name, facts in manifest.tokenizers.items():
        if set(facts.tokens) != set(SPLITS) or len(facts.shards) > len(manifest.shards):
            raise ValueError(f"tokenizers.{name} does not fit the splits")
    if unsafe := [name for name in manifest.files if "/" in name or name.startswith(".")]:
        raise ValueError(f"file {unsafe[0]!r} is not in the folder of the manifest")
    if check != _digest(stored):
        raise ValueError("it has changed since it was written")
    return manifest


def _parse(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`: a dataclass, of which entries with a default may be missing, int, str, dict of them or tuple
    of them."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        kinds = typing.get_type_hints(kind)
        needed = {f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING}
        if not isinstance(value, dict) or not needed <= set(value) <= set(kinds):
            raise ValueError(f"{where} must have the entries {', '.join(kinds)}")
        return typing.cast(Any, kind)(**{name: _parse(kinds[name], value[name], f"{where}.{name}") for name in value})
    if origin is dict and isinstance(value, dict):
        return {str(name): _parse(arguments[1], entry, f"{where}.{name}") for name, entry in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_parse(arguments[0], entry, where) for entry in value)
    if kind in (int, str) and type(value) is kind:
        return value
    raise ValueError(f"{where} is {value!r}: must be {kind}")
