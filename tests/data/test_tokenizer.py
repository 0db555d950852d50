"""Tokenizers give back every byte, and count them truthfully."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoresearch.data import tokenizer as module
from autoresearch.data.tokenizer import Tokenizer, bpe_vocab, byte_tokenizer, chunks, train_bpe
from autoresearch.errors import UserError
from tests.data.texts import made_text


@functools.cache
def bpe() -> Tokenizer:
    trained = train_bpe([made_text(100_000)], 600)
    assert trained is not None
    return trained


TOKENIZERS = (byte_tokenizer, bpe)
ANY_BYTES = st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda s: s.encode("utf-8", "surrogatepass")))


@pytest.mark.parametrize("make", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(data=ANY_BYTES)
@example(data=b"")
@example(data=b"\xff\xfe\x00\xc3")
@example(data="🙂 the 東京\r\n\n".encode() + b"\xf0\x9f\x99")
@example(data=b"<|endoftext|><|bos|>")
def test_any_bytes_come_back(make, data):
    tokenizer = make()
    ids = tokenizer.encode(data)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == data
    assert tokenizer.bos not in ids
    assert tokenizer.token_bytes[ids].sum() == len(data)


def test_bpe_counts_bytes_as_tiktoken_does():
    """Bytes of the token itself: those of its text are wrong for half a character."""
    tokenizer = bpe()
    single = [len(tokenizer._encoding.decode_single_token_bytes(i)) for i in range(tokenizer.bos)]
    assert list(tokenizer.token_bytes) == [*single, 0]


def test_sizes_include_bos_which_is_last():
    assert (byte_tokenizer().vocab, byte_tokenizer().bos) == (257, 256)
    assert (bpe().vocab, bpe().bos, len(bpe().token_bytes)) == (600, 599, 600)
    assert bpe().decode([bpe().bos, *bpe().encode(b"the fox"), bpe().bos]) == b"the fox"


def test_bpe_compresses_what_it_was_trained_on():
    text = made_text(20_000, seed=9)
    assert len(bpe().encode(text)) < 0.6 * len(text)


def test_numbers_are_read_two_digits_at_a_time():
    tokens = [t for t in bpe().tokens[256:] if any(48 <= b <= 57 for b in t)]
    assert tokens and max(map(len, tokens)) == 2


def test_training_gives_the_same_tokens_in_another_process_with_other_threads():
    code = ("from tests.data.texts import made_text; from autoresearch.data.tokenizer import train_bpe; "
            "print(train_bpe([made_text(100_000)], 600).digest)")
    environment = {"RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, cwd=Path(__file__).parents[2],
                           capture_output=True, text=True, check=True)
    assert found.stdout.strip() == bpe().digest


def test_a_text_too_uniform_for_the_vocabulary_gives_no_tokenizer():
    assert train_bpe([b"hello hello\n" * 5000], 1024) is None
    assert train_bpe([], 300) is None


def test_repeated_tokens_are_made_up_for(monkeypatch):
    """The trainer can spell one token in two ways; the vocabulary has the promised size all the same."""
    import rustbpe

    class Repeating:
        def train_from_iterator(self, texts, vocab, pattern):
            merges = [b"ab", b"abc", b"abc", b"abcd", b"abcd", b"xy", b"xyz", b"zz"]
            self.tokens = [*(bytes([i]) for i in range(256)), *merges][:vocab]

        def get_mergeable_ranks(self):
            return [(token, i) for i, token in enumerate(self.tokens)]

    monkeypatch.setattr(rustbpe, "Tokenizer", Repeating)
    trained = train_bpe([b"text"], 262)
    assert trained is not None
    assert trained.tokens[256:] == (b"ab", b"abc", b"abcd", b"xy", b"xyz")
    assert train_bpe([b"text"], 300) is None


def test_a_million_spaces_and_other_monsters_are_encoded():
    """The regular expression of a tokenizer overflows its stack on these when they come in one piece."""
    for monster in (b" " * 1_100_000, b"a" * 300_000, "\u2003".encode() * 200_000, b"\xff" * 200_000):
        assert bpe().decode(bpe().encode(monster)) == monster
    assert train_bpe([b" " * 1_100_000], 262) is not None


def test_chunks_with_line_ends_do_not_change_the_tokens(monkeypatch):
    text = made_text(60_000, seed=3).replace(b"\n", b"\n \n\t\n")  # white space that is one piece over many lines
    whole = bpe()._encoding.encode_ordinary(text.decode())
    for size in range(5000, 6000, 31):  # so that some limit falls into white space
        monkeypatch.setattr(module, "CHUNK_BYTES", size)
        assert len(list(chunks(text))) > 9
        assert b"".join(chunks(text)) == text
        assert list(bpe().encode(text)) == whole


def test_storage_is_plain_json_and_exact():
    again = Tokenizer.from_json(bpe().to_json())
    assert again.tokens == bpe().tokens and again.digest == bpe().digest
    assert json.loads(bpe().to_json())["bos"] == 599
    assert byte_tokenizer().digest != bpe().digest


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"name": "byte", "pattern": "", "bos": 0, "tokens": []}',
                                  byte_tokenizer().to_json().replace('"bos": 256', '"bos": 255'),
                                  byte_tokenizer().to_json().replace('"ff"', '"fe"')])
def test_a_damaged_tokenizer_is_refused(text):
    with pytest.raises(ValueError):
        Tokenizer.from_json(text)


@pytest.mark.parametrize("name", ["", "bpe", "bpe-", "bpe-257", "bpe-0300", "bpe-2e3", "bpe-999999999", "gpt2", "../x"])
def test_a_bad_tokenizer_name_is_refused_with_what_is_allowed(name):
    with pytest.raises(UserError, match="must be byte, or bpe-<n>"):
        bpe_vocab(name)


def test_good_tokenizer_names():
    assert (bpe_vocab("byte"), bpe_vocab("bpe-258"), bpe_vocab("bpe-65536")) == (None, 258, 65536)
