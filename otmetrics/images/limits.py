"""What files say of themselves is a claim: limits on what is taken from them."""

import errno
import os
import re
import tempfile
from typing import BinaryIO

import numpy as np

from otmetrics.errors import DataError

MAX_ROWS = 2**24
"""The most images that an array or a table may hold: what compresses well may claim any number."""

MAX_MEMBER_BYTES = 2**29

MAPPED_BYTES = 2**26
"""From this size on an array is a file that is mapped, not memory."""

MAX_UNPACKED_BYTES = 2**35
"""The largest array that is unpacked, whatever it is packed in: 34 GB of memory or disk."""

MAX_EXPANSION = 100
"""How many times its size in the file what is larger than `FREE_BYTES` may unpack to."""

FREE_BYTES = 2**28


def check_expansion(name: str, unpacked: int, packed: int) -> None:
    """Refuse what claims to unpack to far more than there is.

    Args:
        name: What messages call it.
        unpacked: Bytes that it says it has.
        packed: Bytes that it has in the file.

    Raises:
        DataError: They are more than `FREE_BYTES` and `MAX_EXPANSION` times what is there.
    """
    if unpacked > max(FREE_BYTES, MAX_EXPANSION * packed):
        raise DataError(
            f"has `{name}` of {unpacked} bytes in {packed}, more than {MAX_EXPANSION} times as "
            "many: save it uncompressed."
        )


def check_rows(rows: int) -> None:
    """Refuse more images than an array or table may hold.

    Args:
        rows: How many it says that there are.

    Raises:
        DataError: They are more than `MAX_ROWS`.
    """
    if rows > MAX_ROWS:
        raise DataError(f"holds {rows} images, more than the {MAX_ROWS} that are read: split it.")


def foreign_content(start: bytes) -> str | None:
    """Tell what often lies under the name of a data file without being one.

    Args:
        start: The first bytes of the file, some hundreds.

    Returns:
        What it is and what to do; None where nothing is known of it.
    """
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the file itself: run `git lfs pull` where it comes from."
    if re.match(rb"<(!doctype html|html|head|body)\b", text, re.IGNORECASE):
        return "is an HTML page, what a server sends instead of a file: download it again."
    if re.match(rb"<(\?xml|error)\b", text, re.IGNORECASE):
        return "is an XML text, perhaps the error of a server: download it again."
    return None


class Bounded:
    """A file for readers that ask for as many bytes as a header claims: beyond a limit it raises.

    Args:
        file: The file, open for reading.
        most: The most bytes that one read may ask for.
    """

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._most = file, most
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self.close = file.close

    def read(self, size: int = -1) -> bytes:
        """Read, as a file does.

        Args:
            size: How many bytes; all that follow where it is negative.

        Returns:
            The bytes.

        Raises:
            DataError: They are more than the limit.
        """
        if size < 0:
            here = self.tell()
            size = self.seek(0, os.SEEK_END) - here
            self.seek(here)
        if size > self._most:
            raise DataError(
                f"has a header or directory of {size} bytes, more than the {self._most} that are "
                "read: pack it again."
            )
        return self._file.read(size)


class TarHeaders(Bounded):
    """A tar archive for tarfile, which reads as much as a header says and parses it as it comes."""

    _ended = False  # a block of zeros was read, which marks the end and has no place elsewhere

    def read(self, size: int = -1) -> bytes:
        """Read a header, or what belongs to one."""
        if size < 0:
            raise DataError("is damaged, for a header has a negative size")
        content = super().read(size)
        if size >= 512:  # tarfile reads single bytes, too, to see whether they are there
            if self._ended:
                raise DataError("is incomplete or damaged, for a header is full of zeros")
            self._ended = any(not any(content[at : at + 512]) for at in range(0, size, 512))
        if re.search(rb"\d{1000}", content):  # tarfile's patterns take the square of it
            raise DataError("is damaged, for a header is full of digits")
        return content


def bytes_for(size: int) -> np.ndarray:
    """Make room for an array: from `MAPPED_BYTES` bytes on a file without a name, which is mapped.

    Args:
        size: How many bytes.

    Returns:
        uint8 (size,), whose values are not set.

    Raises:
        DataError: They are more than `MAX_UNPACKED_BYTES`, or the folder of temporary files has no
            room or takes no file.
    """
    if size > MAX_UNPACKED_BYTES:
        raise DataError(
            f"unpacks to {size} bytes, more than the {MAX_UNPACKED_BYTES} that are unpacked: save "
            "it with np.save or np.savez, which is read where it lies."
        )
    if size < MAPPED_BYTES:
        return np.empty(size, np.uint8)
    folder = "the folder of temporary files"
    try:
        folder = f"`{tempfile.gettempdir()}`"
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is told now, not by a signal later
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.uint8, "w+", shape=(size,))
    except OSError as error:
        raise DataError(
            f"unpacks to {size / 1e6:.0f} MB, for which {folder} {lacks_room(error)}: set TMPDIR "
            "to another folder, or save it with np.savez."
        ) from error


def lacks_room(error: OSError) -> str:
    """Say why a folder does not take a large file: not all that goes wrong there is a full disk.

    Args:
        error: What was raised when the file was made.

    Returns:
        What follows the name of the folder in a message.
    """
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return f"{'has no room' if full else 'takes no file'} ({error.strerror or error})"
