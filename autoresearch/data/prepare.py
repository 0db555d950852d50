"""`prepare`: a corpus into the cache, split, tokenized, with its manifest. `extend`: more shards of its train text.

The corpus is read once into a file, the spool, then divided into split files in a hidden folder, which gets its name
when its tokenizers are there: killed at any moment it leaves nothing or a whole set. From its splits on a hidden folder
is a set too, each step adding files and then replacing the manifest, so the next run of the same text goes on where one
was killed. A set is never overwritten; the same corpus again adds the tokenizers and shards it lacks.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import autoresearch
from autoresearch.data import disk, manifest, overlap, prepared, spool, yardstick
from autoresearch.data.corpus import Corpus
from autoresearch.data.manifest import SPLITS, File, Manifest, TokenizerFacts
from autoresearch.data.prepared import Prepared
from autoresearch.data.splits import SCORED, Division, divide
from autoresearch.data.spool import Spool
from autoresearch.data.text import chars
from autoresearch.data.tokenizer import (
    BYTE,
    CHAR,
    GPT2,
    Tokenizer,
    bpe_vocab,
    byte_tokenizer,
    char_tokenizer,
    gpt2_tokenizer,
    train_bpe,
)
from autoresearch.errors import UserError

# Each with the bytes of train below which its vocabulary is too large to learn from them. The last is upstream's.
DEFAULT_TOKENIZERS = {BYTE: 0, "bpe-1024": 65_536, "bpe-2048": 131_072, "bpe-4096": 262_144, "bpe-8192": 100_000_000}
LEARNED_BYTES = 128_000_000  # of the train text, evenly spread, that a tokenizer is trained on at most
SHARD_BYTES = 128_000_000  # of the train text, or a little more: shards end where documents do
FIRST_SHARDS = 2  # what a night can consume first; `extend` encodes more
SPOOL, UNFINISHED = ".tmp-spool", ".tmp-"
SPARE_BYTES = 32_000_000

Progress = Callable[[str], None]


@dataclass
class Located(Corpus):
    """A corpus and where it lies, which candidates must not read."""

    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    prepared: Prepared
    is_new: bool
    notes: tuple[str, ...]  # what a person should know, the most important first
    skipped: dict[str, str] = field(default_factory=dict)  # files of a folder, and why they hold no text


def prepare(corpus: Corpus, name: str | None = None, tokenizers: tuple[str, ...] = (),
            progress: Progress = lambda line: None, holdout_chars: int = 0, shards: int = FIRST_SHARDS) -> Result:
    """The corpus as a prepared set, made the current one. `tokenizers` () means the default ones that suit its size;
    `holdout_chars`: so many characters of its tail are the holdout; `shards`: how many of train to encode. Raises
    UserError for anything that can't be done."""
    for tokenizer in tokenizers:
        bpe_vocab(tokenizer)
    name = checked_name(name) if name is not None else _as_name(corpus.name)
    root = prepared.folder()
    with disk.writing(root):
        root.mkdir(parents=True, exist_ok=True)
    if known(corpus, name, holdout_chars) is None:
        if GPT2 in tokenizers and not any(GPT2 in old.tokenizers() for old in _candidates(root, name)):
            gpt2_tokenizer()  # that it can't be fetched is said before the text is read
        _check_room(root, corpus, tokenizers, shards)
        spool.fetch(corpus)  # a download of hours, in which others may need the lock
    with disk.writing(root), disk.lock(root, progress):
        (root / SPOOL).unlink(missing_ok=True)
        found, is_new = known(corpus, name, holdout_chars), False
        if found is None:
            _check_room(root, corpus, tokenizers, shards)  # whoever had the lock may have used it up
            found, is_new = _divided(root, name, corpus, holdout_chars, tokenizers, shards, progress)
        found = _located(found, corpus)
        result = _finished(found, name if is_new else "", tokenizers, shards, progress)
        prepared.select(result.prepared.name)
        notes = (*_warnings(result.prepared.manifest), *corpus.remarks(), *result.notes)
        return replace(result, notes=notes, skipped=dict(corpus.skipped))


def known(corpus: Corpus, name: str | None = None, holdout_chars: int = 0) -> Prepared | None:
    """The set made from this corpus before, told by its revision: what a commit holds does not change, so it need not
    be read again."""
    for found in _candidates(prepared.folder(), name or _as_name(corpus.name)) if corpus.revision else ():
        facts = found.manifest
        if ((facts.corpus.kind, facts.corpus.source, facts.corpus.revision, facts.holdout_chars)
                == (corpus.kind, corpus.source, corpus.revision, holdout_chars)):
            return found
    return None


def extend(found: Prepared, tokenizer: str, shards: int, progress: Progress = lambda line: None) -> Prepared:
    """The set with the first `shards` shards of train encoded, or all where there are fewer. What is loaded already
    stays as it is. Where none is lacking no lock is taken: another process may have it for an hour."""
    found.tokenizer(tokenizer)
    root, now = found.root.parent, prepared.load(found.root)
    if not _lacking(now, tokenizer, shards):
        return now
    with disk.writing(root), disk.lock(root, progress):
        now = prepared.load(found.root)
        disk.check_space(root, _lacking(now, tokenizer, shards) * 2 * SHARD_BYTES)
        return _encode_shards(now, tokenizer, shards, progress)


def _lacking(found: Prepared, tokenizer: str, shards: int) -> int:
    """How many of the first `shards` shards of train are not encoded."""
    return max(0, min(shards, len(found.manifest.shards)) - len(found.manifest.tokenizers[tokenizer].shards))


def _divided(root: Path, name: str, corpus: Corpus, holdout_chars: int, tokenizers: tuple[str, ...], shards: int,
             progress: Progress) -> tuple[Prepared, bool]:
    """The set of this corpus: that which is there, or an unfinished one with its splits at least; and which."""
    try:
        text = spool.fill(root / SPOOL, corpus, progress)
        origin = manifest.origin(text.sha256, text.ends_sha256, text.pinned, holdout_chars)
        _clean(root, keep=UNFINISHED + origin)
        if (found := _existing(root, name, origin)) is not None:
            return found, False
        folder = root / f"{UNFINISHED}{origin}"
        if (found := _resumed(folder)) is not None:
            progress("going on where an earlier ar prepare of this text was stopped")
            return found, True
        disk.check_space(root, _needed_bytes(text.total_bytes, tokenizers, shards) - text.total_bytes)  # the spool's
        with _removed_on_error(folder):
            folder.mkdir()
            return _write_splits(folder, text, divide(text, holdout_chars), corpus, holdout_chars, progress), True
    finally:
        (root / SPOOL).unlink(missing_ok=True)


def _existing(root: Path, name: str, origin: str) -> Prepared | None:
    """The set of that name, or of that name and a digest, made from the same text. Raises UserError where damaged."""
    for found in _candidates(root, name):
        if found.manifest.origin() == origin:
            return found
    return None


def _candidates(root: Path, name: str) -> Iterator[Prepared]:
    """Sets of that name, or of that name and a digest. Raises UserError where one is damaged."""
    for folder in (root / name, *sorted(root.glob(f"{name}-" + "[0-9a-f]" * 8))):
        if (folder / prepared.MANIFEST).is_file():
            yield prepared.load(folder)


def _resumed(folder: Path) -> Prepared | None:
    """What a killed run had finished, if every byte of it is still there."""
    try:
        found = prepared.load(folder)
        found.verify()
        return found
    except UserError:
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _tidy(found: Prepared) -> None:
    """Remove the half-written files of a killed run. Called with the lock held, so nobody is writing them."""
    for pattern in ("*.tokens", "tokenizer.*.json", ".*.new"):
        for path in found.root.glob(pattern):
            if path.name not in found.manifest.files:
                path.unlink()


def _check_room(root: Path, corpus: Corpus, tokenizers: tuple[str, ...], shards: int) -> None:
    if corpus.expected_bytes:
        needed = _needed_bytes(corpus.expected_bytes, tokenizers, shards)
        disk.check_space(root, needed - _left_behind_bytes(root))


def _left_behind_bytes(root: Path) -> int:
    """What killed runs take on the disk: it will be used or removed."""
    total = 0
    for path in (root / SPOOL, *root.glob(f"{UNFINISHED}*/*")):
        with contextlib.suppress(FileNotFoundError):  # one that has the lock may be at it
            total += path.stat().st_size
    return total


def _clean(root: Path, keep: str) -> None:
    """Remove what killed runs of other texts left. Called with the lock held, so none is in use."""
    for folder in root.glob(f"{UNFINISHED}*"):
        if folder.is_dir() and folder.name != keep:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _removed_on_error(folder: Path) -> Iterator[None]:
    """A kill or Ctrl-C leaves what is finished for the next run; an error leaves nothing."""
    try:
        yield
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write_splits(folder: Path, text: Spool, division: Division, corpus: Corpus, holdout_chars: int,
                  progress: Progress) -> Prepared:
    """The first step: a set without tokenizers."""
    if division.left_out_bytes:
        corpus.note(f"{division.left_out_bytes:,} bytes of the pinned documents are left out: more would be scored by "
                    "nobody")
    files: dict[str, File] = {}
    parts, rows = {}, {}
    for split in SPLITS:
        ranges = division.ranges[split]
        sizes, characters = ranges[:, 1] - ranges[:, 0], _Characters()
        files |= disk.write(folder, prepared.text_file(split), characters.counted(text.pieces(ranges)))
        files |= disk.write(folder, prepared.ends_file(split), [np.cumsum(sizes).astype("<u8").tobytes()])
        rows[split] = yardstick.rows(text.pieces(ranges)) if split in SCORED else []
        parts[split] = manifest.Split(
            documents=len(ranges), bytes=int(sizes.sum()), chars=characters.total,
            sha256=files[prepared.text_file(split)].sha256, ends_sha256=files[prepared.ends_file(split)].sha256,
            rows=len(rows[split]), rows_sha256=yardstick.digest(rows[split]) if rows[split] else "")
    progress("looking for what is scored in train")
    source = manifest.Source(corpus.kind, corpus.source, corpus.revision, corpus.licence, len(text.ends_D), text.pinned,
                             text.total_bytes, text.sha256, text.ends_sha256, tuple(corpus.remarks()))
    shards = _shards(division.ranges["train"])
    found = overlap.measure({split: rows[split] for split in SCORED}, folder / prepared.text_file("train"))
    facts = Manifest(manifest.FORMAT, f"autoresearch {autoresearch.__version__}",
                     datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), source, division.policy, holdout_chars,
                     yardstick.ROW_BYTES, parts, shards, found, {}, files)
    return _saved(folder, facts)


@dataclass
class _Characters:
    total: int = 0

    def counted(self, documents: Iterable[bytes]) -> Iterator[bytes]:
        for document in documents:
            self.total += chars(document)
            yield document


def _shards(ranges_D2: np.ndarray) -> tuple[int, ...]:
    """Where the shards of train end, in bytes of its text: nearly equal ones of about SHARD_BYTES."""
    ends = np.cumsum(ranges_D2[:, 1] - ranges_D2[:, 0])
    count = max(1, round(int(ends[-1]) / SHARD_BYTES))
    places = np.searchsorted(ends, [int(ends[-1]) * (i + 1) // count for i in range(count)])
    return tuple(dict.fromkeys(ends[places].tolist()))


def _located(found: Prepared, corpus: Corpus) -> Prepared:
    """With where its text was read from this time too."""
    known = found.manifest.corpus
    paths = dict.fromkeys((*known.paths, *(corpus.paths if isinstance(corpus, Located) else ())))
    if len(paths) == len(known.paths):
        return found
    return _saved(found.root, replace(found.manifest, corpus=replace(known, paths=tuple(paths))))


def _saved(folder: Path, facts: Manifest) -> Prepared:
    """The set with a new manifest: only now do its new files belong to it."""
    disk.replace(folder, prepared.MANIFEST, facts.to_json())
    return prepared.load(folder)


def _finished(found: Prepared, name: str, tokenizers: tuple[str, ...], shards: int, progress: Progress) -> Result:
    """The set with the tokenizers and shards asked for; `name`: of one that is new, and gets its place now."""
    _tidy(found)
    if not name:
        more, notes = _tokenize(found, tokenizers, shards, progress)
        if is_same := more.manifest == found.manifest:
            notes = (f"{found.name} is prepared already, from the same text: nothing to do", *notes)
        return Result(more, not is_same, notes)
    with _removed_on_error(found.root):
        found, notes = _tokenize(found, tokenizers, shards, progress)
        root = found.root.parent
        # A set of that name with other content stays; this one is called after its content as well.
        target = root / name
        if os.path.lexists(target):
            target = root / f"{name}-{found.digest[:8]}"
            notes = (f"{name} is another text, which stays; this one is called {target.name}", *notes)
        if os.path.lexists(target):
            raise prepared.damaged(target, "its content is not that of its name")
        found.root.rename(target)
        disk.sync(root)
    done = prepared.load(target)
    return Result(done, True, (*notes, *_elsewhere(done)))


def _tokenize(found: Prepared, names: tuple[str, ...], shards: int,
              progress: Progress) -> tuple[Prepared, tuple[str, ...]]:
    """The set with the tokenizers it lacks, trained and used on every split; each is a step that survives a kill."""
    notes = []
    for name in dict.fromkeys(names) or DEFAULT_TOKENIZERS:
        if name not in found.tokenizers():
            if not names and DEFAULT_TOKENIZERS[name] > found.manifest.splits["train"].bytes:
                notes.append(f"{name} is left out: the text is small for a vocabulary of that size")
                continue
            progress(f"tokenizer {name}")
            tokenizer = _trained(found, name)
            if tokenizer is None:
                fault = f"{name} can't be trained: the text does not hold that many repeated pieces"
                if names:
                    raise UserError(fault, "Ask for a smaller vocabulary, or add more text.")
                notes.append(fault)
                continue
            found = _add_tokenizer(found, tokenizer)
        found = _encode_shards(found, name, shards, progress)
    return found, tuple(notes)


def _trained(found: Prepared, name: str) -> Tokenizer | None:
    if name == BYTE:
        return byte_tokenizer()
    if name == GPT2:
        return gpt2_tokenizer()
    if name == CHAR:
        return char_tokenizer(found.documents("train"))
    every = -(-found.manifest.splits["train"].bytes // LEARNED_BYTES)
    vocab = bpe_vocab(name)
    assert vocab is not None
    return train_bpe(lambda: found.documents("train", slice(None, None, every)), vocab)


def _add_tokenizer(found: Prepared, tokenizer: Tokenizer) -> Prepared:
    """With its streams of every split, and of the first shard of train."""
    files = disk.write(found.root, prepared.tokenizer_file(tokenizer.name), [tokenizer.to_json().encode()])
    counts = {}
    for split in SPLITS:
        some, counts[split] = _encode(found, tokenizer, split)
        files |= some
    facts = TokenizerFacts(tokenizer.vocab, tokenizer.digest, counts, (counts["train"],))
    return _saved(found.root, _with(found.manifest, tokenizer.name, facts, files))


def _encode_shards(found: Prepared, name: str, shards: int, progress: Progress) -> Prepared:
    """With the first `shards` shards of train; each is a step that survives a kill."""
    tokenizer = found.tokenizer(name)
    wanted = min(shards, len(found.manifest.shards))
    for shard in range(len(found.manifest.tokenizers[name].shards), wanted):
        progress(f"tokenizer {name}: shard {shard + 1} of {wanted}")
        files, count = _encode(found, tokenizer, "train", shard)
        facts = found.manifest.tokenizers[name]
        facts = replace(facts, tokens={**facts.tokens, "train": facts.tokens["train"] + count},
                        shards=(*facts.shards, count))
        found = _saved(found.root, _with(found.manifest, name, facts, files))
    return found


def _with(facts: Manifest, name: str, tokenizer: TokenizerFacts, files: dict[str, File]) -> Manifest:
    return replace(facts, tokenizers={**facts.tokenizers, name: tokenizer}, files={**facts.files, **files})


def _encode(found: Prepared, tokenizer: Tokenizer, split: str, shard: int = 0) -> tuple[dict[str, File], int]:
    """The stream of a split, or of one shard of train, and how many tokens it has."""
    documents = found.documents(split, found.shard(shard) if split == "train" else slice(None))
    name = prepared.tokens_file(split, tokenizer.name, shard)
    files = disk.write(found.root, name, (tokens.tobytes() for tokens in tokenizer.streams(documents)))
    return files, files[name].bytes // tokenizer.dtype.itemsize


def _needed_bytes(text_bytes: int, tokenizers: tuple[str, ...], shards: int) -> int:
    """Of disk: the splits, beside them first the spool and then the streams."""
    encoded = min(text_bytes, shards * SHARD_BYTES * 3 // 2)
    per_byte = sum(2 if name in (BYTE, CHAR) else 1 for name in tokenizers or DEFAULT_TOKENIZERS)  # 2 for an id
    return text_bytes + max(text_bytes, per_byte * encoded) + SPARE_BYTES


def _warnings(facts: Manifest) -> list[str]:
    warning = overlap.warning(facts.overlap)
    return [f"{warning}. Remove copies from the text, and prepare it under another --name"] if warning else []


def _elsewhere(found: Prepared) -> list[str]:
    """The same text may be there under another name, which takes its room twice."""
    copies = []
    for name in prepared.names():
        with contextlib.suppress(UserError):  # a damaged set says so when it is used
            if name != found.name and prepared.described(found.root.parent / name).manifest.origin() \
                    == found.manifest.origin():
                copies.append(name)
    return [f"the same text is there as {copies[0]} already; to keep one of them: ar data delete {copies[0]}"] \
        if copies else []


def checked_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or name == prepared.CURRENT:
        raise UserError(f"name {name!r}: must be at most 64 letters, digits, dots, dashes and underscores, and not "
                        f"{prepared.CURRENT!r}", "For example: --name shakespeare")
    return name


def _as_name(words: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", words)[:48].strip("-._")
    return "text" if name in ("", prepared.CURRENT) else name
