"""What keeping a score honest costs: gate, lint, sandbox, the way logits travel, and the replay audit, set against an
experiment of 300 s.

    python -m benchmarks.sandbox_cost                       the parts that need no model
    python -m benchmarks.sandbox_cost --backend cpu         and the rest, with the clone's recipe on the text in use
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from autoresearch.cli.machine import candidate_files
from autoresearch.data import prepared
from autoresearch.harness import assemble, caches, sandbox, seal, watch
from autoresearch.harness.channel import map_array, shared_buffer
from autoresearch.harness.family import Family
from autoresearch.harness.runner import Runner
from autoresearch.paths import CANDIDATE
from autoresearch.research import gate
from autoresearch.research.lab import scoring_seconds
from autoresearch.research.lint import lint
from backends.recipe import parse

ENTER = ("import sys, time\nfrom autoresearch.harness import confine\nbegan = time.perf_counter()\n"
         "confine.enter(sys.argv[1])\nprint(time.perf_counter() - began)")
IMPORT = "import time\nbegan = time.perf_counter()\nfrom autoresearch.harness import confine\n" \
         "print(time.perf_counter() - began)"
CACHE_FILES, CACHE_FILE_BYTES = 250, 40_000  # what a compiled step of depth 4 leaves on a CPU: 9 MB
BUDGET_S = 300.0
BATCH_SHAPE = (8, 1024, 2048)  # of logits: 64 MiB
PROCESSES = 2  # of a candidate's, in every experiment: a trial and a logits server


def child_ms(code: str, *arguments: str) -> float:
    """Median of what a fresh interpreter says it took."""
    whole = f"import sys; sys.path.insert(0, {str(assemble.PACKAGE)!r})\n{code}"
    taken = [float(subprocess.run([sys.executable, "-I", "-c", whole, *arguments], capture_output=True, check=True,
                                  text=True).stdout) for _ in range(15)]
    return 1e3 * statistics.median(taken)


def cpu_ms(call: Callable[[], object], times: int) -> float:
    """CPU time of one call: other programs can't stretch it."""
    began = time.process_time()
    for _ in range(times):
        call()
    return 1e3 * (time.process_time() - began) / times


def tell(what: str, ms: float, per_experiment: float, note: str = "") -> float:
    """Its share of an experiment, in percent, where it happens so many times in one."""
    percent = ms * per_experiment / 10 / BUDGET_S
    print(f"{what:<34}{ms:10.2f} ms  x {per_experiment:<7.4g}{percent:8.4f} %  {note}")
    return percent


def before_it_runs(folder: Path) -> float:
    files = candidate_files(assemble.PACKAGE / CANDIDATE)
    changed = [("100644", f"{CANDIDATE}/{name}") for name in files]
    tokenizers = [parse(files[gate.RECIPE].decode()).data.tokenizer]
    total = tell("gate", cpu_ms(lambda: gate.check(changed, files, CANDIDATE, tokenizers), 20), 1)
    total += tell("lint", cpu_ms(lambda: lint(files), 20), 1)
    total += tell("seal (digest of the program)", cpu_ms(assemble.program_digest, 20), 2)
    walls = sandbox.walls([folder], folder).dump()
    total += tell("import of the sandbox in a child", child_ms(IMPORT), PROCESSES)
    total += tell("behind the walls", child_ms(ENTER, walls), PROCESSES)
    for i in range(CACHE_FILES):
        (folder / "kept" / str(i % 20)).mkdir(parents=True, exist_ok=True)
        (folder / "kept" / str(i % 20) / f"{i}.so").write_bytes(os.urandom(CACHE_FILE_BYTES))
    began = time.perf_counter()
    caches.copy(folder / "kept", folder / "own")
    return total + tell("copy of a compile cache", 1e3 * (time.perf_counter() - began), 1, "before the clock")


def while_it_runs() -> float:
    processes = len([p for p in os.listdir("/proc") if p.isdigit()])
    own = Family(os.getpgrp())
    look_ms = cpu_ms(lambda: watch.used(own), 50)
    return tell("a look of the watchdog", look_ms, BUDGET_S / watch.LOOK_EVERY_S, f"CPU, among {processes} processes")


def transport_ms() -> float:
    """Of 64 MiB of logits over shared memory: NaN before, a copy after. Writing them is part of computing them."""
    fd = shared_buffer(4 * int(np.prod(BATCH_SHAPE)))
    shared = map_array(fd, BATCH_SHAPE, np.float32)
    os.close(fd)

    def there_and_back() -> None:
        shared[:] = np.nan
        shared.copy()

    there_and_back()
    return cpu_ms(there_and_back, 10)


def scoring(backend: str, folder: Path) -> float:
    """Transport and audit of a score that takes as long as a study allows."""
    found = prepared.current()
    files = candidate_files(assemble.PACKAGE / CANDIDATE)
    recipe = parse(files[gate.RECIPE].decode())
    runner = Runner(found, backend, folder / "compiled")
    outcome = runner.train(files, recipe, 1, folder / "trial", None, steps=2)
    if outcome.weights is None:
        raise SystemExit(f"{outcome.status}: {outcome.reason}")
    began = time.perf_counter()
    score = runner.score(files, recipe, folder / "trial", outcome.weights, "val", None, scoring_seconds(BUDGET_S))
    scored_s, began = time.perf_counter() - began, time.perf_counter()
    runner.audit(files, recipe, folder / "trial", outcome.weights, "val", score.rows, outcome.facts["precision"])
    audited_s = time.perf_counter() - began
    seal_ms = cpu_ms(lambda: seal.seal("", found, recipe.data.tokenizer), 5)
    print(f"scoring {score.rows} rows took {scored_s:.1f} s, their audit {audited_s:.1f} s; a seal {seal_ms:.1f} ms")
    logits_bytes = 4 * score.tokens * found.tokenizer(recipe.data.tokenizer).vocab
    total = tell("64 MiB of logits to the scorer", transport_ms(), logits_bytes / (4 * np.prod(BATCH_SHAPE)))
    tell("audit of a trial that counts", 1e3 * audited_s, 1, "of the 300 s of that trial")
    return total + tell("  over all experiments", 1e3 * audited_s, 0.2, "if one in five would be kept")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("cpu", "cuda", "mlx"))
    backend = parser.parse_args().backend
    with tempfile.TemporaryDirectory() as name:
        total = before_it_runs(Path(name)) + while_it_runs()
        total += scoring(backend, Path(name)) if backend else 0.0
    print(f"together {total:.3f} % of {BUDGET_S:.0f} s" + ("" if backend else ", without transport and audit"))


if __name__ == "__main__":
    main()
