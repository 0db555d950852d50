"""Words for people, and strangers' text made harmless.

    one_line, escape                text from candidates, researchers and logs: for terminals, and for Markdown
    changes                         recipe changes in plain words
    device, cost, duration, ...     facts as people write them
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from autoresearch.harness.text import clean, line

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#|!~$^=])")
_LINK = re.compile(r"(://)|\b(www)\.", re.IGNORECASE)


def one_line(text: str, limit: int = 400) -> str:
    """Printable, on one line, its end cut where it is too long."""
    whole = line(text[-100_000:])
    return whole if len(whole) <= limit else whole[:limit - 1].rstrip() + "…"


def times(count: int) -> str:
    return "1 time" if count == 1 else f"{count} times"


def escape(text: str, limit: int = 400) -> str:
    """One line of Markdown text, also in a table, that shows exactly the characters given: no markup, HTML or link."""
    shown = one_line(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = _LINK.sub(lambda m: ":\\/\\/" if m[1] else f"{m[2]}\\.", _SPECIAL.sub(r"\\\1", shown))
    return re.sub(r"^(\d+)([.)])|^([+-])", lambda m: f"{m[1]}\\{m[2]}" if m[1] else f"\\{m[3]}", shown)


def value(v: Any) -> str:
    if isinstance(v, bool):
        return "on" if v else "off"
    if isinstance(v, float):
        return f"{v:.4g}"
    return f"{v:,}" if isinstance(v, int) and abs(v) >= 10_000 else str(v)


def changes(changed: Mapping[str, Any], before: Mapping[str, Any] | None, short: bool = False) -> list[str]:
    """'batch.tokens_per_step 8192 → 4096' for each change; `short` without the table's name. Not escaped."""
    found = []
    for key, new in changed.items():
        name = key.partition(".")[2] if short else key
        old = f"{value(before[key])} → " if before and key in before else "= "
        found.append(one_line(f"{name.replace('_', ' ') if short else name} {old}{value(new)}", 120))
    return found


def device(facts: Mapping[str, Any]) -> str:
    """Its name and memory, as measured when the study began."""
    d = facts.get("device")
    if not isinstance(d, Mapping):
        return "not measured yet"
    name = one_line(str(d.get("name") or "unnamed device"), 80)
    memory = d.get("memory_bytes")
    return f"{name}, {gib(memory)}" if isinstance(memory, int | float) and memory else name


def duration(seconds: float) -> str:
    """As one says it: '5 h 12 min', '12 min', '18 s'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def source(kind: str, of_it: str) -> str:
    """Of a text. Where a person's own files lie is nobody else's business: name and sha256 say which text it was."""
    return "files of whoever made the model" if kind == "text" else one_line(of_it)


def cost(usd: float | None, tokens: int | None) -> str:
    """Of asking language models; nothing where none was asked."""
    return f"${usd:.2f}" if usd else f"{tokens:,} tokens" if tokens else ""


def size(count: int) -> str:
    """Of files and disks, in powers of ten; `gib` is of memory."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def gib(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"


def signed(bpb: float | None) -> str:
    """A difference in bits per byte with its sign, a true minus for people."""
    return "" if bpb is None else f"{bpb:+.4f}".replace("-", "−")


def lower(percent: float) -> str:
    """Of a score: it may be higher on one seed where others made it a gain."""
    return f"{abs(percent):.1f}% {'lower' if percent >= 0 else 'higher'}"


def first_sentence(text: str, limit: int = 200) -> str:
    lines = [line for line in clean(text).splitlines() if line.strip()]
    return one_line(lines[-1] if lines and lines[0].startswith("Traceback") else lines[0] if lines else "", limit)


def train(facts: Mapping[str, Any], seed: int | None = None) -> str:
    """The command that trains a candidate on the terms of a study's trials."""
    name, budget, backend = (facts.get(key) for key in ("data_name", "budget_s", "backend"))
    parts = ["ar train", f"--data {shlex.quote(str(name))}" if name else "", f"--budget {budget:g}" if budget else "",
             f"--backend {backend}" if backend else "", f"--seed {seed}" if seed is not None else ""]
    return " ".join(filter(None, parts))
