"""Who proposes: the options of the commands that ask a researcher, and the researcher that they make.

    researcher_options   a click decorator; the command gets them as `**asked`, for Asked
    make                 the researcher, checked before anything runs
    hint                 what a key in the environment could be used for, and for how much
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from autoresearch import paths
from autoresearch.cli.machine import Finite
from autoresearch.errors import UsageError, UserError
from autoresearch.research.researchers.base import Researcher
from autoresearch.research.researchers.playbook import Playbook

RESEARCHERS = ("playbook", "search", "relay", "claude", "command", "hybrid")
DEFAULT = "playbook"
MAX_USD = 5.0
# What an experiment takes at the least, roughly: the brief in tokens, read by two requests, and what is written.
BRIEF_TOKENS, OUTPUT_TOKENS = 20_000, 5_000


@dataclass(frozen=True)
class Asked:
    """What a person asked for on the command line or in the environment."""

    researcher: str = DEFAULT
    model: str = ""
    effort: str = ""
    fallback_model: str | None = None
    agent: str = ""
    agent_minutes: float = 15.0
    agent_env: tuple[str, ...] = ()
    max_usd: float = MAX_USD
    max_tokens: int | None = None
    sampler: str = "cma"
    llm_share: float = 0.3


def researcher_options(command: Callable[..., Any]) -> Callable[..., Any]:
    from autoresearch.research.researchers.claude import EFFORTS, FALLBACK, MODEL
    from autoresearch.research.researchers.search import SAMPLERS

    options = [
        click.option("--researcher", type=click.Choice(RESEARCHERS), default=DEFAULT, show_default=True,
                     help="Who proposes. The playbook reasons from rules, search is a numeric optimizer, relay is the "
                          "playbook until it stalls, then search. claude spends money, command runs --agent, hybrid is "
                          "search with a share of proposals by the agent, if one is given, or by claude."),
        click.option("--sampler", type=click.Choice(SAMPLERS), default="cma", show_default=True,
                     help="What search samples with: CMA-ES, TPE, or anywhere within reach, for comparison."),
        click.option("--llm-share", type=Finite(0, 1), default=0.3, show_default=True,
                     help="Of hybrid's proposals, at first; then it follows what each has earned for its minutes."),
        click.option("--model", default="", envvar="AUTORESEARCH_MODEL", show_envvar=True, metavar="NAME",
                     help=f"Model of claude.  [default: {MODEL}]"),
        click.option("--effort", type=click.Choice(EFFORTS), default=None, envvar="AUTORESEARCH_EFFORT",
                     show_envvar=True, help="How hard it thinks. Default: the model's own."),
        click.option("--fallback-model", default=None, envvar="AUTORESEARCH_FALLBACK_MODEL", show_envvar=True,
                     metavar="NAME", help=f"Asked where the model declines; '' for none.  [default: {FALLBACK}]"),
        click.option("--max-usd", type=Finite(0), default=MAX_USD, show_default=True,
                     help="What proposing may cost, for the study in all. Then nobody who is paid is asked."),
        click.option("--max-tokens", type=click.IntRange(1), default=None,
                     help="The same in tokens of the model, read and written."),
        click.option("--agent", default="", envvar="AUTORESEARCH_AGENT", show_envvar=True, metavar="COMMAND",
                     help="A coding agent that edits files, for --researcher command."),
        click.option("--agent-minutes", type=Finite(0, min_open=True), default=15.0, show_default=True,
                     help="For one proposal of the agent."),
        click.option("--agent-env", multiple=True, metavar="NAME",
                     help="A variable that the agent gets though its name sounds secret, such as ANTHROPIC_API_KEY."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def asked_of(values: dict[str, Any]) -> Asked:
    return Asked(**{k: v for k, v in values.items() if v is not None})


def make(asked: Asked) -> Researcher:
    """Raises UserError for what would fail later, when nobody is there to mend it."""
    if asked.researcher in ("claude", "command"):
        from autoresearch.research.researchers.backed import Backed

        return Backed(_claude(asked) if asked.researcher == "claude" else _command(asked), Playbook())
    if asked.researcher == "playbook":
        return Playbook()
    from autoresearch.research.researchers.hybrid import Hybrid, Relay
    from autoresearch.research.researchers.search import Search

    search = Search(asked.sampler)
    if asked.researcher == "hybrid":
        return Hybrid(search, _command(asked) if asked.agent else _claude(asked), asked.llm_share)
    return Relay(Playbook(), search) if asked.researcher == "relay" else search


def _claude(asked: Asked) -> Researcher:
    from autoresearch.research.prices import own_file, prices
    from autoresearch.research.researchers.claude import FALLBACK, MODEL, Claude
    from autoresearch.research.researchers.service import Limits, Service

    model = asked.model or MODEL
    fallback = FALLBACK if asked.fallback_model is None else asked.fallback_model
    if asked.fallback_model is None and os.environ.get("ANTHROPIC_BASE_URL") and asked.model:
        fallback = ""  # another server's models are its own
    table = prices()
    unpriced = [name for name in dict.fromkeys((model, fallback)) if name and name not in table]
    if unpriced and asked.max_tokens is None:
        raise UserError(f"no price is known for {' and '.join(unpriced)}, so --max-usd can't be held",
                        f"Bound it in tokens (--max-tokens 2000000), or write its prices, 0 if it is free, to "
                        f"{own_file()}")
    service = Service("claude", table, Limits(asked.max_usd, asked.max_tokens)).connect()
    if not service.has_credentials:
        raise UserError("--researcher claude needs a key",
                        "export ANTHROPIC_API_KEY=...; a local server (ANTHROPIC_BASE_URL) takes any text as one. "
                        "Without: --researcher playbook")
    return Claude(service, model, fallback, asked.effort)


def _command(asked: Asked) -> Researcher:
    from autoresearch.harness import sandbox, veil
    from autoresearch.research.researchers.command import Command
    from autoresearch.research.researchers.service import Limits

    if not asked.agent:
        raise UsageError("--researcher command needs an agent",
                         "Such as: --agent 'claude -p --permission-mode acceptEdits --output-format json'")
    try:
        program = shlex.split(asked.agent)[0]
    except (ValueError, IndexError) as e:
        raise UsageError(f"--agent {asked.agent!r} is not a command: {e}", "Quote it as for a shell.") from None
    if shutil.which(program) is None:
        raise UserError(f"the agent {program!r} is not on PATH", "Install it, or write its whole path in --agent.")
    hidden = [paths.cache(), paths.studies()] if sandbox.require() else []
    return Command(asked.agent, Limits(asked.max_usd, asked.max_tokens), veil.command(hidden),
                   60 * asked.agent_minutes, asked.agent_env)


def hint(asked: Asked) -> str:
    """One line where a key is there and nobody asked to use it; else empty."""
    if asked.researcher in ("claude", "command", "hybrid") or not os.environ.get("ANTHROPIC_API_KEY"):
        return ""
    from autoresearch.research.prices import prices
    from autoresearch.research.researchers.claude import MODEL

    model = asked.model or MODEL
    each = ""
    if price := prices().get(model):
        read = BRIEF_TOKENS * (price.rates.cache_write_1h + price.rates.cache_read)
        each = f", from about ${(read + OUTPUT_TOKENS * price.rates.output) / 1e6:.2f} an experiment"
    return (f"ANTHROPIC_API_KEY is set and not used: --researcher claude would ask {model}{each}, "
            f"${asked.max_usd:g} at most (--max-usd)")
