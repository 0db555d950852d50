"""Training sees every token once an epoch, in rows of whole documents, in an order that a seed fixes."""

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


def stream(*lengths: int, first: int = 0) -> np.ndarray:
    """Documents of these lengths; every token of all of them is another number."""
    ids = iter(range(first, first + sum(lengths)))
    return np.array([i for n in lengths for i in (BOS, *itertools.islice(ids, n))], dtype=np.uint16)


def rows_of(streams: list[np.ndarray], seq_len: int, count: int, seed: int = 0) -> tuple[np.ndarray, list[int]]:
    pairs = list(itertools.islice(training_rows(streams, BOS, seq_len, seed), count))
    return np.stack([row for row, _ in pairs]), [epoch for _, epoch in pairs]


documents = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(lambda lengths: sum(lengths) > 1)


@settings(max_examples=150, deadline=None)
@given(lengths=documents, more=st.lists(st.integers(0, 40), max_size=5), seq_len=st.integers(1, 24),
       seed=st.integers(0, 5))
def test_an_epoch_uses_every_token_once(lengths, more, seq_len, seed):
    streams = [stream(*lengths), stream(*more, first=sum(lengths))] if more else [stream(*lengths)]
    total = sum(lengths) + sum(more)
    rows, epochs = rows_of(streams, seq_len, 3 * total + 3, seed)
    assert rows.dtype == np.int32 and rows.shape[1] == seq_len + 1
    assert epochs == sorted(epochs)
    flat = rows.ravel()
    tokens = flat[flat != BOS]
    for epoch in range(len(tokens) // total):
        assert sorted(tokens[epoch * total:(epoch + 1) * total]) == list(range(total))


@settings(max_examples=150, deadline=None)
@given(lengths=documents, seq_len=st.integers(2, 24), seed=st.integers(0, 5))
def test_rows_are_packed_runs_of_documents_each_after_bos(lengths, seq_len, seed):
    ends = np.cumsum(lengths)
    rows, _ = rows_of([stream(*lengths)], seq_len, 40, seed)
    assert (rows[:, 0] == BOS).all()
    for row in rows:
        inside = (row[:-1] != BOS) & (row[1:] != BOS)
        assert (np.diff(row)[inside] == 1).all()  # consecutive tokens
        assert (np.searchsorted(ends, row[:-1][inside], "right") ==
                np.searchsorted(ends, row[1:][inside], "right")).all()  # of one document
        assert not ((row[:-1] == BOS) & (row[1:] == BOS)).any()  # no place is wasted


def test_documents_that_fit_stay_whole_but_for_a_rows_last():
    lengths = np.random.default_rng(0).integers(5, 60, 1500)
    ends = np.cumsum(lengths)
    rows, epochs = rows_of([stream(*lengths)], 128, 300)
    assert epochs[-1] == 0
    whole = cropped = 0
    for row in rows:
        runs = np.split(row, np.flatnonzero(row == BOS))[1:]
        for i, run in enumerate(run[1:] for run in runs if len(run) > 1):
            n = int(np.searchsorted(ends, run[0], "right"))
            is_whole = run[0] == ends[n] - lengths[n] and run[-1] == ends[n] - 1
            whole, cropped = whole + is_whole, cropped + (not is_whole)
            is_rest = run[0] != ends[n] - lengths[n]
            assert is_whole or is_rest or i == len(runs) - 1 or runs[-1].size == 1
    assert cropped < 0.05 * whole  # best fit leaves little to crop


def test_the_order_is_that_of_the_seed():
    text = [stream(*range(1, 60))]
    assert (rows_of(text, 16, 300, seed=1)[0] == rows_of(text, 16, 300, seed=1)[0]).all()
    assert (rows_of(text, 16, 300, seed=1)[0] != rows_of(text, 16, 300, seed=2)[0]).any()


def test_a_long_document_is_cut_elsewhere_in_each_epoch_and_shuffled():
    rows, epochs = rows_of([stream(1000)], 10, 800)
    full = [(row, epoch) for row, epoch in zip(rows, epochs, strict=True) if (row[1:] != BOS).all()]
    phases = {epoch: {int(row[1]) % 10 for row, e in full if e == epoch} for epoch in range(7)}
    assert len({min(found) for found in phases.values()}) > 3
    first = np.array([row[1] for row, epoch in full if epoch == 0])
    assert (np.diff(first) == 10).mean() < 0.2


def test_no_document_waits_for_the_end_of_its_epoch():
    lengths = [3] * 900 + [60] * 900
    rows, _ = rows_of([stream(*np.random.default_rng(0).permutation(lengths))], 64, 850)
    short = (rows == BOS).sum(axis=1)
    assert abs(short[:300].mean() - short[-300:].mean()) < 0.5  # short documents come all along


def test_rows_come_from_memory_maps(tmp_path: Path):
    path = tmp_path / "tokens"
    stream(1000, 20, 30).tofile(path)
    mapped = np.memmap(path, dtype="<u2", mode="r")
    pairs = zip(training_rows([mapped], BOS, 32, 0), training_rows([stream(1000, 20, 30)], BOS, 32, 0), strict=True)
    for (a, _), (b, _) in itertools.islice(pairs, 100):
        assert (a == b).all()
        a[0] = 1  # a row is the caller's own


def test_dev_rows_are_evenly_spaced_from_first_to_last_token():
    tokens = np.arange(1000, dtype=np.uint16)
    rows = dev_rows(tokens, BOS, 10, 5)
    assert rows.dtype == np.int32 and rows.shape == (5, 11)
    assert (rows[:, 0] == BOS).all()
    assert list(rows[:, 1]) == [0, 247, 495, 742, 990] and rows[-1, -1] == 999
    assert (dev_rows(tokens, BOS, 10, 5) == rows).all()


@pytest.mark.parametrize(("length", "seq_len", "count"), [(5, 8, 3), (2, 16, 1), (40, 8, 30)])
def test_dev_rows_keep_their_shape_on_a_short_text(length, seq_len, count):
    rows = dev_rows(np.arange(length, dtype=np.uint16), BOS, seq_len, count)
    assert rows.shape == (count, seq_len + 1) and rows[:, 1:].max() < length


@pytest.mark.parametrize("lengths", [[], [0, 0, 0], [1]])
def test_a_stream_of_nothing_is_refused_at_once(lengths):
    with pytest.raises(UserError, match=re.escape(f"{sum(lengths)} tokens: nothing can be learned")):
        training_rows([stream(*lengths)], BOS, 8, 0)
