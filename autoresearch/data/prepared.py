"""Reading a prepared set: text, documents, yardstick rows, tokenizers and token streams, all by memory map or once.

Sets are folders in the cache. They are complete when they appear and their files never change; tokenizers can be
added. The small file `current` names the one that training uses.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from autoresearch import paths
from autoresearch.data import manifest, yardstick
from autoresearch.data.manifest import Manifest
from autoresearch.data.splits import SPLITS
from autoresearch.data.tokenizer import Tokenizer
from autoresearch.errors import UserError

MANIFEST = "manifest.json"
CURRENT = "current"


def text_file(split: str) -> str:
    return f"{split}.txt"


def ends_file(split: str) -> str:
    return f"{split}.ends"  # uint64, little-endian: where each document ends in the text


def tokens_file(split: str, tokenizer: str) -> str:
    return f"{split}.{tokenizer}.tokens"  # uint16 or uint32, little-endian


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

    def tokens(self, split: str, tokenizer: str) -> np.ndarray:
        """Read-only memory map: BOS and tokens of each document of the split, one after another."""
        self._known(tokenizer)
        facts = self.manifest.tokenizers[tokenizer]
        path = self._path(tokens_file(split, tokenizer))
        tokens = np.memmap(path, dtype="<u2" if facts.vocab <= 65_536 else "<u4", mode="r")
        if len(tokens) != facts.tokens[split]:
            raise self._damaged(f"{path.name} holds {len(tokens):,} tokens, not {facts.tokens[split]:,}")
        return tokens

    def text(self, split: str) -> bytes:
        return self._read(text_file(split))

    def documents(self, split: str) -> list[bytes]:
        text = self.text(split)
        ends = [0, *map(int, np.frombuffer(self._read(ends_file(split)), dtype="<u8"))]
        return [text[start:end] for start, end in itertools.pairwise(ends)]

    def rows(self, split: str) -> list[bytes]:
        """The yardstick: every byte of the split once, in the fixed order that is scored."""
        rows = yardstick.rows(self.documents(split), self.manifest.row_bytes)
        if yardstick.digest(rows) != self.manifest.splits[split].rows_sha256:
            raise self._damaged(f"the rows of {split} are not those that were prepared")
        return rows

    def verify(self) -> None:
        """Every file against its sha256. Raises UserError naming the one that differs."""
        for name, facts in self.manifest.files.items():
            with open(self._path(name), "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != facts.sha256:
                    raise self._damaged(f"{name} has changed since it was prepared")

    def _known(self, tokenizer: str) -> None:
        if tokenizer not in self.manifest.tokenizers:
            has = ", ".join(self.tokenizers())
            raise UserError(f"tokenizer {tokenizer!r} is not prepared for {self.name}: it has {has}",
                            f"Use one of these, or add it with the same text: ar prepare ... --tokenizer {tokenizer}")

    def _path(self, name: str) -> Path:
        """A file of the set, its size checked."""
        path = self.root / name
        try:
            size = path.stat().st_size
        except OSError:
            raise self._damaged(f"{name} is missing") from None
        if name not in self.manifest.files or size != self.manifest.files[name].bytes:
            raise self._damaged(f"{name} has {size:,} bytes, not those that were prepared")
        return path

    def _read(self, name: str) -> bytes:
        return self._path(name).read_bytes()

    def _damaged(self, why: str) -> UserError:
        return damaged(self.root, why)


def damaged(root: Path, why: str) -> UserError:
    return UserError(f"the prepared text in {root} is damaged: {why}", f"Remove it and prepare again: rm -r '{root}'")


def folder() -> Path:
    return paths.cache() / "data"


def load(path: Path | str) -> Prepared:
    """The set in a folder, its manifest and the sizes of its files checked. Raises UserError."""
    root = Path(path)
    try:
        facts = manifest.parse((root / MANIFEST).read_text(encoding="utf-8"))
    except OSError as e:
        raise damaged(root, f"{MANIFEST}: {e.strerror}") from None
    except ValueError as e:  # UnicodeDecodeError included
        raise damaged(root, f"{MANIFEST}: {e}") from None
    prepared = Prepared(root, root.name, facts)
    needed = [tokenizer_file(name) for name in facts.tokenizers]
    for split in SPLITS:
        needed += [text_file(split), ends_file(split), *(tokens_file(split, name) for name in facts.tokenizers)]
    for name in needed:
        prepared._path(name)
    return prepared


def names() -> list[str]:
    """Prepared sets in the cache, sorted."""
    root = folder()
    return sorted(path.parent.name for path in root.glob(f"*/{MANIFEST}") if not path.parent.name.startswith("."))


def find(name: str) -> Prepared:
    """A set by its name. Raises UserError naming those there are."""
    if name not in names():
        has = f"there are {', '.join(names())}" if names() else "nothing has been prepared yet"
        raise UserError(f"no prepared text is called {name!r}: {has}", "Prepare it: ar prepare --text PATH --name NAME")
    return load(folder() / name)


def current() -> Prepared:
    """The set prepared or selected last. Raises UserError when there is none."""
    try:
        name = (folder() / CURRENT).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        name = ""
    if name not in names():
        raise UserError("no text has been prepared",
                        "Prepare some: ar prepare (Python's own source), or ar prepare --text PATH")
    return load(folder() / name)


def select(name: str) -> None:
    """Make a set the current one."""
    root = folder()
    new = root / f".{CURRENT}.new"
    new.write_text(find(name).name + "\n", encoding="utf-8")
    new.replace(root / CURRENT)
