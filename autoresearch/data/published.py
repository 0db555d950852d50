"""Published corpora, by name: downloaded once from the Hugging Face hub, always at the same commit.

    tinystories   2.7 million stories for children, written by GPT-4: 2.2 GB of simple English, cleaned and shuffled
    climbmix      web text, as many shards as asked for; what is scored is the shard that karpathy/autoresearch scores
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch import paths
from autoresearch.data import corpus, hub
from autoresearch.data.corpus import Corpus
from autoresearch.data.hub import HubFile, Report, Say

TINYSTORIES, CLIMBMIX = "tinystories", "climbmix"
SHORT_PATIENCE_S = 6.0
SHARDS, MAX_SHARDS = 4, 6542  # of climbmix to train on; the one after the last is scored
NEWEST = "main"
COPIES = 2  # of its text on disk while it is prepared


@dataclass(frozen=True)
class Published:
    name: str
    repo: str
    licence: str
    file_bytes: int  # of text in a file, roughly
    revision: str = NEWEST  # the commit to take unless told otherwise; a branch: its commit when first downloaded


STORIES = Published(TINYSTORIES, "karpathy/tinystories-gpt4-clean", "CDLA-Sharing-1.0", 2_191_281_193,
                    "0397e27157956705a0260709da3095bb9c43d6a7")
# The shards repack nvidia/Nemotron-ClimbMix, whose licence this is.
MIX = Published(CLIMBMIX, "karpathy/climbmix-400b-shuffle", "CC-BY-NC-4.0", 250_000_000)
STORIES_FILE = "tinystories_gpt4_clean.parquet"


@dataclass(frozen=True)
class Wishes:
    """What may be said about any published corpus, and who hears of the download."""

    max_bytes: int | None = None
    revision: str | None = None
    say: Say = lambda line: None
    report: Report = lambda there, total: None


def tinystories(wishes: Wishes) -> Corpus:
    return _corpus(_download(STORIES, [STORIES_FILE], wishes), wishes)


def reachable_tinystories(wishes: Wishes, patience_s: float = SHORT_PATIENCE_S) -> Corpus:
    """Raises hub.Unreachable within seconds where it can be neither read nor downloaded."""
    download = _download(STORIES, [STORIES_FILE], wishes)
    download.find(patience_s)
    return _corpus(download, wishes)


def climbmix(wishes: Wishes, shards: int = SHARDS) -> Corpus:
    names = [f"shard_{index:05d}.parquet" for index in (*range(shards), MAX_SHARDS)]
    return _corpus(_download(MIX, names, wishes), wishes, is_last_scored=True)


class Download:
    """Files of a published corpus, found and downloaded when they are first needed."""

    def __init__(self, published: Published, names: Sequence[str], revision: str, wishes: Wishes):
        self.published, self.names, self.revision, self._wishes = published, names, revision, wishes
        self._found: list[HubFile] = []
        self._paths: list[Path] = []

    def find(self, patience_s: float = hub.PATIENCE_S) -> list[HubFile]:
        self._found = self._found or hub.find(self.published.repo, self.names, self.revision, patience_s)
        return self._found

    def paths(self) -> list[Path]:
        if not self._paths:
            files, published = self.find(), self.published
            if missing := hub.missing_bytes(files):
                paths.cache().mkdir(parents=True, exist_ok=True)
                hub.check_space(files, paths.cache(), COPIES * published.file_bytes * len(files))
                self._wishes.say(f"{published.name}: downloading {missing / 1e6:,.0f} MB from {published.repo} to "
                                 f"{hub.folder()}; licence {published.licence}; Ctrl-C stops, the same command goes on")
            self._paths = hub.download(files, self._wishes.say, self._wishes.report)
        return self._paths


def _download(published: Published, names: Sequence[str], wishes: Wishes) -> Download:
    """At the commit asked for, or the one that is pinned, or the one that this cache took first."""
    record = paths.cache() / f"{published.name}.revision"
    recorded = record.read_text(encoding="utf-8", errors="replace").strip() if record.is_file() else ""
    revision = wishes.revision or (recorded if hub.is_commit(recorded) else published.revision)
    download = Download(published, names, revision, wishes)
    if not hub.is_commit(revision):
        download.revision = download.find()[0].commit
        if published.revision == revision == NEWEST:
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(download.revision + "\n", encoding="utf-8")
    return download


def _corpus(download: Download, wishes: Wishes, is_last_scored: bool = False) -> Corpus:
    published, scored = download.published, 1 if is_last_scored else 0
    trained = len(download.names) - scored
    expected = published.file_bytes * trained
    # In words, and with the revision enough to tell the text from any other.
    source = published.repo + (f", {trained} shards and the scored one" if scored else "") + (
        f", the first {wishes.max_bytes:,} bytes" if wishes.max_bytes else "")
    made = Corpus(published.name, source, published.name,
                  lambda: corpus.capped(_documents(download.paths()[:trained], made), wishes.max_bytes, made),
                  pinned=(lambda: _documents(download.paths()[trained:], made)) if scored else None,
                  fetch=download.paths, revision=download.revision, licence=published.licence,
                  expected_bytes=min(expected, wishes.max_bytes or expected) + published.file_bytes * scored)
    return made


def _documents(files: Sequence[Path], made: Corpus) -> Iterator[bytes]:
    return (document for path in files for document in corpus.documents(path, made))
