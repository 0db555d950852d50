"""`ar dashboard`: a study as a page in the browser."""

from __future__ import annotations

import contextlib
import os
import threading
import webbrowser
from typing import TYPE_CHECKING

import click

from autoresearch import paths
from autoresearch.errors import UserError
from autoresearch.research.study import Study

if TYPE_CHECKING:
    from autoresearch.dashboard.server import Dashboard

PORT = 8765  # where nothing was asked for; another one where it is taken
NICENESS = 10  # whatever trains comes first


@click.command("dashboard")
@click.option("--tag", default=None, help="Which study. Default: the one used last.")
@click.option("--port", type=click.IntRange(1, 65535), default=None,
              help=f"Where to listen.  [default: {PORT}, or any free one]")
@click.option("--open", "opens", is_flag=True, help="Open it in the browser of this machine.")
def command(tag: str | None, port: int | None, opens: bool) -> None:
    """The study as a page in your browser: live, with its queue and your guidance.

    Listens on this machine only, and answers to whoever has the token of the printed address. From another machine:
    `ssh -L 8765:127.0.0.1:8765 HOST`, then open the address there. Ctrl-C ends it and leaves the study alone.

    \b
    Example:
      ar dashboard --open
    """
    with Study.open(paths.clone(), tag, readonly=True) as study:
        server = listening(study, port)
    os.nice(NICENESS)
    click.echo(server.address)
    click.echo("Ctrl-C ends it.", err=True)
    if opens:
        threading.Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    server.stopping.set()
    server.server_close()


def listening(study: Study, port: int | None) -> Dashboard:
    from autoresearch.dashboard.server import Dashboard

    for wanted in [port] if port else [PORT, 0]:
        with contextlib.suppress(OSError):
            return Dashboard(study.clone, study.tag, wanted)
    raise UserError(f"port {port or PORT} can't be listened on", "Something else has it: name another with --port.")
