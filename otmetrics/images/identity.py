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
        status = path.stat()
    except OSError:
        return None
    if time.time() - status.st_mtime < SETTLED_SECONDS:
        return None
    where = os.path.abspath(path)  # noqa: PTH100 - without a question to the file system
    return digest("file", where, str(status.st_size), str(status.st_mtime_ns))
