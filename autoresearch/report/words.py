"""Words for people, and strangers' text made harmless.

    one_line, escape, code, fence   text from candidates, researchers and logs: for terminals, and for Markdown
    changes                         recipe changes in plain words
    device, gib, signed             facts as people write them
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from autoresearch.harness.text import clean

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#|!~$^=])")
_LINK = re.compile(r"(://)|\b(www)\.", re.IGNORECASE)


def one_line(text: str, limit: int = 400) -> str:
    """Printable, on one line, its end cut where it is too long."""
    line = " ".join(clean(text, 100_000).split())
    return line if len(line) <= limit else line[:limit - 1].rstrip() + "…"


def escape(text: str, limit: int = 400) -> str:
    """One line of Markdown text, also in a table, that shows exactly the characters given: no markup, HTML or link."""
    line = one_line(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _LINK.sub(lambda m: ":\\/\\/" if m[1] else f"{m[2]}\\.", _SPECIAL.sub(r"\\\1", line))
    return re.sub(r"^(\d+)([.)])|^([+-])", lambda m: f"{m[1]}\\{m[2]}" if m[1] else f"\\{m[3]}", line)


def code(text: str, limit: int = 200) -> str:
    """A code span, also in a table."""
    line = one_line(text, limit).replace("|", "\\|")
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}" if line else ""


def fence(text: str, language: str = "text", limit: int = 8000) -> str:
    """A code block that its content can't end."""
    content = clean(text, limit).strip("\n")
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", content)), default=0))
    return f"{ticks}{language}\n{content}\n{ticks}"


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


def gib(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"


def signed(bpb: float | None) -> str:
    """A difference in bits per byte with its sign, a true minus for people."""
    return "" if bpb is None else f"{bpb:+.4f}".replace("-", "−")


def first_sentence(text: str, limit: int = 200) -> str:
    lines = [line for line in clean(text).splitlines() if line.strip()]
    return one_line(lines[-1] if lines and lines[0].startswith("Traceback") else lines[0] if lines else "", limit)
