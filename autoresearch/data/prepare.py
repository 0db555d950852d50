"""`prepare`: a corpus into the cache, split, tokenized, with its manifest.

Built in a hidden folder beside its place, synced, and renamed: killed at any moment it leaves nothing or a whole set.
A set is never overwritten. The same corpus again adds what is missing, usually nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import autoresearch
from autoresearch.data import manifest, prepared, splits, yardstick
from autoresearch.data.corpus import Corpus
from autoresearch.data.manifest import File, Manifest, TokenizerFacts
from autoresearch.data.prepared import Prepared
from autoresearch.data.splits import SPLITS
from autoresearch.data.text import chars
from autoresearch.data.tokenizer import BYTE, Tokenizer, bpe_vocab, byte_tokenizer, train_bpe
from autoresearch.errors import UserError

DEFAULT_TOKENIZERS = (BYTE, "bpe-1024", "bpe-2048", "bpe-4096")
BYTES_PER_ENTRY = 64  # of training text, below which a default vocabulary is too large to learn from it
SPACE_FACTOR, SPACE_BYTES = 8, 32_000_000  # a set with the default tokenizers takes about 6 bytes a byte of text

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    prepared: Prepared
    is_new: bool
    notes: tuple[str, ...]  # what a person should know


def prepare(corpus: Corpus, name: str | None = None, tokenizers: tuple[str, ...] = (),
            progress: Progress = lambda line: None) -> Result:
    """The corpus as a prepared set, made the current one. `tokenizers` () means the default ones that suit
    its size. Raises UserError for anything that can't be done."""
    for tokenizer in tokenizers:
        bpe_vocab(tokenizer)
    name = checked_name(name) if name is not None else _as_name(corpus.name)
    division = splits.divide(corpus.documents)
    facts = _facts(corpus, division)
    root = prepared.folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root, progress):
            _clean(root)
            result = _prepare(root, name, division, facts, tokenizers, progress)
            prepared.select(result.prepared.name)
            return replace(result, notes=(*corpus.notes, *result.notes))
    except OSError as e:
        raise UserError(f"can't write to {root}: {e.strerror or e}",
                        "Free some space, or name another folder: AUTORESEARCH_CACHE=/path ar prepare") from e


def _prepare(root: Path, name: str, division: splits.Division, facts: Manifest, tokenizers: tuple[str, ...],
             progress: Progress) -> Result:
    digest = facts.digest()
    # A set of that name with other content stays; this one is called after its content as well.
    for target in (root / name, root / f"{name}-{digest[:8]}"):
        if not os.path.lexists(target):
            _check_space(root, facts.corpus.bytes)
            return _build(target, division, facts, tokenizers, progress)
        if (target / prepared.MANIFEST).is_file() and (found := prepared.load(target)).digest == digest:
            return _add(found, tokenizers, progress)
    raise prepared.damaged(target, "its content is not that of its name")


def _facts(corpus: Corpus, division: splits.Division) -> Manifest:
    """The manifest, as yet without tokenizers and files."""
    source = manifest.Source(corpus.kind, corpus.source, corpus.bytes, corpus.sha256(), tuple(corpus.notes))
    parts = {}
    for split in SPLITS:
        documents = division.documents[split]
        rows = yardstick.rows(documents)
        parts[split] = manifest.Split(
            documents=len(documents), bytes=sum(map(len, documents)), chars=sum(map(chars, documents)),
            sha256=_sha256(b"".join(documents)), ends_sha256=_sha256(_ends(documents)),
            rows=len(rows), rows_sha256=yardstick.digest(rows))
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Manifest(manifest.FORMAT, f"autoresearch {autoresearch.__version__}", created, source, division.policy,
                    yardstick.ROW_BYTES, parts, {}, {})


def _build(target: Path, division: splits.Division, facts: Manifest, names: tuple[str, ...],
           progress: Progress) -> Result:
    folder = target.parent / f".tmp-{os.getpid()}-{target.name}"
    try:
        folder.mkdir()
        files: dict[str, File] = {}
        for split in SPLITS:
            documents = division.documents[split]
            files |= _write(folder, prepared.text_file(split), b"".join(documents))
            files |= _write(folder, prepared.ends_file(split), _ends(documents))
        facts = replace(facts, files=files)
        facts, notes = _tokenize(folder, facts, division.documents, names, progress)
        _write(folder, prepared.MANIFEST, facts.to_json().encode())
        _sync_folder(folder)
        folder.rename(target)
        _sync_folder(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Result(prepared.load(target), True, notes)


def _add(found: Prepared, names: tuple[str, ...], progress: Progress) -> Result:
    """A set that is there already, with any tokenizer it lacks. The new manifest replaces the old one last."""
    documents = {split: found.documents(split) for split in SPLITS}
    facts, notes = _tokenize(found.root, found.manifest, documents, names, progress)
    if facts == found.manifest:
        return Result(found, False, (f"{found.name} is prepared already, from the same text: nothing to do", *notes))
    new = f".{prepared.MANIFEST}.new"
    _write(found.root, new, facts.to_json().encode())
    (found.root / new).replace(found.root / prepared.MANIFEST)
    _sync_folder(found.root)
    return Result(prepared.load(found.root), True, notes)


def _tokenize(folder: Path, facts: Manifest, documents: dict[str, list[bytes]], names: tuple[str, ...],
              progress: Progress) -> tuple[Manifest, tuple[str, ...]]:
    """Train the tokenizers that are missing and encode every split with them; the manifest with their entries."""
    files, entries, notes = dict(facts.files), dict(facts.tokenizers), []
    for name in dict.fromkeys(names) or DEFAULT_TOKENIZERS:
        if name in entries:
            continue
        if not names and (bpe_vocab(name) or 0) * BYTES_PER_ENTRY > facts.splits["train"].bytes:
            notes.append(f"{name} is left out: the text is small for a vocabulary of that size")
            continue
        progress(f"tokenizer {name}")
        tokenizer = _tokenizer(name, documents["train"])
        if tokenizer is None:
            fault = f"{name} can't be trained: the text does not hold that many repeated pieces"
            if names:
                raise UserError(fault, "Ask for a smaller vocabulary, or add more text.")
            notes.append(fault)
            continue
        files |= _write(folder, prepared.tokenizer_file(name), tokenizer.to_json().encode())
        counts = {}
        for split in SPLITS:
            stream = _stream(tokenizer, documents[split])
            files |= _write(folder, prepared.tokens_file(split, name), stream)
            counts[split] = len(stream) // tokenizer.dtype.itemsize
        entries[name] = TokenizerFacts(tokenizer.vocab, tokenizer.digest, counts)
    return replace(facts, files=files, tokenizers=entries), tuple(notes)


def _tokenizer(name: str, documents: list[bytes]) -> Tokenizer | None:
    vocab = bpe_vocab(name)
    return byte_tokenizer() if vocab is None else train_bpe(documents, vocab)


def _stream(tokenizer: Tokenizer, documents: list[bytes]) -> bytes:
    bos = np.array([tokenizer.bos], dtype=tokenizer.dtype).tobytes()
    return b"".join(bos + tokenizer.encode(document).astype(tokenizer.dtype).tobytes() for document in documents)


def _ends(documents: list[bytes]) -> bytes:
    return np.cumsum([len(document) for document in documents], dtype=np.uint64).astype("<u8").tobytes()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(folder: Path, name: str, data: bytes) -> dict[str, File]:
    with open(folder / name, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {name: File(len(data), _sha256(data))}


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checked_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or name == prepared.CURRENT:
        raise UserError(f"name {name!r}: must be at most 64 letters, digits, dots, dashes and underscores, and not "
                        f"{prepared.CURRENT!r}", "For example: --name shakespeare")
    return name


def _as_name(words: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", words)[:48].strip("-._")
    return "text" if name in ("", prepared.CURRENT) else name


def _check_space(root: Path, text_bytes: int) -> None:
    free, needed = shutil.disk_usage(root).free, SPACE_FACTOR * text_bytes + SPACE_BYTES
    if free < needed:
        raise UserError(f"{root} has {free / 1e6:,.0f} MB free; preparing this text needs {needed / 1e6:,.0f} MB",
                        "Free some space, limit the text with --max-bytes, or set AUTORESEARCH_CACHE to another disk.")


@contextlib.contextmanager
def _lock(root: Path, progress: Progress) -> Iterator[None]:
    """One `prepare` at a time in a cache. The system drops the lock of a process that dies."""
    import fcntl  # not on native Windows

    with open(root / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another ar prepare is running in this cache; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _clean(root: Path) -> None:
    """Remove what killed runs left. Called with the lock held."""
    for folder in root.glob(".tmp-*"):
        pid = folder.name.split("-")[1]
        if not pid.isdigit() or int(pid) == os.getpid() or not _is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
