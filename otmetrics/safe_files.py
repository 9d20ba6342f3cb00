"""Files that appear whole or not at all, and that are never written through somebody's link."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from otmetrics.errors import DataError


@contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` once all of it is written.

    The new file lies next to `path` under a name that nobody can guess, and is created exclusively:
    a link or file that waits there is never written through. If `path` itself is a link, the link
    is replaced and what it points to stays. Devices, pipes and sockets are never replaced.

    Args:
        path: The file.

    Yields:
        The new file, open for writing bytes.

    Raises:
        OSError: It cannot be written; the former file is still there.
    """
    check_replaceable(path)
    partial = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.partial")
    # O_EXCL follows no link. The mode leaves the rights to the user's umask, as `open` does.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(partial, flags, 0o666), "wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def check_replaceable(path: Path) -> None:
    """Raise where a file must not take the place of what is there.

    Args:
        path: Where a file shall be written.

    Raises:
        OSError: There is a folder, device, pipe or socket, or a link to one, or one of the links by
            which the system names open files, such as /dev/stdout.
    """
    special = path.exists() and not path.is_file()
    if special or (path.is_symlink() and str(path.readlink()).startswith(("/proc/", "/dev/"))):
        raise OSError(errno.EINVAL, "is no regular file", str(path))


@contextmanager
def writing(path: Path, remedy: str = "choose another place") -> Iterator[None]:
    """Say of errors of the system which file cannot be written.

    Args:
        path: The file.
        remedy: What the user can do.

    Yields:
        Nothing.

    Raises:
        DataError: The system refuses to write.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"`{path}` cannot be written ({reason}): {remedy}.") from error


def user_path(text: str | Path) -> Path:
    """Read a path as a shell does, whose `~` is somebody's folder.

    Args:
        text: The path, as a user gives it.

    Returns:
        The path; as it is where there is no such user, or a user without a folder.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)
