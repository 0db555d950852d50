"""What goes wrong with a file is told by its cause: a full disk, a folder that may not be written, a file that can't be
read, and what is no fault of either."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from autoresearch.data import corpus, disk, prepared
from autoresearch.data.prepare import prepare
from autoresearch.errors import UserError


@pytest.mark.parametrize(("code", "words", "remedy"), [
    (errno.ENOSPC, "no space is left for", "Free some space"),
    (errno.EDQUOT, "no space is left for", "Free some space"),
    (errno.EACCES, "can't write to", "ls -ld"),
    (errno.EROFS, "can't write to", "ls -ld"),
])
def test_only_a_full_disk_is_told_to_be_made_room_on(tmp_path: Path, code: int, words: str, remedy: str):
    with pytest.raises(UserError, match=f"{words} {tmp_path}.*: {os.strerror(code)}") as caught, disk.writing(tmp_path):
        raise OSError(code, os.strerror(code), str(tmp_path / "a file"))
    assert remedy in caught.value.hint and "AUTORESEARCH_CACHE" in caught.value.hint
    assert ("space" in caught.value.hint) == (code in disk.FULL)


@pytest.mark.parametrize("code", [errno.EPIPE, errno.EMFILE])
def test_what_is_no_fault_of_the_cache_goes_by(tmp_path: Path, code: int):
    for said in (disk.writing(tmp_path), disk.reading(tmp_path)):
        with pytest.raises(OSError) as caught, said:
            raise OSError(code, os.strerror(code))
        assert caught.value.errno == code


def test_a_file_that_is_too_short_is_one_that_cannot_be_read_also_while_the_cache_is_written(tmp_path: Path):
    (tmp_path / "train.txt").write_bytes(b"short")
    with pytest.raises(UserError, match=r"train.txt can't be read: it ends too early"), disk.writing(tmp_path):
        list(disk.ranges(tmp_path / "train.txt", np.array([[0, 50]])))


def test_a_set_whose_file_cannot_be_read_is_not_told_to_be_written_elsewhere(novel: Path, monkeypatch):
    found = prepare(corpus.text([novel]), tokenizers=("byte",)).prepared
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == prepared.ends_file("train"):
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(UserError, match=r"train.ends can't be read: Input/output error") as caught:
        prepare(corpus.text([novel]), tokenizers=("byte", "char"))
    assert "ar data verify" in caught.value.hint
    monkeypatch.undo()
    assert found.manifest == prepared.load(found.root).manifest


def test_a_reader_of_the_progress_that_has_left_is_no_fault_of_the_cache(novel: Path):
    def gone(line: str) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        prepare(corpus.text([novel]), tokenizers=("byte",), progress=gone)
