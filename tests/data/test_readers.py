"""Every kind of file, whole and broken: the same documents from each, and a sentence for what can't be read."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.data import corpus, readers
from autoresearch.data.readers import Fields
from autoresearch.errors import UserError
from tests.data.texts import made_text

ROOT = Path(__file__).parents[2]
STORIES = ["Once upon a time.\n", "東京 🙂", "a\0b", "x" * 3000, "<|endoftext|>\n", " ", "déjà vu"]


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


def json_lines(stories: list[str], field: str = "text") -> bytes:
    return "".join(json.dumps({"id": n, field: story}) + "\n" for n, story in enumerate(stories)).encode()


def parquet(stories: list[str], kind: pa.DataType | None = None, column: str = "text") -> bytes:
    sink = io.BytesIO()
    table = pa.table({"id": range(len(stories)), column: pa.array(stories, kind or pa.string())})
    pq.write_table(table, sink, row_group_size=3)
    return sink.getvalue()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def read(path: Path, **fields: str) -> list[bytes]:
    return list(corpus.text([path], fields=Fields(**fields)).documents())


@pytest.mark.parametrize("codec", COMPRESS)
def test_the_same_documents_come_from_every_kind_of_file(tmp_path: Path, codec: str):
    expected = [story.encode() for story in STORIES]
    for name, data in {"stories.jsonl": json_lines(STORIES), "stories.ndjson": json_lines(STORIES),
                       "stories.parquet": parquet(STORIES)}.items():
        assert read(written(tmp_path / (name + codec), COMPRESS[codec](data))) == expected, name
    text = made_text(50_000) + b"\n<|endoftext|>\n\xff second"
    found = corpus.text([written(tmp_path / ("novel.md" + codec), COMPRESS[codec](text))])
    assert list(found.documents()) == [text[:-22], b"\xff second"] and found.name == "novel"


def test_text_is_found_under_other_names(tmp_path: Path):
    lines = written(tmp_path / "a.jsonl", json_lines(["one", "two"], "body"))
    table = written(tmp_path / "b.parquet", parquet(["one", "two"], column="story"))
    assert read(lines, json="body") == read(table, column="story") == [b"one", b"two"]
    assert read(written(tmp_path / "c.json", lines.read_bytes()), json="body") == [b"one", b"two"]
    assert read(written(tmp_path / "e.jsonl", codecs.BOM_UTF8 + json_lines(["one"]))) == [b"one"]
    assert read(written(tmp_path / "d.json", lines.read_bytes())) == [lines.read_bytes()]


def test_a_file_of_several_compressed_parts_and_padding_is_read_to_its_end(tmp_path: Path):
    assert b"".join(read(written(tmp_path / "a.gz", gzip.compress(b"one ") + gzip.compress(b"two") + bytes(512)))) == (
        b"one two")
    assert b"".join(read(written(tmp_path / "a.zst", zstd(b"one ") + zstd(b"two")))) == b"one two"


def test_what_a_file_is_shows_in_its_first_bytes_when_its_name_does_not_tell(tmp_path: Path):
    assert read(written(tmp_path / "table", parquet(["one"]))) == [b"one"]
    for codec, compress in COMPRESS.items():
        assert read(written(tmp_path / f"text{codec}.txt", compress(b"a line\n"))) == [b"a line\n"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(),
                                  pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_every_arrow_type_of_text_is_read(tmp_path: Path, kind: pa.DataType):
    assert read(written(tmp_path / "a.parquet", parquet(["one", "two", "one"], kind))) == [b"one", b"two", b"one"]


def test_a_folder_may_mix_kinds(tmp_path: Path):
    (tmp_path / "mixed").mkdir()
    for name, data in {"1.txt": b"one", "2.jsonl.gz": gzip.compress(json_lines(["two", "three"])),
                       "3.parquet": parquet(["four"]), "4.jpg": b"\xff\xd8\0", "5.tar.gz": gzip.compress(bytes(900)),
                       "6.zst": zstd(b"six"), "7.txt.gz": gzip.compress(b"")}.items():
        written(tmp_path / "mixed" / name, data)
    found = corpus.text([tmp_path / "mixed"])
    assert list(found.documents()) == [b"one", b"two", b"three", b"four", b"six"]
    assert {Path(path).name: why for path, why in found.skipped.items()} == {"4.jpg": "is binary, not text",
                                                                             "5.tar.gz": "is binary, not text"}


def test_rows_and_lines_without_text_are_left_out_and_counted(tmp_path: Path):
    for path in (written(tmp_path / "a.parquet", parquet(["one", None, "", "two"])),
                 written(tmp_path / "a.jsonl", json_lines(["one", None, "", "two"]) + b"\n  \n")):
        found = corpus.text([path])
        assert list(found.documents()) == list(found.documents()) == [b"one", b"two"]
        assert len(found.notes) == 1 and found.notes[0].endswith("with nothing in 'text': 2")


def test_json_lines_keep_bytes_that_are_not_utf8(tmp_path: Path):
    path = written(tmp_path / "a.jsonl",
                   b'{"text": "caf\xe9 \xff"}\n{"text": "\\ud83d caf\xe9"}\n{"text":"\\u00e9"}\r\n')
    assert read(path) == [b"caf\xe9 \xff", b"\xed\xa0\xbd caf\xe9", "é".encode()]


def test_what_stands_beside_the_text_may_be_anything_that_json_has(tmp_path: Path):
    line = b'{"text": "one", "id": ' + b"9" * 5000 + b', "x": [NaN, null, {"text": 1}]}\n'
    assert read(written(tmp_path / "a.jsonl", line)) == [b"one"]


@settings(max_examples=60)
@given(st.lists(st.text(), max_size=8), st.sampled_from(sorted(COMPRESS)))
def test_any_strings_survive_json_lines_and_parquet(tmp_path_factory, stories, codec):
    stories = [story.encode("utf-8", "replace").decode() for story in stories]
    folder = tmp_path_factory.mktemp("any")
    expected = [story.encode() for story in stories if story]
    for name, data in {"a.jsonl": json_lines(stories), "a.parquet": parquet(stories)}.items():
        path = written(folder / (name + codec), COMPRESS[codec](data))
        if expected:
            assert read(path) == expected
        else:
            with pytest.raises(UserError, match=r"a\.(jsonl|parquet)\S* (is empty|holds nothing)"):
                read(path)


NOISE = random.Random(0).randbytes(9000)
NO_TEXT = parquet(["a"], column="story")
BAD = {
    "half.txt.gz": (gzip.compress(NOISE)[:5000], {}, "is not a whole gzip file: Compressed file ended", "compress it"),
    "half.txt.zst": (zstd(NOISE)[:5000], {}, "is not a whole zstd file: Truncated", "download"),
    "text.gz": (b"no gzip at all", {}, "is not a whole gzip file", "compress it"),
    "half.jsonl.gz": (gzip.compress(json_lines([made_text(90_000).decode()] * 3))[:60_000], {}, "not a whole gzip", ""),
    "half.parquet": (parquet(STORIES)[:-40], {}, "is not a whole parquet file: Parquet magic bytes", "download"),
    "page.parquet": (parquet(STORIES)[:4] + b"\xff" * 300 + parquet(STORIES)[304:], {}, "not a whole parquet", "copy"),
    "text.parquet": (b"no parquet at all", {}, "is not a whole parquet file", "damaged"),
    "a.parquet": (NO_TEXT, {}, "has no column 'text': it has id, story", "Did you mean --column story?"),
    "b.parquet": (NO_TEXT, {"column": "id"}, "column 'id' holds int64, not strings", "--column story"),
    "c.parquet": (NO_TEXT, {"column": "storys"}, "no column 'storys'", "Did you mean --column story?"),
    "a.jsonl": (json_lines(["a"], "body"), {}, "line 1 has no field 'text': it has id, body", "--field body?"),
    "b.jsonl": (json_lines(["a", "b"]), {"json": "id"}, "line 1: field 'id' is a number, not a string", "--field NAME"),
    "c.jsonl": (json_lines(["a"]) + b'{"text": "b', {}, "line 2 is not JSON: Unterminated string", "one object a line"),
    "d.jsonl": (b"[1, 2]\n", {}, "line 1 is a JSON list, not an object", '{"text": "..."}'),
    "e.jsonl": (b"[" * 100_000, {}, "line 1 is not JSON", "one object a line"),
    "f.jsonl": (json_lines(["", ""]), {}, "holds nothing but", "Name a text file"),
    "empty.parquet": (b"", {}, "is empty", "Name a text file"),
    "rows.parquet": (parquet([]), {}, "holds nothing but", "Name a text file"),
    "utf16.jsonl": (json_lines(["a"]).decode().encode("utf-16"), {}, "is UTF-16", "iconv"),
    "crc.txt.gz": (gzip.compress(NOISE)[:-8] + bytes(8), {}, "is not a whole gzip file: CRC check failed", "copy"),
    "elf.gz": (gzip.compress(b"ELF\0\0"), {}, "is binary", "Unpack"),
    "a.pdf": (b"%PDF-1.4\n" + NOISE.replace(b"\0", b""), {}, "is binary", "plain text"),
    "windows.txt": ("déjà vu, 1 2 3\n".encode("utf-16-le"), {}, "is UTF-16", "iconv -f UTF-16LE"),
    "wide.txt": ("déjà vu".encode("utf-32"), {}, "is UTF-32", "iconv -f UTF-32 -t UTF-8"),
    "solaris.txt": ("déjà vu, 1 2 3\n".encode("utf-16-be"), {}, "is UTF-16", "iconv -f UTF-16BE"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_a_sentence_naming_file_fault_and_remedy(tmp_path: Path, name: str):
    data, fields, fault, remedy = BAD[name]
    with pytest.raises(UserError) as caught:
        read(written(tmp_path / name, data), **fields)
    assert name in caught.value.message and fault in caught.value.message and remedy in caught.value.hint
    assert "\n" not in caught.value.message and len(caught.value.message) < 400


def test_a_damaged_file_in_a_folder_is_not_passed_over(tmp_path: Path):
    (tmp_path / "all").mkdir()
    written(tmp_path / "all/a.txt", b"fine")
    written(tmp_path / "all/b.txt.gz", BAD["half.txt.gz"][0])
    with pytest.raises(UserError, match=r"b\.txt\.gz is not a whole gzip file"):
        read(tmp_path / "all")


def test_a_line_too_long_to_hold_is_refused_as_json_and_cut_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readers, "MAX_LINE_BYTES", 10_000)
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 20_000)
    monkeypatch.setattr(readers, "BLOCK_BYTES", 3_000)
    line = b"x" * 50_000
    with pytest.raises(UserError, match=r"line 1 is longer than 10,000 bytes"):
        read(written(tmp_path / "a.jsonl", line))
    for path in (written(tmp_path / "a.txt", line), written(tmp_path / "a.parquet", parquet([line.decode()]))):
        found = corpus.text([path])
        pieces = list(found.documents())
        assert b"".join(pieces) == line and max(map(len, pieces)) <= 20_000
        assert len(found.notes) == 1 and "cut in shorter ones" in found.notes[0]


def test_a_stream_is_read_once_and_can_be_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for content, fields, expected in ((b"a\n<|endoftext|>\nb", {}, [b"a\n", b"b"]),
                                      (parquet(["one", "two"]), {}, [b"one", b"two"]),
                                      (gzip.compress(json_lines(["one"])), {"json": "text"}, [b"one"])):
        with open(written(tmp_path / "piped", content), "rb") as stream:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(stream.raw)))
            found = corpus.text([Path("-")], fields=Fields(**fields))
            assert list(found.documents()) == list(found.documents()) == expected
            assert (found.name, found.source) == ("stdin", "standard input")


def test_a_stream_that_fails_is_not_taken_for_the_cache(monkeypatch: pytest.MonkeyPatch):
    class Failing(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> int:
            raise IsADirectoryError(21, "Is a directory")

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(Failing())))
    with pytest.raises(UserError, match="standard input can't be read: Is a directory") as caught:
        corpus.text([Path("-")])
    assert "space" not in caught.value.hint


def test_a_cap_stops_reading_a_large_file_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readers, "BATCH_ROWS", 3)
    path = written(tmp_path / "a.jsonl", json_lines(["a line\n" * 10] * 50) + b"not JSON, and never read")
    found = corpus.text([path], max_bytes=150)
    assert [len(document) for document in found.documents()] == [70, 70, 7]
    assert found.notes == [corpus.TRUNCATED] and found.expected_bytes == 150


READ = """
import re, sys
from pathlib import Path
import pyarrow.parquet
from autoresearch.data import corpus, readers
readers.MAX_DOCUMENT_BYTES, readers.BLOCK_BYTES = 2_000_000, 1_000_000
def peak(): return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
size = sum(map(len, corpus.text([Path(sys.argv[1])]).documents()))
print(size, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a process's own peak is in /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path):
    """One line of text, one row group, one compressed stream: each larger than what reading it takes."""
    size = 60_000_000
    noise = random.Random(1).randbytes(3_000_000).hex().encode()  # compresses to half
    text = noise * (size // len(noise))
    rows = pa.table({"text": pa.array([noise[n:n + 3_000].decode() for n in range(0, len(noise), 3_000)] * 10)})
    pq.write_table(rows, tmp_path / "a.parquet", row_group_size=10**9, compression="none", use_dictionary=False)
    for path in (tmp_path / "a.parquet", written(tmp_path / "a.txt", text),
                 written(tmp_path / "a.txt.zst", zstd(text))):
        found = subprocess.run([sys.executable, "-c", READ, path], cwd=ROOT, capture_output=True, text=True, check=True)
        read, grown = map(int, found.stdout.split())
        assert read == size and grown < 50_000_000, (path.name, grown)
