"""A language model as a researcher: it reads the brief, edits a draft through tools, and submits it.

    Claude   one conversation for each proposal
    tools    what the model may call, generated from the recipe's schema
    call     one such call, on a draft

The conversation is only ever added to: answers are bound to what came before them, and the beginning stays in the
service's cache from one experiment to the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autoresearch.research.brief import Brief, brief
from autoresearch.research.researchers.base import Context, NoProposal, Proposal, Researcher
from autoresearch.research.researchers.draft import Draft, EditError, said
from autoresearch.research.researchers.service import Refused, Service, TooLong, plainer
from backends.recipe import keys

MODEL, FALLBACK = "claude-opus-5-5", "claude-opus-4-8"
EFFORTS = ("low", "medium", "high", "xhigh", "max")
MOST_TURNS, MOST_CORRECTIONS, MOST_REMINDERS = 20, 5, 2
OUTPUT_TOKENS, MOST_OUTPUT_TOKENS = 16_000, 48_000
REFUSALS_IN_A_ROW = 2  # after so many the model that declined is not asked again
HOUR = {"type": "ephemeral", "ttl": "1h"}  # experiments are minutes apart: five minutes would be too short
HOW = """# How to propose

Read what you need, edit with the tools, then call submit once. An edit that is not taken comes back with the reason:
mend it. Change the recipe with set_recipe, code with replace_in_file and create_file."""
REMINDER = "Nothing was submitted. Make your edits with the tools, then call submit with one hypothesis."


@dataclass
class Claude(Researcher):
    service: Service
    model: str = MODEL
    fallback: str = FALLBACK  # asked where the model declines; "": nobody is
    effort: str = ""  # "": the model's own default
    name: str = "claude"
    _refusals: int = 0

    def propose(self, context: Context) -> Proposal:
        others = [self.fallback] if self.fallback not in ("", self.model) else []
        models = [] if others and self._refusals >= REFUSALS_IN_A_ROW else [self.model]
        declined = ""
        for model in [*models, *others]:
            try:
                proposal = self._at_some_length(context, model)
                self._refusals = 0 if model == self.model else self._refusals
                return proposal
            except Refused as e:
                declined = f"{model} declined: {e}"
                self._refusals += model == self.model
                context.note(f"{self.name}: {declined}")
        raise NoProposal(declined)

    def _at_some_length(self, context: Context, model: str) -> Proposal:
        for scale in (1.0, 0.4):
            try:
                return self._converse(context, brief(context, scale), model)
            except TooLong as e:
                why = str(e)
        raise NoProposal(f"{model}: {why}, shortened too")

    def _converse(self, context: Context, told: Brief, model: str) -> Proposal:
        draft, output_tokens = Draft(context), OUTPUT_TOKENS
        messages: list[dict[str, Any]] = [{"role": "user", "content": [
            {"type": "text", "text": told.candidate, "cache_control": HOUR},
            {"type": "text", "text": f"{told.ledger}\n\n{told.now}"}]}]
        corrections = reminders = 0
        for _ in range(MOST_TURNS):
            answer = self.service.ask(context, self._request(told, model, messages, output_tokens))
            if answer.stop_reason == "max_tokens":
                output_tokens *= 3
                if output_tokens > MOST_OUTPUT_TOKENS:
                    raise NoProposal(f"{model} did not come to an end")
                continue
            if said_now := [spoken(block) for block in answer.content if block.type != "text" or block.text]:
                messages.append({"role": "assistant", "content": said_now})
            if answer.stop_reason == "pause_turn":
                continue
            results: list[dict[str, Any]] = []
            for block in (b for b in answer.content if b.type == "tool_use"):
                done, failed = self._call(draft, block)
                if isinstance(done, Proposal):
                    return done
                corrections += failed
                results.append({"type": "tool_result", "tool_use_id": block.id, "is_error": failed,
                                "content": [{"type": "text", "text": done}]})
            reminders += not results
            if corrections > MOST_CORRECTIONS or reminders > MOST_REMINDERS:
                raise NoProposal(f"{model} submitted nothing that could be run")
            messages.append({"role": "user", "content": results or [{"type": "text", "text": REMINDER}]})
        raise NoProposal(f"{model} submitted nothing in {MOST_TURNS} turns")

    def _call(self, draft: Draft, block: Any) -> tuple[str | Proposal, bool]:
        try:
            return call(draft, block.name, block.input), False
        except EditError as e:
            return str(e), True

    def _request(self, told: Brief, model: str, messages: list[dict[str, Any]], output_tokens: int) -> dict[str, Any]:
        *earlier, last = messages
        if last["role"] == "user":  # what came before is read from the cache in the next turn, seconds later
            *blocks, end = last["content"]
            last = last | {"content": [*blocks, end | {"cache_control": {"type": "ephemeral"}}]}
        request = {"model": model, "max_tokens": output_tokens, "tools": tools(), "messages": [*earlier, last],
                   "system": [{"type": "text", "text": f"{told.rules}\n\n{HOW}", "cache_control": HOUR}],
                   "thinking": {"type": "adaptive"}}
        if self.effort:
            request["output_config"] = {"effort": self.effort}
        return plainer(request) if self.service.plain else request


def tools() -> list[dict[str, Any]]:
    """Every argument required and typed, so that the service can hold the model to it."""
    text, path = {"type": "string"}, {"type": "string", "description": "relative to backends/gpt/"}
    value = {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "boolean"}]}
    recipe = _object({"key": {"type": "string", "enum": [k.name for k in keys()]}, "value": value})
    extra = _object({"name": text, "value": {"type": "number"}})
    return [
        _tool("set_recipe", "Change keys of recipe.toml; the brief lists them. All are set, or none.",
              changes={"type": "array", "items": recipe},
              extra={"type": "array", "items": extra, "description": "numbers of your own, read by your code"}),
        _tool("replace_in_file", "Replace text that occurs exactly once in a file.", path=path, old=text, new=text),
        _tool("create_file", "Add a file.", path=path, content=text),
        _tool("read_file", "A file as it is with your edits.", path=path),
        _tool("read_experiment", "A past experiment in full: reason, diff, curves, the end of a failed log.",
              number={"type": "integer"}),
        _tool("submit", "Propose what you have edited. Ends the conversation where it is accepted.",
              hypothesis={"type": "string", "description": "one line: what changes and why it should help here"},
              evidence={"type": "string", "description": "the results it rests on, by number"}),
    ]


def call(draft: Draft, name: str, arguments: Any) -> str | Proposal:
    """Raises EditError for whatever can't be done, wrongly typed arguments included: not every server is strict."""
    try:
        match name:
            case "set_recipe":
                extra = {f"extra.{entry['name']}": entry["value"] for entry in arguments.get("extra") or ()}
                return draft.set_recipe({str(c["key"]): c["value"] for c in arguments["changes"]} | extra)
            case "replace_in_file":
                return draft.replace_in_file(*_texts(arguments, "path", "old", "new"))
            case "create_file":
                return draft.create_file(*_texts(arguments, "path", "content"))
            case "read_file":
                return draft.read_file(*_texts(arguments, "path"))
            case "read_experiment":
                return draft.read_experiment(int(arguments["number"]))
            case "submit":
                return draft.submit(*_texts(arguments, "hypothesis", "evidence"))
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as e:
        raise EditError(f"{said(name, 60)}: the arguments are not what the tool takes ({e})") from None
    raise EditError(f"there is no tool {said(name, 60)!r}")


def spoken(block: Any) -> dict[str, Any]:
    """A block of an answer, to be sent back as it came."""
    names = {"text": ("text",), "thinking": ("thinking", "signature"), "redacted_thinking": ("data",),
             "tool_use": ("id", "name", "input")}.get(block.type)
    if names is None:
        return dict(block.model_dump(mode="json", exclude_unset=True))
    return {"type": block.type} | {name: getattr(block, name) for name in names}


def _texts(arguments: dict[str, Any], *names: str) -> list[str]:
    found = [arguments[name] for name in names]
    if not all(isinstance(text, str) for text in found):
        raise TypeError(f"{', '.join(names)} must be text")
    return found


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _tool(name: str, description: str, **properties: Any) -> dict[str, Any]:
    return {"name": name, "description": description, "strict": True, "input_schema": _object(properties)}
