"""The five splits share out every byte, fairly, and stay put when text is added."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.data import splits
from autoresearch.data.manifest import SPLITS
from autoresearch.data.text import chars
from autoresearch.errors import UserError
from tests.data.texts import made_text, spooled

PIECES = st.sampled_from([b"", b"x", b"\n", b"\x00" * 50, b"\xff\xfe", "東京🙂".encode() * 40, b"a line\n" * 60])
FILLING = made_text(25_000)


@dataclass
class Divided:
    policy: str
    documents: dict[str, list[bytes]]
    left_out_bytes: int


def divide(documents: Iterable[bytes], pinned: Iterable[bytes] = (), holdout_chars: int = 0) -> Divided:
    """What `splits.divide` says of these documents, as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        text = spooled(Path(folder), documents, pinned)
        found = splits.divide(text, holdout_chars)
        pieces = {name: list(text.pieces(ranges)) for name, ranges in found.ranges.items()}
    return Divided(found.policy, pieces, found.left_out_bytes)


def sizes(division: Divided) -> dict[str, int]:
    return {name: sum(map(len, division.documents[name])) for name in SPLITS}


def many(count: int, seed: int = 0, size: int = 600) -> list[bytes]:
    return [made_text(size, seed * 100_000 + i) for i in range(count)]


@settings(max_examples=60, deadline=None)
@given(odd=st.lists(PIECES, max_size=260), place=st.integers(0, 5))
def test_the_splits_sum_to_the_text_and_none_is_empty(odd, place):
    documents = [*odd[:place], FILLING, *odd[place:]]
    division = divide(documents)
    assert sum(sizes(division).values()) == sum(map(len, documents))
    assert min(sizes(division).values()) > 0
    whole = b"".join(documents)
    assert all(document in whole for found in division.documents.values() for document in found)


@pytest.mark.parametrize("size", [20_000, 70_000, 300_000, 2_000_000])
def test_a_long_text_gives_each_split_its_share(size):
    division = divide([made_text(size)])
    total = sum(sizes(division).values())
    assert division.policy == "span"
    for name, frac in splits.FRACTIONS.items():
        assert sizes(division)[name] == pytest.approx(frac * total, rel=0.7)
    assert sizes(division)["train"] > 0.8 * total


def test_spans_of_a_long_text_come_from_its_whole_length_and_start_on_lines():
    text = made_text(2_000_000)
    division = divide([text])
    for name in SPLITS[1:]:
        places = [text.index(document) for document in division.documents[name]]
        assert len(places) == splits.MAX_STRATA
        assert min(places) < 0.06 * len(text) and max(places) > 0.9 * len(text)
        assert all(text[place - 1:place] == b"\n" for place in places)


def test_spans_do_not_run_on_from_one_document_into_another():
    documents = [made_text(60_000, seed) for seed in range(3)]
    pieces = [piece for found in divide(documents).documents.values() for piece in found]
    assert all(any(piece in document for document in documents) for piece in pieces)


def test_one_endless_line_is_split_between_characters():
    division = divide(["東京🙂".encode() * 20_000])
    for found in division.documents.values():
        for document in found:
            document.decode("utf-8")


def test_many_documents_are_split_whole_by_hash():
    documents = many(600)
    division = divide(documents)
    assert division.policy == "hash"
    assert sorted(d for found in division.documents.values() for d in found) == sorted(documents)
    assert sizes(division)["train"] > 0.75 * sum(map(len, documents))


def test_a_document_stays_in_its_split_when_others_are_added():
    before, after = divide(many(500)), divide([*many(300, seed=1), *reversed(many(500))])
    for name in SPLITS:
        assert set(before.documents[name]) <= set(after.documents[name])


def test_equal_documents_are_on_the_same_side():
    documents = many(400)
    division = divide([*documents, *documents])
    found = [set(division.documents[name]) for name in SPLITS]
    assert sum(map(len, found)) == len(set().union(*found))


def test_scored_splits_are_capped_and_growth_never_moves_training_text_into_them(monkeypatch):
    documents = many(1000)
    free = divide(documents)
    monkeypatch.setattr(splits, "CAP_BYTES", 8_000)
    for capped in (divide(documents), divide([b"".join(documents)])):
        assert max(sizes(capped)[name] for name in SPLITS[1:]) < 2 * 8_000
    capped = divide(documents)
    assert capped.policy == "hash"
    for name in SPLITS[1:]:
        assert set(capped.documents[name]) < set(free.documents[name])


def test_one_document_that_is_most_of_the_text_is_cut():
    assert divide([*many(300), made_text(100_000)]).policy == "span"
    assert divide(many(30, size=1000)).policy == "span"


@pytest.mark.parametrize("documents", [[], [b""], [b"x"], [made_text(19_000)[:19_999]]])
def test_too_little_text_is_refused_with_how_much_is_needed(documents):
    with pytest.raises(UserError, match="at least 20,000 are needed"):
        divide(documents)


@settings(max_examples=40)
@given(odd=st.lists(PIECES, max_size=260), count=st.integers(1, 3_000))
def test_the_tail_is_the_holdout_to_the_character_whatever_it_is_made_of(odd, count):
    documents = [FILLING, *odd, FILLING]
    division = divide(documents, holdout_chars=count)
    assert sum(map(chars, division.documents["holdout"])) == count
    tail = b"".join(division.documents["holdout"])
    assert b"".join(documents).endswith(tail)
    assert sum(sizes(division).values()) == sum(map(len, documents))
    assert min(sizes(division).values()) > 0
    before = b"".join(documents)[:-len(tail)]
    assert all(document in before for name in SPLITS[:-1] for document in division.documents[name])


def test_documents_before_the_tail_are_in_the_split_that_they_would_be_in_without_it():
    documents = many(400)
    plain, division = divide(documents), divide(documents, holdout_chars=5_000)
    assert plain.policy == division.policy == "hash"
    tail = b"".join(division.documents["holdout"])
    assert tail.decode() == b"".join(documents).decode()[-5_000:]
    cut = b"".join(documents).removesuffix(tail)
    before = [document for i, document in enumerate(documents) if cut.startswith(b"".join(documents[:i + 1]))]
    assert 380 < len(before) < 400
    for name in ("dev", "val", "confirm"):
        assert [d for d in plain.documents[name] if d in before] == [d for d in division.documents[name] if d in before]
    # What the tail replaces as the holdout is trained on.
    kept = [d for d in documents if d in plain.documents["train"] or d in plain.documents["holdout"]]
    assert [d for d in kept if d in before] == [d for d in division.documents["train"] if d in before]


def test_a_long_text_before_the_tail_gives_each_other_split_its_share():
    text = made_text(60_000)
    division = divide([text], holdout_chars=5_000)
    assert b"".join(division.documents["holdout"]).decode() == text.decode()[-5_000:]
    assert division.policy == "span"
    for name in ("dev", "val", "confirm"):
        share = splits.FRACTIONS[name] * (len(text) - sizes(division)["holdout"])
        assert sizes(division)[name] == pytest.approx(share, rel=0.7)


def test_a_tail_that_leaves_too_little_or_is_longer_than_the_text_is_refused():
    with pytest.raises(UserError, match="bytes of text stand before the last 20,000 characters"):
        divide([FILLING], holdout_chars=20_000)
    with pytest.raises(UserError, match="fewer than the 90,000 of --holdout-chars"):
        divide([FILLING], holdout_chars=90_000)
    with pytest.raises(UserError, match="pinned"):
        divide(many(300), many(100, 1), holdout_chars=100)


def test_pinned_documents_and_no_others_are_scored(monkeypatch):
    documents, pinned = many(300), many(150, 1)
    division = divide(documents, pinned)
    assert (division.policy, division.left_out_bytes) == ("pinned", 0)
    assert sorted(division.documents["train"] + division.documents["dev"]) == sorted(documents)
    assert sorted(d for name in SPLITS[2:] for d in division.documents[name]) == sorted(pinned)
    assert min(sizes(division)[name] for name in SPLITS[2:]) > sum(map(len, pinned)) / 5
    monkeypatch.setattr(splits, "CAP_BYTES", 8_000)
    capped = divide(documents, pinned)
    assert capped.left_out_bytes == sum(map(len, pinned)) - sum(sizes(capped)[name] for name in SPLITS[2:]) > 0
    for name in SPLITS[2:]:
        assert set(capped.documents[name]) < set(division.documents[name])


@pytest.mark.parametrize(("documents", "pinned", "words"), [
    ([FILLING], [made_text(3_000)], "pinned for scoring, too few"), ([FILLING] * 9, [FILLING], "without any"),
    ([b"x"], many(100), "too few to train on"),
])
def test_too_little_that_is_pinned_is_refused(documents, pinned, words):
    with pytest.raises(UserError, match=words):
        divide(documents, pinned)
