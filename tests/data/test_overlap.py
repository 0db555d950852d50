"""What is scored and also stands in train is found, through small changes; what does not is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.data import overlap
from autoresearch.data.manifest import Overlap
from autoresearch.data.prepare import prepare
from autoresearch.data.yardstick import spans
from tests.data.texts import made_corpus, made_text

TRAIN = made_text(900_000)
WORDS = TRAIN.decode().split()


def rows_of(text: bytes) -> list[bytes]:
    return [row for row in spans(text) if len(row) > 700]


def found(rows: list[bytes], folder: Path, train: bytes = TRAIN) -> Overlap:
    (folder / "train").write_bytes(train)
    return overlap.measure({"val": rows}, folder / "train")["val"]


def changed(text: bytes, every: int) -> bytes:
    words = text.decode().split(" ")
    words[every::every] = ["another"] * len(words[every::every])
    return " ".join(words).encode()


@pytest.mark.parametrize("change", [
    lambda row: row, lambda row: changed(row, 60), lambda row: row.replace(b" ", b"  ").replace(b"\n", b"\r\n\t"),
    lambda row: row.replace(b"\n", b" "), lambda row: row.upper() if row.isascii() else row, lambda row: row[150:],
])
def test_rows_that_stand_in_train_are_found_through_small_changes(change, tmp_path: Path):
    rows = [change(row) for row in rows_of(TRAIN[400_000:500_000])]
    assert found(rows, tmp_path) == Overlap(len(rows), len(rows))


def test_new_text_is_not_found_though_its_words_are_the_same(tmp_path: Path):
    order = np.random.default_rng(1).permutation(len(WORDS))
    for text in (made_text(100_000, 7), " ".join(WORDS[i] for i in order)[:100_000].encode()):
        rows = rows_of(text)
        assert found(rows, tmp_path) == Overlap(len(rows), 0)


def test_what_the_method_does_not_find_is_what_it_says(tmp_path: Path):
    rows = rows_of(TRAIN[:100_000])
    assert found([changed(row, 4) for row in rows], tmp_path).found == 0
    assert found([row[:60] for row in rows], tmp_path) == Overlap(0, 0)
    assert found([], tmp_path) == found([b"", b"\n" * 900], tmp_path) == Overlap(0, 0)
    assert found(rows, tmp_path, b"") == found(rows, tmp_path, b"short") == Overlap(len(rows), 0)


@pytest.mark.parametrize("block_bytes", [700, 4_096, 1 << 18])
def test_the_size_of_blocks_changes_nothing(block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(overlap, "BLOCK_BYTES", block_bytes)
    train = made_text(60_000, 3)
    rows = rows_of(train[20_000:40_000]) + rows_of(made_text(20_000, 4))
    assert found(rows, tmp_path, train).found == len(rows_of(train[20_000:40_000]))


@given(st.binary(min_size=60, max_size=300))
def test_hashes_are_those_of_every_window_taken_alone(data: bytes):
    kept = bytes(byte for byte in data.lower() if byte not in b" \t\r\n\v\f")
    alone = [overlap._windows(kept[i:i + 64]) for i in range(len(kept) - 63)]
    assert list(overlap._windows(data)) == [value for one in alone for value in one]


def test_a_person_hears_of_documents_that_stand_on_both_sides():
    documents = [made_text(2_000, seed) for seed in range(400)]
    assert not any("stand in train" in note for note in prepare(made_corpus(documents), "new", ("byte",)).notes)
    copies = [b"Again: " + document for document in documents]  # other hashes, so other splits
    result = prepare(made_corpus([*documents, *copies]), "copied", ("byte",))
    assert result.prepared.manifest.overlap["val"].found > 0.5 * result.prepared.manifest.splits["val"].rows
    found = result.prepared.manifest.overlap["val"]
    assert f"{found.found} of {found.judged} rows of val" in result.notes[0], "before all else"
    assert "stand in train" in result.notes[0] and "Remove copies" in result.notes[0]
