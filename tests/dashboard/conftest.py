"""A dashboard of a study made by hand, and a person who has its address."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import pytest

from autoresearch.dashboard.server import Dashboard
from tests.report.html_page import Element, parse
from tests.report.made import Made, repository


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: str

    @property
    def page(self) -> Element:
        return parse(self.body)


@dataclass
class Person:
    """Asks the dashboard as a browser does; knows the token once `come_in` was called."""

    server: Dashboard
    cookie: str = ""
    more: dict[str, str] = field(default_factory=dict)  # headers

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        sent = ({"Cookie": self.cookie} if self.cookie else {}) | self.more | headers
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        found = Answer(answer.status, answer.headers, answer.read().decode())
        connection.close()
        return found

    def come_in(self) -> Person:
        answer = self.ask("GET", f"/?token={self.server.token}")
        assert (answer.status, answer.headers["Location"]) == (303, "/")
        self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
        return self

    def get(self, path: str) -> Element:
        answer = self.ask("GET", path)
        assert answer.status == 200, answer.body
        return answer.page

    def post(self, path: str, **form: str) -> Answer:
        form = {"key": self.server.form_key} | form
        return self.ask("POST", path, urlencode(form), **{"Content-Type": "application/x-www-form-urlencoded"})


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    made = Made.create(repository(tmp_path))
    yield made
    made.study.close()


@contextlib.contextmanager
def serving(made: Made) -> Iterator[Dashboard]:
    """Its dashboard, in a thread."""
    server = Dashboard(made.study.clone, made.study.tag)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server(made: Made) -> Iterator[Dashboard]:
    with serving(made) as server:
        yield server


@pytest.fixture
def person(server: Dashboard) -> Person:
    return Person(server).come_in()
