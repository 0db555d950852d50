"""Files of datasets on the Hugging Face hub: found at one commit, downloaded into the hub's own cache.

    find        what a dataset's files are at a revision: commit, size and checksum, before anything is downloaded
    download    those that the cache lacks, from where an earlier download stopped

huggingface_hub finds files, authenticates and keeps the cache. The transfer is ours: huggingface_hub 2 throws away what
it has of a file when a download ends early, obeys any Retry-After in silence, and gives up on a reset connection. A
finished file is put where its cache expects it, so other programs find it there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

from autoresearch.data import disk
from autoresearch.errors import UserError

DATASET = "dataset"
PATIENCE_S = 30.0  # to find the files
TRIES = 5  # in a row that bring nothing
LOOK_UPS = 8  # at a time
MAX_WAIT_S = 60  # that a server may ask for
RETRIED = (408, 429, 500, 502, 503, 504)

Say = Callable[[str], None]
Report = Callable[[int, int], None]  # bytes there, bytes in all
T = TypeVar("T")


class Unreachable(UserError):
    """The hub did not answer, or not as the hub: no network, a proxy, offline mode, a fault on its side."""


@dataclass(frozen=True)
class HubFile:
    repo: str
    name: str
    commit: str
    bytes: int
    etag: str  # sha256 of a large file
    path: Path | None  # in the cache; None: not there yet


def find(repo: str, names: Sequence[str], revision: str, patience_s: float = PATIENCE_S) -> list[HubFile]:
    """The files of one commit. A cached commit needs no network. Raises Unreachable, or UserError for what the hub
    refuses."""
    _check_settings()
    import huggingface_hub.constants as constants

    cached = [file for name in names if (file := _cached(repo, name, revision))]
    if len(cached) == len(names) and (is_commit(revision) or constants.is_offline_mode()):
        return cached
    if constants.is_offline_mode():
        raise Unreachable(f"HF_HUB_OFFLINE is set, and {repo} is not in {folder()}",
                          "Unset it to download, or prepare other text: ar prepare --text PATH, or ar prepare stdlib")
    # The first tells whether the hub is there, and the commit: a branch may move between two requests.
    first = _within(patience_s, lambda: _ask(repo, names[0], revision, patience_s))
    with ThreadPoolExecutor(LOOK_UPS) as pool:
        rest = pool.map(lambda name: _cached(repo, name, first.commit) or _ask(repo, name, first.commit, patience_s),
                        names[1:])
        return [_cached(repo, names[0], first.commit) or first, *rest]


def _check_settings() -> None:
    """Raises UserError for what huggingface_hub would stumble over, some of it when it is imported."""
    if (endpoint := os.environ.get("HF_ENDPOINT")) is not None:
        try:
            url = urlsplit(endpoint)
            is_url = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            is_url = False
        if not is_url:
            raise UserError(f"HF_ENDPOINT is {endpoint!r}: must be the address of a hub",
                            "Unset it for the usual one, or write for example https://huggingface.co")
    from huggingface_hub import get_token

    try:
        token = get_token() or ""
    except OSError as e:
        raise UserError(f"the hub's token can't be read: {e.strerror}: {e.filename}",
                        "Make HF_HOME a folder that can be read.") from None
    if not token.isascii():
        raise UserError("the token in HF_TOKEN, or of `hf auth login`, holds characters that no token has",
                        "Copy it again from the hub's settings; public datasets need none.")


def is_commit(revision: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _cached(repo: str, name: str, revision: str) -> HubFile | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, name, repo_type=DATASET, revision=revision)
    if not isinstance(found, str):
        return None
    path = Path(found)
    return HubFile(repo, name, path.parents[len(Path(name).parts) - 1].name, path.stat().st_size, "", path)


def _ask(repo: str, name: str, revision: str, patience_s: float) -> HubFile:
    """The file as the hub describes it, asked again after faults that pass, as long as there is time."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    deadline, wait_s = time.monotonic() + patience_s, 1.0
    while True:
        try:
            return _head(repo, name, revision)
        except HfHubHTTPError as e:
            error, asked_s = _refusal(e, repo, name, revision), _retry_after_s(e)
        except httpx2.HTTPError as e:
            # A name that is not found, a refused connection: no second try within seconds will do better.
            raise _unreachable(_reason(e)) from None
        if asked_s is None or time.monotonic() + max(wait_s, asked_s) > deadline:
            raise error from None
        time.sleep(max(wait_s, asked_s))
        wait_s *= 2


def _head(repo: str, name: str, revision: str) -> HubFile:
    """Raises Unreachable, HfHubHTTPError and the errors of httpx2."""
    import huggingface_hub.constants as constants
    from huggingface_hub import get_hf_file_metadata

    answer = get_hf_file_metadata(_url(repo, name, revision), endpoint=constants.ENDPOINT)
    if not (answer.commit_hash and answer.etag and answer.size is not None):
        raise Unreachable(f"{constants.ENDPOINT} does not answer like the Hugging Face hub",
                          "Is HF_ENDPOINT right? A network that wants a log-in answers in the hub's place too.")
    return HubFile(repo, name, answer.commit_hash, answer.size, answer.etag, None)


def _url(repo: str, name: str, revision: str) -> str:
    import huggingface_hub.constants as constants
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repo, name, repo_type=DATASET, revision=revision, endpoint=constants.ENDPOINT)


def _within(patience_s: float, work: Callable[[], T]) -> T:
    """What `work` returns or raises, in a thread: no timeout of ours bounds the system's look-up of a host name."""
    outcome: list[T | BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as e:
            outcome.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(patience_s)
    if not outcome:
        raise _unreachable(f"no answer in {patience_s:g} s")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _retry_after_s(error: Any) -> float | None:
    """How long the server asks to wait before another try; None where another try is useless."""
    if error.response.status_code not in RETRIED:
        return None
    asked = error.response.headers.get("Retry-After", "")
    return float(asked) if asked.isdigit() else 0.0


def _unreachable(why: str) -> Unreachable:
    import huggingface_hub.constants as constants

    return Unreachable(f"the Hugging Face hub can't be reached ({constants.ENDPOINT}: {why})",
                       "Check the network and try again, or prepare other text: ar prepare --text PATH, or "
                       "ar prepare stdlib")


def _reason(error: BaseException) -> str:
    import httpx2

    if isinstance(error, httpx2.TimeoutException):
        return "no answer in time"
    return re.sub(r"^\[Errno -?\d+\] ", "", (str(error).splitlines() or [""])[0])[:120] or type(error).__name__


def _refusal(error: Any, repo: str, name: str, revision: str) -> UserError:
    """What the hub said of a file, in a sentence with what to do. `error`: HfHubHTTPError."""
    import huggingface_hub.constants as constants
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError, RevisionNotFoundError

    status = error.response.status_code
    page = f"{constants.ENDPOINT}/datasets/{repo}"
    if isinstance(error, GatedRepoError):
        return UserError(f"{repo} is gated: it is given only to those who accepted its terms",
                         f"Accept them on {page}, then set HF_TOKEN to a token of that account.")
    if isinstance(error, RevisionNotFoundError):
        return UserError(f"{repo} has no revision {revision!r}", "The newest is: --revision main")
    if isinstance(error, RemoteEntryNotFoundError):
        return UserError(f"{repo} has no file {name} at revision {revision}", f"See what it has: {page}")
    if status in (401, 403) and get_token():
        return UserError(f"the hub refuses {repo} to the token it was sent (HTTP {status})",
                         "The token in HF_TOKEN, or of `hf auth login`, may be wrong, expired or too narrow; public "
                         "datasets need none.")
    if status in (401, 403, 404):
        return UserError(f"the hub gives no access to {repo} (HTTP {status}): it is private or does not exist",
                         f"If you may read {page}, set HF_TOKEN to a token of yours.")
    if status == 429:
        return Unreachable("the Hugging Face hub has had too many requests from here (HTTP 429)",
                           "Try again in some minutes; requests with a token in HF_TOKEN may come more often.")
    return _unreachable(f"HTTP {status}")


def check_space(files: Sequence[HubFile], prepared_in: Path, prepared_bytes: int) -> None:
    """Raises UserError where the cache can't be written or has no room for the files, and for what is prepared from
    them if that goes to the same disk."""
    needed, cache = missing_bytes(files), folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise _unwritable(cache, e) from e
    if cache.stat().st_dev == prepared_in.stat().st_dev:
        needed += prepared_bytes
    if (free := shutil.disk_usage(cache).free) < needed:
        raise UserError(f"{cache} has {free / 1e6:,.0f} MB free; {files[0].repo} needs {needed / 1e6:,.0f} MB more",
                        "Free some space, or name a folder on another disk: HF_HOME=/path ar prepare")


def download(files: Sequence[HubFile], say: Say, report: Report) -> list[Path]:
    """Paths of the files, those that the cache lacks downloaded. Stopped at any moment, what has arrived is kept and
    the next call goes on from there."""
    total, done = sum(file.bytes for file in files), 0
    paths = []
    try:
        for file in files:
            paths.append(file.path or _download(file, say, _shifted(report, done, total)))
            done += file.bytes
    except KeyboardInterrupt:
        there = sum(_bytes_there(file) for file in files)
        say(f"{there / 1e6:,.0f} MB of {total / 1e6:,.0f} MB are kept; the same command goes on from there")
        raise
    return paths


def _shifted(report: Report, before: int, total: int) -> Callable[[int], None]:
    return lambda here: report(before + here, total)


def folder() -> Path:
    """Where the hub's cache is: HF_HUB_CACHE, or below HF_HOME."""
    import huggingface_hub.constants as constants

    return Path(constants.HF_HUB_CACHE)


def missing_bytes(files: Sequence[HubFile]) -> int:
    """What a download would bring."""
    return sum(file.bytes - _bytes_there(file) for file in files)


def _bytes_there(file: HubFile) -> int:
    if file.path:
        return file.bytes
    blob = _blob(file)
    return next((path.stat().st_size for path in (blob, _part(blob)) if path.is_file()), 0)


def _blob(file: HubFile) -> Path:
    """Where the hub's cache keeps the content."""
    from huggingface_hub.file_download import repo_folder_name

    return folder() / repo_folder_name(repo_id=file.repo, repo_type=DATASET) / "blobs" / file.etag


def _part(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.autoresearch.incomplete")


def _download(file: HubFile, say: Say, report: Callable[[int], None]) -> Path:
    import httpx2
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    blob = _blob(file)
    try:
        blob.parent.mkdir(parents=True, exist_ok=True)
        with _held(blob, lambda: say(f"another process is downloading {file.name}; waiting for it")) as part:
            if not blob.exists():
                _fill(part, file, say, report)
                part.flush()
                _check_content(Path(part.name), file)
                Path(part.name).rename(blob)
        _part(blob).unlink(missing_ok=True)
        # The content is there: this adds the names by which the cache finds it.
        return Path(hf_hub_download(file.repo, file.name, repo_type=DATASET, revision=file.commit))
    except (httpx2.HTTPError, LocalEntryNotFoundError) as e:
        raise _unreachable(_reason(e.__cause__ or e)) from None
    except OSError as e:
        raise _unwritable(blob.parent, e) from e


@contextlib.contextmanager
def _held(blob: Path, on_wait: Callable[[], None]) -> Iterator[IO[bytes]]:
    """The part file at its end, which nobody else has; unless by now the blob is there."""
    while True:
        with open(_part(blob), "ab") as part:
            disk.hold(part, on_wait)
            if blob.exists() or _is_still(part):
                part.seek(0, os.SEEK_END)  # who had it before may have appended
                yield part
                return


def _is_still(part: IO[bytes]) -> bool:
    """Whether the open file has its name: who had it before may have thrown it away."""
    try:
        return os.path.samestat(os.stat(part.name), os.fstat(part.fileno()))
    except FileNotFoundError:
        return False


def _emptied(part: IO[bytes]) -> None:
    part.truncate(0)
    part.seek(0)  # else `tell` goes on from the end that was


def _unwritable(cache: Path, error: OSError) -> UserError:
    another = "name another folder: HF_HOME=/path ar prepare"
    return disk.unwritable(cache, error, "What has arrived is kept. Free some space and run the same command again, or "
                                         + another, another)


def _fill(part: IO[bytes], file: HubFile, say: Say, report: Callable[[int], None]) -> None:
    """Appends what `part` lacks of the file, over as many connections as it takes."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    tries = 0
    while (there := part.tell()) < file.bytes:
        wait_s, why = 2.0**tries, "the connection ended early"
        try:
            _append(part, file, report)
        except HfHubHTTPError as e:
            error = _refusal(e, file.repo, file.name, file.commit)
            asked_s = _retry_after_s(e)
            if e.response.status_code == 416:  # what is there is longer than what the server has
                _emptied(part)
            elif asked_s is None or asked_s > MAX_WAIT_S:
                raise error from None
            wait_s, why = max(wait_s, asked_s or 0.0), error.message
        except httpx2.TransportError as e:
            why = _reason(e)
        tries = 0 if part.tell() > there else tries + 1
        if tries == TRIES:
            raise Unreachable(f"{file.name} stops at {part.tell() / 1e6:,.1f} of {file.bytes / 1e6:,.1f} MB: {why}",
                              "What has arrived is kept: run the same command again later.")
        if part.tell() < file.bytes:
            say(f"{file.name}: {why}; going on in {wait_s:.0f} s from {part.tell() / 1e6:,.0f} MB")
            time.sleep(wait_s)


def _append(part: IO[bytes], file: HubFile, report: Callable[[int], None]) -> None:
    import huggingface_hub.constants as constants
    from huggingface_hub import get_session
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # named there lazily
        build_hf_headers,
        hf_raise_for_status,
    )

    headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={part.tell()}-"}
    with get_session().stream("GET", _url(file.repo, file.name, file.commit), headers=headers,
                              timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:  # the whole file, whatever was asked for
            _emptied(part)
        for block in response.iter_bytes():
            part.write(block)
            report(part.tell())


def _check_content(path: Path, file: HubFile) -> None:
    """Raises UserError, and drops the content, where it is not what the hub announced."""
    bytes_there = path.stat().st_size
    is_right = bytes_there == file.bytes
    if is_right and re.fullmatch(r"[0-9a-f]{64}", file.etag):
        with disk.reading(path), open(path, "rb") as content:
            is_right = hashlib.file_digest(content, "sha256").hexdigest() == file.etag
    if not is_right:
        path.unlink()
        raise UserError(f"{file.name} arrived with {bytes_there:,} bytes that are not the {file.bytes:,} announced",
                        "It was thrown away: run the same command again. A proxy in between may have changed it.")
