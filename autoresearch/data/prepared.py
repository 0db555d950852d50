"""Reading a prepared set: text, documents, yardstick rows, tokenizers and token streams, all by memory map or once.

Sets are folders in the cache. They are complete when they appear and their files never change; tokenizers and shards
of train can be added. The small file `current` names the one that training uses.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from autoresearch import paths
from autoresearch.data import disk, manifest, yardstick
from autoresearch.data.manifest import SPLITS, Manifest
from autoresearch.data.spool import between
from autoresearch.data.tokenizer import Tokenizer
from autoresearch.errors import UserError

MANIFEST = "manifest.json"
CURRENT = "current"


def text_file(split: str) -> str:
    return f"{split}.txt"


def ends_file(split: str) -> str:
    return f"{split}.ends"  # uint64, little-endian: where each document ends in the text


def tokens_file(split: str, tokenizer: str, shard: int = 0) -> str:
    """uint16 or uint32, little-endian. Only train has more than one shard."""
    return f"train-{shard:04}.{tokenizer}.tokens" if split == "train" else f"{split}.{tokenizer}.tokens"


def tokenizer_file(tokenizer: str) -> str:
    return f"tokenizer.{tokenizer}.json"


@dataclass(frozen=True)
class Prepared:
    root: Path
    name: str
    manifest: Manifest

    @cached_property
    def digest(self) -> str:
        return self.manifest.digest()

    def tokenizers(self) -> list[str]:
        return list(self.manifest.tokenizers)

    def tokenizer(self, name: str) -> Tokenizer:
        self._known(name)
        try:
            tokenizer = Tokenizer.from_json(self._read(tokenizer_file(name)).decode("utf-8"))
        except ValueError as e:
            raise self._damaged(f"{tokenizer_file(name)}: {e}") from None
        if tokenizer.name != name or tokenizer.digest != self.manifest.tokenizers[name].digest:
            raise self._damaged(f"{tokenizer_file(name)} is not the tokenizer that the manifest describes")
        return tokenizer

    def tokens(self, split: str, tokenizer: str, shards: int | None = None) -> tuple[np.memmap, ...]:
        """Read-only memory maps: BOS and tokens of each document of the split, one after another. Train has one map
        for each of its first `shards` shards; None: for each that is encoded."""
        self._known(tokenizer)
        facts = self.manifest.tokenizers[tokenizer]
        if split != "train":
            return (self._stream(tokens_file(split, tokenizer), facts.vocab, facts.tokens[split]),)
        count = len(facts.shards) if shards is None else shards
        if not 1 <= count <= len(facts.shards):
            raise UserError(f"{count} shards of train asked for: {self.name} has {len(facts.shards)} of "
                            f"{len(self.manifest.shards)} encoded with {tokenizer}",
                            "Encode more with the same text: ar prepare ... --encode-shards N")
        return tuple(self._stream(tokens_file(split, tokenizer, shard), facts.vocab, facts.shards[shard])
                     for shard in range(count))

    def _stream(self, name: str, vocab: int, count: int) -> np.memmap:
        tokens = np.memmap(self._path(name), dtype="<u2" if vocab <= 65_536 else "<u4", mode="r")
        if len(tokens) != count:
            raise self._damaged(f"{name} holds {len(tokens):,} tokens, not {count:,}")
        return tokens

    def text(self, split: str) -> bytes:
        """All of it: for the splits that are scored, which are small."""
        return self._read(text_file(split))

    def ends(self, split: str) -> np.ndarray:
        """int64 (documents,): where each document ends in the text of the split."""
        ends = np.frombuffer(self._read(ends_file(split)), dtype="<u8").astype(np.int64)
        facts = self.manifest.splits[split]
        if len(ends) != facts.documents or ends[-1:] != facts.bytes or (np.diff(ends, prepend=0) < 1).any():
            raise self._damaged(f"{ends_file(split)} does not fit the text")
        return ends

    def documents(self, split: str, which: slice = slice(None)) -> Iterator[bytes]:
        """Documents of a split in their order, read as they are asked for."""
        return disk.ranges(self._path(text_file(split)), between(self.ends(split))[which])

    def shard(self, index: int) -> slice:
        """The documents of train in one of its shards."""
        ends = self.ends("train")
        edges = [0, *(int(np.searchsorted(ends, end)) + 1 for end in self.manifest.shards)]
        return slice(edges[index], edges[index + 1])

    def rows(self, split: str) -> list[bytes]:
        """The yardstick: every byte of the split once, in the fixed order that is scored. Of train, which nothing is
        judged by and which may be too large to hold, no digest is kept."""
        rows = yardstick.rows(self.documents(split), self.manifest.row_bytes)
        if split != "train" and yardstick.digest(rows) != self.manifest.splits[split].rows_sha256:
            raise self._damaged(f"the rows of {split} are not those that were prepared")
        return rows

    def verify(self) -> None:
        """Every file against its sha256. Raises UserError naming the first that differs."""
        for fault in self.faults():
            raise self._damaged(fault)

    def faults(self) -> Iterator[str]:
        """What is wrong with each file that is not as it was prepared, found by reading all of them."""
        for name in dict.fromkeys([*_needed(self.manifest), *self.manifest.files]):
            if fault := self._size_fault(name) or self._content_fault(name):
                yield fault

    def _known(self, tokenizer: str) -> None:
        if tokenizer not in self.manifest.tokenizers:
            has = ", ".join(self.tokenizers())
            raise UserError(f"tokenizer {tokenizer!r} is not prepared for {self.name}: it has {has}",
                            f"Use one of these, or add it with the same text: ar prepare ... --tokenizer {tokenizer}")

    def _path(self, name: str) -> Path:
        """A file of the set, its size checked."""
        if fault := self._size_fault(name):
            raise self._damaged(fault)
        return self.root / name

    def _size_fault(self, name: str) -> str:
        try:
            size = (self.root / name).stat().st_size
        except OSError:
            return f"{name} is missing"
        is_right = name in self.manifest.files and size == self.manifest.files[name].bytes
        return "" if is_right else f"{name} has {size:,} bytes, not those that were prepared"

    def _content_fault(self, name: str) -> str:
        try:
            with open(self.root / name, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as e:
            return f"{name} can't be read: {(e.strerror or str(e)).lower()}"
        return "" if digest == self.manifest.files[name].sha256 else f"{name} has changed since it was prepared"

    def _read(self, name: str) -> bytes:
        path = self._path(name)
        with disk.reading(path):
            return path.read_bytes()

    def _damaged(self, why: str) -> UserError:
        return damaged(self.root, why)


def damaged(root: Path, why: str) -> UserError:
    return UserError(f"the prepared text in {root} is damaged: {why}", again(root))


def again(root: Path) -> str:
    return f"Delete it and prepare the same text again: ar data delete {root.name}"


def folder() -> Path:
    return paths.cache() / "data"


def load(path: Path | str) -> Prepared:
    """The set in a folder, its manifest and the sizes of its files checked. Raises UserError."""
    prepared = described(Path(path))
    for name in _needed(prepared.manifest):
        prepared._path(name)
    return prepared


def described(root: Path) -> Prepared:
    """The set that the manifest in a folder describes, whatever has become of its other files. Raises UserError."""
    try:
        facts = manifest.parse((root / MANIFEST).read_text(encoding="utf-8"))
    except OSError as e:
        raise damaged(root, f"{MANIFEST}: {e.strerror}") from None
    except manifest.OtherFormat as e:
        raise _foreign(root, e.found) from None
    except ValueError as e:  # UnicodeDecodeError included
        raise damaged(root, f"{MANIFEST}: {e}") from None
    return Prepared(root, root.name, facts)


def _needed(facts: Manifest) -> Iterator[str]:
    """The files of a set with this manifest."""
    for split in SPLITS:
        yield from (text_file(split), ends_file(split))
    for name, tokenizer in facts.tokenizers.items():
        yield tokenizer_file(name)
        yield from (tokens_file(split, name) for split in SPLITS if split != "train")
        yield from (tokens_file("train", name, shard) for shard in range(len(tokenizer.shards)))


def _foreign(root: Path, found: int) -> UserError:
    if found > manifest.FORMAT:
        return UserError(f"the prepared text in {root} was written by a newer version of autoresearch (format {found}; "
                         f"this one reads {manifest.FORMAT})",
                         "Update autoresearch, or prepare the same text under another name: ar prepare ... --name NAME")
    return UserError(f"the prepared text in {root} was written by an earlier version of autoresearch (format {found}; "
                     f"this one reads {manifest.FORMAT})", again(root))


def names() -> list[str]:
    """Prepared sets in the cache, sorted."""
    root = folder()
    return sorted(path.parent.name for path in root.glob(f"*/{MANIFEST}") if not path.parent.name.startswith("."))


def sources() -> list[Path]:
    """Files and folders that the texts of all sets were read from."""
    found: list[str] = []
    for name in names():
        with contextlib.suppress(UserError):  # a damaged set says so when it is used
            found += described(folder() / name).manifest.corpus.paths
    return [Path(path) for path in dict.fromkeys(found)]


def find(name: str) -> Prepared:
    """A set by its name. Raises UserError naming those there are."""
    if name not in names():
        has = f"there are {', '.join(names())}" if names() else "nothing has been prepared yet"
        raise UserError(f"no prepared text is called {name!r}: {has}", "Prepare it: ar prepare --text PATH --name NAME")
    return load(folder() / name)


def same(name: str, digest: str, whose: str) -> Prepared:
    """The set with this content, whatever it is called by now. UserError, saying whose text is gone, where none has."""
    for each in sorted(names(), key=lambda n: n != name):
        try:
            found = find(each)
        except UserError:  # damaged, or of another version, which says nothing about the text looked for
            continue
        if found.digest == digest:
            return found
    raise UserError(f"the text of {whose}, {name} (digest {digest}), is not in the cache any more",
                    f"Prepare the same files again: ar prepare --text PATH --name {name}")


def current() -> Prepared:
    """The set prepared or selected last. Raises UserError when there is none."""
    if name := current_name():
        return load(folder() / name)
    if names():
        raise UserError(f"no prepared text is the current one; there are {', '.join(names())}",
                        "Choose one: ar data use NAME")
    raise UserError("no text has been prepared",
                    "Prepare some: ar prepare, ar prepare stdlib, or ar prepare --text PATH")


def current_name() -> str | None:
    """Of the current set, be it whole or not; None where none is."""
    try:
        name = (folder() / CURRENT).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return name if name in names() else None


def select(name: str) -> None:
    """Make a set the current one."""
    root = folder()
    new = root / f".{CURRENT}.new"
    new.write_text(find(name).name + "\n", encoding="utf-8")
    new.replace(root / CURRENT)
