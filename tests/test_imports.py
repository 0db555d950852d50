"""Who may import whom, read from the source of every module, and what a command loads, seen in a fresh process.

The laws behind it: trusted processes never import what a candidate may edit, and no command that
doesn't train loads a framework.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from autoresearch.cli import VERBS

ROOT = Path(__file__).resolve().parents[1]
FRAMEWORKS = {"torch", "mlx"}
# Slow to import: inside functions only.
LAZY = {"pyarrow", "matplotlib", "anthropic", "huggingface_hub", "jinja2", "rich", "optuna", "cmaes"}
CHILD_SIDE = re.compile(r"autoresearch\.harness\.(trial|logits_server|measure|child\w*)(?=\.|$)")
TRUSTED_BACKENDS = {"backends", "backends.base", "backends.host", "backends.recipe", "backends.spec"}
SCHEMA = {"backends", "backends.recipe", "backends.spec"}
CANDIDATE_SHARED = {"backends.gpt", "backends.gpt.params", "backends.gpt.schedule"}


@dataclass(frozen=True)
class Import:
    """One imported module or name, dotted; `top`: it happens when the module is loaded."""

    name: str
    line: int
    top: bool

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, module: str, is_package: bool = False) -> list[Import]:
    """Every import of a source, `if TYPE_CHECKING:` ones excepted: they never run."""
    found: list[Import] = []

    def visit(node: ast.AST, top: bool) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.orelse:
                visit(child, top)
            return
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            anchor = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*anchor, *([node.module] if node.module else [])])
            found.extend(Import(f"{base}.{alias.name}", node.lineno, top) for alias in node.names)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, top and not inside)

    visit(ast.parse(source), True)
    return found


def is_in(name: str, *modules: str) -> bool:
    """Is the dotted name one of the modules, or something inside one?"""
    return any(name == module or name.startswith(module + ".") for module in modules)


def own_module(name: str, modules: set[str]) -> str:
    """The module of ours that an imported dotted name belongs to: `backends.recipe.parse` is backends.recipe."""
    while name not in modules and "." in name:
        name = name.rpartition(".")[0]
    return name


def fault(module: str, imported: Import, modules: set[str]) -> str | None:
    """The rule that an import breaks, or None."""
    target = own_module(imported.name, modules)
    if is_in(imported.name, "benchmarks", "tests"):
        return "nothing imports benchmarks or tests"
    if imported.package in LAZY and imported.top:
        return f"{imported.package} is slow to import: inside the function that needs it"
    if module.startswith("backends"):
        return fault_in_backends(module, imported, target)
    return fault_in_autoresearch(module, imported, target)


def fault_in_backends(module: str, imported: Import, target: str) -> str | None:
    if imported.package == "autoresearch":
        return "backends never import autoresearch"
    framework = next((name for name in FRAMEWORKS if module.rpartition(".")[2].startswith(name + "_")), None)
    if imported.package in FRAMEWORKS - {framework}:
        return "a framework is imported only by its own files"
    if is_in(module, "backends.gpt"):
        allowed = SCHEMA | (CANDIDATE_SHARED if framework else CANDIDATE_SHARED - {module})
        if imported.package == "backends" and target not in allowed:
            return "the candidate imports backends.{recipe, spec} and backends.gpt.{params, schedule} only"
        if imported.package not in {"numpy", "backends", framework, *sys.stdlib_module_names}:
            return "the candidate imports NumPy, its framework and the standard library only"
    elif imported.package != "backends":
        return None
    elif module == "backends" and imported.top:
        return "backends imports a device only when asked for it"
    elif module in TRUSTED_BACKENDS - {"backends"} and target not in TRUSTED_BACKENDS:
        return "what trusted processes import never imports a backend or the candidate"
    return None


def fault_in_autoresearch(module: str, imported: Import, target: str) -> str | None:
    name = imported.name
    if is_in(name, "autoresearch.cli") and not is_in(module, "autoresearch.cli", "autoresearch.__main__", "prepare"):
        return "only the command line imports the command line"
    if is_in(module, "autoresearch.research.researchers") and is_in(name, "autoresearch.harness"):
        return "researchers never import the harness"
    by_pages = is_in(module, "autoresearch.report", "autoresearch.dashboard", "autoresearch.cli")
    if is_in(name, "autoresearch.report") and not by_pages:
        return "only the command line and the dashboard import the report"
    if is_in(name, "autoresearch.research.loop") and not is_in(module, "autoresearch.cli"):
        return "only the command line imports the loop"
    by_runner = is_in(name, "autoresearch.harness.runner", "autoresearch.harness.supervise.TrialFailed")
    if module == "autoresearch.research.loop" and is_in(name, "autoresearch.harness") and not by_runner:
        return "the loop knows the harness by its runner and how a trial fails"
    if CHILD_SIDE.fullmatch(module):
        return None
    if imported.package in FRAMEWORKS:
        return "only the harness's child side imports a framework"
    if CHILD_SIDE.match(name):
        return "trusted processes start the child side, they never import it"
    if imported.package == "backends" and target not in TRUSTED_BACKENDS:
        return "trusted processes import backends.{base, host, recipe, spec} and never the candidate or a device"
    if name == "backends.load":
        return "trusted processes never load a backend"
    return None


def sources() -> list[Path]:
    return sorted([*(ROOT / "backends").rglob("*.py"), *(ROOT / "autoresearch").rglob("*.py"), *ROOT.glob("*.py")])


@pytest.fixture(scope="module")
def modules() -> set[str]:
    return {module_name(path) for path in sources()}


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_a_module_imports_only_what_it_may(path: Path, modules: set[str]) -> None:
    module = module_name(path)
    found = imports_of(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    faults = [(i, fault(module, i, modules)) for i in found]
    assert [f"line {i.line}: {i.name}: {why}" for i, why in faults if why] == []


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_a_function_imports_nothing_from_what_its_module_has_imported(path: Path, modules: set[str]) -> None:
    found = imports_of(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py")
    top = {own_module(i.name, modules) for i in found if i.top}
    assert [f"line {i.line}: {i.name}" for i in found if not i.top and own_module(i.name, modules) in top] == []


def test_no_modules_import_each_other_in_a_circle_in_functions_either(modules: set[str]) -> None:
    """A package and the modules in it are one here."""
    graph = {}
    for path in sources():
        module = module_name(path)
        found = imports_of(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
        names = {own_module(i.name, modules) for i in found} & modules
        graph[module] = {name for name in names if not is_in(name, module) and not is_in(module, name)}
    TopologicalSorter(graph).prepare()  # CycleError names those that do


@pytest.mark.parametrize("path", [p for p in sources() if not module_name(p).startswith("backends")
                                  and not CHILD_SIDE.fullmatch(module_name(p))], ids=module_name)
def test_trusted_modules_never_load_a_backend(path: Path) -> None:
    loads = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(node, ast.Attribute) and node.attr == "load"]
    assert [node.lineno for node in loads if isinstance(node.value, ast.Name) and node.value.id == "backends"] == []


@pytest.mark.parametrize(("module", "source"), [
    ("autoresearch.harness.scorer", "import torch"),
    ("autoresearch.harness.scorer", "def f():\n    import mlx.core as mx"),
    ("autoresearch.harness.scorer", "from backends.gpt import params"),
    ("autoresearch.harness.scorer", "from backends import gpt"),
    ("autoresearch.harness.scorer", "from backends import load"),
    ("autoresearch.harness.scorer", "from backends.torch_backend import TorchBackend"),
    ("autoresearch.harness.scorer", "from . import trial"),
    ("autoresearch.harness.runner", "from autoresearch.harness.logits_server import main"),
    ("autoresearch.research.loop", "from autoresearch.harness import scorer"),
    ("autoresearch.research.researchers.playbook", "from autoresearch.harness.runner import Outcome"),
    ("autoresearch.research.researchers.playbook", "from ...harness import runner"),
    ("autoresearch.models", "from autoresearch.report import words"),
    ("autoresearch.research.adopt", "def f():\n    from autoresearch.research.loop import message"),
    ("autoresearch.data.corpus", "import pyarrow"),
    ("autoresearch.data.corpus", "from autoresearch.cli import run"),
    ("autoresearch.data.corpus", "from tests.conftest import isolated_home"),
    ("backends.recipe", "from autoresearch.errors import UserError"),
    ("backends.spec", "from backends.gpt.params import table"),
    ("backends", "from backends.torch_backend import TorchBackend"),
    ("backends.gpt.params", "import torch"),
    ("backends.gpt.params", "import psutil"),
    ("backends.gpt.torch_model", "import mlx.nn"),
    ("backends.gpt.torch_model", "from backends.torch_backend import TorchBackend"),
    ("backends.gpt.mlx_optim", "from backends.gpt import torch_optim"),
])
def test_a_forbidden_import_is_found(module: str, source: str, modules: set[str]) -> None:
    assert any(fault(module, i, modules | {module}) for i in imports_of(source, module))


@pytest.mark.parametrize(("module", "source"), [
    ("autoresearch.harness.trial", "import torch\nfrom backends.gpt import params\nfrom backends import load"),
    ("autoresearch.harness.scorer", "from backends.recipe import parse\nfrom backends import detect"),
    ("autoresearch.harness.scorer", "if TYPE_CHECKING:\n    from backends.torch_backend import TorchBackend"),
    ("autoresearch.data.corpus", "def f():\n    import pyarrow.parquet"),
    ("backends.gpt.torch_model", "import math, torch\nimport numpy as np\nfrom backends.gpt import params, schedule"),
])
def test_an_allowed_import_is_let_through(module: str, source: str, modules: set[str]) -> None:
    assert not any(fault(module, i, modules | {module}) for i in imports_of(source, module))


def run_fresh(code: str) -> str:
    """What a fresh process writes to `out`."""
    script = f"import sys, io\nout = sys.stdout\nsys.stdout = io.StringIO()\n{code}"
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
                          capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def packages(names: list[str]) -> set[str]:
    """The top-level packages, and modules of ours."""
    return {name.partition(".")[0] for name in names} | {n for n in names if n.startswith(("autoresearch", "backends"))}


def loaded_by(code: str) -> set[str]:
    """In a fresh process, after it ran the code."""
    names = run_fresh(f"{code}\nprint(*sys.modules, file=out)").split()
    assert names
    return packages(names)


def run_ar(*args: str) -> str:
    return (
        f"sys.argv = ['ar', *{args!r}]\nfrom autoresearch.cli import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code, ended.code"
    )


def test_importing_the_package_loads_nothing_else() -> None:
    assert loaded_by("import autoresearch") & {"numpy", "click", "backends", *FRAMEWORKS, *LAZY} == set()


def test_help_loads_no_verb() -> None:
    loaded = loaded_by(run_ar("--help"))
    assert loaded & {"numpy", "backends", *FRAMEWORKS, *LAZY} == set()
    assert {name for name in loaded if name.startswith("autoresearch.cli.")} <= {
        "autoresearch.cli.archiver", "autoresearch.cli.shell"
    }


def test_no_verbs_help_loads_a_framework_or_anything_slow() -> None:
    """All in one process, where a module is the first verb's that loads it."""
    calls = [f"before = set(sys.modules)\n{run_ar(verb, '--help')}\n"
             f"assert 'Usage: ar {verb} ' in sys.stdout.getvalue(), {verb!r}\n"
             f"print({verb!r}, *set(sys.modules) - before, file=out)" for verb in VERBS]
    loaded = {verb: packages(names) for verb, *names in map(str.split, run_fresh("\n".join(calls)).splitlines())}
    assert list(loaded) == list(VERBS)
    forbidden = {*FRAMEWORKS, *LAZY, "backends.gpt"}
    assert {verb: names & forbidden for verb, names in loaded.items() if names & forbidden} == {}


def test_every_trusted_module_loads_without_a_framework_or_the_candidate() -> None:
    names = [module_name(path) for path in sources()]
    trusted = [
        name for name in names
        if name in TRUSTED_BACKENDS or (name.startswith("autoresearch") and not CHILD_SIDE.fullmatch(name))
    ]
    assert len(trusted) > len(VERBS)
    loaded = loaded_by("import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in trusted))
    assert loaded & {*FRAMEWORKS, *LAZY, "backends.gpt", "backends.torch_backend", "backends.mlx_backend"} == set()
    assert not any(CHILD_SIDE.fullmatch(name) for name in loaded)
