"""A checkpoint says how it came to be, and nothing that was cut off, changed or foreign passes for one."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from autoresearch import paths
from autoresearch.errors import UserError
from autoresearch.harness import checkpoint
from autoresearch.harness.runner import Runner
from autoresearch.harness.supervise import Outcome
from autoresearch.records import Score
from tests.harness.tiny import LOSS, honest, tiny_recipe, with_code

WEIGHTS = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(5, np.float16)}
FILES = {"recipe.toml": "# ü\n".encode(), "odd.py": b"\xff\x00\xfe"}
FACTS = {"backend": "cpu", "precision": "float32", "device": "Toaster", "recipe": {"model.depth": 2}, "vocab": 257,
         "tokenizer_digest": "abc", "data_name": "letters", "data_digest": "def", "seed": 3, "budget_s": 1.5,
         "steps": 7, "tokens": 70, "train_s": 1.4}


def made(folder: Path) -> Path:
    path = folder / checkpoint.WEIGHTS
    save_file(WEIGHTS, path, {"said": "by the trial"})
    checkpoint.stamp(path, checkpoint.record(FILES, **FACTS))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return made(tmp_path_factory.mktemp("whole")).read_bytes()


def edit(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    path.write_bytes(data.replace(old, new))


def test_a_record_comes_back_as_it_was_written_and_the_tensors_are_untouched(tmp_path: Path) -> None:
    path = made(tmp_path)
    about, is_ours = checkpoint.read(path)
    assert is_ours and about.files() == FILES and about.tensors_sha256
    assert {name: asdict(about)[name] for name in FACTS} == FACTS
    assert [(k, v.dtype, v.tolist()) for k, v in sorted(load_file(path).items())] == [
        (k, v.dtype, v.tolist()) for k, v in sorted(WEIGHTS.items())]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_a_record_says_can_not_steer_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.WEIGHTS
    save_file(WEIGHTS, path)
    checkpoint.stamp(path, checkpoint.record(FILES, **FACTS | {"data_name": "le\x1b[31mt\nters\x9b \u202e"}))
    assert checkpoint.read(path)[0].data_name == "let ters"


def test_nothing_that_the_trial_wrote_of_itself_stays(tmp_path: Path) -> None:
    with safe_open(made(tmp_path), "np") as stored:
        assert set(stored.metadata()) == {checkpoint.ENTRY, checkpoint.SIGNATURE}


@given(st.data())
def test_a_file_cut_anywhere_is_a_sentence(whole: bytes, tmp_path_factory: pytest.TempPathFactory, data) -> None:
    path = tmp_path_factory.mktemp("cut") / "w.safetensors"
    path.write_bytes(whole[:data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(UserError, match=r"cut off|not a safetensors"):
        checkpoint.read(path)


@given(st.data())
def test_a_flipped_bit_is_a_sentence_or_costs_the_file_its_signature(
        whole: bytes, tmp_path_factory: pytest.TempPathFactory, data) -> None:
    header = 8 + int.from_bytes(whole[:8], "little")
    at = data.draw(st.one_of(st.integers(0, header - 1), st.integers(header, len(whole) - 1)))
    damaged = bytearray(whole)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("flip") / "w.safetensors"
    path.write_bytes(damaged)
    try:
        about, is_ours = checkpoint.read(path)
    except UserError:
        return
    assert at < header, "the tensors have a digest of their own"
    changed = about != checkpoint.read(_copy(path, whole))[0]
    assert not (changed and is_ours)


def _copy(path: Path, content: bytes) -> Path:
    path = path.with_name("whole")
    path.write_bytes(content)
    return path


@given(st.binary(max_size=200))
def test_no_bytes_end_in_anything_but_a_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("noise") / "w.safetensors"
    for data in (content, len(content).to_bytes(8, "little") + content):
        path.write_bytes(data)
        with pytest.raises(UserError):
            checkpoint.read(path)


@pytest.mark.parametrize("header", [b"[]", b"{}", b"1", b'{"a": 1}', b'{"a": {"data_offsets": [0]}}', b"[" * 5000,
                                    b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, "x"]}}',
                                    b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 1e999]}}',
                                    b'{"__metadata__": 3}', b'{"__metadata__": {"autoresearch": "[]"}}'])
def test_headers_that_mean_nothing_are_a_sentence(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match=r"safetensors|no record"):
        checkpoint.read(path)


def test_weights_without_a_record_are_told_apart_from_no_weights(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="holds weights, but no record"):
        checkpoint.read(tmp_path / "plain.safetensors")


def test_a_checkpoint_of_a_newer_version_asks_for_an_update(tmp_path: Path) -> None:
    path = made(tmp_path)
    edit(path, rb'\"format\": 1,', rb'\"format\": 2,')
    with pytest.raises(UserError, match="newer autoresearch: it has format 2, this one reads up to 1") as failed:
        checkpoint.read(path)
    assert "git pull" in failed.value.hint


@pytest.mark.parametrize("name", ["../../x.py", "/etc/x.py", "", "a/", "a//b", "./a", "a\0b"])
def test_code_outside_the_candidates_folder_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / checkpoint.WEIGHTS
    save_file(WEIGHTS, path)
    checkpoint.stamp(path, replace(checkpoint.record(FILES, **FACTS), code={name: "evil"}))
    with pytest.raises(UserError, match="outside the candidate's folder"):
        checkpoint.read(path)


def foreign(path: Path, changes: dict, signature: str | None = None, escaped: bool = True) -> Path:
    """A stranger's file: other parts in the record, another signature."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    metadata = header["__metadata__"]
    metadata[checkpoint.ENTRY] = json.dumps(json.loads(metadata[checkpoint.ENTRY]) | changes, ensure_ascii=escaped)
    metadata[checkpoint.SIGNATURE] = signature or metadata[checkpoint.SIGNATURE]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    return path


@pytest.mark.parametrize("changes", [
    {"device": "\ud800"}, {"recipe": {"extra.\udc80": 1}}, {"recipe": {"extra.a": ["\udc80"]}},
    {"code": {"a\udc80.py": ""}}, {"code": {"a.py": "\ud800"}}])
def test_half_a_character_in_a_strangers_record_is_a_sentence(tmp_path: Path, changes: dict) -> None:
    """Digests, files and terminals take none. In code some stand for a byte."""
    for escaped in (True, False):
        path = foreign(made(tmp_path), changes, escaped=escaped)
        with pytest.raises(UserError, match="record that can't be read: it holds halves of characters"):
            checkpoint.read(path)
        assert checkpoint.precision(path) == ""
    assert checkpoint.read(foreign(made(tmp_path), {"code": {"a.py": "\udc80"}}))[0].files() == {"a.py": b"\x80"}


def test_half_a_character_in_a_signature_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="halves of characters"):
        checkpoint.read(foreign(made(tmp_path), {}, "\ud800"))


def test_parts_of_a_record_that_nobody_knows_are_named_in_plain_letters(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(r"can't be read: '\x1b[31m', '\ud800'")):
        checkpoint.read(foreign(made(tmp_path), {"\ud800": 1, "\x1b[31m": 2}))


def test_what_another_machine_wrote_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path)
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "another"))
    assert checkpoint.read(path)[1] is False
    assert os.stat(tmp_path / "another" / "checkpoint.key").st_mode & 0o077 == 0
    made(tmp_path)
    assert checkpoint.read(path)[1] is True


def test_a_record_moved_to_other_weights_is_found(tmp_path: Path) -> None:
    path = made(tmp_path)
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(data[:header] + bytes(len(data) - header))
    with pytest.raises(UserError, match="not those that were written"):
        checkpoint.read(path)


# What a trial leaves


def test_a_trials_weights_are_a_checkpoint_that_scores_as_the_trial_did(
        mlx: Runner, trained: Outcome, tmp_path: Path) -> None:
    about, is_ours = checkpoint.read(trained.weights)
    assert is_ours and about.files() == honest() and about.recipe == tiny_recipe().flat()
    assert (about.backend, about.seed, about.steps, about.budget_s) == ("mlx", 1, 30, None)
    assert about.data_digest == mlx.prepared.digest
    assert about.tokenizer_digest == mlx.prepared.manifest.tokenizers["byte"].digest
    score = mlx.score(honest(), tiny_recipe(), tmp_path / "a", trained.weights, "val", None)
    again = mlx.evaluate(about.files(), tiny_recipe(), tmp_path / "b", trained.weights, "val")
    assert isinstance(score, Score) and again.score == score
    assert not (tmp_path / "b" / "recorded.npz").exists()


@pytest.mark.parametrize("spoil", ["open('weights.safetensors', 'wb').write(bytes([5]) + bytes(7) + b'{\"a\":')",
                                   "os.remove('weights.safetensors'); os.symlink('/dev/zero', 'weights.safetensors')"])
def test_weights_that_are_no_safetensors_are_the_candidates_fault(mlx: Runner, tmp_path: Path, spoil: str) -> None:
    """The loss is asked once more after the weights have been written, so a candidate can get at them."""
    files = with_code(LOSS, f"if os.path.exists('weights.safetensors'): {spoil}")
    outcome = mlx.train(files, tiny_recipe(), 1, tmp_path, None, steps=2)
    assert outcome.status in ("invalid", "crash")
    known = "file of weights that the trial wrote is|something else than a file"
    assert re.search(known, outcome.reason), outcome.reason


def test_the_key_is_made_once_however_many_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    random = secrets.token_bytes
    monkeypatch.setattr(secrets, "token_bytes", lambda size: time.sleep(0.05) or random(size))
    with ThreadPoolExecutor(8) as many:
        keys = set(many.map(lambda _: checkpoint._key(), range(8)))
    assert len(keys) == 1 and len(first := keys.pop()) == 32 and checkpoint._key() == first != bytes(32)
    assert [p.name for p in paths.cache().iterdir()] == ["checkpoint.key"]


def test_a_key_is_made_where_the_file_system_has_neither_links_nor_locks(monkeypatch: pytest.MonkeyPatch,
                                                                         tmp_path: Path) -> None:
    """exFAT, and folders that are mounted from elsewhere. It is needed when the training is over."""
    def refused(*given: object, **more: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    for module, name in ((os, "link"), (os, "symlink"), (fcntl, "flock")):
        monkeypatch.setattr(module, name, refused)
    assert checkpoint.read(made(tmp_path))[1] is True
    assert [p.name for p in paths.cache().iterdir()] == ["checkpoint.key"]


def test_a_key_that_was_cut_off_when_it_was_made_is_made_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With an empty one anybody could sign."""
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path))
    for left in (b"", b"short"):
        (tmp_path / "checkpoint.key").write_bytes(left)
        assert len(key := checkpoint._key()) == 32 and checkpoint._key() == key
