"""Where text comes from: every byte as it was, and a sentence for everything that is no text."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.data import corpus, readers
from autoresearch.data.prepare import prepare
from autoresearch.errors import UserError
from tests.data.texts import made_text


def documents(paths: list[Path]) -> list[bytes]:
    return list(corpus.text(paths).documents())


def test_one_file_is_one_document_however_often_it_is_read(novel: Path):
    found = corpus.text([novel])
    assert list(found.documents()) == list(found.documents()) == [novel.read_bytes()]
    assert (found.kind, found.name, found.notes) == ("text", "novel", [])
    assert found.expected_bytes == novel.stat().st_size


def test_separator_lines_divide_a_file(tmp_path: Path):
    path = tmp_path / "stories.txt"
    path.write_bytes(b"one\n<|endoftext|>\ntwo <|endoftext|> inside\r\n<|endoftext|>\r\n\n<|endoftext|>\n"
                     b"three<|endoftext|>")
    assert documents([path]) == [b"one\n", b"two <|endoftext|> inside\r\n", b"\n", b"three<|endoftext|>"]
    path.write_bytes(b"one\n<|endoftext|>")
    assert documents([path]) == [b"one\n"]


LINES = st.sampled_from([b"<|endoftext|>\n", b"<|endoftext|> \r\n", b"a line\n", b"\n", b"no end", b"<|endoftext|>",
                         b" <|endoftext|>\n", "東京🙂\n".encode(), b"x" * 40])


@settings(max_examples=200)
@given(st.lists(LINES, max_size=30).map(b"".join), st.integers(1, 60))
def test_a_stream_in_blocks_is_divided_like_the_whole(text, block_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BLOCK_BYTES", block_bytes)
        found = list(readers.separated(io.BytesIO(text), pytest.fail))
    assert found == [document for document in readers.SEPARATOR.split(text) if document]


def test_a_text_too_long_to_hold_is_cut_between_characters_and_that_is_said(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 7_000)
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 50_000)
    path = tmp_path / "one line.txt"
    for content in ("東".encode() * 60_000, made_text(180_000), b"a line\n" * 30_000):
        path.write_bytes(content)
        found = corpus.text([path])
        pieces = list(found.documents())
        assert b"".join(pieces) == content and max(map(len, pieces)) <= 50_000 and len(pieces) <= 6
        assert len(found.notes) == 1 and "cut in shorter ones" in found.notes[0]
        for piece in pieces:
            piece.decode()
        assert b"\n" not in content or all(piece.endswith(b"\n") for piece in pieces[:-1])


@pytest.mark.parametrize("size", [30_000, 49_995, 50_000, 50_001, 66_000, 130_000])
def test_between_separators_a_document_is_cut_the_same_wherever_it_stands(tmp_path: Path, monkeypatch, size: int):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 20_000)
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 50_000)
    path, separator = tmp_path / "three.txt", b"<|endoftext|>\n"
    long = made_text(size + 10)[:size - 1] + b"\n"
    found = set()
    for before in range(5, 40_000, 6_500):
        first, last = b"x" * before + b"\n", b"a line\n" * 100
        path.write_bytes(separator.join((first, long, last)))
        read = corpus.text([path])
        pieces = list(read.documents())
        assert (pieces[0], pieces[-1]) == (first, last) and max(map(len, pieces)) <= 50_000
        assert bool(read.notes) == (size > 50_000)
        found.add(tuple(pieces[1:-1]))
    [pieces] = found
    assert b"".join(pieces) == long and (len(pieces) > 1) == (size > 50_000)


def test_a_folder_gives_its_text_files_in_sorted_order(tmp_path: Path):
    root = tmp_path / "letters"
    for name, content in {"b.txt": b"second", "a/z.md": b"third", "a.py": b"first", ".hidden": b"no", ".git/x": b"no",
                          "photo.jpg": b"\xff\xd8\0\0", "empty.txt": b""}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    os.mkfifo(root / "pipe")
    (root / "lost").symlink_to(root / "nowhere")
    (root / "again").symlink_to(root, target_is_directory=True)
    found = corpus.text([root])
    assert list(found.documents()) == [b"first", b"second", b"third"]
    assert found.skipped == {str(root / "lost"): "does not exist", str(root / "photo.jpg"): "is binary, not text",
                             str(root / "pipe"): "is a pipe, not a file",
                             str(root / "again"): "is a link to a folder, and not followed"}
    assert found.notes == []


def test_a_folder_within_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    locked = tmp_path / "notes/locked"
    locked.mkdir(parents=True)
    real = os.scandir

    def scandir(path: str) -> object:  # root may open everything
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(UserError, match=r"holds no text; .*/locked can't be opened: permission denied"):
        corpus.text([tmp_path / "notes"])
    (tmp_path / "notes/a.txt").write_bytes(b"text")
    found = corpus.text([tmp_path / "notes"])
    assert list(found.documents()) == list(found.documents()) == [b"text"]
    assert found.remarks() == [f"skipped 1 path: {locked} can't be opened: permission denied"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_within_without_rights_is_named(tmp_path: Path):
    (tmp_path / "notes/locked").mkdir(parents=True)
    (tmp_path / "notes/a.txt").write_bytes(b"text")
    (tmp_path / "notes/locked").chmod(0)
    found = corpus.text([tmp_path / "notes"])
    assert list(found.documents()) == [b"text"]
    assert found.skipped == {str(tmp_path / "notes/locked"): "can't be opened: permission denied"}
    (tmp_path / "notes/locked").chmod(0o700)


def test_what_was_skipped_is_one_line_that_names_a_few_what_may_be_text_first(tmp_path: Path):
    for n in range(12):
        (tmp_path / f"{n:02}.jpg").write_bytes(b"\xff\xd8\0\0")
    (tmp_path / "novel.txt").write_bytes(b"text")
    (tmp_path / "windows.txt").write_bytes("notes".encode("utf-16"))
    found = corpus.text([tmp_path])
    assert list(found.documents()) == [b"text"] and len(found.skipped) == 13
    [line] = found.remarks()
    assert line == (f"skipped 13 paths: {tmp_path}/windows.txt is UTF-16; {tmp_path}/00.jpg is binary, not text; "
                    f"{tmp_path}/01.jpg is binary, not text; and 10 more")


def test_bytes_that_are_not_utf8_are_kept_and_counted(tmp_path: Path):
    path = tmp_path / "latin1.txt"
    path.write_bytes("déjà vu, ".encode("latin-1") * 100)
    assert documents([path]) == [path.read_bytes()]
    path.write_bytes(path.read_bytes() * 30)
    noted = prepare(corpus.text([path]), tokenizers=("byte",)).notes
    noted = [note for note in noted if "stand in train" not in note]  # of which there is nothing worse to say
    assert noted[0].startswith("6,000 bytes are not UTF-8; they are kept as they are, and count as one character each")
    assert "iconv -f" in noted[0]


@pytest.mark.parametrize("limit", [1, 9_000, 50_001])
def test_a_limit_on_bytes_cuts_at_a_line_or_between_characters(tmp_path: Path, limit: int):
    for content in (made_text(80_000), "東".encode() * 30_000):
        (tmp_path / "long.txt").write_bytes(content)
        found = corpus.text([tmp_path / "long.txt", tmp_path / "long.txt"], limit)
        whole = b"".join(found.documents())
        assert limit - corpus.SNIFF_BYTES < len(whole) <= limit
        assert content.startswith(whole)
        assert found.notes == [corpus.TRUNCATED]
        whole.decode("utf-8")


def test_the_standard_library_is_source_and_nothing_else():
    found = corpus.stdlib(max_bytes=1_500_000)
    assert found.name == "stdlib" and "standard library of Python 3" in found.source
    read = list(found.documents())
    assert 1_400_000 < sum(map(len, read)) <= 1_500_000 == found.expected_bytes
    assert read == list(corpus.stdlib(max_bytes=1_500_000).documents())
    assert (Path(os.__file__).parent / "ast.py").read_bytes() in read
    assert not any(b"build_time_vars" in document[:200] for document in read)


def bad_paths(tmp_path: Path) -> dict[str, str]:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "binary").write_bytes(b"ELF\0\1\2")
    (tmp_path / "windows").write_bytes("notes".encode("utf-16"))
    (tmp_path / "separators").write_bytes(b"<|endoftext|>\n<|endoftext|>\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.jpg").write_bytes(b"\xff\xd8\0")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return {"pipe": "is a pipe", "empty": "is empty", "binary": "is binary", "windows": "is UTF-16",
            "loop": "can't be read", "separators": "nothing but separators", "folder": "holds no text",
            "photos": "holds no text.*binary",
            "missing": "does not exist", "empty/x": "does not exist", "/dev/zero": "is a device"}


def test_what_is_no_text_is_refused_in_a_sentence_with_a_remedy(tmp_path: Path, novel: Path):
    for name, words in bad_paths(tmp_path).items():
        with pytest.raises(UserError, match=words) as caught:
            documents([novel, tmp_path / name])
        assert name.rpartition("/")[2] in caught.value.message and caught.value.hint


def test_a_socket_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        with pytest.raises(UserError, match="is a socket"):
            corpus.text([Path("s")])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_or_folder_says_so(tmp_path: Path, novel: Path):
    folder = tmp_path / "locked"
    folder.mkdir()
    for path in (novel, folder):
        path.chmod(0)
        with pytest.raises(UserError, match="permission denied"):
            corpus.text([path])
        path.chmod(0o700)


def test_permission_denied_is_a_sentence_for_root_too(novel: Path, monkeypatch: pytest.MonkeyPatch):
    def denied(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(UserError, match=r"novel.txt can't be read: permission denied"):
        corpus.text([novel])
