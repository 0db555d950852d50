"""What a model's tokens cost: a dated table, and a person's own before it. A model that is in neither has no price.

    Price    of one model, in dollars per million tokens
    prices   {model: Price}, from prices.toml beside this file and the person's
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from autoresearch.errors import UserError
from autoresearch.records import Spend

OWN = "AUTORESEARCH_PRICES"


@dataclass(frozen=True)
class Rates:
    """Dollars per million tokens."""

    input: float
    output: float
    cache_write_5m: float
    cache_write_1h: float
    cache_read: float


@dataclass(frozen=True)
class Price:
    date: str
    rates: Rates
    above_tokens: int | None = None  # of prompt, from which on `above` holds for the whole request
    above: Rates | None = None

    def usd(self, spend: Spend) -> float:
        prompt = spend.tokens() - (spend.output_tokens or 0)
        long = self.above is not None and self.above_tokens is not None and prompt > self.above_tokens
        rates = self.above if long and self.above else self.rates
        counted = {"input": spend.input_tokens, "output": spend.output_tokens, "cache_read": spend.cache_read_tokens,
                   "cache_write_5m": spend.cache_write_5m_tokens, "cache_write_1h": spend.cache_write_1h_tokens}
        return sum(getattr(rates, name) * (tokens or 0) for name, tokens in counted.items()) / 1e6


def prices() -> dict[str, Price]:
    """Raises UserError where the person's file is not a table of prices."""
    return _read(Path(__file__).with_name("prices.toml")) | (_read(own) if (own := own_file()).is_file() else {})


def own_file() -> Path:
    """Where a person's prices are looked for."""
    if named := os.environ.get(OWN):
        return Path(named).expanduser()
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "autoresearch" / "prices.toml"


def _read(path: Path) -> dict[str, Price]:
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
        return {model: _price(str(told["date"]), rates) for model, rates in told["models"].items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError, AttributeError) as e:
        example = Path(__file__).with_name("prices.toml")
        raise UserError(f"{path} is not a table of prices: {type(e).__name__}: {e}",
                        f"It takes a date and a table for each model, as in {example}.") from None


def _price(date: str, told: dict[str, Any]) -> Price:
    above = told.get("above")
    return Price(date, _rates(told), int(above["prompt_tokens"]) if above else None, _rates(above) if above else None)


def _rates(told: dict[str, Any]) -> Rates:
    rates = Rates(**{f.name: float(told[f.name]) for f in fields(Rates)})
    if not all(0 <= rate < float("inf") for rate in vars(rates).values()):
        raise ValueError("a price is a number of dollars, 0 or more")
    return rates
