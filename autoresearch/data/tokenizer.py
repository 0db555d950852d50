"""Tokenizers: any bytes to ids and back, exactly.

    byte      257 ids: the byte values and BOS
    char      the byte values, the characters of the train split that take more than one byte, and BOS; any other
              character is its bytes
    bpe-<n>   n ids in all: the byte values, merges trained on the train split, and BOS, which is last
    gpt2      GPT-2's own 50,257, fetched by tiktoken when asked for; <|endoftext|> is its BOS

BPE is trained by rustbpe, served by tiktoken, both imported when first needed, and stored as plain JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np

from autoresearch.data.text import char_boundary, decode, parts
from autoresearch.errors import UserError

BYTE, CHAR, GPT2 = "byte", "char", "gpt2"
MIN_BPE, MAX_BPE = 258, 262_144  # the byte values, one merge and BOS; more than any published vocabulary
# GPT-4's split of text into words, with numbers in groups of two: a small vocabulary has no room for 1,000 triples.
PATTERN = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
           r"|\s*[\r\n]|\s+(?!\S)|\s+")
ANY_CHARACTER = r"(?s:.)"
MAX_CHARACTERS = 65_000  # the commonest; ids stay within 16 bits
CHUNK_BYTES = 65_536  # tiktoken's regular expressions overflow their stack on a million spaces
BATCH_BYTES = 1_000_000  # what one thread encodes at a time
BUFFERED_TEXTS = 1024  # of at most CHUNK_BYTES that the trainer of BPE holds at once
# The last place where a word ends: neither PATTERN nor GPT-2's joins a letter to the white space that follows.
_SAFE_CUT = re.compile(rb"(?s:.*)[A-Za-z](?=[ \n])")
_BYTES = tuple(bytes([value]) for value in range(256))


class Tokenizer:
    """Ids are 0..vocab-1: the tokens in their order of merging, every byte value among them, then BOS."""

    def __init__(self, name: str, tokens: Iterable[bytes], pattern: str = PATTERN):
        self.name = name
        self.pattern = pattern
        self.tokens = tuple(tokens)
        self.bos = len(self.tokens)
        self.vocab = len(self.tokens) + 1
        if not set(_BYTES) <= set(self.tokens) or len(set(self.tokens)) != len(self.tokens):
            raise ValueError("every byte value is a token of a tokenizer, and no token occurs twice")

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """int32 (vocab,): raw bytes of each token, 0 for BOS."""
        return np.array([*map(len, self.tokens), 0], dtype=np.int32)

    @cached_property
    def legacy_token_bytes(self) -> np.ndarray:
        """int32 (vocab,): the bytes karpathy/autoresearch counts for each token, those of the token decoded alone. A
        piece that is no UTF-8 by itself becomes U+FFFD, which has 3 bytes, so no token counts less than it has."""
        alone = [len(token.decode("utf-8", "replace").encode()) for token in self.tokens]
        return np.array([*alone, 0], dtype=np.int32)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What ids are stored in."""
        return np.dtype("<u2" if self.vocab <= 65_536 else "<u4")

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def encode(self, data: bytes) -> np.ndarray:
        """int32 ids of any bytes, without BOS. Invalid UTF-8 is encoded byte by byte."""
        return np.concatenate([np.empty(0, np.int32), *map(self._ids, chunks(data))]).astype(np.int32)

    def streams(self, documents: Iterable[bytes], threads: int | None = None) -> Iterator[np.ndarray]:
        """BOS and the ids of each document, one after another, in arrays of `dtype`, encoded by all cores: tiktoken
        lets go of the interpreter while it encodes."""
        threads = threads or os.cpu_count() or 1
        waiting: deque[Future[np.ndarray]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for batch in _batches(documents):
                waiting.append(pool.submit(self._stream, batch))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _stream(self, batch: list[bytes | None]) -> np.ndarray:
        bos = np.array([self.bos], np.int64)
        return np.concatenate([bos if chunk is None else self._ids(chunk) for chunk in batch], dtype=self.dtype,
                              casting="unsafe")

    def _ids(self, chunk: bytes) -> np.ndarray:
        if self.name == BYTE:
            return np.frombuffer(chunk, np.uint8)
        try:
            texts: list[str | bytes] = [chunk.decode()]
        except UnicodeDecodeError:
            texts = parts(chunk)
        ids = [self._byte_ids[np.frombuffer(text, np.uint8)] if isinstance(text, bytes)
               else self._encoding.encode_to_numpy(text, disallowed_special=()) for text in texts]
        return ids[0] if len(ids) == 1 else np.concatenate(ids)

    @cached_property
    def _byte_ids(self) -> np.ndarray:
        """uint32 (256,): the id of each byte value."""
        places = {token: i for i, token in enumerate(self.tokens)}
        return np.array([places[value] for value in _BYTES], np.uint32)

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids; BOS is nothing."""
        return b"".join(self.tokens[i] for i in ids if i != self.bos)

    @cached_property
    def _encoding(self) -> Any:
        import tiktoken

        ranks = {token: rank for rank, token in enumerate(self.tokens)}
        # tiktoken looks for the special tokens even where none may be: without one, it halts at every character.
        return tiktoken.Encoding(self.name, pat_str=self.pattern, mergeable_ranks=ranks,
                                 special_tokens={"<|bos|>": self.bos})

    def to_json(self) -> str:
        """Plain data, one token in hexadecimal a line, so that a diff can be read."""
        return json.dumps({"name": self.name, "pattern": self.pattern, "bos": self.bos,
                           "tokens": [token.hex() for token in self.tokens]}, indent=0)

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """Raises ValueError for anything `to_json` did not write."""
        try:
            stored = json.loads(text)
            tokenizer = cls(stored["name"], map(bytes.fromhex, stored["tokens"]), stored["pattern"])
        except (TypeError, KeyError, AttributeError) as e:
            raise ValueError(f"not a tokenizer: {e}") from None
        if stored["bos"] != tokenizer.bos:
            raise ValueError("not a tokenizer: BOS is not the last id")
        return tokenizer


def chunks(data: bytes) -> Iterator[bytes]:
    """`data` in pieces short enough for the tokenizers' regular expressions. Where a word ends
    nearby, the tokens are those of the whole."""
    start = 0
    while len(data) - start > CHUNK_BYTES:
        limit = start + CHUNK_BYTES
        low = limit - CHUNK_BYTES // 4
        cut = _SAFE_CUT.match(data[low:limit + 1])
        end = low + cut.end() if cut else char_boundary(data, limit)
        yield data[start:end]
        start = end
    if start < len(data):
        yield data[start:]


def _batches(documents: Iterable[bytes]) -> Iterator[list[bytes | None]]:
    """Chunks of documents, None before the first of each, in lists of about BATCH_BYTES."""
    batch: list[bytes | None] = []
    size = 0
    for document in documents:
        batch.append(None)
        for chunk in chunks(document):
            batch.append(chunk)
            size += len(chunk)
            if size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def byte_tokenizer() -> Tokenizer:
    return Tokenizer(BYTE, _BYTES, pattern="")


def char_tokenizer(documents: Iterable[bytes]) -> Tokenizer:
    """The characters of documents, by code point."""
    counts = np.zeros(0x110000, np.int64)
    for document in documents:
        if not document.isascii():
            codes, found = np.unique(np.frombuffer(decode(document).encode("utf-32-le", "surrogatepass"), "<u4"),
                                     return_counts=True)
            counts[codes] += found
    counts[:0x80] = counts[0xD800:0xE000] = 0  # bytes already, the surrogates that stand for invalid ones too
    commonest = np.argsort(-counts, kind="stable")[:MAX_CHARACTERS]
    characters = [chr(code).encode() for code in sorted(commonest[counts[commonest] > 0].tolist())]
    return Tokenizer(CHAR, [*_BYTES, *characters], ANY_CHARACTER)


def gpt2_tokenizer() -> Tokenizer:
    """GPT-2's, with its ids. Raises UserError where tiktoken can't fetch it."""
    import tiktoken

    try:
        encoding = tiktoken.get_encoding(GPT2)
    except (OSError, ValueError) as e:  # every error of a connection is an OSError; ValueError: not the known content
        raise UserError(f"tokenizer gpt2 can't be fetched: {type(e).__name__}",
                        "Connect to the network for it once (tiktoken keeps it in TIKTOKEN_CACHE_DIR), or use bpe-<n>, "
                        "which is trained here.") from e
    tokens = [encoding.decode_single_token_bytes(i) for i in range(encoding.eot_token)]
    return Tokenizer(GPT2, tokens, encoding._pat_str)


def bpe_name(vocab: int) -> str:
    return f"bpe-{vocab}"


def bpe_vocab(name: str) -> int | None:
    """The vocabulary size that a name asks for; None for the other kinds. Raises UserError for a name of none."""
    if name in (BYTE, CHAR, GPT2):
        return None
    match = re.fullmatch(r"bpe-([1-9][0-9]{0,8})", name)
    if match is None or not MIN_BPE <= int(match[1]) <= MAX_BPE:
        raise UserError(f"tokenizer {name!r}: must be byte, char, gpt2, or bpe-<n> with n from {MIN_BPE} to {MAX_BPE}",
                        "For example: --tokenizer bpe-2048")
    return int(match[1])


def train_bpe(documents: Callable[[], Iterable[bytes]], vocab: int) -> Tokenizer | None:
    """BPE of `vocab` ids with BOS; the same documents give the same tokens. None where the text is too
    small or too uniform to yield that many."""
    import rustbpe

    def texts() -> Iterator[str]:
        return (part for document in documents() for chunk in chunks(document)
                for part in parts(chunk) if isinstance(part, str))

    wanted, repeats = vocab - 1, 0
    while True:
        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(texts(), wanted + repeats, BUFFERED_TEXTS, PATTERN)
        merged = [bytes(token) for token, _ in trainer.get_mergeable_ranks()]
        # Two merges can spell the same bytes ("a"+"bc", "ab"+"c"). One id is enough, so ask for another merge.
        tokens = list(dict.fromkeys(merged))
        if len(tokens) >= wanted:
            return Tokenizer(bpe_name(vocab), tokens[:wanted])
        if len(merged) < wanted + repeats:
            return None
        repeats += wanted - len(tokens)
