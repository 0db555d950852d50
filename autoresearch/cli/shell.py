"""The command group and what stands around every command: lazy verbs, and errors as sentences.

    Verbs     a click group that imports a verb's module when the verb is called; `ar` is one, and `ar data`
    command   the group
    run       one command to an exit code: 0 done, 1 failed, 2 a command line that can't be meant
"""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import os
import sqlite3
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import click

import autoresearch
from autoresearch.cli import VERBS
from autoresearch.errors import UserError

DEBUG = "AUTORESEARCH_DEBUG"  # set: unexpected errors show their traceback
OS_HINTS = {
    errno.ENOSPC: "The disk is full: free some space and run the same command again.",
    errno.EDQUOT: "Your disk quota is used up: free some space and run the same command again.",
    errno.EROFS: "That file system is read-only: choose a folder that can be written, or remount it.",
    errno.EACCES: "You may not do that to this file: check its owner and permissions.",
    errno.EPERM: "You may not do that to this file: check its owner and permissions.",
    errno.ENOENT: "There is no such file: check the path.",
    errno.EISDIR: "That is a folder where a file is wanted: check the path.",
    errno.ENOTDIR: "That is a file where a folder is wanted: check the path.",
    errno.ENAMETOOLONG: "That name is too long for the file system: choose a shorter one.",
    errno.EMFILE: "Too many files are open: raise the limit (`ulimit -n 4096`) and try again.",
    errno.ENOMEM: "Memory ran out: close other programs, or use a smaller recipe.",
}


class Verbs(click.Group):
    """Verbs come from a table; a verb's module, `prefix` and its name, is imported only when it is the one called."""

    def __init__(self, *args: Any, verbs: Mapping[str, str] = VERBS, prefix: str = "", **settings: Any):
        self.verbs, self.prefix = verbs, prefix
        super().__init__(*args, **settings)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.verbs:
            return None
        return load(self.prefix + cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        verb = args[0]
        if verb not in self.verbs and not verb.startswith("-"):
            near = difflib.get_close_matches(verb.lower(), self.verbs, n=1, cutoff=0.5)
            guess = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(self.verbs)}"
            raise click.UsageError(f"no command {verb!r}; {guess}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.verbs.items()))


def load(verb: str) -> click.Command:
    """The verb's command, its module imported (`try` is a keyword, so its module is try_)."""
    module = importlib.import_module(f"autoresearch.cli.{'try_' if verb == 'try' else verb}")
    command = module.command
    assert isinstance(command, click.Command), f"autoresearch.cli.{verb}.command must be a click command"
    return command


@click.command(
    cls=Verbs, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Run `ar COMMAND --help` for what a command takes, with an example.",
)
@click.version_option(autoresearch.__version__, prog_name="autoresearch", message="%(prog)s %(version)s")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Improve a small language model overnight, on the computer you already own.

    \b
    Example:
      ar prepare --text book.txt      your own text, or `stdlib`
      ar loop --until 07:30           go to bed
      ar report                       read what it found
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(target: click.Command, args: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs a click command to its exit code, with every error said in sentences on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path that isn't UTF-8 must not end a command
            stream.reconfigure(errors="backslashreplace")
    try:
        result = target.main(args=None if args is None else list(args), prog_name=prog, standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as ended:
        return _status(ended.code)
    except BrokenPipeError:
        return _reader_gone()
    except (click.Abort, KeyboardInterrupt):
        return _say("stopped")
    except click.UsageError as error:
        return _say_usage(error)
    except click.ClickException as error:
        return _say(f"error: {error.format_message()}", code=error.exit_code)
    except UserError as error:
        return _say(f"error: {error.message}", error.hint, error.exit_code)
    except Exception as error:  # whatever it is, a person gets sentences and the way to the details
        return _unexpected(error)
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _say(message: str, hint: str = "", code: int = 1) -> int:
    """Prints a message with its hint indented below it; returns the exit code."""
    print(message + ("\n" + textwrap.indent(hint, "  ") if hint else ""), file=sys.stderr)
    return code


def _say_usage(error: click.UsageError) -> int:
    message = error.format_message()
    message = message[:1].lower() + message[1:].removesuffix(".")
    path = error.ctx.command_path if error.ctx else ""
    return _say(f"error: {message}", f"`{path} --help` says what it takes." if path else "", 2)


def _status(code: object) -> int:
    """The exit code that sys.exit(code) stands for."""
    if code is None or isinstance(code, int):
        return code or 0
    return _say(f"error: {code}")


def _reader_gone() -> int:
    """Whoever read our output has left (`ar log | head -1`): nothing more to say, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _unexpected(error: Exception) -> int:
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
        return 1
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        hint = OS_HINTS.get(error.errno or 0) or _details(error)
        return _say(f"error: {error.strerror.lower()}{where}", hint)
    if isinstance(error, MemoryError):
        return _say("error: memory ran out", OS_HINTS[errno.ENOMEM])
    if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
        return _say(f"error: the ledger can't be written: {error}", OS_HINTS[errno.ENOSPC])
    return _say(f"error: something unexpected happened: {type(error).__name__}: {_first_line(error)}", _details(error))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "(no message)"


def _details(error: Exception) -> str:
    """Writes the traceback where it can be found and says where."""
    again = f"Run it again with {DEBUG}=1 to see the details here."
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="autoresearch-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(f"autoresearch {autoresearch.__version__}, Python {sys.version}, {sys.platform}\n{sys.argv}\n\n")
            file.writelines(traceback.format_exception(error))
    except OSError:
        return again
    return f"This looks like a fault in autoresearch, not in what you typed. The details are in {file.name}.\n{again}"
