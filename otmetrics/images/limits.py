"""What files say of themselves is a claim: limits on what is taken from them.

A few bytes can claim terabytes, or unpack to them. Each limit is far beyond ordinary files, and is
checked before the memory is taken. Read them as `limits.NAME`, so that there is one of each.
"""

import errno
import os
import re
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from otmetrics.errors import DataError

# Images.
MAX_PIXELS = 2**27  # that are decoded: 400 MB as RGB
MAX_SIDE = 2**16  # what shrinks a side takes memory for each of its pixels
MAX_CHUNKS = 2**18  # of a PNG: chunks of 2 kB make the largest file that is read
MAX_MEMBER_BYTES = 2**29  # of an image file, also inside an archive or next to a table

# Folders, lists and patterns.
MAX_REVISITS = 1000  # folders that are reached again: links to links make billions of paths
MAX_LIST_BYTES = 2**29  # of a text file of paths
MAX_LINE = 2**16  # characters of a line in it
MAX_SHARDS = 100_000  # names that one pattern such as `{000..012}` stands for

# Headers and directories, which readers take whole.
MAX_ZIP_DIRECTORY_BYTES = 2**28  # of some two million images
MAX_NPZ_DIRECTORY_BYTES = 2**22
MAX_TAR_HEADER_BYTES = 2**16  # of one member: names, times and rights
MAX_TAR_PADDING_BYTES = 2**20  # zeros after the end; tar itself pads to 10 kB, with -b to 1 MB
MAX_NPY_HEADER_BYTES = 2**16
MAX_FOOTER_BYTES = 2**28  # of a parquet file
MAX_JSON_BYTES = 2**26  # of a data set

# Arrays and tables.
MAX_ROWS = 2**24  # images: what compresses well may claim any number
MAX_LABEL_BYTES = 2**28  # of the classes of all rows
MAX_PROTOCOL_BYTES = 2**26  # of the record of how features were made
MAPPED_BYTES = 2**26  # an array that unpacks to more is a mapped file, not memory
MAX_UNPACKED_BYTES = 2**35  # of an array, in memory or on disk: 34 GB
FREE_BYTES = 2**28  # may unpack from any number of bytes: constant features do compress
MAX_PICKLE_BYTES = 2**31  # of arrays and all else: 200 000 features of 2048 dimensions
MAX_PICKLE_STEPS = 2**20  # each may make a container of 64 bytes; an array takes some fifteen
MAX_EXPANSION = 100  # times their size in the file, what more bytes may unpack to


def check_expansion(name: str, unpacked: int, packed: int) -> None:
    """Refuse `name` where it claims to unpack to far more than the `packed` bytes of the file."""
    if unpacked > max(FREE_BYTES, MAX_EXPANSION * packed):
        raise DataError(
            f"has `{name}` of {unpacked} bytes in {packed}, more than {MAX_EXPANSION} times as "
            "many: save it uncompressed."
        )


def check_rows(rows: int) -> None:
    """Refuse more images than an array or table may hold."""
    if rows > MAX_ROWS:
        raise DataError(f"holds {rows} images, more than the {MAX_ROWS} that are read: split it.")


class BoundedFile:
    """A file for readers that ask for as many bytes as a header claims: above `most` it raises."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._most = file, most
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self.close = file.close

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, or all that follow where it is negative."""
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


class TarHeaders(BoundedFile):
    """A tar archive for tarfile, which reads as much as a header says and parses it as it comes."""

    _ended = False  # a block of zeros was read, which marks the end and has no place elsewhere

    def read(self, size: int = -1) -> bytes:
        """Read a header, or what belongs to one."""
        if size < 0:
            raise DataError("is damaged: a header has a negative size")
        content = super().read(size)

        # tarfile also reads single bytes, to see whether they are there.
        if size >= 512:
            if self._ended:
                raise DataError("is incomplete or damaged: a header is full of zeros")
            self._ended = any(not any(content[at : at + 512]) for at in range(0, size, 512))

        # The patterns by which tarfile parses numbers take time in the square of their length.
        if re.search(rb"\d{1000}", content):
            raise DataError("is damaged: a header is full of digits")
        return content


def room_for(size: int) -> np.ndarray:
    """uint8 (size,), values not set: from `MAPPED_BYTES` on a mapped file without a name."""
    if size > MAX_UNPACKED_BYTES:
        raise DataError(
            f"unpacks to {size} bytes, more than the {MAX_UNPACKED_BYTES} that are unpacked: save "
            "it with np.save as a .npy file, which is read in place."
        )
    if size < MAPPED_BYTES:
        return np.empty(size, np.uint8)

    folder = "the folder of temporary files"
    try:
        folder = f"`{tempfile.gettempdir()}`"
        return mapped_file(size)
    except OSError as error:
        raise DataError(
            f"unpacks to {size / 1e6:.0f} MB, for which {folder} {lacks_room(error)}: set TMPDIR "
            "to another folder, or save it with np.save as a .npy file."
        ) from error


def mapped_file(size: int, folder: Path | None = None) -> np.ndarray:
    """uint8 (size,) in a file without a name, mapped; OSError where the folder has no room."""
    with tempfile.TemporaryFile(dir=folder) as file:
        # A full disk is told now. Without this the first write to a page would be a signal.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, np.uint8, "w+", shape=(size,))


def lacks_room(error: OSError) -> str:
    """Why a folder does not take a large file: it need not be a full disk."""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return f"{'has no room' if full else 'takes no file'} ({error.strerror or error})"
