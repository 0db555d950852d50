"""Training sees every token about once an epoch, in an order that a seed fixes."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.data.batches import dev_rows, training_rows
from autoresearch.errors import UserError

BOS = 60_000


def stream(length: int) -> np.ndarray:
    return np.arange(length, dtype=np.uint16)


def epochs(length: int, seq_len: int, count: int, seed: int = 0) -> list[np.ndarray]:
    rows = training_rows(stream(length), BOS, seq_len, seed)
    taken = itertools.takewhile(lambda pair: pair[1] < count, rows)
    return [np.stack([row for row, _ in group]) for _, group in itertools.groupby(taken, key=lambda pair: pair[1])]


@settings(max_examples=80, deadline=None)
@given(length=st.integers(2, 400), seq_len=st.integers(1, 50), seed=st.integers(0, 5))
def test_an_epoch_uses_each_token_once_but_for_less_than_a_row(length, seq_len, seed):
    for rows in epochs(length, seq_len, 3, seed):
        assert rows.dtype == np.int32 and rows.shape == (max(1, length // seq_len), seq_len + 1)
        assert (rows[:, 0] == BOS).all()
        assert (np.diff(rows[:, 1:], axis=1) % length == 1 % length).all()  # consecutive, round the ring
        seen = np.bincount(rows[:, 1:].ravel(), minlength=length)
        if length >= seq_len:
            assert seen.max() == 1 and (seen == 0).sum() < seq_len
        else:
            assert seen.min() >= 1


def test_the_order_is_that_of_the_seed():
    def first(seed):
        return np.stack([row for row, _ in itertools.islice(training_rows(stream(5000), BOS, 16, seed), 700)])

    assert (first(1) == first(1)).all()
    assert (first(1) != first(2)).any()


def test_epochs_differ_in_phase_and_order():
    one, two = epochs(1000, 10, 2)
    assert one[0, 1] % 10 != two[0, 1] % 10 or (one[0] != two[0]).any()
    assert len({int(rows[0, 1]) % 10 for rows in epochs(1000, 10, 8)}) > 3
    assert (np.diff(one[:, 1]) == 10).mean() < 0.2  # shuffled


def test_rows_come_from_a_memory_map(tmp_path: Path):
    path = tmp_path / "tokens"
    stream(1000).tofile(path)
    mapped = np.memmap(path, dtype="<u2", mode="r")
    pairs = zip(training_rows(mapped, BOS, 32, 0), training_rows(stream(1000), BOS, 32, 0), strict=True)
    for (a, _), (b, _) in itertools.islice(pairs, 100):
        assert (a == b).all()
        a[0] = 1  # a row is the caller's own


def test_dev_rows_are_evenly_spaced_from_first_to_last_token():
    rows = dev_rows(stream(1000), BOS, 10, 5)
    assert rows.dtype == np.int32 and rows.shape == (5, 11)
    assert list(rows[:, 1]) == [0, 247, 495, 742, 990] and rows[-1, -1] == 999
    assert (dev_rows(stream(1000), BOS, 10, 5) == rows).all()


@pytest.mark.parametrize(("length", "seq_len", "count"), [(5, 8, 3), (2, 16, 1), (40, 8, 30)])
def test_dev_rows_keep_their_shape_on_a_short_text(length, seq_len, count):
    rows = dev_rows(stream(length), BOS, seq_len, count)
    assert rows.shape == (count, seq_len + 1) and rows[:, 1:].max() < length


@pytest.mark.parametrize("length", [0, 1])
def test_a_stream_of_nothing_is_refused_at_once(length):
    with pytest.raises(UserError, match=re.escape(f"{length} tokens: nothing can be learned")):
        training_rows(stream(length), BOS, 8, 0)
