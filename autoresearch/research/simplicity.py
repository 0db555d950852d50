"""Whether a candidate is simpler than the one it changes."""

from __future__ import annotations

import io
import tokenize
import tomllib

SILENT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def size(files: dict[str, bytes]) -> tuple[int, int, int]:
    """(lines of Python that say something, their tokens, keys of recipes). Comments and layout count for nothing.
    Raises ValueError for a file that is neither Python nor TOML by its content."""
    lines = tokens = keys = 0
    for name, content in files.items():
        if name.endswith(".toml"):
            tables = tomllib.loads(content.decode()).values()
            keys += sum(len(table) if isinstance(table, dict) else 1 for table in tables)
        elif name.endswith(".py"):
            said = _said(content)
            tokens += len(said)
            lines += len({token.start[0] for token in said})
    return lines, tokens, keys


def simpler(after: dict[str, bytes], before: dict[str, bytes]) -> str:
    """In words by how much, or "". Fewer lines and fewer tokens (joined lines are not simpler), or fewer keys; and
    nothing may grow."""
    try:
        (lines, tokens, keys), (had_lines, had_tokens, had_keys) = size(after), size(before)
    except (ValueError, SyntaxError, tokenize.TokenError):
        return ""
    fewer_lines = lines < had_lines and tokens < had_tokens
    if keys > had_keys or tokens > had_tokens or lines > had_lines or not (fewer_lines or keys < had_keys):
        return ""
    told = [(had_lines - lines if fewer_lines else 0, "line"), (had_keys - keys, "recipe key")]
    return " and ".join(f"{n} {what}{'' if n == 1 else 's'} fewer" for n, what in told if n)


def _said(content: bytes) -> list[tokenize.TokenInfo]:
    found = tokenize.tokenize(io.BytesIO(content).readline)
    return [t for t in found if t.type not in SILENT and t.type != tokenize.ENCODING]
