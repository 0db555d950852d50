"""The dashboard over HTTP: who gets in, what pages show, what can be changed, and that strangers' text stays text."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch.cli import dashboard, run, shell
from autoresearch.dashboard import steer
from autoresearch.dashboard.server import FORM_BYTES, STREAMS
from autoresearch.errors import UserError
from autoresearch.records import Point
from autoresearch.report.files import put
from autoresearch.research.events import Teller
from tests.dashboard.conftest import Person, serving
from tests.report.made import Made, forty_ideas, repository

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\" onmouseover='alert(3)' \u202e javascript:alert(4)"
PAGES = ("/", "/?verdict=keep", "/experiment/1", "/steer")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    """Looks at a baseline, a keep and a crash, and changes nothing."""
    made = Made.create(repository(tmp_path_factory.mktemp("three")))
    made.baseline(2.4, 2.41)
    made.idea("keep", 2.3, "Sharper attention", changes={"model.qk_scale": 1.2})
    made.idea("crash", None, "Wider", "out of memory", log_tail="Traceback\nRuntimeError: out of memory")
    with made.study, serving(made) as server:
        yield Person(server).come_in()


@pytest.fixture(scope="module")
def night_reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    """The same of forty ideas."""
    made = forty_ideas(tmp_path_factory.mktemp("night"))
    with made.study, serving(made) as server:
        yield Person(server).come_in()


# Who gets in


@pytest.mark.parametrize("path", [*PAGES, "/events", "/style.css", "/app.js", "/?token=wrong", "/nowhere"])
def test_nothing_is_shown_without_the_token(path: str, reader: Person) -> None:
    server = reader.server
    for stranger in (Person(server), Person(server, f"{server.cookie}=wrong"), Person(server, "other=x; ;=;")):
        answer = stranger.ask("GET", path)
        assert (answer.status, "Set-Cookie" in answer.headers) == (403, False)
        assert "mar8" not in answer.body


def test_the_token_becomes_a_cookie_that_other_sites_cannot_use(reader: Person) -> None:
    server = reader.server
    answer = Person(server).ask("GET", f"/?token={server.token}")
    assert answer.headers["Set-Cookie"] == f"{server.cookie}={server.token}; Path=/; HttpOnly; SameSite=Strict"
    assert answer.headers["Location"] == "/" and answer.body == ""


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", ""])
def test_another_host_name_is_refused_whoever_asks(host: str, reader: Person) -> None:
    """A page elsewhere whose name was made to point at this machine is not the dashboard."""
    answer = reader.ask("GET", "/", Host=host.format(port=reader.server.port))
    assert answer.status == 421 and "mar8" not in answer.body


def test_a_form_counts_only_from_a_page_of_ours(person: Person, made: Made) -> None:
    for form, origin in (({"key": "wrong"}, ""), ({"key": ""}, ""), ({}, "http://evil.example")):
        person.more = {"Origin": origin} if origin else {}
        answer = person.post("/guidance", text="be bad", digest="", **form)
        assert answer.status == 403
    assert not (made.study.worktree / "guidance.md").exists()


def test_it_listens_on_loopback_only(reader: Person) -> None:
    assert reader.server.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("path", [*PAGES, "/style.css", "/app.js", "/nowhere"])
def test_every_answer_has_strict_headers(path: str, reader: Person) -> None:
    headers = reader.ask("GET", path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
    assert all("unsafe" not in sources and "http" not in sources for sources in policy.values())
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"


# What it shows


def test_the_overview_has_every_experiment_newest_first(night_reader: Person) -> None:
    page = night_reader.get("/")
    assert page.one("h1").words == "2.310 → 2.144 bits per byte, 7.2% lower"
    rows = [row for row in page.one("div", id="attempts").rows() if row[0].isdigit()]
    assert [int(row[0]) for row in rows] == list(range(40, -1, -1))
    assert rows[5][:4] == ["35", "keep (champion)", "2.1443", "−0.0064"]
    assert page.one("section", id="now").words.startswith("Not running.")
    links = {a.attributes["href"] for svg in page.all("svg", role="img") for a in svg.all("a")}
    assert links == {f"/experiment/{n}" for n in range(41)}


@pytest.mark.parametrize(("query", "expected"), [
    ("verdict=keep", {1, 2, 6, 9, 18, 26, 35}), ("verdict=crash", {5}), ("q=softcap", {35}), ("q=OPTIM.MATRIX", {6, 7}),
    ("verdict=keep&q=half", {1, 2}), ("verdict=keep&q=zebra", set()), ("verdict=nonsense", set())])
def test_filters_leave_what_matches(query: str, expected: set[int], night_reader: Person) -> None:
    rows = night_reader.get(f"/?{query}").one("div", id="attempts").rows()
    assert {int(row[0]) for row in rows if row[0].isdigit()} == expected


def test_an_experiment_has_its_diff_its_pairs_and_its_curve(reader: Person) -> None:
    page = reader.get("/experiment/1")
    assert page.one("h1").words == "#1 Sharper attention"
    assert "+qk_scale = 1.2" in [span.words for span in page.all("span", **{"class": "add"})]
    assert ["1, screening", "2.3000", "2.4000", "−0.1000"] in page.rows()
    assert any("Dev scores of #1 and baseline" in c.attributes["aria-label"] for c in page.all("svg", role="img"))
    assert page.one("a", rel="prev").attributes["href"] == "/experiment/0"


def test_a_failure_shows_the_end_of_its_log(reader: Person) -> None:
    page = reader.get("/experiment/2")
    assert "RuntimeError: out of memory" in page.all("pre")[-1].text


@pytest.mark.parametrize("path", ["/experiment/7", "/experiment/x", "/experiment/-1", "/experiment/9999999999999999999",
                                  "/experiment/", "/../etc/passwd", "/templates/page.html", "/%00"])
def test_what_is_not_there_is_a_sentence(path: str, reader: Person) -> None:
    answer = reader.ask("GET", path)
    assert answer.status == 404
    assert answer.page.one("h1").words


def test_a_study_without_a_baseline_has_pages_too(person: Person) -> None:
    assert "not been scored yet" in person.get("/").words
    assert person.ask("GET", "/experiment/0").status == 404


def test_strangers_text_stays_text_on_every_page(person: Person, made: Made) -> None:
    made.baseline(2.4, 2.41)
    made.idea("keep", 2.3, EVIL, EVIL, files={"schedule.py": f"# {EVIL}\n".encode()})
    made.idea("crash", None, EVIL, EVIL, log_tail=EVIL)
    Teller(made.study, lambda event: None).proposed(3, EVIL, {EVIL: EVIL})
    (made.study.worktree / "guidance.md").write_text("</textarea>" + EVIL.replace("\u202e", ""))
    script = "%3Cscript%3Ealert(1)%3C/script%3E"
    for path in ("/", f"/?q={script}&verdict=%22%3E", "/experiment/1", "/experiment/2", "/steer", f"/{script}"):
        page = person.ask("GET", path).page
        assert [s.attributes for s in page.all("script")] == [{"src": "/app.js", "defer": ""}], path
        assert not page.all("img"), path
        every = page.all("a") + page.all("span") + page.all("td") + page.all("input") + page.all("g")
        assert not [e for e in every if any(name.startswith("on") for name in e.attributes)], path
        assert all(a.attributes["href"].startswith(("/", "#")) for a in page.all("a")), path
        assert "\u202e" not in page.text, path
    assert "<script>alert(1)</script>" in person.get("/experiment/1").one("h1").text


def test_a_post_that_is_too_long_or_has_no_length_is_refused(person: Person) -> None:
    assert person.ask("POST", "/guidance", "x", **{"Content-Length": str(FORM_BYTES + 1)}).status == 413
    with socket.create_connection(("127.0.0.1", person.server.port), 10) as s:
        s.sendall(f"POST /guidance HTTP/1.1\r\nHost: 127.0.0.1:{person.server.port}\r\nCookie: {person.cookie}\r\n\r\n"
                  .encode())
        assert s.recv(100).startswith(b"HTTP/1.1 413")


# What can be changed


def digest_on(person: Person) -> str:
    return next(i.attributes["value"] for i in person.get("/steer").all("input", name="digest"))


def test_guidance_is_saved_where_the_researcher_reads_it(person: Person, made: Made) -> None:
    answer = person.post("/guidance", text="Try tokenizers.\r\nNo wider models – please.", digest=digest_on(person))
    assert (answer.status, answer.headers["Location"]) == (303, "/steer")
    assert (made.study.worktree / "guidance.md").read_text() == "Try tokenizers.\nNo wider models – please.\n"
    page = person.get("/steer")
    assert page.one("textarea", id="text").text == "\nTry tokenizers.\nNo wider models – please.\n"
    assert page.one("p", **{"class": "said"}).words.startswith("Saved.")
    assert not person.get("/steer").all("p", **{"class": "said"}), "said once"


def test_guidance_that_somebody_else_changed_is_not_overwritten_and_yours_is_not_lost(person: Person,
                                                                                   made: Made) -> None:
    digest = digest_on(person)
    (made.study.worktree / "guidance.md").write_text("theirs\n")
    answer = person.post("/guidance", text="mine", digest=digest)
    assert answer.status == 409
    assert answer.page.one("textarea", id="text").text == "\nmine"
    assert "theirs" in [pre.text.strip() for pre in answer.page.all("pre")]
    assert (made.study.worktree / "guidance.md").read_text() == "theirs\n"
    again = next(i.attributes["value"] for i in answer.page.all("input", name="digest"))
    assert person.post("/guidance", text="theirs and mine", digest=again).status == 303


def test_of_two_forms_sent_at_once_one_is_told_of_the_other(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    before, outcomes = steer.digest(steer.guidance(made.study)), list[str]()

    def save(text: str) -> None:
        try:
            outcomes.append(steer.save(made.study, text, before))
        except UserError as e:
            outcomes.append(e.message)

    second = threading.Thread(target=save, args=("second",))

    def slowly(path: Path, content: bytes) -> None:
        if not second.ident:
            second.start()
            second.join(0.3)  # as long as it takes to save, where nothing holds it up
        put(path, content)

    monkeypatch.setattr(steer, "put", slowly)
    save("first")
    second.join()
    assert (made.study.worktree / "guidance.md").read_text() == "first\n"
    assert outcomes[0].startswith("Saved.") and "changed by somebody else" in outcomes[1]


def test_guidance_that_is_not_utf_8_keeps_its_bytes(person: Person, made: Made) -> None:
    path, latin = made.study.worktree / "guidance.md", "Essayez l'\u00e9t\u00e9.\n".encode("latin-1")
    path.write_bytes(latin)
    answer = person.post("/guidance", text="Essayez l'hiver.", digest=digest_on(person))
    assert answer.status == 409 and "is not UTF-8" in answer.page.one("p", **{"class": "wrong"}).words
    assert answer.page.one("textarea", id="text").text == "\nEssayez l'hiver." and path.read_bytes() == latin
    digest = digest_on(person)
    path.write_bytes(latin.replace(b"\xe9", b"\xe8"))
    assert "changed by somebody else" in person.post("/guidance", text="x", digest=digest).page.words


def test_an_experiment_is_queued_shown_and_taken_out_again(person: Person, made: Made) -> None:
    made.baseline(2.4, 2.41)
    lines = "optim.matrix_lr=0.06\r\nmodel.qk_scale = 1.2\r\n"
    answer = person.post("/queue", hypothesis="Faster  Muon", changes=lines)
    assert answer.status == 303
    [queued] = made.study.ledger.queue.waiting()
    assert (queued.hypothesis, queued.changes) == ("Faster Muon", {"optim.matrix_lr": 0.06, "model.qk_scale": 1.2})
    page = person.get("/steer")
    assert "Faster Muon" in page.one("div", id="queue").words and "optim.matrix_lr = 0.06" in page.words
    assert person.post("/queue/remove", id=str(queued.id)).status == 303
    assert made.study.ledger.queue.waiting() == []
    assert person.post("/queue/remove", id=str(queued.id)).status == 409, "nothing waits any more"
    assert person.post("/queue/remove", id="9" * 20).status == 409


@pytest.mark.parametrize(("changes", "said"), [
    ("optim.matrix_lr", "has no '='"), ("optim.nonsense=1", "can't be run"), ("", "nothing to try")])
def test_a_queued_change_that_cannot_run_is_refused_and_the_form_keeps_it(changes: str, said: str, person: Person,
                                                                        made: Made) -> None:
    made.baseline(2.4, 2.41)
    answer = person.post("/queue", hypothesis="Try this", changes=changes)
    assert answer.status == 409 and said in answer.page.one("p", **{"class": "wrong"}).words
    assert answer.page.one("textarea", id="changes").text.strip() == changes
    assert answer.page.one("input", id="hypothesis").attributes["value"] == "Try this"
    assert made.study.ledger.queue.waiting() == []


@pytest.mark.parametrize(("fault", "said"), [
    (OSError(28, "No space left on device"), "that could not be done: No space left on device"),
    (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero")])
def test_whatever_goes_wrong_is_a_page(fault: Exception, said: str, person: Person,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise fault

    monkeypatch.setattr("autoresearch.dashboard.steer.carry_out", fail)
    answer = person.post("/guidance", text="mine", digest="")
    assert answer.status == 500 and said in answer.page.words


# Live


def stream_of(person: Person) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", person.server.port, timeout=20)
    connection.request("GET", "/events", headers={"Cookie": person.cookie})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")
    return answer


def next_event(answer: http.client.HTTPResponse) -> tuple[str, str]:
    name = answer.readline().decode().removeprefix("event: ").strip()
    data = json.loads(answer.readline().decode().removeprefix("data: "))
    assert answer.readline() == b"\n"
    return name, data


def test_the_stream_says_what_happens_as_it_happens(person: Person, made: Made) -> None:
    made.baseline(2.4, 2.41)
    with made.study.lock():
        teller = Teller(made.study, lambda event: None)
        teller.began(time.time() + 3600, 3)
        stream = stream_of(person)
        assert next_event(stream)[0] == "now"
        teller.proposed(1, "Half the <b>batch</b>", {"batch.tokens_per_step": 64})
        teller.trial_started("#1", 1, 300.0)
        teller.trial_event("step", Point(7, 61.0, 3.5, 2.25))
        found = [next_event(stream)]
        while "2.2500" not in found[-1][1]:
            found.append(next_event(stream))
        assert "news" in [name for name, _ in found], "pages are out of date"
        assert "Half the &lt;b&gt;batch&lt;/b&gt;" in found[-1][1]
        stream.close()


def test_streams_end_with_the_server_and_are_not_without_number(person: Person) -> None:
    streams = [stream_of(person) for _ in range(STREAMS)]
    assert person.ask("GET", "/events").status == 503
    person.server.stopping.set()
    for stream in streams:
        stream.read()
        stream.close()


# The command


def test_a_port_that_is_taken_is_a_sentence(made: Made, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(made.study.clone)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert run(shell.command, ["dashboard", "--port", str(other.getsockname()[1])], "ar") == 1
    assert "can't be listened on" in capsys.readouterr().err


def test_where_the_usual_port_is_taken_and_none_was_asked_for_it_takes_another(
        made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr(dashboard, "PORT", other.getsockname()[1])
        with dashboard.listening(made.study, None) as server:
            assert server.port not in (0, dashboard.PORT)
    with dashboard.listening(made.study, None) as server:
        assert server.port == dashboard.PORT
