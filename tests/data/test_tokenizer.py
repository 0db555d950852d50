"""Tokenizers give back every byte, and count them truthfully."""

from __future__ import annotations

import functools
import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoresearch.data import tokenizer as module
from autoresearch.data.tokenizer import (
    Tokenizer,
    bpe_vocab,
    byte_tokenizer,
    char_tokenizer,
    chunks,
    gpt2_tokenizer,
    train_bpe,
)
from autoresearch.errors import UserError
from tests.data.texts import made_text

GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


@functools.cache
def bpe() -> Tokenizer:
    trained = train_bpe(lambda: [made_text(100_000)], 600)
    assert trained is not None
    return trained


@functools.cache
def char() -> Tokenizer:
    return char_tokenizer([made_text(20_000), "naïve café – 東京 🙂".encode(), b"\xff\xfe"])


@functools.cache
def gpt2_like() -> Tokenizer:
    """Byte values in GPT-2's order, which is not theirs, and its pattern."""
    shown = [value for value in range(256) if chr(value).isprintable() and value != 32]
    order = [*shown, *(value for value in range(256) if value not in shown)]
    merges = [bytes(pair) for pair in zip(b"the ieno", b"h es ndr", strict=True)]
    return Tokenizer("gpt2", [*(bytes([value]) for value in order), *dict.fromkeys(merges)], GPT2_PATTERN)


TOKENIZERS = (byte_tokenizer, bpe, char, gpt2_like)
ANY_BYTES = st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda s: s.encode("utf-8", "surrogatepass")))


@pytest.mark.parametrize("make", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(data=ANY_BYTES)
@example(data=b"")
@example(data=b"\xff\xfe\x00\xc3")
@example(data="🙂 the 東京\r\n\n".encode() + b"\xf0\x9f\x99")
@example(data=b"<|endoftext|><|bos|>")
@example(data=b"\0")
@example(data="東京 🙂 ｶﾅ \u0301 \U0010ffff".encode())
def test_any_bytes_come_back(make, data):
    tokenizer = make()
    ids = tokenizer.encode(data)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == data
    assert tokenizer.bos not in ids
    assert tokenizer.token_bytes[ids].sum() == len(data)


@pytest.mark.parametrize("make", TOKENIZERS)
@settings(max_examples=50)
@given(documents=st.lists(ANY_BYTES, max_size=8), threads=st.integers(1, 3))
def test_streams_are_bos_and_ids_of_each_document_whatever_the_threads(make, documents, threads):
    tokenizer = make()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_BYTES", 50)
        found = list(tokenizer.streams(documents, threads))
    expected = [np.append(tokenizer.bos, tokenizer.encode(document)) for document in documents]
    assert [i for stream in found for i in stream] == [i for stream in expected for i in stream]
    assert all(stream.dtype == tokenizer.dtype for stream in found)


def test_a_character_is_one_id_if_train_has_it_and_its_bytes_if_not():
    known, unknown = char().encode("né東京🙂".encode()), char().encode("Ω한".encode())
    assert len(known) == 5 and len(unknown) == 5 and char().pattern == module.ANY_CHARACTER
    assert list(unknown) == list("Ω한".encode())
    assert set(char().tokens[256:]) >= {c.encode() for c in "ï–東🙂"} and char().vocab < 256 + 40


def test_the_commonest_characters_are_kept_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr(module, "MAX_CHARACTERS", 2)
    assert char_tokenizer(["東東東京京é".encode(), b"ab"]).tokens[256:] == ("京".encode(), "東".encode())


def test_gpt2_is_taken_as_it_is_from_tiktoken(monkeypatch):
    ranks = {token: i for i, token in enumerate(gpt2_like().tokens)}
    encoding = tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks,
                                 special_tokens={"<|endoftext|>": len(ranks)})
    monkeypatch.setattr(tiktoken, "get_encoding", {"gpt2": encoding}.__getitem__)
    found = gpt2_tokenizer()
    assert (found.name, found.bos, found.tokens) == ("gpt2", len(ranks), gpt2_like().tokens)
    text = made_text(30_000).decode() + "\n\n  there's\n\n\n1234 don't\t"
    assert list(found.encode(text.encode())) == encoding.encode_ordinary(text)
    again = Tokenizer.from_json(found.to_json())
    assert again.digest == found.digest and (again.encode(b"\xffthe") == found.encode(b"\xffthe")).all()


def test_gpt2_that_cannot_be_fetched_is_a_sentence(tmp_path: Path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        with pytest.raises(UserError, match="gpt2 can't be fetched: ProxyError") as caught:
            gpt2_tokenizer()
    assert "bpe-<n>" in caught.value.hint


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
            "print(train_bpe(lambda: [made_text(100_000)], 600).digest)")
    environment = {"RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, cwd=Path(__file__).parents[2],
                           capture_output=True, text=True, check=True)
    assert found.stdout.strip() == bpe().digest


def test_a_text_too_uniform_for_the_vocabulary_gives_no_tokenizer():
    assert train_bpe(lambda: [b"hello hello\n" * 5000], 1024) is None
    assert train_bpe(list, 300) is None


def test_repeated_tokens_are_made_up_for(monkeypatch):
    """The trainer can spell one token in two ways; the vocabulary has the promised size all the same."""
    import rustbpe

    class Repeating:
        def train_from_iterator(self, texts, vocab, buffered, pattern):
            merges = [b"ab", b"abc", b"abc", b"abcd", b"abcd", b"xy", b"xyz", b"zz"]
            self.tokens = [*(bytes([i]) for i in range(256)), *merges][:vocab]

        def get_mergeable_ranks(self):
            return [(token, i) for i, token in enumerate(self.tokens)]

    monkeypatch.setattr(rustbpe, "Tokenizer", Repeating)
    trained = train_bpe(lambda: [b"text"], 262)
    assert trained is not None
    assert trained.tokens[256:] == (b"ab", b"abc", b"abcd", b"xy", b"xyz")
    assert train_bpe(lambda: [b"text"], 300) is None


def test_a_million_spaces_and_other_monsters_are_encoded():
    """The regular expression of a tokenizer overflows its stack on these when they come in one piece."""
    for monster in (b" " * 1_100_000, b"a" * 300_000, "\u2003".encode() * 200_000, b"\xff" * 200_000):
        assert bpe().decode(bpe().encode(monster)) == monster
    assert train_bpe(lambda: [b" " * 1_100_000], 262) is not None


@pytest.mark.parametrize("make", [bpe, gpt2_like])
def test_chunks_with_words_to_cut_at_do_not_change_the_tokens(make, monkeypatch):
    # White space that is one piece over many lines, and punctuation that takes line ends with it.
    text = made_text(60_000, seed=3).replace(b"\n", b"\n \n\t\n").replace(b"a ", b"a,\n\n ")
    whole = make()._encoding.encode_ordinary(text.decode())
    for size in range(5000, 6000, 31):  # so that some limit falls into white space
        monkeypatch.setattr(module, "CHUNK_BYTES", size)
        assert len(list(chunks(text))) > 9
        assert b"".join(chunks(text)) == text
        assert list(make().encode(text)) == whole


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


@pytest.mark.parametrize("name", ["", "bpe", "bpe-", "bpe-257", "bpe-0300", "bpe-2e3", "bpe-999999999", "gpt3", "../x"])
def test_a_bad_tokenizer_name_is_refused_with_what_is_allowed(name):
    with pytest.raises(UserError, match="must be byte, char, gpt2, or bpe-<n>"):
        bpe_vocab(name)


def test_good_tokenizer_names():
    assert [bpe_vocab(name) for name in ("byte", "char", "gpt2", "bpe-258", "bpe-65536")] == [None] * 3 + [258, 65536]


# What karpathy/autoresearch would count


@pytest.mark.parametrize("make", TOKENIZERS)
def test_legacy_bytes_are_those_of_each_token_decoded_alone(make):
    tokenizer = make()
    ranks = {token: rank for rank, token in enumerate(tokenizer.tokens)}
    encoding = tiktoken.Encoding("upstream", pat_str=".", mergeable_ranks=ranks, special_tokens={})
    upstream = [len(encoding.decode([i]).encode("utf-8")) for i in range(tokenizer.bos)]
    assert tokenizer.legacy_token_bytes.tolist() == [*upstream, 0]
    single = [tokenizer.tokens.index(bytes([value])) for value in (0x41, 0x7F, 0x80, 0xFF)]
    assert tokenizer.legacy_token_bytes[single].tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize("make", TOKENIZERS)
@given(data=ANY_BYTES)
def test_legacy_bytes_are_never_fewer_and_on_ascii_the_same(make, data):
    counted = make().legacy_token_bytes[make().encode(data)].sum()
    assert counted >= len(data)
    if data.isascii():
        assert counted == len(data)


@pytest.mark.parametrize("text", ["🦖🎻🪐", "鬱蒼魑魅"])
@pytest.mark.parametrize("make", TOKENIZERS)
def test_characters_in_pieces_are_counted_more_than_once(make, text):
    """So the bits per byte that divide by it are lower than they are."""
    assert make().legacy_token_bytes[make().encode(text.encode())].sum() > len(text.encode())
