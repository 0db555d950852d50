"""`python prepare.py`: what `ar prepare` does, for those who look for it here."""

import sys
from importlib.util import find_spec

NEEDS = ("click", "numpy", "tiktoken", "rustbpe")

if __name__ == "__main__":
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        sys.exit(f"prepare.py needs {', '.join(missing)}. Run: make setup && .venv/bin/python prepare.py")
    from autoresearch.cli import run
    from autoresearch.cli.prepare import command

    sys.exit(run(command, sys.argv[1:], "prepare.py"))
