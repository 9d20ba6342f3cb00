"""One array out of a `.npy` or `.npz` file, without unpickling anything."""

import json
import math
import os
import struct
import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, NamedTuple

import numpy as np

from otmetrics.errors import DataError, ignored_warnings
from otmetrics.images.decode import check_regular
from otmetrics.images.identity import identity_of, same_file

_ENTRIES = ("features", "images", "arr_0")
_STATISTICS = (("mu", "sigma"), ("ref_mu", "ref_sigma"))  # pytorch-fid, TTUR, EDM, ADM; JiT
_LARGE = 2**26  # bytes from which an entry is mapped instead of read
_READ_BYTES = 2**24


class LoadedArray(NamedTuple):
    """The array of a file and what stands beside it.

    Attributes:
        array: The array; None where the file holds statistics and no samples.
        protocol: How `otmetrics extract` made it; None where the file does not say.
        labels: Class of each row; None where the file does not say.
        identity: Of the file that was read, as `file_identity` gives it.
        statistics: Mean and covariance of features, where the file holds them, with samples next to
            them or not.
    """

    array: np.ndarray | None
    protocol: dict[str, Any] | None = None
    labels: tuple[str, ...] | None = None
    identity: bytes | None = None
    statistics: tuple[np.ndarray, np.ndarray] | None = None


def loaded_array(path: Path) -> LoadedArray:
    """Load the array of a file and, from an archive, its protocol.

    Args:
        path: A `.npy` file, which is mapped (copy on write: torch warns of read-only memory), or a
            `.npz` file, whose chosen entry is mapped too where it is large and not compressed, as
            `np.savez` writes it, and else read whole. Either way its checksum is checked.

    Returns:
        The array, and protocol, labels and statistics where an archive has them.

    Raises:
        DataError: The file is missing, corrupt, pickled, or an archive without a clear entry.
    """
    try:
        with ignored_warnings():  # a damaged header makes Python's parser warn
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
        status = os.fstat(file.fileno())
        identity = identity_of(path, status)
        if file.read(2) != b"PK":
            found = LoadedArray(np.load(path, mmap_mode="c", allow_pickle=False))
        else:
            file.seek(0)  # numpy would leave a corrupt archive open if it opened it itself
            found = _archived(file)
    if not same_file(path.stat(), status):
        raise DataError("was replaced while it was read: run again.")
    return found._replace(identity=identity)


def _archived(file: BinaryIO) -> LoadedArray:
    """Load the array of an archive."""
    archive = np.load(file, allow_pickle=False)
    pair = next((pair for pair in _STATISTICS if set(pair) <= set(archive.files)), None)
    statistics = None if pair is None else (archive[pair[0]], archive[pair[1]])
    if statistics is not None and not set(_ENTRIES) & set(archive.files):
        return LoadedArray(None, statistics=statistics)
    entry = _entry(archive.files)
    array = _mapped(file, archive.zip, entry)
    if array is None:
        array = archive[entry]
    if not isinstance(array, np.ndarray):  # numpy hands out the bytes of what is no array
        raise DataError("has an entry that is no array: write it again with np.savez.")
    protocol = _protocol(archive) if "protocol" in archive.files else None
    return LoadedArray(array, protocol, _labels(archive, array), statistics=statistics)


class _Header(NamedTuple):
    """What an entry says of itself, and where its values start."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int


def _header(entry: IO[bytes]) -> _Header | None:
    """Read the header of an array; None where it has another version."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    reader = readers.get(np.lib.format.read_magic(entry))
    return None if reader is None else _Header(*reader(entry), entry.tell())


def _mapped(file: BinaryIO, archive: zipfile.ZipFile, name: str) -> np.ndarray | None:
    """Map an entry of an archive; None where it is small, compressed, or nothing that can be."""
    if f"{name}.npy" not in archive.namelist():
        return None
    info = archive.getinfo(f"{name}.npy")
    if info.file_size < _LARGE or info.compress_type != zipfile.ZIP_STORED:
        return None
    with archive.open(info) as entry:
        header = _header(entry)
        if header is None or header.dtype.hasobject:
            return None
        if header.start + math.prod(header.shape) * header.dtype.itemsize != info.file_size:
            return None
        while entry.read(_READ_BYTES):  # to the end, where the checksum is compared
            pass
    file.seek(info.header_offset + 26)
    start = header.start + info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
    order: Literal["F", "C"] = "F" if header.fortran else "C"
    return np.memmap(file, header.dtype, "c", start, header.shape, order)


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
    if "labels.npy" not in archive.zip.namelist():
        return None
    with archive.zip.open("labels.npy") as entry:
        try:
            header = _header(entry)
        except ValueError:  # no array
            return None
    if header is None or header.dtype.kind not in "iuUb" or len(header.shape) > 2:
        return None
    if len(header.shape) == 2 and header.shape[1] != 1:  # one hot, or several a row
        return None
    if not header.shape or header.shape[:1] != array.shape[:1]:
        raise DataError(
            f"has `labels` of shape {header.shape} for an array {array.shape}: give one a row, or "
            "leave them out."
        )
    return tuple(map(str, archive["labels"].ravel().tolist()))


def _protocol(archive: Any) -> dict[str, Any]:
    """Parse the protocol of an archive of features."""
    protocol = json.loads(str(archive["protocol"]))
    if not isinstance(protocol, dict):
        raise DataError("has a `protocol` entry that is no JSON object: leave it out.")
    return protocol
