"""A prepared set is whole or absent, says what it holds, and is never overwritten."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from autoresearch.data import corpus, manifest, prepared
from autoresearch.data.manifest import SPLITS
from autoresearch.data.prepare import DEFAULT_TOKENIZERS, prepare
from autoresearch.errors import UserError
from tests.data.texts import made_text

ODD = "🙂 東京\n".encode() * 200 + b"\xff\xfe broken \x80\n" * 100 + b"tail with a \x00 byte"


def odd(novel: Path) -> prepared.Prepared:
    novel.write_bytes(novel.read_bytes() + ODD)
    return prepare(corpus.text([novel]), tokenizers=("byte", "bpe-300")).prepared


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one set."""
    folder = tmp_path_factory.mktemp("pristine")
    (folder / "novel.txt").write_bytes(made_text(110_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTORESEARCH_CACHE", str(folder / "cache"))
        odd(folder / "novel.txt")
    return folder / "cache"


@pytest.fixture
def whole(novel: Path, cache: Path, pristine: Path) -> prepared.Prepared:
    """A copy of that set, in the cache of this test."""
    novel.write_bytes(novel.read_bytes() + ODD)
    shutil.copytree(pristine, cache)
    return prepared.find("novel")


@pytest.fixture
def own(novel: Path) -> prepared.Prepared:
    """The same set, prepared by this test: for one that prepares again."""
    return odd(novel)


def test_the_manifest_counts_every_byte_and_character(whole: prepared.Prepared, novel: Path):
    facts = whole.manifest
    assert sum(split.bytes for split in facts.splits.values()) == facts.corpus.bytes == novel.stat().st_size
    assert facts.corpus.sha256 == hashlib.sha256(novel.read_bytes()).hexdigest()
    assert facts.corpus.notes and "300 bytes are not UTF-8" in facts.corpus.notes[0]
    characters = len(novel.read_bytes().decode("utf-8", "surrogateescape"))
    assert sum(split.chars for split in facts.splits.values()) == characters
    for name in SPLITS:
        assert facts.splits[name].bytes == len(whole.text(name)) == sum(map(len, whole.documents(name)))
        assert facts.splits[name].sha256 == hashlib.sha256(whole.text(name)).hexdigest()
        assert facts.splits[name].documents == len(list(whole.documents(name)))


def test_rows_hold_the_bytes_of_their_split(whole: prepared.Prepared):
    for name in ("val", "confirm", "holdout"):
        rows = whole.rows(name)
        assert len(rows) == whole.manifest.splits[name].rows
        assert sum(map(len, rows)) == whole.manifest.splits[name].bytes
        assert max(map(len, rows)) <= whole.manifest.row_bytes == 1024


def test_streams_are_bos_and_tokens_of_each_document(whole: prepared.Prepared):
    assert whole.tokenizers() == ["byte", "bpe-300"]
    for name in whole.tokenizers():
        tokenizer = whole.tokenizer(name)
        for split in SPLITS:
            (stream,) = whole.tokens(split, name)
            assert stream.dtype == np.uint16 and not stream.flags.writeable
            assert len(stream) == whole.manifest.tokenizers[name].tokens[split]
            assert tokenizer.decode(stream) == whole.text(split)
            assert tokenizer.token_bytes[stream].sum() == len(whole.text(split))
            starts = np.flatnonzero(stream == tokenizer.bos)
            documents = [tokenizer.decode(part) for part in np.split(stream, starts)[1:]]
            assert documents == list(whole.documents(split))


def test_bpe_learns_from_the_train_split_alone(whole: prepared.Prepared):
    from autoresearch.data.tokenizer import train_bpe

    trained = train_bpe(lambda: whole.documents("train"), 300)
    assert trained is not None and trained.digest == whole.manifest.tokenizers["bpe-300"].digest


def test_the_same_text_again_changes_nothing(own: prepared.Prepared, novel: Path):
    before = {path: path.stat().st_mtime_ns for path in own.root.iterdir()}
    again = prepare(corpus.text([novel]), tokenizers=("byte", "bpe-300"))
    assert not again.is_new and any("nothing to do" in note for note in again.notes)
    assert {path: path.stat().st_mtime_ns for path in own.root.iterdir()} == before
    assert again.prepared.digest == own.digest


def test_a_tokenizer_can_be_added_and_leaves_the_digest_as_it_was(own: prepared.Prepared, novel: Path):
    more = prepare(corpus.text([novel]), tokenizers=("bpe-400",))
    assert more.is_new and more.prepared.root == own.root
    assert more.prepared.tokenizers() == ["byte", "bpe-300", "bpe-400"]
    assert more.prepared.digest == own.digest
    more.prepared.verify()


def test_other_text_of_the_same_name_is_put_beside_it(own: prepared.Prepared, novel: Path):
    novel.write_bytes(made_text(60_000, seed=5))
    other = prepare(corpus.text([novel]), tokenizers=("byte",)).prepared
    assert other.name == f"novel-{other.digest[:8]}" and other.digest != own.digest
    assert prepared.load(own.root).digest == own.digest
    assert prepare(corpus.text([novel]), tokenizers=("byte",)).prepared.root == other.root


def test_the_set_prepared_or_selected_last_is_current(own: prepared.Prepared, tmp_path: Path):
    assert prepared.current().root == own.root
    (tmp_path / "b.txt").write_bytes(made_text(30_000, 2))
    prepare(corpus.text([tmp_path / "b.txt"]), name="second", tokenizers=("byte",))
    assert prepared.current().name == "second"
    prepared.select("novel")
    assert prepared.current().digest == own.digest
    assert prepared.names() == ["novel", "second"]
    with pytest.raises(UserError, match="there are novel, second"):
        prepared.find("third")


def test_without_a_set_the_remedy_is_named(cache: Path):
    with pytest.raises(UserError) as caught:
        prepared.current()
    assert "ar prepare" in caught.value.hint and not cache.exists()


def test_default_tokenizers_are_those_that_suit_the_text(tmp_path: Path):
    path = tmp_path / "t.txt"
    path.write_bytes(made_text(120_000))
    found = prepare(corpus.text([path]))
    assert found.prepared.tokenizers() == ["byte", "bpe-1024"]
    assert [note.split()[0] for note in found.notes] == ["bpe-2048", "bpe-4096", "bpe-8192"]
    path.write_bytes(b"all work and no play\n" * 20_000)
    found = prepare(corpus.text([path]))
    assert found.prepared.tokenizers() == ["byte"]
    repeated, taken, *faults = found.notes
    assert "18 of 18 rows of val (100.0%)" in repeated and "t is another text, which stays" in taken
    assert len(faults) == len(DEFAULT_TOKENIZERS) - 1 and "repeated pieces" in faults[0]
    with pytest.raises(UserError, match="bpe-4096 can't be trained"):
        prepare(corpus.text([path]), tokenizers=("bpe-4096",))


def test_a_failed_preparation_leaves_nothing(tmp_path: Path, cache: Path):
    path = tmp_path / "dull.txt"
    path.write_bytes(b"all work and no play\n" * 2_000)
    with pytest.raises(UserError, match="can't be trained"):
        prepare(corpus.text([path]), tokenizers=("byte", "bpe-4096"))
    assert [entry.name for entry in (cache / "data").iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "current", "x" * 65, "a b"])
def test_a_bad_name_is_refused(novel: Path, name: str):
    with pytest.raises(UserError, match="must be at most 64 letters"):
        prepare(corpus.text([novel]), name=name)


def test_a_full_disk_is_seen_beforehand(novel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 5_000_000))
    with pytest.raises(UserError, match="5 MB free; preparing this text needs 3"):
        prepare(corpus.text([novel]))
    assert prepared.names() == []


def test_a_cache_that_cannot_be_written_is_a_sentence(novel: Path, cache: Path):
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="can't write to"):
        prepare(corpus.text([novel]))


def test_damage_is_noticed(whole: prepared.Prepared):
    val = whole.root / "val.txt"
    original = val.read_bytes()
    val.write_bytes(original[:-1] + b"?")
    with pytest.raises(UserError, match=r"val.txt has changed"):
        whole.verify()
    with pytest.raises(UserError, match="rows of val are not those"):
        whole.rows("val")
    val.write_bytes(original[:-1])
    with pytest.raises(UserError, match=r"val.txt has .* bytes"):
        prepared.load(whole.root)
    val.unlink()
    with pytest.raises(UserError, match=r"val.txt is missing"):
        prepared.load(whole.root)
    val.write_bytes(original)
    prepared.load(whole.root).verify()


def test_another_tokenizer_in_the_place_of_the_prepared_one_is_noticed(whole: prepared.Prepared):
    path = whole.root / "tokenizer.bpe-300.json"
    stored = json.loads(path.read_text())
    stored["tokens"][-1], stored["tokens"][-2] = stored["tokens"][-2], stored["tokens"][-1]
    path.write_text(json.dumps(stored, indent=0))
    with pytest.raises(UserError, match="damaged"):
        whole.tokenizer("bpe-300")
    with pytest.raises(UserError, match="it has byte, bpe-300"):
        whole.tokenizer("bpe-9999")


@pytest.mark.parametrize("change", [
    lambda m: m.update(format="2"), lambda m: m.pop("policy"), lambda m: m.update(extra=1),
    lambda m: m.update(row_bytes="x"),
    lambda m: m["splits"].pop("val"), lambda m: m["splits"]["val"].update(bytes=True),
    lambda m: m["files"].update({"../../etc/passwd": {"bytes": 1, "sha256": ""}}), lambda m: m.update(splits=[]),
])
def test_a_damaged_manifest_is_refused_with_a_remedy(whole: prepared.Prepared, change):
    path = whole.root / prepared.MANIFEST
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match="damaged") as caught:
        prepared.load(whole.root)
    assert f"ar data delete {whole.name}" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_manifest_that_is_no_manifest_is_refused(whole: prepared.Prepared, content: bytes):
    (whole.root / prepared.MANIFEST).write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        prepared.load(whole.root)


def test_the_manifest_reads_back_as_it_was(whole: prepared.Prepared):
    assert manifest.parse(whole.manifest.to_json()) == whole.manifest


PREPARE = """
import sys
from pathlib import Path
from autoresearch.data import corpus
from autoresearch.data.prepare import prepare
corpus = corpus.text([Path(sys.argv[1])])
print("go", flush=True)
prepare(corpus, tokenizers=("byte", "bpe-300", "bpe-1024"))
print("done", flush=True)
"""


def start(novel: Path, cache: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"AUTORESEARCH_CACHE": str(cache), "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen([sys.executable, "-c", PREPARE, str(novel)], env=environment, text=True,
                             stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == "go\n"
    return child


def test_killed_at_any_moment_there_is_nothing_or_a_whole_set(novel: Path, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "unhurt"))
    begun = time.monotonic()
    with start(novel, tmp_path / "unhurt") as child:
        assert child.wait(60) == 0
    duration = time.monotonic() - begun
    left_behind = 0
    rng = random.Random(0)
    for attempt in range(8):
        cache = tmp_path / f"cache{attempt}"
        monkeypatch.setenv("AUTORESEARCH_CACHE", str(cache))
        with start(novel, cache) as child:
            time.sleep(rng.random() * duration)
            child.send_signal(signal.SIGKILL)
        left_behind += len(list((cache / "data").glob(".tmp-*")))
        for name in prepared.names():
            prepared.find(name).verify()
        found = prepare(corpus.text([novel]), tokenizers=("byte",)).prepared
        found.verify()
        assert prepared.current().root == found.root
        assert {entry.name for entry in (cache / "data").iterdir()} == {".lock", "current", "novel"}
    assert left_behind > 0, "no kill came in time to interrupt anything"


def test_two_at_once_make_one_set(novel: Path, cache: Path):
    children = [start(novel, cache) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.read() == "done\n"
        child.stdout.close()
    assert prepared.names() == ["novel"]
    prepared.current().verify()
