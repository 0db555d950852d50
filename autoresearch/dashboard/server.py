"""HTTP on loopback: who may ask, the headers of every answer, routes, and the stream of changes.

    Dashboard   the server; `address` is what a person opens

Whoever knows the token may read and steer: it comes once in the address, then lives in a cookie that pages of other
sites can't send. Requests by another host name (DNS rebinding) and forms from another origin are refused. Pages run one
script of ours and load nothing from elsewhere.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from autoresearch.dashboard import pages, steer
from autoresearch.errors import UserError
from autoresearch.report.templates import FOLDER, style
from autoresearch.research.events import FILE, Event, Follower
from autoresearch.research.now import Now
from autoresearch.research.study import Study

LOOPBACK = "127.0.0.1"
FORM_BYTES = 256 << 10
STREAMS = 16  # open at a time: each holds a thread
REQUEST_TIMEOUT_S = 30
LOOK_EVERY_S, BEAT_EVERY_S, OWNER_EVERY_S = 0.5, 10.0, 2.0
NEWS = {"began", "proposed", "trial_ended", "decided"}  # events after which pages are out of date

# Without any referrer a browser gives a form's origin as null, which could be anybody's.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                               "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
REFUSED = "This page needs the address with the token in it, which `ar dashboard` prints.\n"


class Dashboard(ThreadingHTTPServer):
    """Serves one study. `token` opens it; `form_key` is in every form it hands out."""

    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def __init__(self, clone: Path, tag: str, port: int = 0):
        self.clone, self.tag = clone, tag
        self.token, self.form_key = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self.stopping = threading.Event()
        self.streams = threading.BoundedSemaphore(STREAMS)
        self.said = ""  # what the last form did, for the next page of forms
        self._lock, self._looked_s = threading.Lock(), -OWNER_EVERY_S
        self._owner: int | None = None
        super().__init__((LOOPBACK, port), Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """Its name; cookies are shared by all ports of a host."""
        return f"autoresearch-{self.port}"

    def study(self) -> Study:
        """For one request, in its own thread."""
        return Study.open(self.clone, self.tag, readonly=True)

    def owner(self, study: Study) -> int | None:
        """The process that runs the study, asked for at most every few seconds, however many look."""
        with self._lock:
            if time.monotonic() - self._looked_s > OWNER_EVERY_S:
                self._looked_s, self._owner = time.monotonic(), study.owner()
            return self._owner

    def shutdown(self) -> None:
        self.stopping.set()
        super().shutdown()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has left is no error."""


class Handler(BaseHTTPRequestHandler):
    server: Dashboard
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "autoresearch", ""
    timeout = REQUEST_TIMEOUT_S

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, respond: Any) -> None:
        """Refuses strangers, and says whatever goes wrong in words."""
        self.close_connection = True  # simpler than telling apart what was read to its end
        if self.headers.get("Host", "") not in (f"{LOOPBACK}:{self.server.port}", f"localhost:{self.server.port}"):
            self._send(HTTPStatus.MISDIRECTED_REQUEST, "This server answers to its own address only.\n", "text/plain")
            return
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        try:
            if self._comes_in(url.path, query):
                return
            if not self._is_known():
                self._send(HTTPStatus.FORBIDDEN, REFUSED, "text/plain")
                return
            respond(url.path, query)
        except UserError as e:
            self._page(pages.problem(self.server, e), HTTPStatus.NOT_FOUND)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            return
        except OSError as e:
            self._fault(f"that could not be done: {e.strerror or e}", "Look whether the disk is full or gone.")
        except Exception as e:
            self._fault(f"{type(e).__name__}: {e}", "This looks like a fault in autoresearch.")

    def _fault(self, message: str, hint: str) -> None:
        self._page(pages.problem(self.server, UserError(message, hint)), HTTPStatus.INTERNAL_SERVER_ERROR)

    # Who asks

    def _comes_in(self, path: str, query: dict[str, str]) -> bool:
        """With the right token in the address: a cookie, and the overview."""
        if self.command != "GET" or path != "/" or not _same(query.get("token", ""), self.server.token):
            return False
        cookie = f"{self.server.cookie}={self.server.token}; Path=/; HttpOnly; SameSite=Strict"
        self._send(HTTPStatus.SEE_OTHER, "", "text/plain", {"Location": "/", "Set-Cookie": cookie})
        return True

    def _is_known(self) -> bool:
        try:
            cookies = SimpleCookie(self.headers.get("Cookie", ""))
        except CookieError:
            return False
        found = cookies.get(self.server.cookie)
        return found is not None and _same(found.value, self.server.token)

    def _is_own_form(self, form: dict[str, str]) -> bool:
        origin = self.headers.get("Origin")
        own = {f"http://{LOOPBACK}:{self.server.port}", f"http://localhost:{self.server.port}"}
        return (origin is None or origin in own) and _same(form.get("key", ""), self.server.form_key)

    # Routes

    def _get(self, path: str, query: dict[str, str]) -> None:
        if path == "/style.css":
            self._send(HTTPStatus.OK, style(), "text/css")
        elif path == "/app.js":
            self._send(HTTPStatus.OK, (FOLDER / "app.js").read_text(encoding="utf-8"), "text/javascript")
        elif path == "/favicon.ico":
            self._send(HTTPStatus.NO_CONTENT, "", "image/x-icon")
        elif path == "/events":
            self._stream()
        else:
            with self.server.study() as study:
                found = pages.find(self.server, study, path, query)
            if found is None:
                self._page(pages.problem(self.server, UserError(f"there is no page {path}", "Begin at the overview.")),
                           HTTPStatus.NOT_FOUND)
            else:
                self._page(found)

    def _post(self, path: str, query: dict[str, str]) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > FORM_BYTES:
            self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A form may have {FORM_BYTES} bytes.\n", "text/plain")
            return
        body = self.rfile.read(int(length)).decode("utf-8", "replace")
        form = {key: values[-1] for key, values in parse_qs(body, keep_blank_values=True).items()}
        if not self._is_own_form(form):
            self._send(HTTPStatus.FORBIDDEN, "This form does not come from the dashboard: load the page again.\n",
                       "text/plain")
            return
        with self.server.study() as study:
            try:
                self.server.said = steer.carry_out(study, path, form)
            except UserError as e:
                self._page(pages.refused(self.server, study, form, e), HTTPStatus.CONFLICT)
                return
        self._send(HTTPStatus.SEE_OTHER, "", "text/plain", {"Location": "/steer"})

    # Answers

    def _page(self, html: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, html, "text/html")

    def _send(self, status: HTTPStatus, text: str, kind: str, more: dict[str, str] | None = None) -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in (HEADERS | {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body)),
                                       "Connection": "close"} | (more or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        """Server-sent events: `now` with the card of what happens, `news` when pages are out of date."""
        if not self.server.streams.acquire(blocking=False):
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, "Too many pages are open.\n", "text/plain")
            return
        try:
            self.send_response(HTTPStatus.OK)
            for name, value in (HEADERS | {"Content-Type": "text/event-stream", "Connection": "close"}).items():
                self.send_header(name, value)
            self.end_headers()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for name, data in self._changes():
                self.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())
        finally:
            self.server.streams.release()

    def _changes(self) -> Iterator[tuple[str, str]]:
        with self.server.study() as study:
            follower, now = Follower(study.root / FILE), Now()
            sent, sent_s, seen = "", 0.0, False
            while not self.server.stopping.is_set():
                events: list[Event] = follower.new()
                for event in events:
                    now.take(event)
                if seen and any(event["event"] in NEWS for event in events):
                    yield "news", ""
                seen = True
                card = pages.card(now, self.server.owner(study), study.tag)
                if card != sent or time.monotonic() - sent_s > BEAT_EVERY_S:
                    sent, sent_s = card, time.monotonic()
                    yield "now", card
                self.server.stopping.wait(LOOK_EVERY_S)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are nobody's business."""


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), right.encode())
