"""What reaches the terminal: one line at a time, with nothing in it that is another's."""

import errno
import io
import os
import sys
import warnings
from contextlib import suppress
from typing import Any

import click

from otmetrics.errors import DataError, printable

NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class _Lossy(io.FileIO):
    """A stream whose reader may be gone or full: what is told next to the results is then lost."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            # All of it counts as written: a buffer would keep the rest and try again.
            return len(data)


def prepare() -> None:
    """Make the streams such that telling something is never what goes wrong."""
    gone = sys.stdout is None
    # A file opened under the number of a closed stream would get its text: none may be free.
    while (spare := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(spare)

    # A stream that another program has put there stays as it is.
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        encoding = getattr(sys.stderr, "encoding", "utf-8")
        errors = io.BufferedWriter(_Lossy(2, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(errors, encoding, line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without an arrow in its encoding must not end the run.
            stream.reconfigure(errors="replace")

    warnings.formatwarning = _on_one_line
    if gone:
        raise DataError("the standard output is closed: send it to a file, or to /dev/null.")


def echo(line: str, *, err: bool = False) -> None:
    """Print one line, with control characters as escapes; a name in it cannot begin another."""
    echo_text(printable(line), err=err)


def echo_text(text: str, *, err: bool = False) -> None:
    """Print lines that hold nothing of anybody else, or only what is escaped."""
    try:
        click.echo(text, err=err)
    except OSError as error:
        # `main` tells of a full disk, wherever it is met.
        if error.errno in NO_ROOM:
            raise
        give_up_stdout()
        if isinstance(error, BrokenPipeError):  # the reader has all that it wants
            raise click.exceptions.Exit(0) from error
        reason = error.strerror or error
        raise DataError(f"the output cannot be written ({reason}): send it elsewhere.") from error


def give_up_stdout() -> None:
    """Keep Python from complaining about stdout at exit."""
    with suppress(OSError):  # none of the system's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _on_one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning of Python, which may hold names of files."""
    # Tools that read stderr by lines take each line for a message of its own.
    text = " ".join(str(message).split())
    return printable(f"warning: {text} ({category.__name__}, {filename}:{lineno})") + "\n"
