"""What tells files apart, so that what was computed of one is never taken for another's."""

import hashlib
import os
import time
from pathlib import Path

SETTLED_SECONDS = 2.0
"""A file that changed later may change again within one tick of its file system's clock."""


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
        content: Read it instead of asking for path, size and time of change.

    Returns:
        16 bytes; None where it cannot be read, or changed so recently that its time of change
        cannot tell it from its next state.
    """
    try:
        if content:
            return digest("content", path.read_bytes())
        return identity_of(path, path.stat())
    except OSError:
        return None


def identity_of(path: Path, status: os.stat_result) -> bytes | None:
    """Tell a file from all others by path, size and time of change.

    Args:
        path: The file.
        status: Its status, of the moment in which it was opened.

    Returns:
        As `file_identity`.
    """
    if time.time() - status.st_mtime < SETTLED_SECONDS:
        return None
    where = os.path.abspath(path)  # noqa: PTH100 - without a question to the file system
    return digest("file", where, str(status.st_size), str(status.st_mtime_ns))


def same_file(one: os.stat_result, other: os.stat_result) -> bool:
    """Tell whether a file is still the one that it was, and was not written to.

    Args:
        one: Its status.
        other: Its status at another time.

    Returns:
        Whether device, number, size and time of change agree.
    """
    names = ("st_dev", "st_ino", "st_size", "st_mtime_ns")
    return all(getattr(one, name) == getattr(other, name) for name in names)
