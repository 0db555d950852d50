"""What a candidate's process finds around it: its own tree, a bare environment, nothing of the person's."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.data.prepared import Prepared
from autoresearch.harness import assemble, launch
from autoresearch.harness.parent import PARENT
from autoresearch.harness.runner import Runner
from autoresearch.research import gate
from tests.harness.tiny import RECIPE, comes_true, honest, ours_below, tiny_recipe

LOOK = """
import importlib.util, json, os, sys
tree = sys.argv[1]
seen = {
    "environment": dict(os.environ), "path": sys.path, "cwd": os.getcwd(), "argv": sys.argv,
    "files": sorted(os.path.relpath(os.path.join(d, f), tree) for d, _, fs in os.walk(tree) for f in fs),
    "data": importlib.util.find_spec("autoresearch.data") is not None,
    "research": importlib.util.find_spec("autoresearch.research") is not None,
    "descriptors": {n: os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                    if os.path.exists(f"/proc/self/fd/{n}")} if sys.platform == "linux" else {},
}
print("seen:" + json.dumps(seen))
raise LookupError("seen enough")
"""
SECRETS = {"ANTHROPIC_API_KEY": "sk-secret-1", "AWS_SECRET_ACCESS_KEY": "secret-2", "HF_TOKEN": "secret-3",
           "SSH_AUTH_SOCK": "/secret-4", "GITHUB_TOKEN": "secret-5", "PYTHONPATH": "/secret-6",
           "AUTORESEARCH_CACHE": "/secret-7", "PYTHONSTARTUP": "/secret-8"}


@pytest.fixture(scope="module")
def seen(text: Prepared, caches: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What a candidate that looks around has seen, when everything it should not see was there."""
    folder = tmp_path_factory.mktemp("looks")
    files = honest() | {"params.py": LOOK.encode(), "notes/read.me": b"a file of its own"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        patch.setenv("HOME", "/home/somebody")
        outcome = Runner(text, "mlx", caches).train(files, tiny_recipe(), 1, folder, None, 1)
    assert "seen enough" in outcome.reason
    said = next(x for x in (folder / "log.txt").read_text().splitlines() if x.startswith("seen:"))
    return json.loads(said.removeprefix("seen:")) | {"folder": str(folder), "mine": list(files)}


def test_no_secret_and_no_home_is_in_its_environment(seen: dict) -> None:
    environment = seen["environment"]
    assert not environment.keys() & SECRETS.keys()
    assert "secret" not in json.dumps(environment) and "somebody" not in json.dumps(environment)
    assert environment.keys() <= {*launch.PASSED_ON, "TMPDIR", "HOME", "USER", "TORCHINDUCTOR_CACHE_DIR",
                                  "TRITON_CACHE_DIR", "TORCH_WARM_POOL", "OMP_WAIT_POLICY", "MLX_ENABLE_TF32",
                                  "LC_CTYPE", "__CF_USER_TEXT_ENCODING", PARENT}
    assert environment["HOME"] == environment["TMPDIR"] == seen["folder"] + "/tmp"


def test_float32_is_float32_on_every_mac(seen: dict) -> None:
    """As tests/parity asks for it: from the M5 on, Metal would multiply in TF32."""
    assert seen["environment"]["MLX_ENABLE_TF32"] == "0"


def test_its_tree_holds_the_frozen_files_and_the_candidates_and_nothing_else(seen: dict) -> None:
    expected = {*assemble.frozen_files(), *(f"backends/gpt/{name}" for name in seen["mine"])}
    assert set(seen["files"]) == expected
    assert not seen["data"] and not seen["research"]
    assert seen["path"][0] == seen["folder"] + "/tree"
    assert not any("secret" in p or p in ("", ".") for p in seen["path"])


def test_it_works_in_its_own_folder_and_is_not_told_where_the_text_is(seen: dict, text: Prepared) -> None:
    assert seen["cwd"] == seen["folder"] + "/tmp"
    assert str(text.root) not in json.dumps([seen["argv"], seen["environment"], seen["path"]])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_inherits_its_channel_its_ring_and_two_pipes_and_no_file(seen: dict, text: Prepared) -> None:
    kinds = sorted(target.partition(":")[0] for target in seen["descriptors"].values())
    assert [k for k in kinds if k in ("socket", "pipe")] == ["pipe", "pipe", "socket"]
    assert not any(str(text.root) in target for target in seen["descriptors"].values())
    files = {t for t in seen["descriptors"].values() if t.startswith("/") and not t.startswith(("/dev/", "/proc/"))}
    assert {Path(t).name for t in files} <= {"log.txt", "memfd:autoresearch (deleted)"}, files


def test_a_candidate_can_not_replace_what_is_frozen(tmp_path: Path) -> None:
    own = honest() | {"autoresearch/harness/trial.py": b"pwned", "numpy.py": b"pwned"}
    assemble.assemble(tmp_path, own)
    for name, content in assemble.frozen_files().items():
        assert (tmp_path / name).read_bytes() == content
    assert (tmp_path / "backends/gpt/numpy.py").read_bytes() == b"pwned"


@pytest.mark.parametrize("name", ["../spec.py", "/etc/motd", "a/../../base.py", "../../autoresearch/harness/trial.py"])
def test_a_path_that_leads_out_of_the_candidates_folder_is_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="outside"):
        assemble.assemble(tmp_path, honest() | {name: b"pwned"})
    assert not list(tmp_path.rglob("*.py"))


def test_the_digest_of_code_ignores_the_recipe_and_nothing_else() -> None:
    files = honest()
    digest = assemble.code_digest(files)
    assert assemble.code_digest(files | {"recipe.toml": b"other"}) == digest
    for name in files:
        if name != "recipe.toml":
            assert assemble.code_digest(files | {name: files[name] + b"#"}) != digest
    assert assemble.digest({"a": b"bc"}) != assemble.digest({"ab": b"c"})


# The gate

@pytest.mark.parametrize(("changed", "files", "reason"), [
    ([("100644", "autoresearch/harness/scorer.py")], {}, "only files in backends/gpt/ may change"),
    ([("100644", "backends/gptx/a.py")], {}, "only files in backends/gpt/ may change"),
    ([("100644", "backends/spec.py"), ("100644", "backends/gpt/params.py")], {}, "backends/spec.py: only files in"),
    ([("000000", "program.md")], {}, "only files in"),
    ([("100755", "backends/gpt/run.py")], {}, "regular file"),
    ([("120000", "backends/gpt/link.py")], {}, "regular file"),
    ([("160000", "backends/gpt/module")], {}, "regular file"),
    ([], {"big.txt": b"x" * gate.MAX_BYTES}, "bytes in all, most of them in big.txt; at most 1,048,576"),
    ([], {"kernel.so": b"\x7fELF\xff"}, "kernel.so is not UTF-8 text"),
    ([], {"kernel.py": b"a = 1\0"}, "kernel.py is not UTF-8 text"),
    ([], {"MLX_model.py": b""}, "MLX_model.py and mlx_model.py differ only in case"),
    ([], {"m\u043edel.py": b""}, "'m\\u043edel.py': names consist of the letters a to z"),
    ([], {"a\n.py": b""}, "'a\\n.py': names consist of"),
    ([], {"a\udcff.py": b""}, "names consist of"),
    ([], {"recipe.toml": None}, "recipe.toml is missing"),
    ([], {"recipe.toml": b"\xff"}, "not UTF-8"),
    ([], {"recipe.toml": b"[model]\nwidht = 3\n"}, "did you mean model.width?"),
    ([], {"recipe.toml": b"[model]\ndepth = 0\n"}, "model.depth = 0: must be a whole number from 1 to 48"),
    ([], {"recipe.toml": b"a = " + b"9" * 9000}, "not valid TOML"),
    ([], {"recipe.toml": b"[model]\ndepth = 0x" + b"f" * 9000}, "not valid TOML"),
    ([], {"recipe.toml": b"a = " + b"[" * 9000}, "not valid TOML"),
    ([], {"recipe.toml": b"extra.a" + b".a" * 4000 + b" = 1"}, "not valid TOML"),
    ([], {"recipe.toml": b"[data]\ntokenizer = 'bpe-9'\n"}, "data.tokenizer = 'bpe-9': prepared are byte, bpe-512"),
    ([], {"recipe.toml": b"[extra]\n" + b"".join(b"k%d = 1\n" % i for i in range(3000))}, "at most 16,384"),
])
def test_the_gate_names_what_is_wrong(changed: list, files: dict, reason: str) -> None:
    given = {k: v for k, v in (honest() | files).items() if v is not None}
    with pytest.raises(gate.Refused) as refused:
        gate.check(changed, given, "backends/gpt", ["byte", "bpe-512"])
    assert reason in str(refused.value)


@given(st.dictionaries(st.text(max_size=9) | st.just("recipe.toml"), st.binary(max_size=99), max_size=4))
def test_whatever_a_commit_holds_it_passes_the_gate_or_is_refused(files: dict[str, bytes]) -> None:
    said = ""
    try:
        assert gate.check([], files, "backends/gpt", ["byte"]).data.tokenizer == "byte"
    except gate.Refused as refused:
        said = str(refused)
    assert len(said) < 2000


def test_the_gate_lets_an_edit_through_and_returns_its_recipe() -> None:
    changed = [("100644", "backends/gpt/new.py"), ("000000", "backends/gpt/old.py"), ("100644", "backends/gpt/a b/c")]
    assert gate.check(changed, honest(), "backends/gpt", ["byte"]) == tiny_recipe()


def test_the_largest_recipe_that_passes_the_gate_can_be_run(mlx: Runner, tmp_path: Path) -> None:
    """It travels on a command line, which has a limit of its own."""
    entries, text = 0, RECIPE + "[extra]\n"
    while len((text + f'"é{entries:03}"=1\n').encode()) <= gate.MAX_RECIPE_BYTES:
        text, entries = text + f'"é{entries:03}"=1\n', entries + 1
    files = honest() | {"recipe.toml": text.encode()}
    recipe = gate.check([], files, "backends/gpt", ["byte"])
    assert len(recipe.extra) > 1000
    assert mlx.train(files, recipe, 1, tmp_path, None, 1).status == "ok"


# Ends with its supervisor

SUPERVISOR = """
import sys
from pathlib import Path
from autoresearch.data.prepared import load
from autoresearch.harness.runner import Runner
from tests.harness.tiny import LOGITS, honest, tiny_recipe, with_code
what, text, folder = sys.argv[1:]
runner = Runner(load(text), "mlx", Path(folder) / "compiled")
run = runner.train(honest(), tiny_recipe(), 1, Path(folder), 60.0 if what == "train" else None,
                   None if what == "train" else 1)
slow = with_code(LOGITS, "time.sleep(60)")
runner.score(slow, tiny_recipe(), Path(folder) / "scored", run.weights, "val", None)
"""


def modules_of(processes: list[psutil.Process]) -> set[str]:
    """Of the harness: what these processes run, those of them that still live."""
    found = set[str]()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found |= set(re.findall(r"\bautoresearch\.harness\.(\w+)", " ".join(process.cmdline())))
    return found


@pytest.mark.parametrize(("what", "modules"), [("train", {"feeder", "trial"}), ("score", {"scorer", "logits_server"})])
def test_every_process_ends_with_a_supervisor_that_is_killed(what: str, modules: set[str], text: Prepared,
                                                             tmp_path: Path) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, what, str(text.root), str(tmp_path)],
                                  cwd=Path(__file__).parents[2])
    children = list[psutil.Process]()

    def works() -> bool:
        children[:] = psutil.Process(supervisor.pid).children(recursive=True)
        return modules <= modules_of(children)

    try:
        assert comes_true(works, 20) and supervisor.poll() is None
    finally:
        supervisor.kill()
        supervisor.wait()
    assert comes_true(lambda: not modules_of([*children, *ours_below(tmp_path), *ours_below(text.root)]), 5)


def test_a_process_whose_parent_is_gone_before_it_looks_ends(tmp_path: Path) -> None:
    """The kernel tells nobody of a death that came before it was asked to."""
    code = ("import sys; from autoresearch.harness.parent import end_with_parent; end_with_parent(); "
            "open(sys.argv[1], 'w').close()")
    for parent, lives in ((os.getpid(), True), (2**22 + 1, False)):
        there = tmp_path / str(parent)
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), PARENT: str(parent)}
        done = subprocess.run([sys.executable, "-c", code, str(there)], env=environment)
        assert (there.exists(), done.returncode) == (lives, 0 if lives else 1)
