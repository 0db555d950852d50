"""Answers of scorer and audit are believed only under the seal that was expected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.data.prepared import Prepared
from autoresearch.harness import runner
from autoresearch.harness.runner import ANSWERS, Runner
from autoresearch.harness.seal import Broken, opened, seal
from autoresearch.harness.supervise import Outcome, TrialFailed
from tests.harness.tiny import honest, tiny_recipe

SEAL = {"nonce": "1", "text": "2", "tokenizer": "3", "program": "4"}
WHOLE = {"status": "ok", "seal": SEAL, **dict.fromkeys(ANSWERS["audit"], 1)}


def answered(**changes: object) -> bytes:
    return json.dumps({k: v for k, v in (WHOLE | changes).items() if v is not None}).encode()


def test_a_whole_answer_under_its_seal_is_opened_and_so_is_a_failure() -> None:
    assert opened(answered(), SEAL, ANSWERS["audit"]) == WHOLE
    failed = {"status": "invalid", "reason": "not finite", "cause": ""}
    assert opened(json.dumps(failed).encode(), SEAL, ANSWERS["audit"]) == failed


@pytest.mark.parametrize(("answer", "said"), [
    (b"", "gave no whole answer"), (b"[]", "gave no whole answer"), (answered()[:-5], "gave no whole answer"),
    (answered(status="invalid"), "gave no whole answer"),
    (answered(status="invalid", reason="not finite"), "gave no whole answer"),
    (answered(status=None), "gave no whole answer"),
    (answered(difference=None), "left difference out"), (answered(seal=None), "left seal out"),
    (answered(seal="1234"), "another question"), (answered(seal=SEAL | {"nonce": "9"}), "another question"),
    (answered(seal=SEAL | {"text": "9"}), "another text"),
    (answered(seal=SEAL | {"tokenizer": ""}), "another tokenizer"),
    (answered(seal={k: v for k, v in SEAL.items() if k != "program"}), "no longer the one that is running"),
])
def test_an_answer_that_is_partial_old_or_foreign_is_none(answer: bytes, said: str) -> None:
    with pytest.raises(Broken, match=said):
        opened(answer, SEAL, ANSWERS["audit"])


@given(st.binary(max_size=60) | st.recursive(st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) |
       st.dictionaries(st.sampled_from(["status", "seal", "reason", "positions"]), inner), max_leaves=9).map(
           lambda value: json.dumps(value).encode()))
def test_whatever_a_process_prints_it_is_opened_or_broken(answer: bytes) -> None:
    try:
        result = opened(answer, SEAL, ANSWERS["audit"])
    except Broken:
        return
    assert isinstance(result["reason"], str), "nothing whole comes about by chance"


def test_a_score_by_a_program_that_has_changed_on_disk_is_a_crash(
        mlx: Runner, trained: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained.facts["program"] == runner.program()
    monkeypatch.setattr(runner, "program", lambda: "as it was yesterday")
    with pytest.raises(TrialFailed, match="program on disk is no longer the one that is running") as failed:
        mlx.score(honest(), tiny_recipe(), tmp_path, trained.weights, "val", 1)
    assert failed.value.status == "crash"


def test_a_seal_names_text_tokenizer_and_program(text: Prepared) -> None:
    byte, bpe = (seal("n", text, name) for name in ("byte", "bpe-512"))
    assert byte["text"] == bpe["text"] == text.digest and byte["tokenizer"] != bpe["tokenizer"]
    assert byte["program"] == runner.program() and seal("n", text, "byte", "p")["program"] == "p"
