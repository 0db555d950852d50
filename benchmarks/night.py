"""A short study on one text, from nothing: the table of docs/results.md.

    python -m benchmarks.night --text shakespeare_complete.txt --experiments 12 --budget 30 --ratchet careful

Runs `ar prepare` and `ar loop` in a new clone and a new cache below --folder, then prints what the ledger says as
Markdown. Keep the machine otherwise idle.
"""

from __future__ import annotations

import argparse
import hashlib
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
    folder = options.folder or Path(tempfile.mkdtemp(prefix="night-"))
    clone = folder / "clone"
    clones.fresh(clone)
    cache = clone.parent / "cache"
    began = time.monotonic()
    ar(clone, cache, "prepare", "--text", str(options.text.resolve()), "--name", "night")
    said = ar(clone, cache, "loop", "--experiments", options.experiments, "--budget", options.budget,
              "--ratchet", options.ratchet, "--tag", "night")
    minutes = (time.monotonic() - began) / 60
    text = options.text.read_bytes()
    print(f"text: {options.text.name}, {len(text):,} bytes, sha256 {hashlib.sha256(text).hexdigest()}")
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
          f"{minutes:.0f} minutes in all\n")
    print(table([json.loads(line) for line in ar(clone, cache, "log", "--json", "--tag", "night").splitlines()]))
    print("\n" + ar(clone, cache, "verify", "--tag", "night"))
    print(said)


if __name__ == "__main__":
    main()
