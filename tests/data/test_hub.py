"""Downloads from a hub on loopback: whole, interrupted, refused, damaged, and never twice."""

from __future__ import annotations

import errno
import fcntl
import io
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import huggingface_hub.constants as constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import hf_hub_download, try_to_load_from_cache

from autoresearch.data import hub, published
from autoresearch.data.hub import Unreachable
from autoresearch.data.published import Wishes
from autoresearch.errors import UserError
from tests.data.conftest import DEAD, point_at
from tests.data.hub_server import Fault, Hub

REPO, NAME = "someone/some-text", "data.bin"
CONTENT = random.Random(0).randbytes(3_000_000)


@pytest.fixture
def server(empty_hub: Hub) -> Hub:
    """A hub with one file."""
    empty_hub.add(REPO, {NAME: CONTENT})
    return empty_hub


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the code would have waited."""
    found: list[float] = []
    monkeypatch.setattr(hub.time, "sleep", found.append)
    return found


class Heard:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bytes: list[int] = []

    def report(self, there: int, total: int) -> None:
        assert total == len(CONTENT)
        self.bytes.append(there)


def fetch(heard: Heard | None = None, revision: str = "main") -> Path:
    heard = heard or Heard()
    (path,) = hub.download(hub.find(REPO, [NAME], revision), heard.lines.append, heard.report)
    return path


def test_a_file_arrives_whole_where_other_programs_find_it(server: Hub):
    heard = Heard()
    path = fetch(heard)
    commit = server.branches[REPO]
    assert path.read_bytes() == CONTENT
    assert str(path) == try_to_load_from_cache(REPO, NAME, repo_type="dataset", revision=commit)
    assert heard.bytes == sorted(heard.bytes) and heard.bytes[-1] == len(CONTENT) and heard.lines == []
    blobs = path.resolve().parent
    assert len(list(blobs.iterdir())) == 1, "nothing is left beside the file"


def test_what_is_there_is_not_downloaded_again_and_a_known_commit_is_not_even_asked_for(server: Hub):
    path = fetch()
    before = len(server.requests)
    assert fetch(revision=server.branches[REPO]) == path and len(server.requests) == before
    assert fetch() == path
    assert [request.method for request in server.requests[before:]] == ["HEAD"], "main may have moved"


def test_a_file_that_another_program_downloaded_is_used(server: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.file_download.is_xet_available", lambda: False)
    theirs = hf_hub_download(REPO, NAME, repo_type="dataset")
    downloads = len(server.asked("CDN"))
    assert str(fetch()) == theirs and len(server.asked("CDN")) == downloads


def test_xet_is_not_needed(server: Hub):
    """The hub offers it; what is asked for is the file itself."""
    fetch()
    assert not [request for request in server.requests if "xet" in request.path]


def test_a_cut_connection_is_taken_up_where_it_broke(server: Hub, waits: list[float]):
    server.faults += [Fault("CDN", cut=1_000_000), Fault("CDN", cut=500_000)]
    heard = Heard()
    assert fetch(heard).read_bytes() == CONTENT
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in server.sent_ranges()]
    assert starts[0] == 0 and 0 < starts[1] <= 1_000_000 and starts[1] < starts[2] <= 1_500_000 and len(starts) == 3
    assert waits == [1, 1] and len(heard.lines) == 2 and "going on" in heard.lines[0]


def test_a_download_stopped_by_the_keyboard_goes_on_in_another_run(server: Hub, monkeypatch: pytest.MonkeyPatch):
    heard = Heard()

    def stop(there: int, total: int) -> None:
        if there > 1_000_000:
            raise KeyboardInterrupt

    monkeypatch.setattr(heard, "report", stop)
    with pytest.raises(KeyboardInterrupt):
        fetch(heard)
    assert heard.lines == ["1 MB of 3 MB are kept; the same command goes on from there"]
    files = hub.find(REPO, [NAME], "main")
    there = len(CONTENT) - hub.missing_bytes(files)
    assert 1_000_000 < there < 1_100_000
    assert fetch().read_bytes() == CONTENT
    assert server.sent_ranges() == ["bytes=0-", f"bytes={there}-"]


def test_a_server_that_knows_no_ranges_starts_again(server: Hub, waits: list[float]):
    server.faults += [Fault("CDN", cut=1_000_000), Fault("CDN", no_range=True)]
    assert fetch().read_bytes() == CONTENT


def test_a_server_that_starts_again_and_breaks_is_taken_up_where_it_broke(server: Hub, waits: list[float]):
    server.faults += [Fault("CDN", short=1_000_000), Fault("CDN", no_range=True, cut=0), Fault("CDN", short=2_500_000)]
    heard = Heard()
    assert fetch(heard).read_bytes() == CONTENT
    assert server.sent_ranges() == ["bytes=0-", "bytes=1000000-", "bytes=0-", "bytes=2500000-"]
    assert max(heard.bytes) == heard.bytes[-1] == len(CONTENT)


def test_a_server_that_refuses_to_go_on_is_asked_for_all_of_it(server: Hub, waits: list[float]):
    server.faults += [Fault("CDN", short=1_000_000), Fault("CDN", 416)]
    assert fetch().read_bytes() == CONTENT
    assert server.sent_ranges() == ["bytes=0-", "bytes=1000000-", "bytes=0-"]


def waiting_for(part: Path, work: Callable[[IO[bytes]], None]) -> tuple[Heard, Path]:
    """What is fetched by one that has to wait while another has the part file and does this with it."""
    heard, paths = Heard(), list[Path]()
    part.parent.mkdir(parents=True, exist_ok=True)
    with open(part, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=lambda: paths.append(fetch(heard)))
        thread.start()
        deadline = time.monotonic() + 20
        while not heard.lines:
            assert time.monotonic() < deadline and thread.is_alive()
            time.sleep(0.01)
        work(other)
    thread.join(20)
    return heard, paths[0]


def test_what_another_process_downloads_meanwhile_is_not_downloaded_again(server: Hub):
    part = hub._part(hub._blob(hub.find(REPO, [NAME], "main")[0]))

    def append(other: IO[bytes]) -> None:
        other.write(CONTENT[:1_000_000])

    heard, path = waiting_for(part, append)
    assert path.read_bytes() == CONTENT and server.sent_ranges() == ["bytes=1000000-"]
    assert heard.lines == ["another process is downloading data.bin; waiting for it"]


def test_what_another_process_downloads_and_throws_away_is_downloaded_here(server: Hub):
    part = hub._part(hub._blob(hub.find(REPO, [NAME], "main")[0]))

    def throw_away(other: IO[bytes]) -> None:
        other.write(b"wrong")
        part.unlink()

    path = waiting_for(part, throw_away)[1]
    assert path.read_bytes() == CONTENT and server.sent_ranges() == ["bytes=0-"]


def test_a_body_that_ends_early_is_completed(server: Hub, waits: list[float]):
    server.faults += [Fault("CDN", short=700_000)]
    assert fetch().read_bytes() == CONTENT
    assert server.sent_ranges() == ["bytes=0-", "bytes=700000-"]


def test_a_server_that_never_gets_further_is_given_up_and_what_came_is_kept(server: Hub, waits: list[float]):
    server.faults += [Fault("CDN", cut=1_000_000), *(Fault("CDN", cut=0) for _ in range(hub.TRIES))]
    with pytest.raises(Unreachable, match=r"data.bin stops at \d\.\d of 3\.0 MB: .+") as caught:
        fetch()
    assert "kept" in caught.value.hint and waits == [1, 1, 2, 4, 8]
    assert fetch().read_bytes() == CONTENT and server.sent_ranges()[-1] != "bytes=0-"


def test_a_wrong_bit_is_noticed_and_the_file_fetched_anew(server: Hub):
    server.faults += [Fault("CDN", flip=True)]
    with pytest.raises(UserError, match="are not the 3,000,000 announced") as caught:
        fetch()
    assert "again" in caught.value.hint
    assert fetch().read_bytes() == CONTENT


def test_a_leftover_longer_than_the_file_is_thrown_away(server: Hub):
    blob = hub._blob(hub.find(REPO, [NAME], "main")[0])
    blob.parent.mkdir(parents=True)
    hub._part(blob).write_bytes(bytes(len(CONTENT) + 5))
    with pytest.raises(UserError, match="3,000,005 bytes"):
        fetch()
    assert fetch().read_bytes() == CONTENT


def test_a_busy_hub_is_given_the_time_it_asks_for(server: Hub, waits: list[float]):
    server.faults += [Fault("HEAD", 429, headers={"Retry-After": "7"}), Fault("HEAD", 503),
                      Fault("CDN", 429, headers={"Retry-After": "40"})]
    assert fetch().read_bytes() == CONTENT
    assert waits == [7, 2, 40]


REFUSALS = [
    (Fault("HEAD", 401, "RepoNotFound"), "no access to someone/some-text (HTTP 401)", "set HF_TOKEN"),
    (Fault("HEAD", 401), "no access to someone/some-text (HTTP 401)", "set HF_TOKEN"),
    (Fault("HEAD", 403), "no access to someone/some-text (HTTP 403)", "set HF_TOKEN"),
    (Fault("HEAD", 403, "GatedRepo"), "someone/some-text is gated", "/datasets/someone/some-text, then set HF_TOKEN"),
    (Fault("HEAD", 404, "RevisionNotFound"), "has no revision 'main'", "--revision main"),
    (Fault("HEAD", 404, "EntryNotFound"), "has no file data.bin at revision main", "/datasets/someone/some-text"),
    (Fault("HEAD", 404), "no access to someone/some-text (HTTP 404)", "HF_TOKEN"),
    (Fault("HEAD", 429, headers={"Retry-After": "3600"}), "too many requests from here (HTTP 429)", "in some minutes"),
    (Fault("HEAD", 200), "does not answer like the Hugging Face hub", "HF_ENDPOINT"),
    (Fault("CDN", 403), "no access to someone/some-text (HTTP 403)", "HF_TOKEN"),
    (Fault("CDN", 429, headers={"Retry-After": "3600"}), "too many requests from here (HTTP 429)", "in some minutes"),
    (Fault("GET", 404, "EntryNotFound"), "has no file data.bin", "/datasets/someone/some-text"),
]


@pytest.mark.parametrize(("fault", "words", "remedy"), REFUSALS, ids=lambda value: str(value)[:60])
def test_a_refusal_is_a_sentence_with_a_remedy(server: Hub, waits: list[float], fault: Fault, words: str, remedy: str):
    server.faults.append(fault)
    with pytest.raises(UserError) as caught:
        fetch()
    assert words in caught.value.message and remedy in caught.value.hint and "\n" not in caught.value.message
    assert sum(waits) <= 30
    assert fetch().read_bytes() == CONTENT, "a refusal leaves nothing that is in the way"


def test_a_hub_that_stays_broken_is_unreachable(server: Hub, waits: list[float]):
    server.faults += [Fault("HEAD", 500) for _ in range(50)]
    with pytest.raises(Unreachable, match="HTTP 500"):
        hub.find(REPO, [NAME], "main")
    assert waits == [1, 2, 4, 8, 16], "it was asked again, with longer and longer pauses"
    assert len(server.requests) == len(waits) + 1


def test_the_token_goes_to_the_hub_and_never_to_where_it_redirects(server: Hub, monkeypatch: pytest.MonkeyPatch):
    server.token = "hf_secret"
    with pytest.raises(UserError, match="private or does not exist"):
        fetch()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="refuses someone/some-text to the token") as caught:
        fetch()
    assert "hf_wrong" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert fetch().read_bytes() == CONTENT
    assert {request.headers.get("authorization") for request in server.asked("GET")} == {"Bearer hf_secret"}
    assert {request.headers.get("authorization") for request in server.asked("CDN")} == {None}


def test_too_small_a_disk_is_said_before_anything_is_downloaded(server: Hub, monkeypatch: pytest.MonkeyPatch):
    free = hub.shutil.disk_usage("/")._replace(free=4_000_000_000)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: free)
    server.commits[published.STORIES.repo] = {"f" * 40: {published.STORIES_FILE: CONTENT}}
    said: list[str] = []
    with pytest.raises(UserError, match=r"has 4,000 MB free; \S+ needs 4,386 MB more") as caught:
        published.tinystories(Wishes(revision="f" * 40, say=said.append)).documents()
    assert "HF_HOME" in caught.value.hint and not server.asked("GET") and not said


@pytest.mark.parametrize("endpoint", ["foo", "", "http://[bad", "http://127.0.0.1:99999", "ftp://hub"])
def test_an_address_that_is_none_is_said_so(monkeypatch: pytest.MonkeyPatch, endpoint: str):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(UserError, match="HF_ENDPOINT is ") as caught:
        hub.find(REPO, [NAME], "main")
    assert not isinstance(caught.value, Unreachable) and "https://huggingface.co" in caught.value.hint


def test_a_token_that_cannot_be_sent_is_said_so(server: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_é")
    with pytest.raises(UserError, match="characters that no token has"):
        fetch()


def test_a_cache_that_cannot_be_written_is_a_sentence(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    with pytest.raises(UserError, match=r"can't write to .*file/hub") as caught:
        hub.check_space(hub.find(REPO, [NAME], "main"), tmp_path, 0)
    assert "HF_HOME" in caught.value.hint


@pytest.mark.parametrize(("code", "words", "remedy"), [
    (errno.ENOSPC, "no space is left for", "What has arrived is kept. Free some space"),
    (errno.EACCES, "can't write to", "See whose it is"),
])
def test_only_a_full_disk_is_told_to_be_made_room_on(server: Hub, monkeypatch, code: int, words: str, remedy: str):
    files = hub.find(REPO, [NAME], "main")

    def fails(*_: object, **__: object) -> None:
        raise OSError(code, "because")

    monkeypatch.setattr(Path, "mkdir", fails)
    for work in (lambda: hub.download(files, print, print), lambda: hub.check_space(files, Path("/"), 0)):
        with pytest.raises(UserError, match=rf"{words} .*: because") as caught:
            work()
        assert caught.value.hint.startswith(remedy) and "HF_HOME=/path" in caught.value.hint
        assert ("space" in caught.value.hint) == (code == errno.ENOSPC)


def test_a_reader_of_the_progress_that_has_left_is_no_fault_of_the_cache(server: Hub):
    def gone(there: int, total: int) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        hub.download(hub.find(REPO, [NAME], "main"), print, gone)


def test_offline_mode_uses_the_cache_and_nothing_else(server: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE is set"):
        fetch()
    assert not server.requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    path = fetch()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(server.requests)
    assert fetch(revision=server.branches[REPO]) == path and len(server.requests) == before


def stories(*texts: str) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), sink)
    return sink.getvalue()


def test_tinystories_is_taken_at_its_pinned_commit(server: Hub):
    server.commits[published.STORIES.repo] = {
        published.STORIES.revision: {published.STORIES_FILE: stories("Once", "upon")},
        "f" * 40: {published.STORIES_FILE: stories("changed")}}
    server.branches[published.STORIES.repo] = "f" * 40
    said: list[str] = []
    found = published.tinystories(Wishes(say=said.append))
    assert not server.requests, "a pinned commit is known without asking"
    assert list(found.documents()) == list(found.documents()) == [b"Once", b"upon"]
    assert (found.revision, found.licence) == (published.STORIES.revision, "CDLA-Sharing-1.0")
    assert len(said) == 1 and "downloading" in said[0] and constants.HF_HUB_CACHE in said[0]
    newest = published.tinystories(Wishes(revision="main"))
    assert list(newest.documents()) == [b"changed"] and newest.revision == "f" * 40


def shards(count: int, mark: str) -> dict[str, bytes]:
    return {f"shard_{n:05d}.parquet": stories(f"{mark} {n}") for n in (*range(count), published.MAX_SHARDS)}


def test_climbmix_pins_its_scored_shard_and_keeps_the_commit_it_took_first(server: Hub):
    first = server.add(published.MIX.repo, shards(3, "first"))
    found = published.climbmix(Wishes(), shards=2)
    assert list(found.documents()) == [b"first 0", b"first 1"] and found.revision == first
    assert found.pinned and list(found.pinned()) == [b"first 6542"]
    second = server.add(published.MIX.repo, shards(3, "second"))
    grown = published.climbmix(Wishes(), shards=3)
    assert grown.revision == first and list(grown.documents())[-1] == b"first 2", "main moved, the corpus did not"
    newest = published.climbmix(Wishes(revision="main"), shards=1)
    assert newest.revision == second == published.climbmix(Wishes(), shards=1).revision


def test_a_record_of_the_commit_that_is_damaged_is_made_anew(server: Hub, cache: Path):
    commit = server.add(published.MIX.repo, shards(1, "first"))
    cache.mkdir()
    (cache / "climbmix.revision").write_bytes(b"\xff torn")
    assert published.climbmix(Wishes(), shards=1).revision == commit
    assert (cache / "climbmix.revision").read_text() == commit + "\n"


def test_a_branch_that_moves_during_the_look_up_gives_files_of_one_commit(server: Hub, monkeypatch):
    server.add(published.MIX.repo, shards(2, "first"))
    original = hub._head

    def moving(repo: str, name: str, revision: str) -> hub.HubFile:
        found = original(repo, name, revision)
        server.add(published.MIX.repo, shards(2, "later"))
        return found

    monkeypatch.setattr(hub, "_head", moving)
    found = published.climbmix(Wishes(), shards=2)
    assert list(found.documents()) == [b"first 0", b"first 1"]


def test_a_hub_that_is_not_there_is_unreachable_at_once(server: Hub, waits: list[float],
                                                         monkeypatch: pytest.MonkeyPatch):
    for url in (DEAD, "http://hub.invalid"):
        point_at(monkeypatch, url)
        with pytest.raises(Unreachable, match=r"can't be reached \(" + url) as caught:
            published.reachable_tinystories(Wishes())
        assert "\n" not in caught.value.message and "ar prepare stdlib" in caught.value.hint
    assert waits == []


def test_a_name_server_that_never_answers_is_not_waited_for(server: Hub, monkeypatch: pytest.MonkeyPatch):
    done = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: done.wait(30) and [])
    with pytest.raises(Unreachable, match=r"no answer in 0\.2 s"):
        published.reachable_tinystories(Wishes(), patience_s=0.2)
    done.set()
