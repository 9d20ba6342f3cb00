"""What tells files apart, so that what was computed of one is never taken for another's."""

import hashlib
import os
import stat
import time
from pathlib import Path

SETTLED_SECONDS = 2.0
"""A file that changed later may change again within one tick of its file system's clock."""

MAX_CONTENT_BYTES = 2**32
"""The largest file that is known by its content; a larger one is not kept in the cache."""

_READ_BYTES = 2**20
_TELLING = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")


def digest(*parts: bytes | str) -> bytes:
    """Hash parts so that no two lists of parts give one hash.

    Args:
        parts: Bytes or text.

    Returns:
        16 bytes, BLAKE2b.
    """
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        hashed.update(len(data).to_bytes(8, "little"))
        hashed.update(data)
    return hashed.digest()


def file_identity(path: Path, content: bool) -> bytes | None:
    """Tell a file from all others.

    Args:
        path: The file.
        content: Read it instead of asking for path, size and times of change. Memory: 1 MB.

    Returns:
        16 bytes; None where it cannot be read, is no regular file or larger than
        `MAX_CONTENT_BYTES`, or changed so recently that its times of change cannot tell it from its
        next state.
    """
    try:
        return _content_of(path) if content else identity_of(path, path.stat())
    except OSError:
        return None


def _content_of(path: Path) -> bytes | None:
    """Hash a file as `digest("content", ...)` does, in parts."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # waits for no pipe
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_CONTENT_BYTES:
            return None
        hashed = hashlib.blake2b(digest_size=16)
        for part in (len("content").to_bytes(8, "little"), b"content"):
            hashed.update(part)
        hashed.update(status.st_size.to_bytes(8, "little"))
        left = status.st_size
        while left and (part := file.read(min(left, _READ_BYTES))):
            hashed.update(part)
            left -= len(part)
        return None if left or file.read(1) else hashed.digest()


def identity_of(path: Path, status: os.stat_result) -> bytes | None:
    """Tell a file from all others by path, size, number, device and times of change.

    The time of its content can be set, as archivers do when they unpack; the time of its record
    (`st_ctime`) cannot, and a file that takes another's place has a number of its own.

    Args:
        path: The file.
        status: Its status, of the moment in which it was opened.

    Returns:
        As `file_identity`.
    """
    if time.time() - max(status.st_mtime, status.st_ctime) < SETTLED_SECONDS:
        return None
    where = os.path.abspath(path)  # noqa: PTH100 - without a question to the file system
    return digest("file", where, *(str(getattr(status, name)) for name in _TELLING))


def same_file(one: os.stat_result, other: os.stat_result) -> bool:
    """Tell whether a file is still the one that it was, and was not written to.

    Args:
        one: Its status.
        other: Its status at another time.

    Returns:
        Whether device, number, size and times of change agree.
    """
    return all(getattr(one, name) == getattr(other, name) for name in _TELLING)
