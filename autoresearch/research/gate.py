"""The gate: what a candidate's commit must be before anything of it runs."""

from __future__ import annotations

import re

from backends.recipe import Recipe, edit, parse

MAX_BYTES = 1 << 20  # of all files together: what is written into code was learnt outside of the budget
MAX_RECIPE_BYTES = 1 << 14  # a process is handed it on its command line, where Linux allows 128 KiB
RECIPE = "recipe.toml"
MAX_WORDS = 1000


class Refused(Exception):
    """The commit broke a rule; the verdict is `invalid` and the message says which rule."""


def check(changed: list[tuple[str, str]], files: dict[str, bytes], folder: str, tokenizers: list[str]) -> Recipe:
    """The candidate's recipe. `changed` are (mode, path) of the diff against the parent, mode "000000" for a
    deletion; `files` the candidate's files by path below `folder`. Raises Refused."""
    for mode, path in changed:
        if not path.startswith(folder + "/"):
            raise Refused(f"{path}: only files in {folder}/ may change")
        if mode not in ("100644", "000000"):
            raise Refused(f"{path}: must be a regular file that is not executable, its mode is {mode}")
    _check_files(files, folder)
    if RECIPE not in files:
        raise Refused(f"{folder}/{RECIPE} is missing")
    if len(files[RECIPE]) > MAX_RECIPE_BYTES:
        raise Refused(f"{folder}/{RECIPE}: {len(files[RECIPE]):,} bytes; at most {MAX_RECIPE_BYTES:,} are allowed")
    text = files[RECIPE].decode("utf-8")
    try:
        recipe = parse(text)
        edit(text, {})  # as it will be, once it is the incumbent's
    except (ValueError, RecursionError) as e:
        raise Refused(f"{folder}/{RECIPE}: {str(e)[:MAX_WORDS]}") from None
    if recipe.data.tokenizer not in tokenizers:
        raise Refused(f"data.tokenizer = {recipe.data.tokenizer!r}: prepared are {', '.join(tokenizers)}")
    return recipe


def _check_files(files: dict[str, bytes], folder: str) -> None:
    """A person can read all of a candidate, and every file system holds its files apart."""
    if (total := sum(map(len, files.values()))) > MAX_BYTES:
        largest = max(files, key=lambda name: len(files[name]))
        raise Refused(f"{folder}: {total:,} bytes in all, most of them in {largest}; at most {MAX_BYTES:,} are allowed")
    folded: dict[str, str] = {}
    for name, content in files.items():
        if not re.fullmatch(r"[A-Za-z0-9_. /-]+", name):
            raise Refused(f"{folder}/{name!a}: names consist of the letters a to z, digits, '_', '-', '.' and spaces")
        if (other := folded.setdefault(name.casefold(), name)) != name:
            raise Refused(f"{folder}/{name} and {other} differ only in case, which not every file system tells apart")
        try:
            readable = "\0" not in content.decode("utf-8")
        except UnicodeDecodeError:
            readable = False
        if not readable:
            raise Refused(f"{folder}/{name} is not UTF-8 text, which all of a candidate must be")
