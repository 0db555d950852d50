"""`ar`, killed at a named point of its study's life: python -m tests.chaos.doomed POINT NTH COMMAND..."""

from __future__ import annotations

import sys

from autoresearch.cli import main
from tests.chaos import points

if __name__ == "__main__":
    points.arm(sys.argv[1], int(sys.argv[2]))
    sys.argv = ["autoresearch", *sys.argv[3:]]
    main()
