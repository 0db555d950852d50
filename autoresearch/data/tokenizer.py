"""Tokenizers: any bytes to ids and back, exactly.

    byte      257 ids: the byte values and BOS
    bpe-<n>   n ids in all: the byte values, merges trained on the train split, and BOS, which is last

BPE is trained by rustbpe, served by tiktoken, both imported when first needed, and stored as plain JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from autoresearch.data.text import char_boundary, parts
from autoresearch.errors import UserError

BYTE = "byte"
MIN_BPE, MAX_BPE = 258, 262_144  # the byte values, one merge and BOS; more than any published vocabulary
# GPT-4's split of text into words, with numbers in groups of two: a small vocabulary has no room for 1,000 triples.
PATTERN = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
           r"|\s*[\r\n]|\s+(?!\S)|\s+")
CHUNK_BYTES = 65_536  # tiktoken's regular expressions overflow their stack on a million spaces
_SAFE_CUT = re.compile(rb"\n(?=[!-~])")  # PATTERN never joins a newline to the visible character after it
_BYTES = tuple(bytes([value]) for value in range(256))


class Tokenizer:
    """Ids are 0..vocab-1: the tokens in their order of merging, the byte values first, then BOS."""

    def __init__(self, name: str, tokens: Iterable[bytes], pattern: str = PATTERN):
        self.name = name
        self.pattern = pattern
        self.tokens = tuple(tokens)
        self.bos = len(self.tokens)
        self.vocab = len(self.tokens) + 1
        if self.tokens[:256] != _BYTES or len(set(self.tokens)) != len(self.tokens):
            raise ValueError("a tokenizer's first 256 tokens are the byte values, and no token occurs twice")

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """int32 (vocab,): raw bytes of each token, 0 for BOS."""
        return np.array([*map(len, self.tokens), 0], dtype=np.int32)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What ids are stored in."""
        return np.dtype("<u2" if self.vocab <= 65_536 else "<u4")

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def encode(self, data: bytes) -> np.ndarray:
        """int32 ids of any bytes, without BOS. Invalid UTF-8 is encoded byte by byte."""
        if self.name == BYTE:
            return np.frombuffer(data, dtype=np.uint8).astype(np.int32)
        ids: list[int] = []
        for chunk in chunks(data):
            for part in parts(chunk):
                ids += part if isinstance(part, bytes) else self._encoding.encode_ordinary(part)
        return np.array(ids, dtype=np.int32)

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids; BOS is nothing."""
        return b"".join(self.tokens[i] for i in ids if i != self.bos)

    @cached_property
    def _encoding(self) -> Any:
        import tiktoken

        ranks = {token: rank for rank, token in enumerate(self.tokens)}
        return tiktoken.Encoding(self.name, pat_str=self.pattern, mergeable_ranks=ranks, special_tokens={})

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
    """`data` in pieces short enough for the tokenizers' regular expressions. Where there is a line end
    to cut at, the tokens are those of the whole."""
    start = 0
    while len(data) - start > CHUNK_BYTES:
        limit = start + CHUNK_BYTES
        window = data[limit - CHUNK_BYTES // 4:limit + 1]
        cuts = [m.end() for m in _SAFE_CUT.finditer(window)]
        end = limit - CHUNK_BYTES // 4 + cuts[-1] if cuts else char_boundary(data, limit)
        yield data[start:end]
        start = end
    if start < len(data):
        yield data[start:]


def byte_tokenizer() -> Tokenizer:
    return Tokenizer(BYTE, _BYTES, pattern="")


def bpe_name(vocab: int) -> str:
    return f"bpe-{vocab}"


def bpe_vocab(name: str) -> int | None:
    """The vocabulary size that a name asks for; None for `byte`. Raises UserError for other names."""
    if name == BYTE:
        return None
    match = re.fullmatch(r"bpe-([1-9][0-9]{0,8})", name)
    if match is None or not MIN_BPE <= int(match[1]) <= MAX_BPE:
        raise UserError(f"tokenizer {name!r}: must be byte, or bpe-<n> with n from {MIN_BPE} to {MAX_BPE}",
                        "For example: --tokenizer bpe-2048")
    return int(match[1])


def train_bpe(documents: Iterable[bytes], vocab: int) -> Tokenizer | None:
    """BPE of `vocab` ids with BOS; the same documents give the same tokens. None where the text is too
    small or too uniform to yield that many."""
    import rustbpe

    texts = [part for document in documents for chunk in chunks(document)
             for part in parts(chunk) if isinstance(part, str)]
    wanted, repeats = vocab - 1, 0
    while True:
        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(iter(texts), wanted + repeats, pattern=PATTERN)
        merged = [bytes(token) for token, _ in trainer.get_mergeable_ranks()]
        # Two merges can spell the same bytes ("a"+"bc", "ab"+"c"). One id is enough, so ask for another merge.
        tokens = list(dict.fromkeys(merged))
        if len(tokens) >= wanted:
            return Tokenizer(bpe_name(vocab), tokens[:wanted])
        if len(merged) < wanted + repeats:
            return None
        repeats += wanted - len(tokens)
