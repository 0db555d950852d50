"""A checkpoint: weights in one safetensors file that says how they came to be, and so can be scored years later.

    Record   recipe, tokenizer, text, candidate's code, seed and budget, as the file's metadata holds them
    stamp    writes a record into the weights that a trial left
    read     the record of a file that is whole

The trial writes the tensors. The record is the supervisor's: of the trial's own header nothing stays but the names,
shapes and places of tensors. It is signed with a key of this machine's cache, so that code which comes with a file
from elsewhere is told from code that has run here before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import json
import math
import os
import secrets
import typing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import autoresearch
from autoresearch import paths
from autoresearch.errors import UserError
from autoresearch.harness import assemble
from autoresearch.harness.text import line

WEIGHTS = "weights.safetensors"
FORMAT = 1
ENTRY = "autoresearch"  # in the metadata of the safetensors header, with the signature beside it
SIGNATURE = "autoresearch.signature"
MAX_HEADER_BYTES = 100_000_000  # what safetensors allows
BLOCK_BYTES = 1 << 20
KEY_BYTES = 32


@dataclass(frozen=True)
class Record:
    format: int
    tool: str
    created: str  # UTC, ISO 8601
    backend: str
    precision: str
    device: str
    recipe: dict[str, Any]  # flat
    vocab: int
    tokenizer_digest: str
    data_name: str
    data_digest: str
    seed: int
    budget_s: float | None  # None: a fixed number of steps
    steps: int
    tokens: int
    train_s: float
    frozen_digest: str  # of the trainer
    code: dict[str, str]  # the candidate's files below backends/gpt/; bytes that are not UTF-8 as lone surrogates
    tensors_sha256: str  # of everything after the header

    def files(self) -> dict[str, bytes]:
        """The candidate, as a commit of it would hold it."""
        return {name: text.encode("utf-8", "surrogateescape") for name, text in self.code.items()}


def record(files: dict[str, bytes], **facts: Any) -> Record:
    """A record of now; `stamp` adds the digest of the tensors."""
    code = {name: content.decode("utf-8", "surrogateescape") for name, content in files.items()}
    return Record(format=FORMAT, tool=f"autoresearch {autoresearch.__version__}",
                  created=datetime.now(UTC).isoformat(timespec="seconds"), code=code, tensors_sha256="",
                  frozen_digest=assemble.digest(assemble.frozen_files()), **facts)


def stamp(path: Path, about: Record) -> None:
    """Put a record into a file of weights, in place of whatever metadata it has. Raises ValueError for what is no
    such file. The old file is replaced when the new one is whole."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with _open(path) as old, open(new, "wb") as file:
            entries, _ = _header(old)
            start = old.tell()
            text = json.dumps(dataclasses.asdict(about) | {"tensors_sha256": _sha256(old)})
            header = json.dumps({"__metadata__": {ENTRY: text, SIGNATURE: _sign(text)}} | entries).encode()
            header += b" " * (-len(header) % 8)  # tensors begin at a multiple of eight
            file.write(len(header).to_bytes(8, "little") + header)
            old.seek(start)
            while block := old.read(BLOCK_BYTES):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the name without the weights
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def read(path: Path) -> tuple[Record, bool]:
    """(record, whether this machine wrote it). Raises UserError for a file that is not a whole checkpoint."""
    try:
        with _open(path) as file:
            _, metadata = _header(file)
            about = _parse(metadata)
            if _sha256(file) != about.tensors_sha256:
                raise _Unreadable("is damaged: its weights are not those that were written",
                                  "Take another copy of it, or train again: ar train")
    except OSError as e:
        raise UserError(f"{path} can't be read: {(e.strerror or str(e)).lower()}",
                        "Name a checkpoint of ar train, or an experiment such as champion or #12.") from None
    except _Unreadable as e:
        raise UserError(f"{path} {e}", e.hint) from None
    return about, hmac.compare_digest(metadata[SIGNATURE].encode(), _sign(metadata[ENTRY]).encode())


def weights_in(path: Path) -> int:
    """How many numbers a checkpoint holds, which `read` has found to be whole."""
    with _open(path) as file:
        tensors, _ = _header(file)
    return sum(math.prod(entry["shape"]) for entry in tensors.values())


def precision(path: Path) -> str:
    """In which a file of weights was trained; "" where it has no record that says so. Nothing else is checked."""
    try:
        with _open(path) as file:
            return _parse(_header(file)[1]).precision
    except (OSError, _Unreadable):
        return ""


def sha256(path: str | Path) -> str:
    """Of the whole file."""
    with open(path, "rb") as file:
        return _sha256(file)


class _Unreadable(ValueError):
    """In words that follow the path of the file."""

    def __init__(self, why: str, hint: str = "`ar train` writes checkpoints, and says where."):
        self.hint = hint
        super().__init__(why)


def _open(path: Path) -> IO[bytes]:
    """Without waiting for whoever should write to a pipe."""
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def _header(file: IO[bytes]) -> tuple[dict[str, Any], Any]:
    """(tensors, metadata) of a safetensors header. The file is left at its end, and checked to be as long as it
    says."""
    size = int.from_bytes(file.read(8), "little")
    total = os.fstat(file.fileno()).st_size
    if not 2 <= size <= min(MAX_HEADER_BYTES, total - 8):
        raise _Unreadable("is not a safetensors file, or is cut off")
    try:
        stored = json.loads(file.read(size))
        metadata = stored.pop("__metadata__", None)
        tensors = {name: {key: entry[key] for key in ("dtype", "shape", "data_offsets")}
                   for name, entry in stored.items()}
        end = 8 + size + max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError):
        raise _Unreadable("is not a safetensors file") from None
    if total != end:
        raise _Unreadable(f"is cut off or damaged: it has {total:,} bytes of {end:,}",
                          "Take another copy of it, or train again: ar train")
    return tensors, metadata


def _parse(metadata: Any) -> Record:
    no_record = _Unreadable("holds weights, but no record of how they were trained",
                            "Only weights that `ar train` or a study wrote can be scored.")
    if not isinstance(metadata, dict) or not all(isinstance(metadata.get(k), str) for k in (ENTRY, SIGNATURE)):
        raise no_record
    try:
        stored = json.loads(metadata[ENTRY])
    except (ValueError, RecursionError):
        raise no_record from None
    if not isinstance(stored, dict) or not isinstance(stored.get("format"), int):
        raise no_record
    if stored["format"] > FORMAT:
        raise _Unreadable(f"was written by a newer autoresearch: it has format {stored['format']}, this one reads "
                          f"up to {FORMAT}", "Update this clone: git pull")
    kinds = typing.get_type_hints(Record)
    wrong = [name for name, kind in kinds.items() if name not in stored or not _is(kind, stored[name])]
    if wrong or set(stored) != set(kinds):
        parts = ", ".join(wrong or map(ascii, sorted(set(stored) - set(kinds))))[:200]
        raise _Unreadable(f"has a record that can't be read: {parts}")
    if not _can_be_written(metadata, stored):
        raise _Unreadable("has a record that can't be read: it holds halves of characters")
    if assemble.outside(stored["code"]):
        raise _Unreadable("has a record that can't be read: code outside the candidate's folder")
    names = [name for name, kind in kinds.items() if kind is str]
    return Record(**stored | {name: line(stored[name]) for name in names})  # they are shown, and may be a stranger's


def _can_be_written(metadata: dict[str, str], stored: dict[str, Any]) -> bool:
    """A surrogate stands alone nowhere but for a byte of code: no digest, file or terminal could take it."""
    try:
        texts = [metadata[ENTRY], metadata[SIGNATURE], stored | {"code": list(stored["code"])}]
        json.dumps(texts, ensure_ascii=False).encode()
        "".join(stored["code"].values()).encode("utf-8", "surrogateescape")
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _is(kind: Any, value: Any) -> bool:
    if kind == dict[str, str]:
        return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    if kind == dict[str, Any]:
        return isinstance(value, dict)
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, kind)  # a union too


def _sha256(file: IO[bytes]) -> str:
    total = hashlib.sha256()
    while block := file.read(BLOCK_BYTES):
        total.update(block)
    return total.hexdigest()


def _sign(text: str) -> str:
    return hmac.new(_key(), text.encode(), hashlib.sha256).hexdigest()


def _key() -> bytes:
    """Random bytes of this cache, made when first needed."""
    path = paths.cache() / "checkpoint.key"
    with contextlib.suppress(FileNotFoundError):
        if len(key := path.read_bytes()) == KEY_BYTES:
            return key
    return _make_key(path)


def _make_key(path: Path) -> bytes:
    """Whoever comes first makes it, the others use that one. Without links: not every file system has them."""
    import fcntl  # not on native Windows

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        with contextlib.suppress(OSError):  # nor locks: two that come at one moment may then disagree
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        key = file.read()
        if len(key) != KEY_BYTES:  # nobody came before, or was killed at it
            key = secrets.token_bytes(KEY_BYTES)
            file.truncate(0)
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        return key
