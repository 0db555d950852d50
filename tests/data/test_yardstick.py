"""Every byte that is scored is scored exactly once, whatever the text."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoresearch.data import yardstick
from autoresearch.data.text import char_boundary, chars, invalid_bytes, parts
from autoresearch.data.tokenizer import byte_tokenizer, train_bpe
from tests.data.texts import made_text

VALID = [text.encode() for text in ("word ", "\n", "é", "東", "🙂", "\0")]
PIECES = st.sampled_from([*VALID, b"\xff", b"\x80", b"\xf0\x9f"])
DOCUMENTS = st.lists(st.lists(PIECES, max_size=400).map(b"".join), max_size=6)


@settings(max_examples=150, deadline=None)
@given(documents=DOCUMENTS, row_bytes=st.integers(4, 64))
@example(documents=[b"", b"x", b"\x80" * 100], row_bytes=4)
def test_rows_hold_every_byte_and_every_character_once(documents, row_bytes):
    for document in documents:
        spans = yardstick.spans(document, row_bytes)
        assert b"".join(spans) == document
        assert all(0 < len(span) <= row_bytes for span in spans)
        assert sum(map(chars, spans)) == chars(document)
    rows = yardstick.rows(documents, row_bytes)
    assert sorted(rows) == sorted(span for document in documents for span in yardstick.spans(document, row_bytes))


def test_a_row_ends_where_a_word_does():
    words = made_text(50_000)
    spans = yardstick.spans(words)
    pairs = itertools.pairwise(spans)
    assert all(span.endswith(b"\n") or following.startswith(b" ") for span, following in pairs)
    assert all(len(span) > 0.75 * yardstick.ROW_BYTES - 1 for span in spans[:-1])


def test_the_order_is_fixed_and_kept_when_documents_are_added():
    documents = [made_text(8_000, seed) for seed in range(4)]
    rows = yardstick.rows(documents)
    assert rows == yardstick.rows(list(reversed(documents)))
    more = yardstick.rows([*documents, made_text(8_000, 9)])
    kept = set(rows)
    assert [row for row in more if row in kept] == rows
    assert rows != [span for document in documents for span in yardstick.spans(document)]


def test_a_prefix_of_the_rows_comes_from_everywhere():
    documents = [str(digit).encode() * 20_000 for digit in range(10)]
    rows = yardstick.rows(documents)
    counts = np.bincount([int(row[:1]) for row in rows[:len(rows) // 2]], minlength=10)
    assert counts.min() >= 4


def test_the_digest_sees_order_and_boundaries():
    assert len({yardstick.digest(rows) for rows in ([b"ab", b"c"], [b"a", b"bc"], [b"c", b"ab"], [])}) == 4


def test_the_tokens_of_all_rows_cover_every_byte_once():
    """What a score divides by is the text, whatever the tokenizer."""
    documents = [made_text(20_000), b"\xff\x00 raw \xfe" * 30, "🙂".encode()]
    total = sum(map(len, documents))
    bpe = train_bpe(lambda: [made_text(50_000, 5)], 400)
    assert bpe is not None
    for tokenizer in (byte_tokenizer(), bpe):
        ids = [tokenizer.encode(row) for row in yardstick.rows(documents)]
        assert sum(int(tokenizer.token_bytes[row].sum()) for row in ids) == total
    assert sum(len(byte_tokenizer().encode(row)) for row in yardstick.rows(documents)) == total


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.lists(PIECES, max_size=30).map(b"".join)))
def test_text_and_invalid_bytes_are_told_apart(data):
    found = parts(data)
    assert b"".join(p.encode() if isinstance(p, str) else p for p in found) == data
    assert sum(map(len, found)) == chars(data)
    assert sum(len(p) for p in found if isinstance(p, bytes)) == invalid_bytes(data)


def test_a_boundary_is_never_inside_a_character():
    data = "aé東🙂".encode()
    assert [char_boundary(data, at) for at in range(len(data) + 2)] == [0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 10]
