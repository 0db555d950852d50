"""The language model as a researcher, against a server that speaks the wire format and misbehaves by script."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoresearch.records import Spend, Spent
from autoresearch.research.account import arms
from autoresearch.research.prices import prices
from autoresearch.research.researchers.backed import Backed
from autoresearch.research.researchers.base import Context, NoProposal
from autoresearch.research.researchers.claude import FALLBACK, MODEL, OUTPUT_TOKENS, Claude, call, tools
from autoresearch.research.researchers.draft import Draft, EditError
from autoresearch.research.researchers.playbook import Playbook
from autoresearch.research.researchers.service import Limits, Patience, Service
from backends.recipe import keys
from tests.researchers.made import clone_at, context, night
from tests.researchers.messages_server import (
    KEY,
    Reply,
    Server,
    drip,
    failure,
    message,
    overloaded_midway,
    page,
    refusal,
    reset,
    serving,
    text,
    thinking,
    tool,
)

PATIENCE = Patience(attempts=3, silence_s=5.0)
FIVE = Limits(5.0)
RATE = tool("set_recipe", changes=[{"key": "optim.matrix_lr", "value": 0.02}], extra=[])
SUBMIT = tool("submit", hypothesis="half the matrix rate: #0 was noisy", evidence="#0")
GOOD = message(RATE, SUBMIT)
OVERLOADED = failure(529, "overloaded_error", "Overloaded")
Connect = Callable[..., Claude]


class Clock:
    """Goes as time does, and at once past whatever is waited for."""

    def __init__(self) -> None:
        self.skipped_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.skipped_s

    def sleep(self, seconds: float) -> None:
        self.skipped_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("autoresearch.research.researchers.service.time", clock)
    return clock


@pytest.fixture
def connect(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """A researcher that asks the server, with the person's key in the environment, and whose waits take no time."""
    def start(server: Server, limits: Limits = FIVE, patience: Patience = PATIENCE, **fields: Any) -> Claude:
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        return Claude(Service("claude", prices(), limits, patience).connect(), **fields)
    return start


def listening(**fields: Any) -> tuple[Context, list[Spend], list[str]]:
    spends, notes = list[Spend](), list[str]()
    return context(spend=spends.append, note=notes.append, **fields), spends, notes


def plain(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages without their cache marks."""
    return [{"role": m["role"], "content": [{k: v for k, v in b.items() if k != "cache_control"} for b in m["content"]]}
            for m in request["messages"]]


def test_a_proposal_over_several_turns_with_thinking_and_corrected_edits(connect: Connect) -> None:
    told, spends, _ = listening()
    with serving(
            message(thinking("What is there?"), text("I look first."), tool("read_file", path="torch_model.py")),
            message(tool("set_recipe", changes=[{"key": "optim.matrix_lr", "value": 99}], extra=[]),
                    tool("replace_in_file", path="backends/gpt/torch_model.py", old="return y", new="return x")),
            message(thinking("I mend both."), tool("replace_in_file", path="torch_model.py", old="x * 2", new="x * 3"),
                    tool("create_file", path="averages.py", content="def ema(:\n")),
            message(RATE, tool("create_file", path="averages.py", content="KEEP = 0.9\n"), SUBMIT)) as server:
        proposal = connect(server).propose(told)
    assert proposal.changes == {"optim.matrix_lr": 0.02} and proposal.hypothesis == SUBMIT["input"]["hypothesis"]
    assert proposal.files == {"torch_model.py": "def loss(x):\n    return x * 3\n", "averages.py": "KEEP = 0.9\n"}
    results = [b for m in server.asked[-1]["messages"] for b in m["content"] if b["type"] == "tool_result"]
    assert [r["is_error"] for r in results] == [False, True, True, False, True]
    said = [r["content"][0]["text"] for r in results]
    assert "x * 2" in said[0] and "99: must be a number from" in said[1]
    assert "occurs 0 times" in said[2] and "valid Python" in said[4]
    for before, after in zip(server.asked, server.asked[1:], strict=False):  # answers are bound to what came before
        assert plain(after)[:len(before["messages"])] == plain(before)
    spoken = server.asked[1]["messages"][1]["content"]
    assert spoken[0] == thinking("What is there?") and [b["type"] for b in spoken] == ["thinking", "text", "tool_use"]
    assert [s.status for s in spends] == ["ok"] * 4


def test_the_request_holds_the_model_to_the_schema_and_keeps_the_beginning_in_the_cache(connect: Connect) -> None:
    with serving(message(RATE), message(SUBMIT)) as server:
        connect(server, effort="high").propose(context())
    first, second = server.asked
    assert first["model"] == MODEL and first["stream"] and first["thinking"] == {"type": "adaptive"}
    assert first["output_config"] == {"effort": "high"} and "tool_choice" not in first
    assert first["system"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert first["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    marks = [b for m in second["messages"] for b in m["content"] if "cache_control" in b]
    assert len(marks) == 2 and marks[-1]["type"] == "tool_result"
    assert (first["system"], first["tools"]) == (second["system"], second["tools"])
    assert "Make it better." in first["system"][0]["text"]
    assert all(name in first["system"][0]["text"] for name in (k.name for k in keys()))


def test_every_tool_is_strict_and_has_only_required_arguments() -> None:
    def objects(schema: Any) -> list[dict[str, Any]]:
        inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
        own = [schema] if isinstance(schema, dict) and schema.get("type") == "object" else []
        return own + [o for value in inner for o in objects(value)]

    for described in tools():
        assert described["strict"] is True
        for schema in objects(described["input_schema"]):
            assert schema["additionalProperties"] is False and schema["required"] == list(schema["properties"])
    recipe = tools()[0]["input_schema"]["properties"]["changes"]["items"]["properties"]
    assert recipe["key"]["enum"] == [k.name for k in keys()]


TROUBLES: dict[str, tuple[list[Reply], list[str]]] = {
    "429 that says when": ([failure(429, "rate_limit_error", "Slow down", retry_after="1"), GOOD],
                           ["rate limit (429)", "ok"]),
    "529, then well": ([OVERLOADED, GOOD], ["overloaded (529)", "ok"]),
    "500, then well": ([failure(500, "api_error", "Internal server error"), GOOD], ["api (500)", "ok"]),
    "overloaded in the middle": ([overloaded_midway(), GOOD], ["overloaded (200)", "ok"]),
    "truncated": ([message(text("Let me"), upto=5), GOOD], ["the answer broke off", "ok"]),
    "truncated before it began": ([message(upto=0), GOOD], ["what answered does not", "ok"]),
    "truncated in the middle of an event": (
        [message(text("x"), upto=3, then=b"event: content_block_delta\ndata: {\"ty"), GOOD],
        ["the answer broke off", "ok"]),
    "a page with status 200": ([page, GOOD], ["what answered does not", "ok"]),
    "reset": ([reset, GOOD], ["no connection", "ok"]),
    "dripping for ever": ([drip, GOOD], ["the answer broke off (no whole answer in time)", "ok"]),
    "cut off at max_tokens": ([message(text("Let me think about"), stop="max_tokens"), GOOD],
                              ["cut off at max_tokens", "ok"]),
    "paused": ([message(text("One moment."), stop="pause_turn"), GOOD], ["ok", "ok"]),
    "too long for the context, as a stop": ([message(stop="model_context_window_exceeded"), GOOD],
                                            ["the context was exceeded", "ok"]),
    "too long for the context, as an error": (
        [failure(400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), GOOD],
        ["invalid request (400): prompt is too long", "ok"]),
    "too large": ([failure(413, "request_too_large", "Request exceeds the maximum size"), GOOD],
                  ["request too large (413)", "ok"]),
    "a server that knows less": ([failure(400, "invalid_request_error", "thinking: extra inputs are not permitted"),
                                  GOOD], ["invalid request (400)", "ok"]),
    "words instead of an edit": ([message(text("I suggest a lower rate.")), GOOD], ["ok", "ok"]),
    "an empty answer": ([message(), GOOD], ["ok", "ok"]),
    "refused": ([refusal("frontier_llm"), GOOD], ["refused (frontier_llm)", "ok"]),
    "refused without a category": ([refusal(None), GOOD], ["refused (no category)", "ok"]),
}


@pytest.mark.parametrize("case", TROUBLES)
def test_what_can_be_mended_is_and_the_account_says_what_happened(case: str, connect: Connect) -> None:
    script, statuses = TROUBLES[case]
    told, spends, notes = listening()
    patience = replace(PATIENCE, answer_s=1.0) if drip in script else PATIENCE
    with serving(*script) as server:
        proposal = connect(server, patience=patience).propose(told)
    assert proposal.changes == {"optim.matrix_lr": 0.02}
    assert [s.status[:len(want)] for s, want in zip(spends, statuses, strict=True)] == statuses, spends
    assert KEY not in str(spends) + str(notes) + json.dumps(server.asked)


def test_what_was_changed_after_a_trouble_is_what_had_to_be(connect: Connect) -> None:
    def both(case: str) -> tuple[dict[str, Any], dict[str, Any]]:
        with serving(*TROUBLES[case][0]) as server:
            connect(server).propose(context(brief="b" * 30_000))
        assert len(server.asked) == 2
        return server.asked[0], server.asked[1]

    cut, longer = both("cut off at max_tokens")
    assert longer["max_tokens"] == 3 * cut["max_tokens"] and plain(longer) == plain(cut)
    long, shorter = both("too long for the context, as a stop")
    assert len(json.dumps(shorter)) < len(json.dumps(long)) - 9_000
    rich, poor = both("a server that knows less")
    assert "thinking" in rich and "thinking" not in poor
    assert "strict" not in str(poor["tools"]) and "cache_control" not in str(poor)
    declined, other = both("refused")
    assert (declined["model"], other["model"]) == (MODEL, FALLBACK) and len(other["messages"]) == 1
    paused, on = both("paused")
    assert plain(on)[:-1] == plain(paused) and on["messages"][-1]["role"] == "assistant"


def test_a_wait_that_the_service_asks_for_is_waited_and_journalled(connect: Connect, clock: Clock) -> None:
    told, spends, notes = listening()
    began = clock.monotonic()
    with serving(failure(429, "rate_limit_error", "Slow down", retry_after="1"), GOOD) as server:
        connect(server).propose(told)
    assert clock.monotonic() - began > 1 and [s.waited_s for s in spends] == [0.0, 1.0]
    assert [s.attempt for s in spends] == [1, 2] and "asking again in 1 s" in notes[0]


HOPELESS: dict[str, tuple[Reply, int, str]] = {
    "an hour's wait": (failure(429, "rate_limit_error", "Slow down", retry_after="3600"), 1, "rate limit (429)"),
    "overloaded for ever": (OVERLOADED, 3, "3 times in a row"),
    "no credit": (failure(400, "invalid_request_error", "Your credit balance is too low"), 1, "credit"),
    "payment required": (failure(402, "billing_error", "Payment required"), 1, "billing (402)"),
    "a page for ever": (page, 3, "does not speak the Messages protocol"),
    "reset for ever": (reset, 3, "no connection"),
}


@pytest.mark.parametrize("case", HOPELESS)
def test_a_service_that_is_down_is_left_alone_for_a_while_and_then_asked_again(case: str, connect: Connect,
                                                                              clock: Clock) -> None:
    reply, attempts, words = HOPELESS[case]
    with serving(*[reply] * attempts, forever=GOOD) as server:
        claude = connect(server)
        for _ in range(3):
            with pytest.raises(NoProposal, match=words.replace("(", r"\(").replace(")", r"\)")):
                claude.propose(context())
        assert len(server.asked) == attempts
        clock.sleep(PATIENCE.longest_down_s)
        assert claude.propose(context()).changes and len(server.asked) == attempts + 1


@pytest.mark.parametrize(("status", "kind"), [(401, "authentication_error"), (403, "permission_error"),
                                              (404, "not_found_error")])
def test_a_key_or_model_that_is_not_accepted_is_not_tried_again(status: int, kind: str, connect: Connect,
                                                                     clock: Clock) -> None:
    with serving(failure(status, kind, f"invalid x-api-key {KEY}"), forever=GOOD) as server:
        claude, (told, spends, notes) = connect(server), listening()
        for _ in range(2):
            with pytest.raises(NoProposal, match=str(status)) as e:
                claude.propose(told)
            clock.sleep(PATIENCE.longest_down_s)
        assert len(server.asked) == 1 and KEY not in str(spends) + str(notes) + str(e.value)


def test_waits_grow_up_to_a_bound_while_the_service_stays_down(connect: Connect, clock: Clock) -> None:
    with serving(forever=OVERLOADED) as server:
        claude, waits = connect(server, patience=replace(PATIENCE, attempts=1, down_s=1000, longest_down_s=3000)), []
        for asked in range(1, 5):
            with pytest.raises(NoProposal):
                claude.propose(context())
            waits.append(claude.service._down_until - clock.monotonic())
            clock.sleep(waits[-1])
            assert len(server.asked) == asked
    assert waits == pytest.approx([1000, 2000, 3000, 3000], abs=100)


def test_both_models_declining_is_an_ordinary_outcome_and_the_first_is_spared(connect: Connect) -> None:
    with serving(forever=refusal("frontier_llm")) as server:
        claude = connect(server)
        for _ in range(3):
            with pytest.raises(NoProposal, match=r"declined: refused \(frontier_llm\)"):
                claude.propose(context())
    assert [asked["model"] for asked in server.asked] == [MODEL, FALLBACK, MODEL, FALLBACK, FALLBACK]


def test_a_model_that_is_its_own_fallback_is_asked_all_the_same(connect: Connect) -> None:
    with serving(forever=refusal("frontier_llm")) as server:
        claude = connect(server, model=FALLBACK)
        for _ in range(4):
            with pytest.raises(NoProposal, match=f"{FALLBACK} declined"):
                claude.propose(context())
    assert [asked["model"] for asked in server.asked] == [FALLBACK] * 4


def test_what_came_of_an_answer_that_broke_off_counts_towards_the_limits(connect: Connect) -> None:
    """The service counts its output at the end, which never came."""
    told, spends, _ = listening()
    with serving(message(text("Let me think. " * 2000), upto=5), GOOD) as server:
        connect(server).propose(told)
    broken, whole = spends
    assert broken.status.startswith("the answer broke off") and (broken.output_tokens or 0) > 5000
    assert broken.usd is not None and whole.usd is not None and broken.usd > whole.usd


def test_a_model_that_never_submits_is_given_up(connect: Connect) -> None:
    wrong = tool("set_recipe", changes=[{"key": "optim.matrix_lr", "value": -1}], extra=[])
    lost = tool("read_file", path="x.py")
    for reply, most in ((message(text("Hm.")), 3), (message(wrong, wrong), 3), (message(lost), 6)):
        with serving(forever=reply) as server, pytest.raises(NoProposal):
            connect(server).propose(context())
        assert len(server.asked) <= most


def test_arguments_of_any_shape_are_answered_as_tool_errors(connect: Connect) -> None:
    odd = [tool("set_recipe", changes="all", extra=None), tool("replace_in_file", path=3, old=[], new={}),
           tool("read_experiment", number="seven"), tool("submit"), tool("rm", path="/"),
           tool("create_file", path="../../../etc/cron.d/x.py", content="")]
    with serving(message(*odd[:3]), message(*odd[3:5], RATE), message(SUBMIT)) as server:
        assert connect(server).propose(context()).changes == {"optim.matrix_lr": 0.02}
    results = [b for m in server.asked[-1]["messages"] for b in m["content"] if b["type"] == "tool_result"]
    assert [r["is_error"] for r in results] == [True] * 5 + [False]
    with serving(message(odd[5], RATE), message(SUBMIT)) as server:
        assert connect(server).propose(context()).files == {}


@pytest.mark.parametrize("number", [float("inf"), float("nan"), None, [], "seven"])
def test_a_number_that_is_none_is_a_tool_error(number: object) -> None:
    with pytest.raises(EditError, match="the arguments are not what the tool takes"):
        call(Draft(context()), "read_experiment", {"number": number})


def test_what_would_not_be_run_is_told_before_it_is_submitted(connect: Connect) -> None:
    told = context(refusal=lambda proposal: "" if "optim.scalar_lr" in proposal.changes else "this is #3 again")
    other = tool("set_recipe", changes=[{"key": "optim.scalar_lr", "value": 0.1}], extra=[{"name": "k", "value": 2}])
    with serving(GOOD, message(other, SUBMIT)) as server:
        proposal = connect(server).propose(told)
    assert proposal.changes == {"optim.matrix_lr": 0.02, "optim.scalar_lr": 0.1, "extra.k": 2}
    assert "this is #3 again" in json.dumps(server.asked[1])


def test_dollars_are_those_of_the_table_and_unknown_models_have_none(connect: Connect) -> None:
    told, spends, _ = listening()
    with serving(GOOD, GOOD) as server:
        connect(server).propose(told)
        connect(server, Limits(5.0, 10**6), model="llama-of-mine").propose(told)
    opus, mine = spends
    assert opus.usd == pytest.approx((120 * 4 + 200 * 5 + 700 * 8 + 4000 * 0.2 + 55 * 20) / 1e6)
    assert (opus.input_tokens, opus.cache_write_5m_tokens, opus.cache_write_1h_tokens, opus.cache_read_tokens,
            opus.output_tokens, opus.request_id) == (120, 200, 700, 4000, 55, "req_7")
    assert (mine.usd, mine.priced, mine.tokens()) == (None, "", 5075)


def test_a_limit_stops_proposing_before_it_is_passed(connect: Connect) -> None:
    with serving(forever=GOOD) as server:
        for limits, spent, words in ((FIVE, Spent(4.95, 0), "--max-usd"), (Limits(0.0), Spent(), "--max-usd"),
                                     (Limits(None, 100_000), Spent(0, 99_000), "--max-tokens")):
            with pytest.raises(NoProposal, match=words):
                connect(server, limits).propose(context(spent=spent))
        assert server.asked == []
        connect(server, Limits(5.0)).propose(context(spent=Spent(4.65, 0)))
    [asked] = server.asked
    assert asked["max_tokens"] < 16_000, "what is left pays for no more"
    worst = len(json.dumps(asked)) / 2.5 * 8 / 1e6 + asked["max_tokens"] * 20 / 1e6
    assert 4.65 + worst <= 5.01


def test_a_limit_without_an_end_stops_nothing(connect: Connect) -> None:
    with serving(GOOD) as server:
        assert connect(server, Limits(float("inf"))).propose(context()).changes
    assert server.asked[0]["max_tokens"] == OUTPUT_TOKENS


def test_what_a_long_conversation_spends_counts_at_once(connect: Connect) -> None:
    with serving(forever=message(tool("read_file", path="torch_model.py"))) as server, pytest.raises(NoProposal) as e:
        connect(server, Limits(None, 40_000)).propose(context())
    assert "--max-tokens" in str(e.value) and 1 < len(server.asked) <= 8


def test_a_stop_ends_a_wait_and_an_answer_in_the_middle(connect: Connect, clock: Clock) -> None:
    began = time.monotonic()
    with serving(failure(429, "rate_limit_error", "Slow down", retry_after="50"), drip) as server:
        with pytest.raises(NoProposal, match="a stop was asked for"):
            connect(server).propose(context(stopping=lambda: clock.skipped_s > 1))
        assert clock.skipped_s < 2 and len(server.asked) == 1
        with pytest.raises(NoProposal, match="a stop was asked for"):
            connect(server).propose(context(stopping=lambda: len(server.asked) > 1))
    assert time.monotonic() - began < 9, "it drips for ten seconds"


def test_the_night_goes_on_and_the_key_is_nowhere(connect: Connect, tmp_path: Path) -> None:
    def edit(name: str, old: str, new: str, why: str) -> Reply:
        return message(thinking("Hm."), tool("replace_in_file", path=name, old=old, new=new),
                       tool("submit", hypothesis=why, evidence="#0"))

    broken = tool("replace_in_file", path="torch_model.py", old="x * 2", new="x *")
    clone = clone_at(tmp_path / "clone")
    with serving(
            edit("torch_model.py", "x * 2", "BETTER", "torch: better"),
            edit("mlx_model.py", "x * 2", "x * 3", "mlx: no difference"),
            edit("torch_model.py", "BETTER", "CRASH", "torch: crashes"),
            message(broken), edit("mlx_model.py", "x * 2", "BETTER", "mlx: better, after a correction"),
            failure(401, "authentication_error", "invalid x-api-key")) as server:
        found = night(clone, Backed(connect(server), Playbook()), 6)
    assert [(e.researcher, e.verdict) for e in found.experiments[:4]] == [
        ("claude", "keep"), ("claude", "discard"), ("claude", "crash"), ("claude", "keep")]
    assert [e.researcher for e in found.experiments[4:]] == ["playbook", "playbook"]
    assert [(e.experiment, e.spend.status[:20]) for e in found.entries] == [
        (1, "ok"), (2, "ok"), (3, "ok"), (4, "ok"), (4, "ok"), (5, "authentication (401)")]
    assert sum("401" in note for note in found.notes) == 1, "said once"
    assert "CRASH" in json.dumps(server.asked[3]), "the next brief tells how the last one ended"
    assert all(KEY not in str(env) for env in found.environments) and KEY not in str(os.environ)
    assert KEY not in str(found.notes)
    said = subprocess.run(["git", "log", "--all", "-p"], cwd=clone, capture_output=True, text=True, check=True).stdout
    assert "mlx: better" in said and KEY not in said
    files = [p for p in clone.rglob("*") if p.is_file()]
    assert files and not any(KEY.encode() in p.read_bytes() for p in files)
    usd = {arm.researcher: arm for arm in arms([(e, 0.05) for e in found.experiments], found.entries)}
    assert usd["claude"].kept == 2 and usd["claude"].gain_per_usd == pytest.approx(0.1 / usd["claude"].usd)
    assert usd["claude"].failed == 1 and usd["playbook"].usd == 0


def test_a_service_that_is_overloaded_all_night_costs_no_experiment(connect: Connect, tmp_path: Path) -> None:
    with serving(forever=OVERLOADED) as server:
        found = night(clone_at(tmp_path / "clone"), Backed(connect(server), Playbook()), 2)
    assert [e.researcher for e in found.experiments] == ["playbook"] * 2
    assert set(found.statuses) == {"overloaded (529): Overloaded"}
