"""One file -> its documents, a bounded piece at a time, every byte as it was.

    text      one document, or several if lines of `<|endoftext|>` divide it
    jsonl     a document per line: one field of its object
    parquet   a document per row: one column

Each of them also compressed by gzip or zstd. A file's first bytes tell what it is; where they don't, its name does.
"""

from __future__ import annotations

import codecs
import contextlib
import difflib
import errno
import gzip
import io
import json
import os
import re
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from autoresearch import paths
from autoresearch.data import disk
from autoresearch.data.text import cut_near
from autoresearch.errors import UserError

MAX_DOCUMENT_BYTES = 16_000_000  # what memory has to hold at once; a longer one is cut
MAX_LINE_BYTES = 64_000_000  # of JSON lines: one object is parsed in memory
BLOCK_BYTES = 4_000_000
BATCH_ROWS = 1024
SNIFF_BYTES = 8192
EMPTY, BINARY = "is empty", "is binary, not text"
CODECS = {".gz": "gzip", ".zst": "zstd"}
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
EXPANSION = 4  # bytes of text in a byte of a compressed file or of parquet, roughly
SEPARATOR = re.compile(rb"^<\|endoftext\|>[ \t]*\r?(?:\n|\Z)", re.MULTILINE)
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
          (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))

Note = Callable[[str], None]


class Unusable(Exception):
    """A file that holds no text: why, in the words that follow its name, and what to do about it."""

    def __init__(self, why: str, hint: str = "Name a text file, or a folder of them."):
        self.why, self.hint = why, hint
        super().__init__(why)


@dataclass(frozen=True)
class Fields:
    """Where rows and objects hold their text."""

    json: str | None = None  # None: `text`, and only what is called .jsonl is read as JSON lines
    column: str | None = None  # None: `text`


DEFAULT_FIELDS = Fields()


@dataclass(frozen=True)
class File:
    label: str  # what a person calls it
    name: str  # for its suffixes
    bytes: int
    open: Callable[[], BinaryIO]  # seekable, at its start

    @property
    def suffixes(self) -> tuple[str, str]:
        """Of what it holds, and of its compression."""
        name, last = os.path.splitext(self.name.lower())
        return (os.path.splitext(name)[1], last) if last in CODECS else (last, "")

    @property
    def expected_bytes(self) -> int:
        """Of text, estimated."""
        kind, codec = self.suffixes
        return self.bytes * (EXPANSION if codec or kind == PARQUET else 1)


def at(path: Path) -> File:
    """Raises Unusable for what is no regular file; a pipe or a device is never opened."""
    try:
        status = os.stat(path)
    except OSError as e:
        raise _unreadable(path, e) from None
    if kind := next((words for test, words in _KINDS if test(status.st_mode)), None):
        raise Unusable(f"is {kind}, not a file", "Write its content to a file and name that, or pipe it: --text -")
    return File(str(path), path.name, status.st_size, lambda: _opened(path))


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as e:
        raise _unreadable(path, e) from None


def _unreadable(path: Path, error: OSError) -> Unusable:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return Unusable("does not exist", "Check the spelling; a path is relative to the current folder.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Unusable("can't be read: permission denied", f"Try: ls -l '{path}'")
    return Unusable(f"can't be read: {error.strerror}")


def spooled(stream: IO[bytes], label: str) -> File:
    """A stream that can be read only once, kept in an unnamed file beside the cache, so that it can be read again and
    leaves nothing behind."""
    with contextlib.closing(_spool(stream)) as spool:
        kept = os.dup(spool.fileno())  # for the life of this process, which reads standard input once
    return File(label, "", os.fstat(kept).st_size, lambda: _again(kept))


def _spool(stream: IO[bytes]) -> IO[bytes]:
    folder = paths.cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as on_failure:
            spool = on_failure.enter_context(tempfile.TemporaryFile(dir=folder))
            for block in _blocks(stream):
                spool.write(block)
            spool.flush()
            on_failure.pop_all()  # the caller closes it
    except OSError as e:
        another = "name another folder: AUTORESEARCH_CACHE=/path ar prepare"
        raise disk.unwritable(folder, e, f"Free some space, or {another}", another) from None
    return spool


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    """Raises Unusable where the stream can't be read, which is no fault of what its content is written to."""
    try:
        while block := stream.read(BLOCK_BYTES):
            yield block
    except OSError as e:
        raise Unusable(f"can't be read: {e.strerror or e}") from None


def _again(descriptor: int) -> BinaryIO:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.fdopen(os.dup(descriptor), "rb")


def check(file: File) -> None:
    """Raises Unusable for a file whose beginning shows that it holds no text, UserError for a damaged one."""
    with contextlib.closing(_content(file)) as content:
        _sniff(file, content)


def documents(file: File, fields: Fields, note: Note) -> Iterator[bytes]:
    """None of them empty, none longer than MAX_DOCUMENT_BYTES. Raises Unusable for a file without text, UserError for
    a damaged one."""
    is_empty = True

    def on_cut() -> None:
        note(f"{file.label} has a document of more than {MAX_DOCUMENT_BYTES // 10**6} MB; it is cut in shorter ones")

    with contextlib.closing(_content(file)) as content:
        for document in _read(file, content, fields, note, on_cut):
            is_empty = False
            yield document
    if is_empty:
        raise Unusable("holds nothing but separators or empty documents")


def _read(file: File, content: io.BufferedReader, fields: Fields, note: Note,
          on_cut: Callable[[], None]) -> Iterator[bytes]:
    head, (kind, _) = _sniff(file, content), file.suffixes
    if kind == PARQUET or head.startswith(b"PAR1"):
        found = _parquet(file.label, content, fields.column or "text", note)
    elif kind in JSON_LINES or (fields.json is not None and kind in (".json", "")):
        found = _json_lines(file.label, content, fields.json or "text", note)
    else:
        found = separated(content, on_cut)
    for document in found:
        while len(document) > MAX_DOCUMENT_BYTES:
            on_cut()
            cut = _cut(document)
            yield document[:cut]
            document = document[cut:]
        if document:
            yield document


def _content(file: File) -> io.BufferedReader:
    """The file, decompressed if it is compressed."""
    raw = file.open()
    head = raw.read(4)
    raw.seek(0)
    codec = CODECS.get(file.suffixes[1]) or next((c for magic, c in _MAGIC.items() if head.startswith(magic)), None)
    if codec is None or not head:
        assert isinstance(raw, io.BufferedReader)
        return raw
    return io.BufferedReader(_Inflated(raw, codec, file.label), 1 << 20)


class _Inflated(io.RawIOBase):
    """A compressed file's content. zstd is Arrow's: Python knows it only from 3.14 on."""

    def __init__(self, raw: BinaryIO, codec: str, label: str):
        self._raw, self._codec, self._label = raw, codec, label
        self._stream: Any
        if codec == "gzip":
            self._stream = gzip.GzipFile(fileobj=raw)
        else:
            import pyarrow as pa

            self._stream = pa.CompressedInputStream(raw, codec)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except (OSError, EOFError, zlib.error) as e:
            raise UserError(f"{self._label} is not a whole {self._codec} file: {_first_line(e)}",
                            "Part of it is missing or damaged: copy, download or compress it again.") from None
        buffer[:len(data)] = data
        return len(data)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _sniff(file: File, content: io.BufferedReader) -> bytes:
    try:
        head = content.peek(SNIFF_BYTES)[:SNIFF_BYTES]
    except OSError as e:
        raise Unusable(f"can't be read: {e.strerror}") from None
    if not head:
        raise Unusable(EMPTY)
    if file.suffixes[0] == PARQUET or head.startswith(b"PAR1"):
        return head
    if encoding := _wide(head):
        raise Unusable(f"is {encoding[:6]}", f"Convert it: iconv -f {encoding} -t UTF-8 '{file.label}' > text.txt")
    if b"\0" in head or head.startswith(b"%PDF-"):
        raise Unusable(BINARY,
                       "Unpack an archive, or save a document as plain text, and name what comes out.")
    return head


def _wide(head: bytes) -> str | None:
    """Which UTF-32 or UTF-16 it is, if any: most text has a zero in every other byte of the latter."""
    if head[:4] in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        return "UTF-32"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16"
    zeros = head[::2].count(0), head[1::2].count(0)
    if len(head) < 16 or max(zeros) < len(head) // 5 or min(zeros) * 20 > max(zeros):
        return None
    return "UTF-16LE" if zeros[1] > zeros[0] else "UTF-16BE"


def separated(file: IO[bytes], on_cut: Callable[[], None]) -> Iterator[bytes]:
    """The documents of a stream, divided by lines of `<|endoftext|>`. Of one too long to hold, which `on_cut` is told
    of, the pieces that `_read` would cut it in, up to the last."""
    text = bytearray()
    searched = 0  # no separator line begins before here
    while block := file.read(BLOCK_BYTES):
        text += block
        whole_lines = text.rfind(b"\n") + 1
        start = 0
        for found in SEPARATOR.finditer(text, searched, whole_lines):
            if found.start() > start:
                yield bytes(text[start:found.start()])
            start = found.end()
        del text[:start]
        searched = whole_lines - start if whole_lines else 0
        while len(text) > MAX_DOCUMENT_BYTES + SNIFF_BYTES:  # even if it ends in half a separator line
            end = _cut(text)
            on_cut()
            yield bytes(text[:end])
            del text[:end]
            searched = max(0, searched - end)
    yield from filter(None, SEPARATOR.split(bytes(text)))


def _cut(document: bytes | bytearray) -> int:
    return cut_near(document, MAX_DOCUMENT_BYTES - SNIFF_BYTES, SNIFF_BYTES)


def _json_lines(label: str, content: IO[bytes], field: str, note: Note) -> Iterator[bytes]:
    number = empty = 0
    while line := content.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > MAX_LINE_BYTES:
            raise UserError(f"{label}, line {number} is longer than {MAX_LINE_BYTES:,} bytes: it is not JSON lines",
                            "JSON lines hold one object a line; a plain text is read from a file called .txt.")
        if not line.strip():
            continue
        text = _field(f"{label}, line {number}", line, field)
        if text:
            yield text
        else:
            empty += 1
    if empty:
        note(f"{label}: lines left out, with nothing in {field!r}: {empty:,}")


def _field(where: str, line: bytes, field: str) -> bytes:
    """The field's bytes; none where it is null."""
    try:
        # A number of thousands of digits is nothing to us, and as an integer an error of Python's.
        value = json.loads(line.decode("utf-8", "surrogateescape"), parse_int=float)
    except (ValueError, RecursionError) as e:
        why = f"{e.msg} at column {e.colno}" if isinstance(e, json.JSONDecodeError) else _first_line(e)
        raise UserError(f"{where} is not JSON: {why}",
                        "JSON lines hold one object a line; a plain text is read from a file called .txt.") from None
    if not isinstance(value, dict):
        raise UserError(f"{where} is a JSON {_json_kind(value)}, not an object with a field {field!r}",
                        'Each line should look like {"' + field + '": "..."}.')
    if field not in value:
        texts = [name for name, content in value.items() if isinstance(content, str)]
        raise UserError(f"{where} has no field {field!r}: it has {_listed(value)}",
                        _suggestion("--field", field, texts))
    if value[field] is None:
        return b""
    if not isinstance(value[field], str):
        raise UserError(f"{where}: field {field!r} is a {_json_kind(value[field])}, not a string",
                        "Name a field that holds text: --field NAME")
    return _encoded(value[field])


def _encoded(text: str) -> bytes:
    """Bytes that were not UTF-8 are themselves again; JSON can also name half a character, which has no bytes of its
    own and keeps those it would have in UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return b"".join(c.encode("utf-8", "surrogateescape" if "\udc80" <= c <= "\udcff" else "surrogatepass")
                        for c in text)


def _json_kind(value: object) -> str:
    kinds = {list: "list", str: "string", bool: "boolean", type(None): "null", dict: "object"}
    return kinds.get(type(value), "number")


def _parquet(label: str, content: io.BufferedReader, column: str, note: Note) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    nulls = 0
    try:
        # Unbuffered ahead: a row group can be the whole file.
        with (contextlib.closing(_seekable(content)) as file,
              pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as parquet):
            _check_column(label, parquet.schema_arrow, column)
            for batch in parquet.iter_batches(BATCH_ROWS, columns=[column]):
                for text in batch.column(0).cast(pa.large_binary()).to_pylist():
                    nulls += not text
                    yield text or b""
    except (pa.ArrowException, OSError) as e:
        raise UserError(f"{label} is not a whole parquet file: {_first_line(e)}",
                        "Part of it is missing or damaged: copy or download it again.") from None
    if nulls:
        note(f"{label}: rows left out, with nothing in {column!r}: {nulls:,}")


def _seekable(content: io.BufferedReader) -> IO[bytes]:
    """Parquet is read from its end."""
    return _spool(content) if isinstance(content.raw, _Inflated) else content


def _check_column(label: str, schema: Any, column: str) -> None:
    import pyarrow.types as types

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return any(test(kind) for test in (types.is_string, types.is_large_string, types.is_string_view,
                                           types.is_binary, types.is_large_binary, types.is_binary_view))

    texts = [field.name for field in schema if is_text(field.type)]
    if column not in schema.names:
        raise UserError(f"{label} has no column {column!r}: it has {_listed(schema.names)}",
                        _suggestion("--column", column, texts))
    if column not in texts:
        raise UserError(f"{label}: column {column!r} holds {schema.field(column).type}, not strings",
                        _suggestion("--column", column, texts))


def _suggestion(option: str, wanted: str, texts: list[str]) -> str:
    """What to type instead, from the names of what holds text."""
    if not texts:
        return "It holds no text at all: name another file."
    near = difflib.get_close_matches(wanted, texts, n=1, cutoff=0.5) or (texts if len(texts) == 1 else [])
    return f"Did you mean {option} {near[0]}?" if near else f"Name the one that holds the text: {option} {texts[0]}"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") or "none"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
