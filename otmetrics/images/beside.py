"""Files that a table names, which must lie beside it."""

import os
from pathlib import Path
from typing import BinaryIO

from otmetrics.errors import DataError
from otmetrics.images.decode import check_regular
from otmetrics.images.names import MAX_MEMBER_BYTES, check_member


def beside(folder: Path, name: str) -> Path:
    """Find a file that a table names.

    Args:
        folder: Where the table lies.
        name: What it calls the file.

    Returns:
        The file, without links.

    Raises:
        DataError: It lies outside of the folder, also where a link leads there, or is no regular
            file.
    """
    check_member(name, is_link=False)
    file = (folder / name).resolve()
    if folder.resolve() not in file.parents:
        raise DataError(f"holds `{name}`, a link that leads out of it: copy the file there.")
    check_regular(file)
    return file


def bytes_beside(folder: Path, name: str) -> bytes:
    """Read a file that a table names.

    Args:
        folder: Where the table lies.
        name: What it calls the file.

    Returns:
        Its content.

    Raises:
        DataError: As `beside`, or it is larger than `MAX_MEMBER_BYTES`.
    """
    with unblocked(beside(folder, name)) as file:
        if os.fstat(file.fileno()).st_size > MAX_MEMBER_BYTES:
            raise DataError(f"is larger than the {MAX_MEMBER_BYTES} bytes that are read.")
        return file.read(MAX_MEMBER_BYTES)


def unblocked(path: Path) -> BinaryIO:
    """Open a file without waiting for a pipe that took its place meanwhile.

    Args:
        path: The file.

    Returns:
        The file, open for reading.
    """
    return os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")


def one_line(error: Exception) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
