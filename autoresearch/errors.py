"""Errors for people: what was received, what is allowed, what to do next. The CLI prints them without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something a person can mend. `message` says what is wrong, `hint` what to do next. Exit code 1."""

    exit_code = 1

    def __init__(self, message: str, hint: str = ""):
        self.message, self.hint = message, hint
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(UserError):
    """A command line that can't be meant. Exit code 2."""

    exit_code = 2
