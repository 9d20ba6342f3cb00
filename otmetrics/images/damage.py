"""What may be wrong with any file, and how it is told: by name, reason and remedy, on one line."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from otmetrics.errors import DataError


class ReplacedError(DataError):
    """A file that is no longer the one that was opened: none of it is a file to leave out."""


@contextmanager
def name_errors(path: str | Path, damage: str, remedy: str) -> Iterator[None]:
    """Tell whatever goes wrong as an error of a file: readers raise nearly anything on damage.

    A DataError says the rest of the sentence, with its own remedy where it ends in a full stop.
    """
    try:
        yield
    except Warning:
        raise  # which a filter of the caller raises: it says nothing of damage
    except ReplacedError:
        raise
    except Exception as error:
        raise DataError(explain(error, path, damage, remedy)) from error


def explain(error: Exception, path: str | Path, damage: str, remedy: str) -> str:
    """Say which file is wrong, why, and what to do about it."""
    detail = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, DataError):
        sentence = detail if detail.startswith("`") else f"`{path}` {detail}"
        return sentence if sentence.endswith(".") else f"{sentence}: {remedy}."

    if isinstance(error, OSError) and error.errno:
        name = path if error.filename is None else error.filename
        if isinstance(error, FileNotFoundError):
            return f"`{name}` does not exist: {_advice_on_patterns(str(path))}"
        return f"`{name}` cannot be read ({os.strerror(error.errno)}): check its permissions."
    return f"`{path}` {damage} ({detail}): {remedy}."


def _advice_on_patterns(path: str) -> str:
    """What to do about a path that does not exist; a pattern was perhaps meant for the shell."""
    if any(letter in path for letter in "*?["):
        return "only ranges such as {000..012} are expanded here. Give the folder of the files."
    return "check the path."


def check_regular(path: Path) -> None:
    """Raise unless the path leads to a regular file: opening a pipe would wait for ever."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise DataError("is a folder, not a file: give a file in it.")
    if not stat.S_ISREG(mode):
        raise DataError("is not a regular file but a device, pipe or socket: remove it.")


def open_without_waiting(path: Path) -> BinaryIO:
    """Open a file for reading; a pipe that took its place since would keep `open` waiting."""
    return os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")


def check_start(start: bytes) -> None:
    """Raise where the first bytes are those of what often lies under the name of a data file."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"version https://git-lfs"):
        raise DataError(
            "is a git-lfs pointer, not the file itself: run `git lfs pull` where it comes from."
        )
    if re.match(rb"<(!doctype html|html|head|body)\b", text, re.IGNORECASE):
        raise DataError(
            "is an HTML page, what a server sends instead of a file: download it again."
        )
    if re.match(rb"<(\?xml|error)\b", text, re.IGNORECASE):
        raise DataError("is an XML text, perhaps the error of a server: download it again.")
