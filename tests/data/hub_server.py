"""A Hugging Face hub on loopback: the file protocol that a download speaks, and its faults on demand.

    Hub    datasets by commit, branches, what was asked; `faults` are used up one by one, by the requests they fit

`/datasets/<repo>/resolve/<revision>/<file>` answers HEAD and GET with the commit, and with the size and checksum of the
large file to which it redirects. That file lies on a second origin, the CDN, which knows Range and no tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    on: str  # HEAD, GET or CDN
    status: int = 0  # to answer instead
    code: str = ""  # X-Error-Code, by which the hub tells one 40x from another
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None  # reset the connection after so many bytes of the body
    short: int | None = None  # say that the body has so many bytes, send them, and end
    stall: int | None = None  # send so many bytes of the body and then nothing, until `stalled` is set
    flip: bool = False  # one wrong bit in the body
    no_range: bool = False  # answer 200 with the whole file, whatever part was asked for


@dataclass
class Request:
    method: str  # HEAD, GET or CDN
    path: str
    headers: dict[str, str]


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that left is no news."""


class Hub:
    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}  # repo -> commit -> file -> content
        self.branches: dict[str, str] = {}  # repo -> commit of main
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.token: str | None = None  # needed for everything
        self.stalled = threading.Event()
        self._servers = [_Server(("127.0.0.1", 0), self._handler(kind)) for kind in ("hub", "cdn")]
        self.url, self._cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)

    def add(self, repo: str, files: dict[str, bytes]) -> str:
        """A new commit on main, and its hash."""
        commits = self.commits.setdefault(repo, {})
        commit = hashlib.sha1(f"{repo}{len(commits)}".encode()).hexdigest()
        commits[commit] = files
        self.branches[repo] = commit
        return commit

    def asked(self, method: str) -> list[Request]:
        return [request for request in self.requests if request.method == method]

    def sent_ranges(self) -> list[str]:
        return [request.headers.get("range", "") for request in self.asked("CDN")]

    @contextlib.contextmanager
    def running(self) -> Iterator[Hub]:
        threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in self._servers]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self.stalled.set()
            for server, thread in zip(self._servers, threads, strict=True):
                server.shutdown()
                thread.join()
                server.server_close()

    def _handler(self, kind: str) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.resolve(self, "HEAD")

            def do_GET(self) -> None:
                if kind == "cdn":
                    hub.send_blob(self)
                else:
                    hub.resolve(self, "GET")

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _next_fault(self, method: str) -> Fault | None:
        fault = next((fault for fault in self.faults if fault.on == method), None)
        if fault:
            self.faults.remove(fault)
        return fault

    def _log(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.requests.append(Request(method, handler.path, headers))

    def resolve(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        self._log(handler, method)
        match = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", handler.path)
        fault = self._next_fault(method)
        if fault and fault.status:
            return _answer(handler, fault.status, {**({"X-Error-Code": fault.code} if fault.code else {}),
                                                   **fault.headers})
        if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            return _answer(handler, 401, {"X-Error-Code": "RepoNotFound"})
        repo, revision, name = match.groups() if match else ("", "", "")
        if repo not in self.commits:
            return _answer(handler, 401, {"X-Error-Code": "RepoNotFound"})
        commit = self.branches[repo] if revision == "main" else revision
        if commit not in self.commits[repo]:
            return _answer(handler, 404, {"X-Error-Code": "RevisionNotFound"})
        if name not in self.commits[repo][commit]:
            return _answer(handler, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        content = self.commits[repo][commit][name]
        digest = hashlib.sha256(content).hexdigest()
        _answer(handler, 302, {"Location": f"{self._cdn}/{repo}/{commit}/{name}", "X-Repo-Commit": commit,
                               "X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{digest}"', "ETag": '"small"',
                               "X-Xet-Hash": digest,
                               "Link": f'<{self.url}/api/xet-token>; rel="xet-auth"'})

    def send_blob(self, handler: BaseHTTPRequestHandler) -> None:
        self._log(handler, "CDN")
        _, owner, name, commit, file = handler.path.split("/", 4)
        content = self.commits[f"{owner}/{name}"][commit][file]
        fault = self._next_fault("CDN") or Fault("CDN")
        if fault.status:
            return _answer(handler, fault.status, fault.headers)
        if fault.flip:
            content = content[:-1] + bytes([content[-1] ^ 1])
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(asked[1]) if asked and not fault.no_range else 0
        if start >= len(content):
            return _answer(handler, 416, {"Content-Range": f"bytes */{len(content)}"})
        body = content[start:] if fault.short is None else content[start:start + fault.short]
        handler.send_response(206 if asked and not fault.no_range else 200)
        handler.send_header("Content-Length", str(len(body)))
        if asked and not fault.no_range:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        if fault.stall is not None:
            handler.wfile.write(body[:fault.stall])
            self.stalled.wait(60)
            handler.close_connection = True
            return
        handler.wfile.write(body[:fault.cut])
        if fault.cut is not None:
            _reset(handler)


def _answer(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    body = b'{"error": "because"}' if status >= 400 else b""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def _reset(handler: BaseHTTPRequestHandler) -> None:
    """What has been sent arrives, and then the connection breaks."""
    handler.wfile.flush()
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
