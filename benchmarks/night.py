"""A short study on one text, from nothing: the table of docs/results.md.

    python -m benchmarks.night --text shakespeare_complete.txt --experiments 12 --budget 30 --ratchet careful

Runs `ar prepare`, `ar loop` and `ar verify` in a new clone and a new cache below --folder, then prints what the ledger
says as Markdown. `ar loop` would verify by itself; apart from it, how long that takes is known. Keep the machine
otherwise idle.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

from benchmarks import clones
from benchmarks.clones import ar


def table(experiments: list[dict[str, object]]) -> str:
    """One line for each experiment of `ar log --json`."""
    lines = ["| # | change | val_bpb | against its incumbent | steps | tokens/s | verdict |",
             "|--:|---|--:|--:|--:|--:|---|"]
    for e in experiments:
        changes = e["changes"]
        assert isinstance(changes, dict)
        words = ", ".join(f"`{k} = {v}`" for k, v in changes.items()) if e["n"] else "baseline: " + ", ".join(
            f"`{k} = {v}`" for k, v in changes.items())
        numbers = [f"{e[k]:{form}}" if e.get(k) is not None else "" for k, form in (
            ("val_bpb", ".4f"), ("delta_bpb", "+.4f"), ("steps", ",.0f"), ("tokens_per_s", ",.0f"))]
        lines.append(f"| {e['n']} | {words} | {' | '.join(numbers)} | {e['verdict']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--experiments", default="12")
    parser.add_argument("--budget", default="30")
    parser.add_argument("--ratchet", default="careful", help="as ar loop takes it")
    parser.add_argument("--folder", type=Path, default=None, help="default: a new temporary folder, which is kept")
    options = parser.parse_args()
    digest = clones.digest(options.text)
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="night-"))).resolve()
    clone, cache = clones.fresh(folder / "clone"), folder / "cache"
    began = time.monotonic()
    ar(clone, cache, "prepare", "--text", str(options.text.resolve()), "--name", "night")
    said = ar(clone, cache, "loop", "--experiments", options.experiments, "--budget", options.budget,
              "--ratchet", options.ratchet, "--tag", "night", "--verify-seeds", "0")
    searched = time.monotonic()
    verified = ar(clone, cache, "verify", "--tag", "night")
    ended = time.monotonic()
    ar(clone, cache, "report", "--tag", "night")  # the loop's, from before the verification, is out of date
    print(f"text: {options.text.name}, {options.text.stat().st_size:,} bytes, sha256 {digest}")
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
          f"{(ended - began) / 60:.0f} minutes, of which verification took {(ended - searched) / 60:.0f}\n")
    print(table([json.loads(line) for line in ar(clone, cache, "log", "--json", "--tag", "night").splitlines()]))
    print(f"\n{verified}\n{said}")


if __name__ == "__main__":
    main()
