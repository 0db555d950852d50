"""A Messages server on loopback, in the real one's wire format: server-sent events, headers and error bodies.

It plays a script, one entry for each request, and keeps what it was asked. An entry is

    message(...)     an answer, streamed event by event
    failure(...)     an HTTP error with the service's body
    refusal(...), overloaded_midway()   answers that come to nothing
    one of reset, drip, page   what networks and proxies do to answers
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[BaseHTTPRequestHandler], None]
KEY = "sk-ant-a-key-that-must-appear-nowhere"
USAGE = {"input_tokens": 120, "cache_creation_input_tokens": 900, "cache_read_input_tokens": 4000, "output_tokens": 1,
         "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 700}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def thinking(words: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": words, "signature": "c2lnbmVk"}


def tool(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{abs(hash((name, str(arguments)))):x}", "name": name, "input": arguments}


def events(blocks: tuple[dict[str, Any], ...], stop: str | None, model: str, details: Any) -> Iterator[dict[str, Any]]:
    yield {"type": "message_start", "message": {
        "id": "msg_01", "type": "message", "role": "assistant", "model": model, "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": USAGE}}
    yield {"type": "ping"}
    for i, block in enumerate(blocks):
        kind = block["type"]
        empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}, "tool_use": {"input": {}}}[kind]
        yield {"type": "content_block_start", "index": i, "content_block": block | empty}
        for delta in _deltas(block):
            yield {"type": "content_block_delta", "index": i, "delta": delta}
        yield {"type": "content_block_stop", "index": i}
    yield {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None, "stop_details": details},
           "usage": {"output_tokens": 55}}
    yield {"type": "message_stop"}


def _deltas(block: dict[str, Any]) -> list[dict[str, Any]]:
    if block["type"] == "text":
        return [{"type": "text_delta", "text": piece} for piece in _halves(block["text"])]
    if block["type"] == "thinking":
        return [{"type": "thinking_delta", "thinking": block["thinking"]},
                {"type": "signature_delta", "signature": block["signature"]}]
    return [{"type": "input_json_delta", "partial_json": piece} for piece in _halves(json.dumps(block["input"]))]


def _halves(words: str) -> list[str]:
    return [words[:len(words) // 2], words[len(words) // 2:]]


def sse(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def message(*blocks: dict[str, Any], stop: str | None = None, details: Any = None, upto: int | None = None,
            then: bytes = b"") -> Reply:
    """A streamed answer; only its first `upto` events, followed by `then`, where it is to break off."""
    stop = stop or ("tool_use" if any(b["type"] == "tool_use" for b in blocks) else "end_turn")

    def reply(handler: BaseHTTPRequestHandler) -> None:
        model = handler.server.asked[-1]["model"]  # type: ignore[attr-defined]
        _begin(handler, "text/event-stream; charset=utf-8")
        for event in list(events(blocks, stop, model, details))[:upto]:
            handler.wfile.write(sse(event))
        handler.wfile.write(then)
    return reply


def refusal(category: str | None) -> Reply:
    return message(stop="refusal", details={"type": "refusal", "category": category, "explanation": None})


def overloaded_midway() -> Reply:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    return message(text("I was about to"), upto=4, then=sse(error))


def failure(status: int, kind: str, words: str, **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        body = {"type": "error", "error": {"type": kind, "message": words}, "request_id": "req_failed"}
        content = json.dumps(body).encode()
        _begin(handler, "application/json", status, **{"content-length": str(len(content))},
               **{k.replace("_", "-"): v for k, v in headers.items()})
        handler.wfile.write(content)
    return reply


def page(handler: BaseHTTPRequestHandler) -> None:
    """What a hotel's network answers."""
    content = b"<!doctype html><html><body>Please sign in</body></html>"
    _begin(handler, "text/html", **{"content-length": str(len(content))})
    handler.wfile.write(content)


def reset(handler: BaseHTTPRequestHandler) -> None:
    """The connection is torn down without an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Signs of life for ever, and never an answer."""
    _begin(handler, "text/event-stream")
    handler.wfile.write(sse(next(events((), None, "m", None))))
    for _ in range(200):
        time.sleep(0.05)
        try:
            handler.wfile.write(sse({"type": "ping"}))
            handler.wfile.flush()
        except OSError:
            return


def _begin(handler: BaseHTTPRequestHandler, kind: str, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in ({"content-type": kind, "request-id": "req_7"} | headers).items():
        handler.send_header(name, value)
    handler.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, script: list[Reply], forever: Reply | None):
        self.script, self.forever = list(script), forever
        self.asked: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, address: Any) -> None:
        """Clients that leave in the middle are part of the script."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def do_POST(self) -> None:
        server: Server = self.server  # type: ignore[assignment]
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path.partition("?")[0] != "/v1/messages":
            return failure(404, "not_found_error", self.path)(self)
        server.asked.append(json.loads(body))
        reply = server.script.pop(0) if server.script else server.forever
        if reply is None:
            return failure(400, "invalid_request_error", "the script has ended")(self)
        return reply(self)

    def log_message(self, *words: Any) -> None: ...


@contextmanager
def serving(*script: Reply, forever: Reply | None = None) -> Iterator[Server]:
    server = Server(list(script), forever)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
