"""The probe: which model, batch and precision suit this machine and this budget, and why.

    Plan      the table of choices, the recommended one, and what it changes in a recipe
    probe     measure (probing.py), or take what was measured before, and plan (sizes.py)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoresearch import machine, paths, settle, sizes
from autoresearch.data.manifest import Manifest
from autoresearch.data.prepared import Prepared
from autoresearch.harness import assemble
from autoresearch.probing import Found, Probing
from autoresearch.sizes import Size, TokenizedText
from backends.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    backend: str
    device: dict[str, Any]  # name, memory_bytes, precisions that may be used, ceiling_flops by precision
    budget_s: float
    changes: dict[str, Any]  # {"table.key": value} on top of the recipe asked about
    why: str
    tokenizer: str
    trial_tokens: int  # what one trial is expected to train on
    chosen: Size
    table: list[Size]
    found: Found

    def to_json(self, with_table: bool = True) -> dict[str, Any]:
        return asdict(self) if with_table else {k: v for k, v in asdict(self).items() if k != "table"}


def probe(candidate: dict[str, bytes], recipe: Recipe, backend: str, prepared: Prepared, budget_s: float,
          fresh: bool = False, patient: bool = False) -> Plan:
    """Raises UserError where not even the smallest size can be trained. `fresh`: measure again, whatever is known.
    `patient`: wait for the compiler, to know what it gains."""
    texts = {name: _tokenized(prepared.manifest, name) for name in prepared.tokenizers()}
    tokenizer = recipe.data.tokenizer if recipe.data.tokenizer in texts else _tokenizer(texts)
    base = recipe.replace({"data.tokenizer": tokenizer, "runtime.compile": False, "runtime.precision": "auto",
                           "batch.micro_rows": 0, "model.kv_heads": 0})
    place = _place(candidate, base, backend, texts[tokenizer].vocab, budget_s)
    found = None if fresh else _known(place)
    if found is None or (patient and found.is_assumed):
        probing = Probing(candidate, base, backend, texts[tokenizer], budget_s, patient)
        found = probing.compiled(found) if found else probing.run()
        settle.keep(place, asdict(found))
    return _plan(base, recipe, texts, backend, budget_s, found)


def _tokenized(manifest: Manifest, tokenizer: str) -> TokenizedText:
    facts = manifest.tokenizers[tokenizer]
    encoded_bytes = manifest.shards[len(facts.shards) - 1]  # maybe not the whole text yet
    return TokenizedText(facts.vocab, manifest.splits["train"].bytes, encoded_bytes / max(1, facts.tokens["train"]))


def _tokenizer(texts: Mapping[str, TokenizedText]) -> str:
    """The largest prepared one of at most 4096 tokens: more is memorised rather than learned on small texts."""
    small = [name for name in texts if texts[name].vocab <= 4096] or list(texts)
    return max(small, key=lambda name: texts[name].vocab)


def _plan(base: Recipe, recipe: Recipe, texts: Mapping[str, TokenizedText], backend: str, budget_s: float,
          found: Found) -> Plan:
    memory, tokenizer = found.device["memory_bytes"], base.data.tokenizer
    rows = sizes.table(base, texts, found.costs(), budget_s, memory)
    s = sizes.choose(rows, tokenizer)
    planned = sizes.sized(base, s.depth, s.width, s.tokens_per_step, s.micro_rows).replace(
        {"runtime.precision": found.precision, "runtime.compile": found.compiled,
         "schedule.keep_best_dev": s.keeps_best or recipe.schedule.keep_best_dev})
    before = recipe.flat()
    changes = {k: v for k, v in planned.flat().items() if v != before.get(k)}
    refused = {v["precision"] for v in found.verdicts if not v["allowed"]} | {found.precision}
    device = {"name": found.device["name"], "memory_bytes": memory, "ceiling_flops": found.ceiling_flops,
              "precisions": [found.precision, *(p for p in found.device["precisions"] if p not in refused)]}
    return Plan(backend, device, budget_s, changes, _why(s, found, budget_s), tokenizer, s.tokens, s, rows, found)


def _why(s: Size, found: Found, budget_s: float) -> str:
    compiled = f"compiled, {found.gain:.1f} times as fast ({found.gain_how})" if found.compiled else found.gain_how
    again = " and learns it by heart: the weights of the best dev measurement are kept, and more text would help"
    return (f"{found.device['name']}: depth {s.depth}, width {s.width} should train {s.tokens_per_s:,.0f} tokens/s, "
            f"{s.steps:,} steps of {s.tokens_per_step:,} tokens in {budget_s:g} s, and score best of what fits; it "
            f"reads the text {s.readings:.1f} times{again if s.keeps_best else ''}; {found.precision}; {compiled}")


# What was measured before


def _place(candidate: dict[str, bytes], base: Recipe, backend: str, vocab: int, budget_s: float) -> Path:
    """Found again by machine, driver, frameworks, code, recipe but for its size, vocabulary and budget."""
    kind = settle.family(base).digest()
    parts = (machine.digest(), assemble.code_digest(candidate), kind, backend, str(vocab), f"{budget_s:g}")
    return paths.cache() / "probed" / ("-".join(parts) + ".json")


def _known(place: Path) -> Found | None:
    try:
        return Found(**json.loads(place.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
