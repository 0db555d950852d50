"""A study with its baseline for each backend; every attempt works on a copy of its own, so that a cheat may be kept."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch.data.prepared import Prepared
from tests.cheats.cheats import Ended
from tests.cheats.edits import Edit, write
from tests.harness.tiny import comes_true, ours_below
from tests.loop.conftest import TAG, Place, result_of

Attempt = Callable[..., Ended]


@pytest.fixture(scope="session")
def text(shared_text: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """In a cache of its own: with a layer off, a cheat may write there."""
    cache = tmp_path_factory.mktemp("cheats")
    shutil.copytree(shared_text.root.parent, cache / "data")
    return replace(shared_text, root=cache / "data" / shared_text.name)


@pytest.fixture
def copy_of(shared_study: Callable[[str], Place], text: Prepared, tmp_path: Path) -> Iterator[Callable[[str], Place]]:
    """A copy of a backend's study; no process of it is left afterwards."""
    made: list[Place] = []

    def copied(backend: str) -> Place:
        place = Place(tmp_path / f"clone{len(made)}", text)
        shutil.copytree(shared_study(backend).clone, place.clone, symlinks=True)
        made.append(place)
        return place

    yield copied
    for place in made:
        assert comes_true(lambda root=place.root: not ours_below(root), 3), ours_below(place.root)


@pytest.fixture
def attempt(copy_of: Callable[[str], Place]) -> Attempt:
    """attempt(edit, backend, told, ratchet): an edit tried on a copy of the study; `told` is for layers.main, which
    stands in for `ar` where there is any."""
    def run(edit: Edit, backend: str = "mlx", told: dict | None = None, ratchet: str = "greedy") -> Ended:
        return _tried(copy_of(backend), edit, backend, told, ratchet)

    return run


def _tried(here: Place, edit: Edit, backend: str, told: dict | None, ratchet: str) -> Ended:
    cache_folder = here.text.root.parents[1] / "compiled"
    cache_folder.mkdir(exist_ok=True)
    trials = here.root / "trials"
    files = {"VAL": here.text.root / "val.txt", "MANIFEST": here.text.root / "manifest.json",
             "TOKENIZER": here.text.root / "tokenizer.byte.json", "LEDGER": here.root / "ledger.sqlite",
             "RESULTS": here.root / "results.tsv", "OTHER": trials / "1/weights.safetensors",
             "OTHER_LOG": trials / "1/log.txt"}
    assert all(path.is_file() for path in files.values()), files
    mark = here.clone.parent / f"{here.clone.name}.mark"
    with socket.create_server(("127.0.0.1", 0)) as server:
        given = {name: str(path) for name, path in files.items()} | {
            "CACHE": str(cache_folder), "MARK": str(mark), "PORT": server.getsockname()[1]}
        write(edit, here.worktree / "backends/gpt", backend, here.text, given)
        if told is not None:
            held = {"hold": given[told["hold"]]} if "hold" in told else {}
            here = replace(here, program=("-m", "tests.cheats.layers", json.dumps({"off": [], **told, **held})))
        first = here.experiments()[0].trials[0]
        result = result_of(here.ar("try", "--tag", TAG, "-m", "an edit", "--ratchet", ratchet))
    (cache_folder / "planted").unlink(missing_ok=True)
    leaked = list(cache_folder.rglob(files["VAL"].name))
    for path in leaked:
        shutil.rmtree(path.parent)
    tried = here.last().trials
    said = (trials / str(tried[0].id) / "log.txt").read_text(errors="replace") if tried else ""
    bpb = first.bpb()
    assert bpb is not None
    return Ended(result["verdict"], result["val_bpb"], result["incumbent_bpb"], result["reason"], result["log"], said,
                 tried[0] if tried else None, bpb, os.path.exists(mark), bool(leaked))
