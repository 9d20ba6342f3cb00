"""One array out of a `.npy` or `.npz` file, without unpickling anything."""

import json
import math
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from otmetrics.errors import DataError
from otmetrics.images.decode import check_regular

_ENTRIES = ("features", "images", "arr_0")
_LARGE = 2**28  # bytes from which an entry is mapped instead of read
_READ_BYTES = 2**24


class LoadedArray(NamedTuple):
    """The array of a file and what stands beside it.

    Attributes:
        array: The array.
        protocol: How `otmetrics extract` made it; None where the file does not say.
        labels: Class of each row; None where the file does not say.
    """

    array: np.ndarray
    protocol: dict[str, Any] | None = None
    labels: tuple[str, ...] | None = None


def loaded_array(path: Path) -> LoadedArray:
    """Load the array of a file and, from an archive, its protocol.

    Args:
        path: A `.npy` file, which is mapped (copy on write: torch warns of read-only memory), or a
            `.npz` file, whose chosen entry is mapped too where it is large and not compressed, as
            `np.savez` writes it, and else read whole. Either way its checksum is checked.

    Returns:
        The array, and protocol and labels where an archive has them.

    Raises:
        DataError: The file is missing, corrupt, pickled, or an archive without a clear entry.
    """
    try:
        with warnings.catch_warnings():  # a damaged header makes Python's parser warn
            warnings.simplefilter("ignore")
            return _loaded(path)
    except Exception as error:  # numpy and zipfile raise nearly anything on a damaged file
        raise DataError(f"`{path}` {_explained(error)}") from error


def _explained(error: Exception) -> str:
    """Say in one line what is wrong with a file and what to do about it."""
    detail = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, DataError):
        return detail
    if isinstance(error, FileNotFoundError):
        return "does not exist: check the path."
    if isinstance(error, OSError) and error.errno:
        return f"cannot be read ({error.strerror}): check its permissions."
    if "allow_pickle" in detail or "Python objects" in detail:
        return "holds pickled objects or is corrupt: save an array of a plain dtype with np.save."
    return f"is truncated or corrupt ({detail}): write it again."


def _loaded(path: Path) -> LoadedArray:
    """Load a file as what its content says it is."""
    check_regular(path)
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return LoadedArray(np.load(path, mmap_mode="c", allow_pickle=False))
        file.seek(0)  # numpy would leave a corrupt archive open if it opened it itself
        archive = np.load(file, allow_pickle=False)
        entry = _entry(archive.files)
        array = _mapped(path, archive.zip, entry)
        if array is None:
            array = archive[entry]
        if not isinstance(array, np.ndarray):  # numpy hands out the bytes of what is no array
            raise DataError("has an entry that is no array: write it again with np.savez.")
        protocol = _protocol(archive) if "protocol" in archive.files else None
        return LoadedArray(array, protocol, _labels(archive, array))


def _mapped(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray | None:
    """Map an entry of an archive; None where it is small, compressed, or nothing that can be."""
    if f"{name}.npy" not in archive.namelist():
        return None
    info = archive.getinfo(f"{name}.npy")
    if info.file_size < _LARGE or info.compress_type != zipfile.ZIP_STORED:
        return None
    with archive.open(info) as entry:
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        reader = readers.get(np.lib.format.read_magic(entry))
        if reader is None:
            return None
        shape, fortran, dtype = reader(entry)
        start = entry.tell()
        if dtype.hasobject or start + math.prod(shape) * dtype.itemsize != info.file_size:
            return None
        while entry.read(_READ_BYTES):  # to the end, where the checksum is compared
            pass
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        start += info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
    return np.memmap(path, dtype, "c", start, shape, "F" if fortran else "C")


def _entry(names: list[str]) -> str:
    """Choose the entry that holds the images or features."""
    arrays = [name for name in names if name not in {"protocol", "labels"}]
    for name in _ENTRIES:
        if name in arrays:
            return name
    if len(arrays) != 1:
        raise DataError(
            f"has the entries {', '.join(sorted(arrays)) or '(none)'}: "
            "save the one to read as 'features' or 'images'."
        )
    return arrays[0]


def _labels(archive: Any, array: np.ndarray) -> tuple[str, ...] | None:
    """Classes of the rows, where the archive has names or numbers of them."""
    if "labels" not in archive.files:
        return None
    labels = archive["labels"]
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iuUb" or labels.ndim > 2:
        return None
    if labels.ndim == 2 and labels.shape[1] != 1:  # one hot, or several a row
        return None
    if labels.ndim == 0 or array.ndim == 0 or len(labels) != len(array):
        raise DataError(
            f"has `labels` of shape {labels.shape} for an array {array.shape}: give one a row, or "
            "leave them out."
        )
    return tuple(map(str, labels.ravel().tolist()))


def _protocol(archive: Any) -> dict[str, Any]:
    """Parse the protocol of an archive of features."""
    protocol = json.loads(str(archive["protocol"]))
    if not isinstance(protocol, dict):
        raise DataError("has a `protocol` entry that is no JSON object: leave it out.")
    return protocol
