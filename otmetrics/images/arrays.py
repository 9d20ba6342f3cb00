"""Images and features in arrays: `.npy`, and entries of `.npz`."""

import io
import json
import math
import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, NamedTuple

import numpy as np

from otmetrics.errors import DataError, ignored_warnings
from otmetrics.images import limits
from otmetrics.images.damage import check_regular, check_start, name_errors
from otmetrics.images.decode import (
    DecodedImage,
    check_size,
    composited_on_white,
    image_tensor,
    unreadable,
)
from otmetrics.images.facts import pixel_facts
from otmetrics.images.files import RowNames, digest, identity_of, row_identity, unchanged

_ENTRIES = ("features", "images", "arr_0")
_STATISTICS = (("mu", "sigma"), ("ref_mu", "ref_sigma"))  # pytorch-fid, TTUR, EDM, ADM; JiT
_READ_BYTES = 2**20
_MAGIC = b"\x93NUMPY"

# What Python's parser says of a damaged header, and numpy of one that Python 2 wrote.
_HEADER_WARNINGS = r".*\binvalid .*(escape|literal)|Reading `\.npy`"


class LoadedArray(NamedTuple):
    """The array of a file and what stands next to it; None for what the file does not hold."""

    array: np.ndarray | None  # none next to statistics alone
    protocol: dict[str, Any] | None = None  # how `otmetrics extract` made it
    labels: tuple[str, ...] | None = None  # class of each row
    identity: bytes | None = None  # of the file that was read, as `file_identity` gives it
    statistics: tuple[np.ndarray, np.ndarray] | None = None  # mean and covariance of features


def loaded_array(path: Path) -> LoadedArray:
    """Load the array of a file and, from an archive, its protocol, labels and statistics.

    Args:
        path: A `.npy` file, which is mapped (copy on write: torch warns of read-only memory), or a
            `.npz` file, whose chosen entry is read, a large one into a mapped file without a name.
            Checksums are compared, and sizes must agree with headers to the byte.

    Returns:
        The array and what stands next to it.

    Raises:
        DataError: The file is missing, corrupt, pickled, an archive without a clear entry, or
            beyond a limit, or was replaced while it was read.
    """
    with name_errors(path, "is truncated or corrupt", "write it again"):
        check_regular(path)
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            identity = identity_of(path, status)
            with unchanged(path, status):
                found = _load(file, status.st_size)
        return found._replace(identity=identity)


def _load(file: BinaryIO, size: int) -> LoadedArray:
    """Load an open file as what its content says it is: a name says nothing that can be trusted."""
    start = file.read(512)
    file.seek(0)
    if start[:2] == b"PK":
        return _load_archive(file)
    if start[: len(_MAGIC)] == _MAGIC:
        return LoadedArray(_map(file, size))

    check_start(start)
    if start[:1] == b"\x80":
        raise DataError("holds pickled objects, which could run code: save an array with np.save.")
    what = f"begins with {start[:16]!r}" if start else "is empty"
    raise DataError(f"is truncated or corrupt, not a .npy or .npz file ({what})")


class _Header(NamedTuple):
    """What an array says of itself, and where its values start."""

    shape: tuple[int, ...]
    order: Literal["F", "C"]
    dtype: np.dtype
    start: int

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def check_size(self, size: int) -> None:
        """Raise where the file or entry has more or fewer bytes than the header says."""
        if self.start + self.size != size:
            raise DataError(
                f"is truncated or corrupt (its header says {self.dtype} {self.shape}, "
                f"{self.size} bytes, and {size - self.start} follow): write it again."
            )


def _header(file: IO[bytes]) -> _Header:
    """Read the header of an array, of a dtype that is safe to read."""
    # numpy would take up to 4 GB for one.
    known = io.BytesIO(file.read(limits.MAX_NPY_HEADER_BYTES))
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
    return _Header(shape, "F" if fortran else "C", dtype, known.tell())


def _map(file: BinaryIO, size: int) -> np.ndarray:
    """Map the array of a `.npy` file, which ends where its header says."""
    header = _header(file)
    header.check_size(size)
    if not header.size:
        return np.zeros(header.shape, header.dtype, header.order)  # there is nothing to map
    return np.memmap(file, header.dtype, "c", header.start, header.shape, header.order)


# --- entries of .npz files --------------------------------------------------------------------


def _load_archive(file: BinaryIO) -> LoadedArray:
    """Load the array of an archive and what it says of it."""
    bounded: Any = limits.BoundedFile(file, limits.MAX_NPZ_DIRECTORY_BYTES)
    with zipfile.ZipFile(bounded) as archive:
        names = archive.namelist()
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(f"has the entry `{twice[0]}` twice: write it again with np.savez.")
        # torch.save writes a zip archive too, of which this entry is pickled.
        if any(name.endswith("/data.pkl") for name in names):
            raise DataError(
                "is a file of torch.save: save its tensor with np.save(path, tensor.numpy())."
            )

        stems = [name.removesuffix(".npy") for name in names]
        pair = next((pair for pair in _STATISTICS if set(pair) <= set(stems)), None)
        statistics = None
        if pair is not None:
            statistics = _entry(archive, pair[0]), _entry(archive, pair[1])
            if not set(_ENTRIES) & set(stems):
                return LoadedArray(None, statistics=statistics)

        array = _entry(archive, _choose_entry(stems))
        protocol = _protocol(archive) if "protocol" in stems else None
        labels = _labels(archive, array) if "labels.npy" in names else None
        return LoadedArray(array, protocol, labels, statistics=statistics)


def _choose_entry(names: list[str]) -> str:
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


def _entry_header(archive: zipfile.ZipFile, name: str) -> _Header:
    """What an entry says of itself, if that can be true."""
    if f"{name}.npy" not in archive.NameToInfo:
        raise DataError("has an entry that is not an array: write it again with np.savez.")
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise DataError("is compressed in another way than np.savez does: write it again.")
    limits.check_expansion(name, info.file_size, info.compress_size)

    with archive.open(info) as entry:
        try:
            return _header(entry)
        except DataError as error:
            raise DataError(f"has an entry `{name}` that {error}") from error


def _entry(archive: zipfile.ZipFile, name: str, most: float = math.inf) -> np.ndarray:
    """Read an entry of an archive in parts, to its end, where its checksum is compared."""
    # Sizes must agree before room is made for them.
    header = _entry_header(archive, name)
    header.check_size(archive.getinfo(f"{name}.npy").file_size)
    if header.size > most:
        raise DataError(f"has an entry `{name}` of more than {most} bytes: leave it out.")

    room, filled = limits.room_for(header.size), 0
    # Opened again: zipfile compares no checksum after a step back.
    with archive.open(f"{name}.npy") as entry:
        entry.read(header.start)
        while part := entry.read(_READ_BYTES):
            if filled + len(part) > header.size:
                raise ValueError("more bytes than its header says")
            room[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
            filled += len(part)
    if filled != header.size:
        raise ValueError("fewer bytes than its header says")

    # numpy views no bytes as values that have none, such as empty texts.
    if not header.size:
        return np.zeros(header.shape, header.dtype)
    return room.view(header.dtype).reshape(header.shape, order=header.order)


def _labels(archive: zipfile.ZipFile, array: np.ndarray) -> tuple[str, ...] | None:
    """Classes of the rows, where the archive has names or numbers of them."""
    header = _entry_header(archive, "labels")
    # One hot, or several per row, are no names.
    column = header.shape[1:] in {(), (1,)}
    if header.dtype.kind not in "iuUb" or not column:
        return None
    if not header.shape or header.shape[:1] != array.shape[:1]:
        raise DataError(
            f"has `labels` of shape {header.shape} for an array {array.shape}: give one per row, "
            "or leave them out."
        )
    values = _entry(archive, "labels", limits.MAX_LABEL_BYTES).ravel()

    names: dict[Any, str] = {}  # one text per class, not one per row
    return tuple(names.setdefault(value, str(value)) for value in values)


def _protocol(archive: zipfile.ZipFile) -> dict[str, Any]:
    """Parse the protocol of an archive of features."""
    protocol = json.loads(str(_entry(archive, "protocol", limits.MAX_PROTOCOL_BYTES)))
    if not isinstance(protocol, dict):
        raise DataError("has a `protocol` entry that is not a JSON object: leave it out.")
    return protocol


# --- images and features ----------------------------------------------------------------------

BESIDE = "the file also holds a mean and covariance (mu, sigma), which are not used"
"""What is said of samples next to statistics of others."""


class ImageArray:
    """Images (N, H, W, C) in one uint8 array; C = 1 is grey, 3 is RGB, 4 is RGB and alpha.

    Args:
        array: The array, which may be mapped from disk: it is read one image at a time.
        path: The file that it comes from, for messages.
        labels: Class of each image, where it is known.
        identity: Of the file when it was read, as `file_identity` gives it.
        beside: Whether mean and covariance of other samples stand next to the images.

    Attributes:
        remarks: What to know about the file, one line each.
        names: "file.npy[12]" for the image 12.

    Raises:
        DataError: The array is not uint8, not (N, H, W, C) or empty.
    """

    kind = "array"

    def __init__(
        self,
        array: np.ndarray,
        path: str | Path,
        labels: tuple[str, ...] | None = None,
        identity: bytes | None = None,
        beside: bool = False,
    ) -> None:
        if problem := _image_problem(array):
            raise DataError(f"`{path}` holds a {array.dtype} array {array.shape}: {problem}")
        self._array, self._identity = array, identity
        self.path = Path(path)
        self.beside = beside
        self.remarks = [BESIDE] if beside else []
        self.labels = labels
        self.names = RowNames(self.path.name, len(array))

    def __len__(self) -> int:
        return len(self._array)

    def read(self, index: int) -> DecodedImage:
        """Copy one image out of the array.

        Args:
            index: Its row.

        Returns:
            Its pixels, whether they were transparent, and what the array says of them.

        Raises:
            DataError: The image is larger than images that are decoded.
        """
        try:
            check_size((self._array.shape[2], self._array.shape[1]))
        except DataError as error:
            raise unreadable(f"`{self.names[index]}` {error}") from error

        image = np.asarray(self._array[index])
        rgb = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]
        transparent = image.shape[-1] == 4 and bool((image[..., 3] < 255).any())
        if transparent:
            rgb = composited_on_white(rgb, image[..., 3])
        pixels, colour = image_tensor(rgb), {1: "grey", 3: "RGB", 4: "RGBA"}[image.shape[-1]]
        return DecodedImage(pixels, transparent, pixel_facts(pixels, colour))

    def identity(self, index: int, content: bool) -> bytes | None:
        """Tell one image from all others, by its pixels or by its file and row.

        Args:
            index: Its row.
            content: Hash its pixels instead of asking for path, size and times of its file.

        Returns:
            16 bytes; None where the file was replaced since, or changed just before it was read.
        """
        if content:
            image = np.ascontiguousarray(self._array[index])
            return digest("pixels", str(image.shape), image.tobytes())
        return row_identity(self.path, self._identity, str(index))


class FeatureArray(NamedTuple):
    """Features that were computed before.

    Attributes:
        features: (N, D) floats or integers in any byte order, possibly mapped from disk; finite.
        path: The file.
        protocol: How `otmetrics extract` made them; None where the file does not say.
        labels: Class of each row; None where the file does not say.
        moments: Mean (D,) and covariance (D, D) in float64, where the file holds these instead of
            features, of which there are none then, (0, D).
        beside: Whether mean and covariance of other samples stand next to the features.
        remarks: What else to know about the file, one line each.
    """

    features: np.ndarray
    path: Path
    protocol: dict[str, Any] | None
    labels: tuple[str, ...] | None = None
    moments: tuple[np.ndarray, np.ndarray] | None = None
    beside: bool = False
    remarks: Sequence[str] = ()


# --- what keeps an array from being scored ----------------------------------------------------

_ROWS_AT_A_TIME = 4096
_SHOWN_VALUES = 2**22  # of which a message names the range
_CHANNELS = {1, 3, 4}
_TO_LAST = ".transpose(0, 2, 3, 1)"


def _image_problem(array: np.ndarray) -> str | None:
    """Say what keeps an array from being images (N, H, W, C), and the remedy."""
    shape, kind = array.shape, array.dtype.kind
    expected = "give images (N, H, W, C) as uint8 or features (N, D)."
    if array.ndim == 1:
        return f"one row is not a set of features: {expected}"
    if array.ndim == 5:
        return f"reshape it to images with .reshape(-1, *x.shape[2:]), or {expected}"
    if array.ndim not in {3, 4}:
        return expected
    if 0 in shape:
        return f"it is empty: {expected}"
    if kind == "c":
        return f"complex values are not images: {expected}"

    if array.dtype != np.uint8:
        whole = "convert it to uint8 with values from 0 to 255."
        return _number_problem(array) if kind in "iuf" else whole
    if array.ndim == 3:
        return "add the missing axis, [..., None] for N grey images or [None] for one image."
    if shape[-1] not in _CHANNELS:
        return f"transpose it with {_TO_LAST}." if shape[1] in _CHANNELS else expected
    limits.check_rows(len(array))
    return None


def _number_problem(array: np.ndarray) -> str:
    """Say how an array (N, H, W), (N, H, W, C) or (N, C, H, W) of other numbers becomes images."""
    # Not of all: a mapped array would be read from disk for a message.
    part = np.asarray(array.flat[:_SHOWN_VALUES], np.float64)
    part = part[np.isfinite(part)]
    low, high = (float(part.min()), float(part.max())) if part.size else (np.nan, np.nan)
    among = "" if array.size <= _SHOWN_VALUES else f" (of the first {_SHOWN_VALUES})"
    found = f"values from {low:.4g} to {high:.4g}{among}"

    is_float = array.dtype.kind == "f"
    axes, given = "", "(N, H, W, C)"
    if array.ndim == 3:
        axes, given = "[..., None]", "(N, H, W)"
    elif array.shape[-1] not in _CHANNELS:
        axes, given = _TO_LAST, "(N, C, H, W)"
        if array.shape[1] not in _CHANNELS:
            return (
                f"{found}: images are uint8 (N, H, W, C) with C = 1, 3 or 4, features (N, D); for "
                "features of each place use their mean, such as .mean((2, 3))."
            )
        if is_float and array.shape[1] == 4 and (low < -1 or high > 1):
            return (
                f"{found}, (N, 4, h, w): these look like the latents of an autoencoder, not like "
                "images: decode them first."
            )

    # Nobody can know how values became what they are; these are the usual ways.
    as_bytes = "x.round().clip(0, 255)"
    if is_float and high <= 1 and low >= -1:
        as_bytes = "(x * 255).round()" if low >= 0 else "((x + 1) * 127.5).round()"
    elif not (low >= 0 and high <= 255):
        as_bytes = "(255 * (x - x.min()) / (x.max() - x.min())).round()"
    features = ", or features (N, D)" if array.ndim == 3 else ""
    return (
        f"{given} with {found}: images are uint8 (N, H, W, C) from 0 to 255{features}: "
        f"convert it to uint8 with {as_bytes}.astype('uint8'){axes}."
    )


def checked_statistics(
    statistics: tuple[np.ndarray, np.ndarray], path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance in float64; raise where they cannot be those of features."""
    mean, covariance = statistics
    found = f"`{path}` holds statistics, mean {mean.shape} and covariance {covariance.shape}:"
    if {mean.dtype.kind, covariance.dtype.kind} != {"f"}:
        raise DataError(f"{found} both must be real floating numbers.")
    if mean.ndim != 1 or not mean.size or covariance.shape != 2 * mean.shape:
        raise DataError(f"{found} they must have the shapes (D,) and (D, D).")

    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise DataError(f"{found} a value is NaN or infinite.")

    # Files that went through float32 are off by this share of their largest entry.
    slack = 1e-4 * np.abs(covariance).max()
    if np.abs(covariance - covariance.T).max() > slack:
        raise DataError(f"{found} the covariance is not symmetric.")
    if np.linalg.eigvalsh(covariance)[0] < -slack:
        raise DataError(f"{found} the covariance is not positive semi-definite.")
    return mean, covariance


def checked_features(array: np.ndarray, path: Path) -> np.ndarray:
    """Return (N, D) features; raise where they are not finite numbers.

    Args:
        array: What is taken for features; it may be mapped from disk.
        path: The file that it comes from, for messages.

    Returns:
        The array as it is. Time is that of one pass; memory is that of some thousand rows.

    Raises:
        DataError: The array is empty, of another kind of numbers, or has a NaN or infinite value.
    """
    found = f"`{path}` holds a {array.dtype} array {array.shape}:"
    if array.dtype.kind == "c":
        raise DataError(
            f"{found} complex values are not read: give the real and imaginary parts as columns, "
            "np.concatenate([x.real, x.imag], axis=1)."
        )
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise DataError(f"{found} convert the features to float32.")
    if 0 in array.shape:
        raise DataError(f"{found} it is empty, give features (N, D) with N and D at least 1.")

    # A few rows at a time, for the array may be larger than the memory.
    for start in range(0, len(array), _ROWS_AT_A_TIME):
        bad = ~np.isfinite(array[start : start + _ROWS_AT_A_TIME]).all(axis=1)
        if bad.any():
            row = start + int(bad.argmax())
            raise DataError(f"{found} row {row} has a NaN or infinite value, leave it out.")
    return array
