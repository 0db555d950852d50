"""A set is made in steps that survive a kill: shards, tokenizers added later, a run that goes on where one stopped."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from autoresearch.data import disk, manifest, prepared
from autoresearch.data import prepare as module
from autoresearch.data.manifest import SPLITS
from autoresearch.data.prepare import extend, prepare
from autoresearch.data.tokenizer import Tokenizer, train_bpe
from autoresearch.errors import UserError
from autoresearch.harness.runner import Runner
from tests.data.test_tokenizer import gpt2_like
from tests.data.texts import made_corpus, made_text

ROOT = Path(__file__).parents[2]
DOCUMENTS = [made_text(1_500, seed) for seed in range(250)]


@pytest.fixture
def sharded(monkeypatch: pytest.MonkeyPatch) -> prepared.Prepared:
    monkeypatch.setattr(module, "SHARD_BYTES", 60_000)
    return prepare(made_corpus(DOCUMENTS), "made", ("byte", "bpe-300")).prepared


def decoded(found: prepared.Prepared, name: str, shards: int | None = None) -> list[bytes]:
    tokenizer = found.tokenizer(name)
    return [tokenizer.decode(shard) for shard in found.tokens("train", name, shards)]


def test_shards_are_nearly_equal_parts_of_train_and_end_where_documents_do(sharded: prepared.Prepared):
    ends, train = sharded.manifest.shards, sharded.text("train")
    assert ends[-1] == len(train) and set(ends) <= set(sharded.ends("train").tolist())
    assert max(np.diff(ends, prepend=0)) < 60_000 * 1.2 and len(ends) == round(len(train) / 60_000)
    whole = [document for i in range(len(ends)) for document in sharded.documents("train", sharded.shard(i))]
    assert whole == list(sharded.documents("train"))


def test_the_first_two_shards_are_encoded_and_the_others_on_demand(sharded: prepared.Prepared):
    ends, train = sharded.manifest.shards, sharded.text("train")
    assert decoded(sharded, "bpe-300") == [train[:ends[0]], train[ends[0]:ends[1]]]
    assert decoded(sharded, "byte", shards=1) == [train[:ends[0]]]
    before = sharded.tokens("train", "bpe-300")
    more = extend(sharded, "bpe-300", 4)
    assert b"".join(decoded(more, "bpe-300")) == train[:ends[3]]
    assert more.manifest.tokenizers["bpe-300"].tokens["train"] == sum(map(len, more.tokens("train", "bpe-300")))
    assert (len(more.tokens("train", "byte")), more.digest) == (2, sharded.digest)
    more.verify()
    # What was loaded before goes on as it was.
    assert [list(shard) for shard in before] == [list(shard) for shard in sharded.tokens("train", "bpe-300")]
    assert b"".join(decoded(extend(sharded, "bpe-300", 99), "bpe-300")) == train
    assert extend(sharded, "bpe-300", 1).manifest == prepared.load(sharded.root).manifest


def test_bpe_learns_from_every_so_manyth_document_of_a_large_train_split(monkeypatch: pytest.MonkeyPatch):
    taught: list[list[bytes]] = []

    def learning(documents: Callable[[], Iterable[bytes]], vocab: int) -> Tokenizer | None:
        taught.append(list(documents()))
        return train_bpe(documents, vocab)

    monkeypatch.setattr(module, "train_bpe", learning)
    for most_bytes in (10**9, 100_000):
        monkeypatch.setattr(module, "LEARNED_BYTES", most_bytes)
        found = prepare(made_corpus(DOCUMENTS), f"of-{most_bytes}", ("bpe-300",)).prepared
    train, every = list(found.documents("train")), -(-found.manifest.splits["train"].bytes // 100_000)
    assert taught == [train, train[::every]] and every > 2
    assert sum(map(len, taught[1])) < 1.1 * 100_000, "documents are of one size here, so this many bytes"


LOCK = """
from autoresearch.data import disk, prepared
with disk.lock(prepared.folder(), print):
    print("locked", flush=True)
    input()
"""


@pytest.fixture
def busy(sharded: prepared.Prepared) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock of the cache, until it is sent a line."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", LOCK], env=environment, text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        yield other
        other.kill()


def test_nobody_is_waited_for_where_no_shard_is_lacking(sharded: prepared.Prepared, busy: subprocess.Popen[str]):
    assert extend(sharded, "byte", 2, pytest.fail).manifest == sharded.manifest


def test_who_is_waited_for_is_said(sharded: prepared.Prepared, busy: subprocess.Popen[str]):
    lines: list[str] = []

    def listen(line: str) -> None:
        lines.append(line)
        if busy.poll() is None:
            busy.communicate("go on\n")

    assert len(extend(sharded, "byte", 3, listen).tokens("train", "byte")) == 3
    assert lines == ["another process is preparing text in this cache; waiting for it", "tokenizer byte: shard 3 of 3"]


EXTEND = """
import sys
from autoresearch.data import prepare, prepared
prepare.SHARD_BYTES = 60_000
prepare.extend(prepared.find("made"), "byte", 3, lambda line: print(line, flush=True))
"""


def test_ctrl_c_ends_the_wait(sharded: prepared.Prepared, busy: subprocess.Popen[str]):
    with subprocess.Popen([sys.executable, "-c", EXTEND], env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
        assert waiting.stdout is not None and "waiting for it" in waiting.stdout.readline()
        waiting.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in waiting.communicate(timeout=10)[1]
    assert busy.poll() is None and prepared.load(sharded.root).manifest == sharded.manifest


def test_a_study_waits_once_for_the_shards_that_it_lacks_and_says_so(sharded: prepared.Prepared, tmp_path: Path,
                                                                     busy: subprocess.Popen[str]):
    def events(message: dict[str, str]) -> None:
        heard.append(message["event"])
        if busy.poll() is None:
            busy.communicate("go on\n")

    heard: list[str] = []
    runner = Runner(sharded, "cpu", tmp_path, shards=3)
    for _ in range(2):
        assert len(runner._train_text("byte", events).tokens("train", "byte")) == 3
    assert len(heard) == 2 and "waiting for it" in heard[0]
    assert len(runner.prepared.manifest.tokenizers["byte"].shards) == 3
    with disk.lock(prepared.folder(), pytest.fail):  # one that was loaded before, while somebody has the lock
        stale = Runner(sharded, "cpu", tmp_path, shards=3)
        assert len(stale._train_text("byte", pytest.fail).tokens("train", "byte")) == 3


@pytest.mark.parametrize("shards", [0, 3])
def test_shards_that_are_not_encoded_are_a_sentence(sharded: prepared.Prepared, shards: int):
    with pytest.raises(UserError, match=rf"{shards} shards of train asked for: made has 2 of \d encoded") as caught:
        sharded.tokens("train", "byte", shards)
    assert "--encode-shards N" in caught.value.hint


def test_preparing_again_with_more_shards_encodes_them(sharded: prepared.Prepared):
    again = prepare(made_corpus(DOCUMENTS), "made", ("byte",), shards=3)
    assert again.is_new and again.prepared.root == sharded.root
    assert {name: len(facts.shards) for name, facts in again.prepared.manifest.tokenizers.items()} \
        == {"byte": 3, "bpe-300": 2}
    again.prepared.verify()


def test_the_leftovers_of_a_killed_extension_are_replaced(sharded: prepared.Prepared):
    stray = sharded.root / prepared.tokens_file("train", "byte", 2)
    stray.write_bytes(b"half")
    (sharded.root / prepared.tokens_file("train", "bpe-4000", 0)).write_bytes(b"half")
    (sharded.root / "mine.md").write_text("a person's own note")
    prepared.load(sharded.root).verify()
    again = prepare(made_corpus(DOCUMENTS), "made", ("byte",), shards=3).prepared
    assert b"".join(decoded(again, "byte")) == again.text("train")[:again.manifest.shards[2]]
    again.verify()
    assert {path.name for path in again.root.iterdir()} == {*again.manifest.files, prepared.MANIFEST, "mine.md"}


PREPARE = """
import sys
from autoresearch.data.prepare import prepare
from tests.data.test_steps import DOCUMENTS
from tests.data.texts import made_corpus
prepare(made_corpus(DOCUMENTS), "made", ("byte", "bpe-300", "bpe-1024"), lambda line: print(line, flush=True))
print("done", flush=True)
"""


def start() -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", PREPARE], env=environment, text=True, stdout=subprocess.PIPE)


def killed_at(line: str) -> None:
    with start() as child:
        assert child.stdout is not None
        assert any(said.strip() == line for said in child.stdout)
        child.send_signal(signal.SIGKILL)


def said_by_the_next(documents: list[bytes] = DOCUMENTS) -> list[str]:
    lines: list[str] = []
    prepare(made_corpus(documents), "made", ("byte", "bpe-300", "bpe-1024"), lines.append).prepared.verify()
    return lines


def test_what_a_killed_run_had_finished_is_not_done_again(cache: Path):
    killed_at("tokenizer bpe-1024")
    assert prepared.names() == []
    lines = said_by_the_next()
    assert lines[1:] == ["going on where an earlier ar prepare of this text was stopped", "tokenizer bpe-1024"]
    assert prepared.names() == ["made"] and {p.name for p in (cache / "data").iterdir()} == {".lock", "current", "made"}


def test_what_a_killed_run_had_finished_is_done_again_where_it_is_damaged(cache: Path):
    killed_at("tokenizer bpe-1024")
    (unfinished,) = (cache / "data").glob(".tmp-*")
    text = unfinished / "train.txt"
    text.write_bytes(text.read_bytes()[:-1] + b"?")
    assert "tokenizer byte" in said_by_the_next()


def test_what_a_killed_run_left_of_another_text_is_removed(cache: Path):
    killed_at("tokenizer bpe-1024")
    assert "tokenizer byte" in said_by_the_next(DOCUMENTS[:-1])
    assert {p.name for p in (cache / "data").iterdir()} == {".lock", "current", "made"}


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_set_of_one_that_is_not(cache: Path, tmp_path: Path,
                                                                                  monkeypatch: pytest.MonkeyPatch):
    rng = random.Random(0)
    for _ in range(40):
        with start() as child:
            try:
                if child.wait(0.3 + rng.random()) == 0:
                    break
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
        for name in prepared.names():
            prepared.find(name).verify()
    said_by_the_next()
    found = prepared.find("made").manifest
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "unhurt"))
    said_by_the_next()
    assert found.files == prepared.find("made").manifest.files


@pytest.mark.parametrize("limit", [50_000, 200_000, 400_000])  # the spool, the train text, the stream of its bytes
def test_a_disk_that_fills_up_is_a_sentence_and_nothing_stays(cache: Path, limit: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(UserError, match=r"no space is left for .*data") as caught:
            prepare(made_corpus(DOCUMENTS), "made", ("byte",))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "Free some space" in caught.value.hint
    assert [entry.name for entry in (cache / "data").iterdir()] == [".lock"]


def test_a_full_disk_takes_nothing_from_a_set_that_is_there(sharded: prepared.Prepared):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, before[1]))
    try:
        with pytest.raises(UserError, match="no space is left"):
            extend(sharded, "byte", 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert prepared.load(sharded.root).manifest == sharded.manifest
    prepared.load(sharded.root).verify()


def test_space_is_asked_for_before_the_text_is_read(monkeypatch: pytest.MonkeyPatch):
    import shutil

    corpus = made_corpus(DOCUMENTS)
    corpus.expected_bytes, corpus.documents = 10**9, lambda: pytest.fail("it was read")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**9))
    with pytest.raises(UserError, match="1,000 MB free; preparing this text needs 3,"):
        prepare(corpus, "made")


@pytest.mark.parametrize(("found", "words", "remedy"), [
    (manifest.FORMAT + 1, "written by a newer version", "Update autoresearch"),
    (1, "written by an earlier version", "ar data delete made"),
])
def test_a_set_of_another_version_says_so(sharded: prepared.Prepared, found: int, words: str, remedy: str):
    path = sharded.root / prepared.MANIFEST
    path.write_text(path.read_text().replace(f'"format": {manifest.FORMAT}', f'"format": {found}'))
    for work in (lambda: prepared.load(sharded.root), lambda: prepare(made_corpus(DOCUMENTS), "made")):
        with pytest.raises(UserError, match=words) as caught:
            work()
        assert remedy in caught.value.hint


def test_a_source_that_fails_is_not_taken_for_the_cache(cache: Path):
    def documents():
        yield DOCUMENTS[0]
        raise OSError(5, "Input/output error")

    corpus = made_corpus([])
    corpus.documents = documents
    with pytest.raises(UserError, match="made up can't be read: Input/output error"):
        prepare(corpus, "made")
    assert [entry.name for entry in (cache / "data").iterdir()] == [".lock"]


def test_pinned_documents_licence_and_revision_are_in_the_manifest():
    corpus = made_corpus(DOCUMENTS[:150], DOCUMENTS[150:])
    corpus.revision, corpus.licence = "abc123", "CC0-1.0"
    found = prepare(corpus, "made", ("byte",)).prepared
    facts = found.manifest
    assert (facts.policy, facts.corpus.pinned, facts.corpus.documents) == ("pinned", 100, 250)
    assert (facts.corpus.revision, facts.corpus.licence) == ("abc123", "CC0-1.0")
    assert {d for split in ("val", "confirm", "holdout") for d in found.documents(split)} == set(DOCUMENTS[150:])


def test_the_tail_as_holdout_is_another_set_of_the_same_text():
    plain = prepare(made_corpus(DOCUMENTS), "made", ("byte",)).prepared
    tail = prepare(made_corpus(DOCUMENTS), "made", ("byte",), holdout_chars=10_000).prepared
    assert tail.root != plain.root and tail.manifest.splits["holdout"].chars == tail.manifest.holdout_chars == 10_000
    assert tail.text("holdout").decode() == b"".join(DOCUMENTS).decode()[-10_000:]
    assert sum(map(len, (tail.text(split) for split in SPLITS))) == sum(map(len, DOCUMENTS))
    assert not prepare(made_corpus(DOCUMENTS), "made", ("byte",), holdout_chars=10_000).is_new


def test_a_tokenizer_that_cannot_be_fetched_is_said_before_the_text_is_read(monkeypatch: pytest.MonkeyPatch):
    def unreachable():
        raise UserError("gpt2 can't be fetched")

    corpus = made_corpus([])
    corpus.documents = lambda: pytest.fail("it was read")
    monkeypatch.setattr(module, "gpt2_tokenizer", unreachable)
    with pytest.raises(UserError, match="can't be fetched"):
        prepare(corpus, "made", ("byte", "gpt2"))


def test_looking_for_a_set_leaves_what_another_process_is_writing():
    corpus = made_corpus(DOCUMENTS)
    corpus.revision = "abc123"
    found = prepare(corpus, "made", ("byte",)).prepared
    growing = found.root / prepared.tokens_file("train", "byte", 2)
    growing.write_bytes(b"half")
    assert module.known(corpus, "made") == found and growing.exists()
    assert not prepare(corpus, "made", ("byte",)).is_new and not growing.exists()


def test_the_bytes_of_every_split_are_those_of_its_tokens_whatever_the_text(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "gpt2_tokenizer", gpt2_like)
    odd = ["🙂 東京 ｶﾅ\n".encode() * 40, b"\xff\xfe broken \x80\xc3\n" * 20, b"nul \0 byte", b"x", b"\n", b"",
           b"\xf0\x9f\x99", b"\r\n" * 300, "Ω≈ç√ unseen".encode()]
    documents = [*DOCUMENTS, *(document + bytes([i]) for i in range(60) for document in odd)]
    found = prepare(made_corpus(documents), "odd", ("byte", "char", "bpe-300", "gpt2")).prepared
    assert found.manifest.policy == "hash"
    for name in found.tokenizers():
        tokenizer = found.tokenizer(name)
        for split in SPLITS:
            stream = np.concatenate(found.tokens(split, name))
            assert int(tokenizer.token_bytes[stream].sum()) == found.manifest.splits[split].bytes
            assert tokenizer.decode(stream) == found.text(split)
            assert int((stream == tokenizer.bos).sum()) == found.manifest.splits[split].documents
        rows = found.rows("val")
        assert sum(int(tokenizer.token_bytes[tokenizer.encode(row)].sum()) for row in rows) == sum(map(len, rows))
