"""The demo's text and its rounds: what `ar demo` does before and after others have used the cache and the study."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from autoresearch.cli import demo
from autoresearch.cli.studying import DEMO
from autoresearch.data import corpus, prepare, prepared
from autoresearch.research.study import Study
from tests.data.texts import made_corpus, made_text
from tests.report.made import repository


@pytest.mark.parametrize(("others", "current", "afterwards"), [
    ([], None, DEMO), (["novels"], "novels", "novels"), (["novels"], None, DEMO),
    (["novels", "letters"], "novels", "novels")])
def test_the_demos_text_becomes_the_current_one_only_where_none_is(
        others: list[str], current: str | None, afterwards: str, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path))
    for seed, name in enumerate(others):
        prepare.prepare(made_corpus([made_text(30_000, seed)]), name, ("byte",))
    if current:
        prepared.select(current)
    elif others:
        (prepared.folder() / prepared.CURRENT).unlink()  # as `ar data delete` of the current one leaves it

    def small(source: object, name: str, tokenizers: object) -> prepare.Result:
        return prepare.prepare(made_corpus([made_text(30_000, 9)]), name, ("byte",))

    monkeypatch.setattr(corpus, "stdlib", lambda most_bytes: None)
    monkeypatch.setattr(demo, "prepare", SimpleNamespace(prepare=small))
    assert demo._text().name == DEMO and prepared.current_name() == afterwards
    monkeypatch.setattr(demo, "prepare", None)
    assert demo._text().name == DEMO and prepared.current_name() == afterwards, "it is there already"


def test_a_round_of_the_demo_that_was_interrupted_is_finished_before_another_begins(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone, left = repository(tmp_path), dict[int, int]()
    monkeypatch.chdir(clone)
    assert demo._left(8) == 8, "before there is a study"
    with Study.create(clone, DEMO) as study:
        for done in range(14):
            n = study.ledger.propose(parent="", researcher="", hypothesis="", evidence="", changes={}, recipe={})
            left[done] = demo._left(8)  # what is not decided counts for nothing
            study.ledger.decide(n, "invalid", "")
    assert {done: left[done] for done in (0, 5, 8, 13)} == {0: 8, 5: 3, 8: 8, 13: 3}
