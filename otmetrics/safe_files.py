"""Files that appear whole or not at all, and that are never written through somebody's link."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from otmetrics.errors import Argument, DataError


@contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file for writing that takes the place of `path` once all of it is written.

    Where writing fails, the former file is still there. If `path` is a link, the link is replaced
    and what it points to stays. Devices, pipes and sockets are never replaced.
    """
    check_replaceable(path)

    # A name that nobody can guess, and O_EXCL, which follows no link: a link or file that waits
    # there is never written through. The mode leaves the rights to the user's umask, as `open`.
    partial = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(partial, flags, 0o666), "wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def check_replaceable(path: Path) -> None:
    """Raise an OSError where a folder, device, pipe or socket, or a link to one, would be replaced.

    So would links by which the system names open files, such as /dev/stdout.
    """
    special = path.exists() and not path.is_file()
    if special or (path.is_symlink() and str(path.readlink()).startswith(("/proc/", "/dev/"))):
        raise OSError(errno.EINVAL, "is not a regular file", str(path))


def check_target(path: Path, suffixes: tuple[str, ...], *, overwrite: bool = False) -> None:
    """Raise where a file cannot be written, before anybody waits for it in vain."""
    if path.suffix.lower() not in suffixes:
        raise DataError(f"`{path}` must end in {suffixes[0]}.")
    if not path.parent.is_dir():
        raise DataError(f"`{path.parent}` is not a folder: create it first.")
    # A link that leads nowhere is something too.
    if os.path.lexists(path) and not overwrite:
        raise DataError(
            f"`{path}` exists: choose another name, or pass ", Argument("overwrite"), "."
        )

    # A folder, device or pipe of that name: no other place, but a file, is what helps.
    with writing(path, "name a file"):
        check_replaceable(path)
    # A file that is write-protected stays, though its folder would let it be replaced.
    if not all(os.access(one, os.W_OK) for one in (path.parent, path) if one.exists()):
        raise DataError(f"`{path}` cannot be written: check its permissions, and its folder's.")


@contextmanager
def writing(path: Path, remedy: str = "choose another place") -> Iterator[None]:
    """Tell errors of the system as a DataError that names the file and what the user can do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"`{path}` cannot be written ({reason}): {remedy}.") from error


def user_path(text: str | Path) -> Path:
    """Read a path as a shell does, whose `~` is somebody's folder, where there is one."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)
