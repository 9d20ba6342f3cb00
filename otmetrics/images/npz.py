"""One array out of a `.npy` or `.npz` file, without unpickling anything."""

import io
import json
import math
import os
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, NamedTuple

import numpy as np

from otmetrics.errors import DataError, ignored_warnings
from otmetrics.images.decode import check_regular
from otmetrics.images.identity import identity_of, same_file
from otmetrics.images.limits import (
    MAPPED_BYTES,
    Bounded,
    bytes_for,
    check_expansion,
    foreign_content,
)

MAX_HEADER_BYTES = 2**16
"""The longest header of an array."""

MAX_DIRECTORY_BYTES = 2**22
"""The largest list of the entries of an `.npz` file."""

MAX_LABEL_BYTES = 2**28
"""The largest entry of labels."""

MAX_PROTOCOL_BYTES = 2**26
"""The largest entry of a protocol."""

_ENTRIES = ("features", "images", "arr_0")
_STATISTICS = (("mu", "sigma"), ("ref_mu", "ref_sigma"))  # pytorch-fid, TTUR, EDM, ADM; JiT
_READ_BYTES = 2**20
_MAGIC = b"\x93NUMPY"

# What Python's parser says of a damaged header, and numpy of one that Python 2 wrote.
_HEADER_WARNINGS = r".*\binvalid .*(escape|literal)|Reading `\.npy`"


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
            `np.savez` writes it, and else unpacked, a large one into a file without a name.
            Either way the checksums of all that is taken from it are checked, and sizes must agree
            with headers to the byte.

    Returns:
        The array, and protocol, labels and statistics where an archive has them.

    Raises:
        DataError: The file is missing, corrupt, pickled, an archive without a clear entry, or
            beyond a limit: `MAX_DIRECTORY_BYTES`, `MAX_HEADER_BYTES`, `MAX_LABEL_BYTES`,
            `MAX_PROTOCOL_BYTES` and what `limits.check_expansion` says.
    """
    try:
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
    return f"is truncated or corrupt ({detail}): write it again."


def _loaded(path: Path) -> LoadedArray:
    """Load a file as what its content says it is."""
    check_regular(path)
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        identity = identity_of(path, status)
        start = file.read(512)
        file.seek(0)
        if start[:2] == b"PK":
            found = _archived(file)
        else:
            _check_start(start)
            found = LoadedArray(_plain(file, status.st_size))
    if not same_file(path.stat(), status):
        raise DataError("was replaced while it was read: run again.")
    return found._replace(identity=identity)


def _check_start(start: bytes) -> None:
    """Raise where a file is no array, and say what it is."""
    if start[: len(_MAGIC)] == _MAGIC:
        return
    if found := foreign_content(start):
        raise DataError(found)
    if start[:1] == b"\x80":
        raise DataError(
            "holds pickled objects, which could run code: save an array with np.save instead."
        )
    what = "is empty" if not start else f"begins with {start[:16]!r}"
    raise DataError(f"is truncated or corrupt, no .npy or .npz file ({what}): write it again.")


def _plain(file: BinaryIO, size: int) -> np.ndarray:
    """Map the array of a `.npy` file, which ends where its header says."""
    header = _header(file)
    _check_size(header, size)
    return _map(file, header, header.start)


def _archived(file: BinaryIO) -> LoadedArray:
    """Load the array of an archive."""
    with zipfile.ZipFile(Bounded(file, MAX_DIRECTORY_BYTES)) as archive:
        names = archive.namelist()
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(f"has the entry `{twice[0]}` twice: write it again with np.savez.")
        if any(name.endswith("/data.pkl") for name in names):
            raise DataError(
                "is a file of torch.save: save its tensor with np.save(path, tensor.numpy())."
            )
        stems = [name.removesuffix(".npy") for name in names]
        pair = next((pair for pair in _STATISTICS if set(pair) <= set(stems)), None)
        statistics = None
        if pair is not None:
            statistics = _array(file, archive, pair[0]), _array(file, archive, pair[1])
            if not set(_ENTRIES) & set(stems):
                return LoadedArray(None, statistics=statistics)
        array = _array(file, archive, _entry(stems))
        protocol = _protocol(file, archive) if "protocol" in stems else None
        labels = _labels(file, archive, array)
        return LoadedArray(array, protocol, labels, statistics=statistics)


class _Header(NamedTuple):
    """What an entry says of itself, and where its values start."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def _header(entry: IO[bytes]) -> _Header:
    """Read the header of an array, of a dtype that is safe to read."""
    known = io.BytesIO(entry.read(MAX_HEADER_BYTES))  # else up to 4 GB would be taken for one
    version = np.lib.format.read_magic(known)
    if version not in {(1, 0), (2, 0)}:
        raise DataError(f"has an array of version {version}: save it with np.save.")
    first = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    with ignored_warnings(_HEADER_WARNINGS):
        shape, fortran, dtype = read(known)
    if dtype.hasobject:
        raise DataError("holds pickled objects: save an array of a plain dtype with np.save.")
    if dtype.names is not None:
        raise DataError(
            f"holds a structured array with the fields {', '.join(dtype.names[:9])}: save its "
            "columns as one plain array (N, D), such as np.stack([x[f] for f in fields], axis=1)."
        )
    if min(shape, default=0) < 0:
        raise ValueError(f"its header says {shape}")
    return _Header(shape, fortran, dtype, known.tell())


def _check_size(header: _Header, size: int) -> None:
    """Raise where there are more or fewer bytes than a header says."""
    if header.start + header.size != size:
        raise DataError(
            f"is truncated or corrupt (its header says {header.dtype} {header.shape}, "
            f"{header.size} bytes, and {size - header.start} follow): write it again."
        )


def _map(file: BinaryIO, header: _Header, start: int) -> np.ndarray:
    """Map an array that lies in a file as it is."""
    order: Literal["F", "C"] = "F" if header.fortran else "C"
    if not header.size:
        return np.zeros(header.shape, header.dtype, order)  # there is nothing to map
    return np.memmap(file, header.dtype, "c", start, header.shape, order)


def _array(file: BinaryIO, archive: zipfile.ZipFile, name: str, most: int = 0) -> np.ndarray:
    """Read an entry of an archive, to its end, where its checksum is compared."""
    info = _info(archive, name)
    with archive.open(info) as entry:
        header = _header(entry)
    _check_size(header, info.file_size)
    if most and header.size > most:
        raise DataError(f"has an entry `{name}` of more than {most} bytes: leave it out.")
    with archive.open(info) as entry:  # anew: zipfile checks nothing after a step back
        entry.read(header.start)
        if header.size < MAPPED_BYTES or info.compress_type != zipfile.ZIP_STORED:
            return _unpacked(entry, header)
        # A large one stays where it lies.
        if sum(map(len, iter(lambda: entry.read(_READ_BYTES), b""))) != header.size:
            raise ValueError("fewer bytes than its header says")
    file.seek(info.header_offset + 26)
    start = header.start + info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
    return _map(file, header, start)


def _info(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """What an archive says of an array in it, if that can be true."""
    if f"{name}.npy" not in archive.NameToInfo:
        raise DataError("has an entry that is no array: write it again with np.savez.")
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise DataError("is compressed in another way than np.savez does: write it again.")
    check_expansion(name, info.file_size, info.compress_size)
    return info


def _unpacked(entry: IO[bytes], header: _Header) -> np.ndarray:
    """Copy the values of an entry, in parts."""
    room = bytes_for(header.size)
    filled = 0
    while part := entry.read(_READ_BYTES):
        if filled + len(part) > header.size:
            raise ValueError("more bytes than its header says")
        room[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
        filled += len(part)
    if filled != header.size:
        raise ValueError("fewer bytes than its header says")
    if not header.size:
        return np.zeros(header.shape, header.dtype)
    return room.view(header.dtype).reshape(header.shape, order="F" if header.fortran else "C")


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


def _labels(file: BinaryIO, archive: zipfile.ZipFile, array: np.ndarray) -> tuple[str, ...] | None:
    """Classes of the rows, where the archive has names or numbers of them."""
    if "labels.npy" not in archive.NameToInfo:
        return None
    with archive.open(_info(archive, "labels")) as entry:
        try:
            header = _header(entry)
        except DataError as error:
            raise DataError(f"has an entry `labels` that {error}") from error
    if header.dtype.kind not in "iuUb" or len(header.shape) > 2:
        return None
    if len(header.shape) == 2 and header.shape[1] != 1:  # one hot, or several a row
        return None
    if not header.shape or header.shape[:1] != array.shape[:1]:
        raise DataError(
            f"has `labels` of shape {header.shape} for an array {array.shape}: give one a row, or "
            "leave them out."
        )
    values = _array(file, archive, "labels", MAX_LABEL_BYTES).ravel()
    names: dict[Any, str] = {}  # one text a class, not one a row
    return tuple(names.setdefault(value, str(value)) for value in values)


def _protocol(file: BinaryIO, archive: zipfile.ZipFile) -> dict[str, Any]:
    """Parse the protocol of an archive of features."""
    text = _array(file, archive, "protocol", MAX_PROTOCOL_BYTES)
    protocol = json.loads(str(text))
    if not isinstance(protocol, dict):
        raise DataError("has a `protocol` entry that is no JSON object: leave it out.")
    return protocol
