"""So many rows are scored that it hardly matters which: checked against drawing them again and again."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from autoresearch.records import BASELINE
from autoresearch.research import verify
from autoresearch.research.sizing import SHARE, choice_error_bpb, rows_wanted
from tests.research.planted import Night

ROWS, LN2 = 20_000, math.log(2)


def runs(seeds: int, own_bpb: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of many sizes, hard and easy ones, on each of which every run has luck of its own."""
    bytes_R = rng.integers(200, 1024, ROWS)
    hardness_R = 2.0 + 0.5 * rng.normal(size=ROWS)
    seed_S = 0.01 * rng.normal(size=seeds)
    return LN2 * bytes_R * (hardness_R + seed_S[:, None] + own_bpb * rng.normal(size=(seeds, ROWS))), bytes_R


@pytest.mark.parametrize("own_bpb", [0.02, 0.1])
def test_the_error_is_that_of_drawing_other_rows(own_bpb: float) -> None:
    rng = np.random.default_rng(0)
    nats_SR, bytes_R = runs(2, own_bpb, rng)
    differences, errors = [], []
    for _ in range(300):
        some = rng.choice(ROWS, 200, replace=False)
        bpb_S = nats_SR[:, some].sum(1) / bytes_R[some].sum() / LN2
        differences.append(bpb_S[0] - bpb_S[1])
        errors.append(choice_error_bpb(nats_SR[:, some], bytes_R[some]))
    assert np.mean(errors) == pytest.approx(np.std(differences) / math.sqrt(2), rel=0.1)
    assert np.mean(errors) < 0.5 * 0.5 / math.sqrt(200), "rows that are hard for every run don't count"


def test_as_many_rows_as_the_spread_asks_for() -> None:
    nats_SR, bytes_R = runs(3, 0.1, np.random.default_rng(1))
    few = slice(0, 100)
    wanted = rows_wanted(nats_SR[:, few], bytes_R[few], 0.01, ROWS)
    assert 100 < wanted < ROWS
    assert choice_error_bpb(nats_SR[:, :wanted], bytes_R[:wanted]) == pytest.approx(SHARE * 0.01, rel=0.25)
    assert rows_wanted(nats_SR[:, few], bytes_R[few], 0.005, ROWS) == pytest.approx(4 * wanted, rel=0.01)
    assert rows_wanted(nats_SR[:, few], bytes_R[few], 1.0, ROWS) == 100, "never fewer than there are"
    assert rows_wanted(nats_SR[:, few], bytes_R[few], 1e-4, 5000) == 5000, "never more than the split has"


def test_all_seeds_of_a_baseline_end_on_the_same_rows(tmp_path: Path) -> None:
    """Also where a kill came between the end of the first trial and the note of its rows."""
    night = Night.create(tmp_path, lambda recipe, files: 2.0)
    lab = night.lab()
    baseline = verify.candidate(lab, lab.ledger.experiment(BASELINE))
    lab.ledger.set_fact("val_rows", 8)
    many = lab.screen(baseline, 7)
    lab.ledger.set_fact("val_rows", 6)
    lab.ledger.set_fact("rows_settled", True)
    settled = lab.settle_rows(baseline, [many, lab.screen(baseline, 8)])
    assert many.scores[0].rows == 8 and [t.scores[0].rows for t in settled] == [6, 6]
    assert {t.scores[0].rows for t in lab.ledger.experiment(BASELINE).trials if t.seed > 6} == {6}
    night.made.study.close()
