"""Compile caches: what one trial compiles the next of the same code finds, and nothing that it could have learnt."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from autoresearch.harness import assemble, caches
from autoresearch.harness.runner import Runner
from tests.harness.tiny import LOGITS, LOSS, TRAINING, tiny_recipe, with_code

NOTE = "_note = os.environ['TORCHINDUCTOR_CACHE_DIR'] + '/note'\nos.makedirs(os.path.dirname(_note), exist_ok=True)\n"


def test_what_is_compiled_in_the_warm_up_is_kept_and_what_is_written_later_is_not(mlx: Runner, tmp_path: Path) -> None:
    code = (NOTE + "print('found', sorted(os.listdir(os.path.dirname(_note)))) if len(_calls) == 1 else None\n"
            f"open(_note + ('-late' if {TRAINING} else '-early'), 'w').close()")
    files = with_code(LOSS, code)
    for name, found in (("first", "found []"), ("second", "found ['note-early']")):
        assert mlx.train(files, tiny_recipe(), 1, tmp_path / name, None, steps=12).status == "ok"
        assert found in (tmp_path / name / "log.txt").read_text()
    kept = mlx.caches / assemble.code_digest(files)
    assert [p.name for p in kept.rglob("*") if p.is_file()] == ["note-early"]


def test_a_logits_server_tells_the_next_one_nothing(mlx: Runner, trained: object, tmp_path: Path) -> None:
    """Else the one that scores could tell the one that is audited what it was asked."""
    code = ("import tempfile\nfor _d in (tempfile.gettempdir(), os.environ['TORCHINDUCTOR_CACHE_DIR']):\n"
            "    os.makedirs(_d, exist_ok=True)\n    _n = _d + '/asked'\n"
            "    print('told' if os.path.exists(_n) and len(_calls) == 1 else 'alone')\n    open(_n, 'w').close()")
    files = with_code(LOGITS, code)
    score = mlx.score(files, tiny_recipe(), tmp_path, trained.weights, "val", None)
    mlx.audit(files, tiny_recipe(), tmp_path, trained.weights, "val", score.rows, "float32")
    said = (tmp_path / "log.txt").read_text()
    assert "alone" in said and "told" not in said
    assert not (mlx.caches / assemble.code_digest(files)).exists()


@pytest.mark.parametrize("backend", ["cpu"])
@pytest.mark.slow
def test_a_compiled_step_is_found_again_in_the_copy(backend: str, mlx: Runner, tmp_path: Path) -> None:
    runs, recipe = Runner(mlx.prepared, backend, tmp_path / "caches"), tiny_recipe(runtime__compile=True)
    files = with_code(LOSS, "")
    first, second = (runs.train(files, recipe, 1, tmp_path / name, None, steps=3) for name in ("first", "second"))
    assert first.status == second.status == "ok", (first.reason, second.reason)
    assert second.facts["warmup_s"] < 0.7 * first.facts["warmup_s"]
    ours, theirs = (load_file(run.weights) for run in (first, second))
    for name in ours:  # threads add up in an order of their own
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-3, err_msg=name)
    assert list((tmp_path / "caches").glob("headers-*/*.gch")), "and PyTorch's header was made once for both"


def test_only_new_regular_files_are_kept_and_not_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, kept = tmp_path / "own", tmp_path / "kept"
    (own / "a").mkdir(parents=True)
    (kept / "a").mkdir(parents=True)
    (own / "a/new").write_text("new")
    (own / "a/old").write_text("changed")
    (kept / "a/old").write_text("old")
    (tmp_path / "secret").write_text("secret")
    (own / "link").symlink_to(tmp_path / "secret")
    (own / "folder").symlink_to(tmp_path)
    os.mkfifo(own / "pipe")  # which nobody will ever write to
    caches.keep(own, kept)
    assert {str(p.relative_to(kept)): p.read_text() for p in kept.rglob("*") if p.is_file()} == {
        "a/new": "new", "a/old": "old"}
    (own / "b").write_text("b")
    monkeypatch.setattr(caches, "MAX_FILES", 0)
    caches.keep(own, kept)
    assert not (kept / "b").exists()


def secrets(tmp_path: Path) -> Path:
    """A folder that is not the candidate's."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/val.txt").write_text("secret")
    return tmp_path / "data"


def test_a_link_in_the_place_of_what_was_compiled_leads_nowhere(tmp_path: Path) -> None:
    """Else the next process of the same code would read the validation text in its own folder."""
    (tmp_path / "own").symlink_to(secrets(tmp_path))
    caches.keep(tmp_path / "own", tmp_path / "kept")
    caches.keep(tmp_path / "data/val.txt", tmp_path / "kept")
    caches.keep(tmp_path / "nothing", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("name", ["inner", "file"])
def test_what_becomes_a_link_while_it_is_looked_at_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                 name: str) -> None:
    own, elsewhere, opened = tmp_path / "own", secrets(tmp_path), os.open
    (own / "inner").mkdir(parents=True)
    (own / "inner/val.txt").write_text("compiled")
    (own / "file").write_text("compiled")

    def swapped(path: str, flags: int, *more: int, **at: int) -> int:
        if path == name and not (own / name).is_symlink():
            (own / name).rename(tmp_path / "moved")
            (own / name).symlink_to(elsewhere / ("" if name == "inner" else "val.txt"))
        return opened(path, flags, *more, **at)

    monkeypatch.setattr(os, "open", swapped)
    caches.keep(own, tmp_path / "kept")
    kept = {str(p.relative_to(tmp_path / "kept")) for p in (tmp_path / "kept").rglob("*") if p.is_file()}
    assert kept == {"inner/val.txt", "file"} - {"inner/val.txt" if name == "inner" else "file"}
    assert (own / name).is_symlink(), "it was tried"


def test_a_file_that_grows_while_it_is_copied_is_not_kept_nor_any_after_it(tmp_path: Path,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    own, kept, copied = tmp_path / "own", tmp_path / "kept", caches._copy_file
    own.mkdir()
    for name in "abc":
        (own / name).write_bytes(bytes(100))
    asked = list[int]()

    def grown(fd: int, to: Path, most_bytes: int) -> int:
        asked.append(most_bytes)
        if len(asked) == 2:
            os.truncate(own / to.name, 1 << 30)
        return copied(fd, to, most_bytes)

    monkeypatch.setattr(caches, "MAX_BYTES", 1000)
    monkeypatch.setattr(caches, "_copy_file", grown)
    caches.keep(own, kept)
    assert asked == [1000, 900]
    assert [p.stat().st_size for p in kept.iterdir()] == [100]


def test_folders_in_folders_are_looked_into_so_deep_and_no_deeper(tmp_path: Path) -> None:
    """Each costs a descriptor and a frame, of which we have a thousand."""
    deepest = tmp_path.joinpath("own", *"d" * caches.MAX_DEPTH)
    (deepest / "d").mkdir(parents=True)
    (deepest / "kept").write_text("x")
    (deepest / "d/too deep").write_text("x")
    caches.keep(tmp_path / "own", tmp_path / "kept")
    assert [p.name for p in (tmp_path / "kept").rglob("*") if p.is_file()] == ["kept"]


def test_a_candidates_folder_is_below_the_cache_and_named_by_its_code(tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path))
    files = {"model.py": b"x", "recipe.toml": b"a"}
    assert caches.home() == tmp_path / "compiled"
    assert caches.of(files) == caches.home() / assemble.code_digest(files)
    assert caches.of(files | {"recipe.toml": b"b"}, tmp_path / "b") == tmp_path / "b" / caches.of(files).name


def test_what_was_compiled_longest_ago_goes_first_and_what_was_used_today_stays(tmp_path: Path) -> None:
    now = time.time()
    for days, name in ((0.5, "today"), (2, "recent"), (9, "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.so").write_bytes(bytes(100_000))
        os.utime(tmp_path / name, (now - days * 86400,) * 2)
    for most_bytes, stay in ((400_000, {"today", "recent", "old"}), (250_000, {"today", "recent"}), (1, {"today"})):
        caches.trim(tmp_path, most_bytes)
        assert {p.name for p in tmp_path.iterdir()} == stay
    os.utime(tmp_path / "today", (0, 0))
    caches.copy(tmp_path / "today", tmp_path / "own")
    assert (tmp_path / "today").stat().st_mtime > now - 60, "used now"
