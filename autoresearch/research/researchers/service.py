"""A service that speaks the Messages protocol, asked with patience: one request at a time, every attempt journalled.

    Service     asks, waits where that may help, and says who answered
    Patience    how often and how long
    Limits      what a study may cost
    Refused, TooLong   what is left to whoever leads the conversation

The retry loop is ours (the library's would obey any retry-after), so waits are capped, said and never part of a trial.
While the service is down it is not asked again before a while has passed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from autoresearch.records import Spend
from autoresearch.research.prices import Price
from autoresearch.research.researchers.base import Context, NoProposal
from autoresearch.research.researchers.draft import said

CREDENTIALS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
LEAST_OUTPUT_TOKENS = 2000  # with fewer no proposal can be written
CHARS_PER_TOKEN = 2.5  # fewer than any text of ours has: an upper bound of what a request costs


class Refused(Exception):
    """The model declined, for a category of policy or none."""


class TooLong(Exception):
    """The context does not fit the model."""


class Stopped(Exception):
    """A stop was asked for while an answer was coming in."""


@dataclass(frozen=True)
class Patience:
    attempts: int = 5  # of one request
    first_wait_s: float = 2.0  # then twice as long, and so on
    longest_wait_s: float = 60.0  # a service that asks for more is left alone for as long as it asked
    down_s: float = 300.0  # after all attempts failed, then twice as long, and so on
    longest_down_s: float = 3600.0
    answer_s: float = 600.0  # for one whole answer, however slowly it drips
    silence_s: float = 90.0  # without a byte


@dataclass(frozen=True)
class Limits:
    """Of a study in all. Where the next request might break one it is not made."""

    usd: float | None
    tokens: int | None = None


@dataclass(frozen=True)
class Trouble:
    """What is to be done about a failed request."""

    words: str
    then: str  # "again", "later", "never", "plainer", "shorter"
    wait_s: float | None = None  # what the service asked for


@dataclass
class Service:
    name: str  # the researcher's, for the account
    prices: dict[str, Price]
    limits: Limits
    patience: Patience = Patience()
    plain: bool = False  # without the features that only newer models and servers know
    _client: Any = field(default=None, repr=False)
    _secrets: list[str] = field(default_factory=list, repr=False)
    _down_until: float = 0.0
    _downs: int = 0
    _why: str = ""
    _check: Callable[[], None] = lambda: None
    _used: tuple[Context | None, float, int] = (None, 0.0, 0)  # dollars and tokens since that context was made

    def connect(self) -> Service:
        """With the person's key, which is taken out of the environment: no process that is started later has it."""
        import anthropic
        import httpx2

        found = {name: os.environ.pop(name, None) or None for name in CREDENTIALS}
        key, token = found["ANTHROPIC_API_KEY"], found["ANTHROPIC_AUTH_TOKEN"]
        self._secrets = [secret for secret in found.values() if secret]
        hooks = {"response": [self._bound]}
        self._client = anthropic.Anthropic(
            api_key=key, auth_token=None if key else token, max_retries=0,
            timeout=httpx2.Timeout(self.patience.silence_s, connect=min(15.0, self.patience.silence_s)),
            http_client=anthropic.DefaultHttpxClient(event_hooks=hooks))
        return self

    @property
    def has_credentials(self) -> bool:
        c = self._client
        return bool(c.api_key or c.auth_token or c.credentials)

    def ask(self, context: Context, request: dict[str, Any]) -> Any:
        """The whole message that answers. Raises NoProposal, TooLong or Refused."""
        if time.monotonic() < self._down_until:
            raise NoProposal(self._why)
        waited_s = 0.0
        for attempt in range(1, self.patience.attempts + 1):
            affordable = self._affordable(context, request)
            answer = self._once(context, affordable, attempt, waited_s)
            if not isinstance(answer, Trouble):
                self._downs = 0
                return answer
            if answer.then == "shorter":
                raise TooLong(answer.words)
            if answer.then == "plainer" and not self.plain:
                self.plain = True
                context.note(f"{self.name}: {answer.words}; asking without the newer features")
                request = plainer(request)
                continue
            if answer.then in ("never", "plainer"):
                self._leave(float("inf"), answer.words)
            if answer.then == "later":
                self._leave(self.patience.longest_down_s, answer.words)
            waited_s = answer.wait_s if answer.wait_s is not None else self.patience.first_wait_s * 2 ** (attempt - 1)
            if waited_s > self.patience.longest_wait_s:
                self._leave(min(waited_s, self.patience.longest_down_s), answer.words)
            if attempt < self.patience.attempts:
                context.note(f"{self.name}: {answer.words}; asking again in {waited_s:.0f} s")
                self._wait(context, waited_s)
        self._downs += 1
        down_s = min(self.patience.longest_down_s, self.patience.down_s * 2 ** (self._downs - 1))
        self._leave(down_s, f"{answer.words}, {self.patience.attempts} times in a row")

    def _leave(self, seconds: float, words: str) -> NoReturn:
        """Not asked for so long. Raises NoProposal."""
        self._down_until = time.monotonic() + seconds
        until = "" if seconds == float("inf") else f"; asked again in {_duration(seconds)}"
        self._why = words + until
        raise NoProposal(self._why)

    def _wait(self, context: Context, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if context.stopping():
                raise NoProposal("a stop was asked for")
            time.sleep(min(0.2, left))

    def _affordable(self, context: Context, request: dict[str, Any]) -> dict[str, Any]:
        """The request with no more output than the limits allow. Raises NoProposal."""
        usd, tokens = self._used[1:] if self._used[0] is context else (0.0, 0)
        prompt = int(len(json.dumps(request)) / CHARS_PER_TOKEN)
        most, price = request["max_tokens"], self.prices.get(request["model"])
        if self.limits.tokens is not None:
            most = min(most, self.limits.tokens - context.spent.tokens - tokens - prompt)
            if most < LEAST_OUTPUT_TOKENS:
                raise NoProposal(f"the limit of {self.limits.tokens:,} tokens leaves no room for another request "
                                 f"({context.spent.tokens + tokens:,} are used; --max-tokens)")
        if self.limits.usd is not None and price is not None and price.rates.output > 0:
            rates = price.above or price.rates
            worst = max(rates.cache_write_1h, rates.input) * prompt / 1e6
            left = self.limits.usd - context.spent.usd - usd - worst
            most = int(min(most, 1e6 * left / rates.output))
            if most < LEAST_OUTPUT_TOKENS:
                raise NoProposal(f"the limit of ${self.limits.usd:g} leaves no room for another request "
                                 f"(${context.spent.usd + usd:.2f} are spent; --max-usd)")
        return request | {"max_tokens": most}

    def _once(self, context: Context, request: dict[str, Any], attempt: int, waited_s: float) -> Any:
        """One attempt, journalled whatever comes of it, an end by hand included: its message, or a Trouble."""
        began, seen, request_id = time.monotonic(), list[Any](), ""
        self._check = functools.partial(_look, context, began + self.patience.answer_s)
        answer: Any = Trouble("ended by hand", "stop")
        try:
            answer = self._stream(request, seen)
        except Stopped:
            answer = Trouble("a stop was asked for", "stop")
        except Exception as e:  # a library's, the network's or a server's, of whatever kind: the night goes on
            answer = trouble(e, self._scrubbed)
            request_id = getattr(e, "request_id", None) or ""
        finally:
            self._check = lambda: None
            status = answer.words if isinstance(answer, Trouble) else outcome(answer)
            request_id = request_id or (seen[0].request_id if seen else "") or ""
            spent = counted(seen[-1].current_message_snapshot, isinstance(answer, Trouble)) if len(seen) > 1 else {}
            self._journal(context, Spend(self.name, request["model"], said(status, 200), said(request_id, 100), attempt,
                                         time.monotonic() - began, waited_s, **spent))
        if isinstance(answer, Trouble):
            if answer.then == "stop":
                raise NoProposal(answer.words)
        elif answer.stop_reason == "refusal":
            raise Refused(status)
        elif answer.stop_reason == "model_context_window_exceeded":
            raise TooLong(status)
        return answer

    def _stream(self, request: dict[str, Any], seen: list[Any]) -> Any:
        """The message, or a Trouble. `seen` gets the stream when it begins, and again when a message begins in it."""
        ended = False
        with self._client.messages.stream(**request) as stream:
            seen.append(stream)
            for event in stream:
                ended = ended or event.type == "message_stop"
                if event.type == "message_start":
                    seen.append(stream)
        if len(seen) == 1:
            return Trouble("what answered does not speak the Messages protocol", "again")
        message = stream.current_message_snapshot
        return message if ended and message.stop_reason is not None else Trouble("the answer broke off", "again")

    def _scrubbed(self, text: str) -> str:
        """Should a server's error repeat the key, it goes into no log."""
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text

    def _journal(self, context: Context, spend: Spend) -> None:
        if price := self.prices.get(spend.model):
            spend = replace(spend, usd=price.usd(spend), priced=price.date)
        _, usd, tokens = self._used if self._used[0] is context else (context, 0.0, 0)
        self._used = (context, usd + (spend.usd or 0.0), tokens + spend.tokens())
        context.spend(spend)

    def _bound(self, response: Any) -> None:
        """Looks at the clock, and at whether to stop, with every piece of an answer that comes in: a server that
        drips one byte a minute keeps any timeout of the library's from ending it."""
        import httpx2

        service = self

        class Bounded(httpx2.SyncByteStream):
            def __init__(self, inner: Any):
                self._inner = inner

            def __iter__(self) -> Iterator[bytes]:
                for piece in self._inner:
                    service._check()
                    yield piece

            def close(self) -> None:
                self._inner.close()

        response.stream = Bounded(response.stream)


def _look(context: Context, deadline: float) -> None:
    if context.stopping():
        raise Stopped
    if time.monotonic() > deadline:
        raise TimeoutError("no whole answer in time")


def counted(message: Any, broke_off: bool) -> dict[str, Any]:
    """The tokens of an answer, as the service told. It tells those of the output at the end: where that never came
    they are estimated from what did, or a limit would not see them."""
    usage, output = message.usage, message.usage.output_tokens
    if broke_off:
        output = max(output, int(sum(len(block.to_json()) for block in message.content) / CHARS_PER_TOKEN))
    written, by_age = usage.cache_creation_input_tokens, usage.cache_creation
    hour = by_age.ephemeral_1h_input_tokens if by_age is not None else 0
    return {"input_tokens": usage.input_tokens, "output_tokens": output,
            "cache_write_5m_tokens": None if written is None else written - hour, "cache_write_1h_tokens": hour,
            "cache_read_tokens": usage.cache_read_input_tokens}


def outcome(message: Any) -> str:
    """Of a whole answer, for the account."""
    if message.stop_reason == "refusal":
        category = message.stop_details.category if message.stop_details else None
        return f"refused ({category or 'no category'})"
    cut = {"max_tokens": "cut off at max_tokens", "model_context_window_exceeded": "the context was exceeded"}
    return cut.get(message.stop_reason, "ok")


def plainer(request: dict[str, Any]) -> dict[str, Any]:
    """What a Messages server of any age and maker takes."""
    request = {k: v for k, v in request.items() if k not in ("thinking", "output_config")}
    request["tools"] = [{k: v for k, v in tool.items() if k != "strict"} for tool in request["tools"]]
    request["system"] = [{k: v for k, v in block.items() if k != "cache_control"} for block in request["system"]]
    request["messages"] = [m | {"content": [{k: v for k, v in b.items() if k != "cache_control"} for b in m["content"]]}
                           for m in request["messages"]]
    return request


def trouble(e: Exception, scrubbed: Callable[[str], str]) -> Trouble:
    """What an exception of the library, or of the network below it, means."""
    import anthropic

    if not isinstance(e, anthropic.APIStatusError):
        kind = "no connection" if isinstance(e, anthropic.APIConnectionError) else "the answer broke off"
        return Trouble(f"{kind} ({said(scrubbed(str(e)), 120) or type(e).__name__})", "again")
    message, status, kind = said(scrubbed(e.api_message or ""), 160), e.status_code, str(e.type or "")
    words = f"{kind.removesuffix('_error').replace('_', ' ') or 'error'} ({status}): {message}".removesuffix(": ")
    if kind in ("overloaded_error", "rate_limit_error", "api_error", "timeout_error") or status in (408, 409, 429) \
            or status >= 500:
        return Trouble(words, "again", _retry_after_s(e.response))
    if kind == "billing_error" or status == 402 or "credit balance" in message.lower():
        return Trouble(words, "later")
    if kind == "request_too_large" or status == 413 or "too long" in message or "context window" in message:
        return Trouble(words, "shorter")
    return Trouble(words, "plainer" if status in (200, 400, 422) else "never")


def _retry_after_s(response: Any) -> float | None:
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, float(response.headers.get("retry-after")))
    return None


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"
