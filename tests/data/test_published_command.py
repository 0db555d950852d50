"""Published corpora as a person gets them: by name, by default, interrupted, offline, and never needlessly again."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub.constants as constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from autoresearch.cli.prepare import command
from autoresearch.data import disk, prepared, published
from autoresearch.errors import UserError
from tests.data.conftest import DEAD, point_at
from tests.data.hub_server import Fault, Hub
from tests.data.texts import made_text

DOOR = Path(__file__).parents[2] / "prepare.py"


def table(seed: int, count: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": [made_text(300, 1000 * seed + n).decode() for n in range(count)]}), sink)
    return sink.getvalue()


@pytest.fixture
def server(empty_hub: Hub) -> Hub:
    """A hub with both published corpora, small."""
    empty_hub.commits[published.STORIES.repo] = {published.STORIES.revision: {published.STORIES_FILE: table(0, 400)}}
    empty_hub.add(published.MIX.repo, {f"shard_{n:05d}.parquet": table(n, 250) for n in (0, 1, 2, 6542)})
    return empty_hub


def prepare(*arguments: object):
    return CliRunner().invoke(command, [*map(str, arguments), "--tokenizer", "byte"], catch_exceptions=True)


def test_the_default_is_tinystories_announced_before_it_comes(server: Hub):
    found = prepare()
    assert found.exit_code == 0, found.output
    first = found.stderr.splitlines()[0]
    assert "downloading" in first and published.STORIES.repo in first and str(constants.HF_HUB_CACHE) in first
    source = prepared.current().manifest.corpus
    assert (prepared.current().name, source.revision) == ("tinystories", published.STORIES.revision)
    assert (source.licence, source.documents) == ("CDLA-Sharing-1.0", 400)


def test_what_is_prepared_is_neither_downloaded_nor_read_nor_asked_for_again(server: Hub, monkeypatch):
    assert prepare().exit_code == 0
    shutil.rmtree(constants.HF_HUB_CACHE)
    point_at(monkeypatch, DEAD)
    before = len(server.requests)
    for again in (prepare(), prepare("tinystories"), prepare("auto")):
        assert again.exit_code == 0 and "nothing to do" in again.stderr and "reached" not in again.stderr
    assert len(server.requests) == before
    more = CliRunner().invoke(command, ["--tokenizer", "char"])
    assert more.exit_code == 0 and prepared.current().tokenizers() == ["byte", "char"]


def test_a_cap_makes_another_set(server: Hub):
    for arguments in (("--max-bytes", "60KB"), (), ("--max-bytes", 60_000)):
        assert prepare(*arguments).exit_code == 0
    sizes = {name: prepared.find(name).manifest.corpus.bytes for name in prepared.names()}
    assert sizes.pop("tinystories") <= 60_000 and len(sizes) == 1 and min(sizes.values()) > 100_000


def test_climbmix_is_scored_on_its_pinned_shard(server: Hub):
    found = prepare("climbmix", "--shards", 2)
    assert found.exit_code == 0, found.output
    facts = prepared.current().manifest
    assert (facts.policy, facts.corpus.documents, facts.corpus.pinned) == ("pinned", 750, 250)
    assert facts.corpus.revision == server.branches[published.MIX.repo]
    scored = set(pq.read_table(io.BytesIO(table(6542, 250)))["text"].to_pylist())
    assert all(document.decode() in scored for document in prepared.current().documents("val"))
    assert prepare("climbmix", "--shards", 3).exit_code == 0 and len(prepared.names()) == 2
    assert "nothing to do" in prepare("climbmix", "--shards", 2).stderr


def test_a_text_of_ones_own_is_not_replaced_because_the_hub_is_away(novel: Path, monkeypatch: pytest.MonkeyPatch):
    assert prepare("--text", novel).exit_code == 0
    found = prepare()
    assert found.exit_code == 0 and "the text prepared before stays" in found.stderr
    assert prepared.names() == ["novel"] and prepared.current().name == "novel"
    found = prepare("--max-bytes", "5MB", "--name", "short")
    assert found.exit_code == 0
    assert "nothing was prepared, so --max-bytes, --name, --tokenizer were ignored; novel is as it was" in found.stderr
    assert "ar prepare --text PATH" in found.stderr
    assert prepare("stdlib", "--max-bytes", "400KB").exit_code == 0 and prepared.current().name == "stdlib"


def test_a_missing_revision_names_the_way_out(server: Hub):
    found = CliRunner().invoke(command, ["tinystories", "--revision", "nowhere"])
    assert "has no revision 'nowhere'" in found.exception.message and "--revision main" in found.exception.hint
    assert prepared.names() == []


def door(server: Hub, folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """`python prepare.py`, told about the hub by the variables that a person would set."""
    env = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
           **environment}
    return subprocess.Popen([sys.executable, DOOR, *arguments, "--tokenizer", "byte", "--json"], env=env,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_leaves_what_came_and_the_next_run_goes_on_with_it(server: Hub, tmp_path: Path):
    size = len(server.commits[published.STORIES.repo][published.STORIES.revision][published.STORIES_FILE])
    server.token = "hf_secret"
    server.faults.append(Fault("CDN", stall=size // 2))
    first = door(server, tmp_path, "tinystories", HF_TOKEN="hf_secret")
    deadline = time.monotonic() + 30
    while not (there := [part for part in tmp_path.glob("hf/hub/*/blobs/*.incomplete") if part.stat().st_size]):
        assert time.monotonic() < deadline and first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=30)[1]
    came = there[0].stat().st_size
    server.stalled.set()
    assert first.returncode == 1 and "the same command goes on from there" in said and "Traceback" not in said
    second = door(server, tmp_path, "tinystories", HF_TOKEN="hf_secret")
    out, said = second.communicate(timeout=60)
    assert second.returncode == 0, said
    assert json.loads(out)["revision"] == published.STORIES.revision
    assert server.sent_ranges() == ["bytes=0-", f"bytes={came}-"] and 0 < came <= size // 2


def test_while_a_corpus_is_downloaded_the_cache_is_free_for_others(server: Hub, tmp_path: Path, cache: Path):
    server.faults.append(Fault("CDN", stall=1000))
    downloading = door(server, tmp_path, "tinystories")
    deadline = time.monotonic() + 30
    while not server.sent_ranges():
        assert time.monotonic() < deadline and downloading.poll() is None, downloading.communicate()
        time.sleep(0.05)
    with disk.lock(cache / "data", pytest.fail):
        pass
    assert prepare("stdlib", "--max-bytes", "400KB").exit_code == 0
    server.stalled.set()
    out, said = downloading.communicate(timeout=60)
    assert downloading.returncode == 0 and json.loads(out)["name"] == "tinystories", said
    assert prepared.names() == ["stdlib", "tinystories"]


def test_too_small_a_disk_and_a_missing_tokenizer_are_said_before_a_download(server: Hub, monkeypatch):
    def unreachable() -> None:
        raise UserError("gpt2 can't be fetched")

    with monkeypatch.context() as patch:
        patch.setattr("autoresearch.data.prepare.gpt2_tokenizer", unreachable)
        found = CliRunner().invoke(command, ["tinystories", "--tokenizer", "gpt2"])
        assert "can't be fetched" in found.exception.message
    free = shutil.disk_usage("/")._replace(free=4_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    found = prepare("tinystories")
    assert "has 4,000 MB free; preparing this text needs 4," in found.exception.message
    assert not server.asked("GET")


def test_offline_the_default_is_there_in_seconds(server: Hub, tmp_path: Path):
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HTTP_PROXY": DEAD}):
        began = time.monotonic()
        found = door(server, tmp_path, "--max-bytes", "400KB", **environment)
        out, said = found.communicate(timeout=60)
        assert found.returncode == 0, said
        assert json.loads(out)["name"] == "stdlib" and "standard library takes the place" in said.splitlines()[0]
        assert time.monotonic() - began < 30
    assert not server.requests
