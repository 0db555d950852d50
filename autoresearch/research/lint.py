"""The lint: what a candidate's code will be refused, or does not need, in sentences. A courtesy: it decides nothing.

It reads code without running it, so it misses whatever hides; keeping things out is the work of the sandbox, the scorer
and the audit. Its sentences save an honest mistake a trial.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

MATHS = {"__future__", "abc", "bisect", "collections", "contextlib", "copy", "dataclasses", "enum", "fractions",
         "functools", "heapq", "itertools", "math", "numbers", "operator", "re", "statistics", "string", "struct",
         "types", "typing", "warnings", "zlib", "numpy", "mlx", "torch", "triton", "backends"}
FILES = "a trial can read its own code and nothing else of yours; it is handed its tokens, and its weights are saved"
CLOCK = "the time is the harness's: schedules are handed the progress of the budget, from 0 to 1"
CHANCE = "seeds are the harness's: `params.initial` is handed a generator and dropout a salt, so that seeds compare"
NETWORK = "a trial has no network"
PROCESS = "a trial can't start programs of its own or outlive its budget, and threads of its own take time from it"
HIDDEN = "this hides what is imported or run from whoever reads it"
FRAMEWORK = "this is not arithmetic: a candidate needs NumPy, its framework and what of the standard library computes"

MODULES = {
    FILES: {"os", "pathlib", "io", "shutil", "tempfile", "glob", "mmap", "pickle", "sqlite3", "safetensors", "fcntl"},
    CLOCK: {"time", "datetime", "sched"},
    CHANCE: {"random", "secrets", "uuid"},
    NETWORK: {"socket", "ssl", "urllib", "http", "requests", "httpx", "asyncio", "ftplib", "smtplib"},
    PROCESS: {"subprocess", "multiprocessing", "threading", "concurrent", "signal", "ctypes", "sys"},
    HIDDEN: {"importlib", "builtins", "inspect", "runpy", "pkgutil", "gc"},
}
CALLS = {
    FILES: {"open", "numpy.load", "numpy.save", "numpy.savez", "numpy.memmap", "numpy.fromfile", "numpy.loadtxt",
            "torch.load", "torch.save", "mlx.core.load", "mlx.core.save", "mlx.core.save_safetensors"},
    CHANCE: {"numpy.random.seed", "numpy.random.default_rng", "torch.manual_seed", "torch.seed",
             "mlx.core.random.seed"},
    HIDDEN: {"exec", "eval", "compile", "__import__"},
    "what a trial prints goes to its log, and nobody reads a number from there": {"print"},
}
MODULE_OF = {name: why for why, names in MODULES.items() for name in names}
CALL_OF = {name: why for why, names in CALLS.items() for name in names}


def lint(files: Mapping[str, bytes], before: Mapping[str, bytes] | None = None) -> list[str]:
    """One sentence for each remark on Python files, those alone that `before` hasn't just so."""
    found = []
    for name, content in sorted(files.items()):
        if name.endswith(".py") and (before or {}).get(name) != content:
            found += [f"{name}:{line}: {words}" for line, words in sorted(set(_remarks(content)))]
    return found


def _remarks(content: bytes) -> Iterator[tuple[int, str]]:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError) as e:
        yield getattr(e, "lineno", None) or 1, f"this is not Python: {getattr(e, 'msg', None) or e}"
        return
    names = _Names()
    for node in ast.walk(tree):
        yield from names.imported(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (why := CALL_OF.get(called := names.dotted(node.func))):
            yield node.lineno, f"{called}(): {why}"


@dataclass
class _Names:
    """What names stand for, as far as import statements tell."""

    of: dict[str, str] = field(default_factory=dict)

    def imported(self, node: ast.AST) -> Iterator[tuple[int, str]]:
        """Learns an import, and remarks on it."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                self.of[alias.asname or alias.name.partition(".")[0]] = \
                    alias.name if alias.asname else alias.name.partition(".")[0]
                yield from _module(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            for alias in node.names:
                self.of[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            yield from _module(node.module, node.lineno)

    def dotted(self, node: ast.expr) -> str:
        """A name such as numpy.random.seed, by whatever alias; "" for anything else."""
        if isinstance(node, ast.Name):
            return self.of.get(node.id, node.id)
        if isinstance(node, ast.Attribute) and (owner := self.dotted(node.value)):
            return f"{owner}.{node.attr}"
        return ""


def _module(name: str, line: int) -> Iterator[tuple[int, str]]:
    package = name.partition(".")[0]
    if package not in MATHS:
        yield line, f"imports {package}: {MODULE_OF.get(package, FRAMEWORK)}"
