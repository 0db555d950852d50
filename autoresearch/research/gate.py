"""The gate: what a candidate's commit must be before anything of it runs."""

from __future__ import annotations

from backends.recipe import Recipe, RecipeError, parse

MAX_FILE_BYTES = 1 << 20
MAX_RECIPE_BYTES = 1 << 14  # a process is handed it on its command line, where Linux allows 128 KiB
RECIPE = "recipe.toml"


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
    for name, content in files.items():
        if len(content) > MAX_FILE_BYTES:
            raise Refused(f"{folder}/{name}: {len(content):,} bytes; at most {MAX_FILE_BYTES:,} are allowed")
    if RECIPE not in files:
        raise Refused(f"{folder}/{RECIPE} is missing")
    if len(files[RECIPE]) > MAX_RECIPE_BYTES:
        raise Refused(f"{folder}/{RECIPE}: {len(files[RECIPE]):,} bytes; at most {MAX_RECIPE_BYTES:,} are allowed")
    try:
        recipe = parse(files[RECIPE].decode("utf-8"))
    except UnicodeDecodeError:
        raise Refused(f"{folder}/{RECIPE} is not UTF-8 text") from None
    except RecipeError as e:
        raise Refused(f"{folder}/{RECIPE}: {e}") from None
    if recipe.data.tokenizer not in tokenizers:
        raise Refused(f"data.tokenizer = {recipe.data.tokenizer!r}: prepared are {', '.join(tokenizers)}")
    return recipe
