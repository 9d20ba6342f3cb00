"""Images and features in arrays: `.npy`, entries of `.npz`, pickles and files of torch."""

import io
import json
import math
import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
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
from otmetrics.images.pickles import Rest, unpickled
from otmetrics.images.statistics import Statistics, found_statistics
from otmetrics.images.torch_files import FIRST_NUMBER, read_legacy, read_zipped

_ENTRIES = ("features", "images", "arr_0", "feats", "X")  # the last of clean-fid, of FD-loss
_PARTS = ("all_features", "num_items")  # of StyleGAN, which keeps the batches as they came
_MAX_NAME = 200
_READ_BYTES = 2**20
MAGIC = b"\x93NUMPY"

# What Python's parser says of a damaged header, and numpy of one that Python 2 wrote.
_HEADER_WARNINGS = r".*\binvalid .*(escape|literal)|Reading `\.npy`"


class LoadedArray(NamedTuple):
    """The array of a file and what stands next to it; None for what the file does not hold."""

    array: np.ndarray | None  # none next to statistics alone
    protocol: dict[str, Any] | None = None  # how `otmetrics extract` made it
    labels: tuple[str, ...] | None = None  # class of each row
    identity: bytes | None = None  # of the file that was read, as `file_identity` gives it
    moments: Statistics | None = None  # of these or of other samples
    remarks: tuple[str, ...] = ()  # what else to know about the file


def loaded_array(path: Path, network: str | None = None) -> LoadedArray:
    """Load the array of a file and, from an archive, its protocol, labels and statistics.

    Args:
        path: A `.npy` file, which is mapped (copy on write: torch warns of read-only memory), or a
            `.npz` file, whose chosen entry is read, a large one into a mapped file without a name;
            a pickle or file of `torch.save` that holds arrays and plain containers alone. Told by
            content. Checksums, where there are any, are compared, and sizes must agree with
            headers to the byte.
        network: Which statistics to take, where a file holds those of several networks.

    Returns:
        The array and what stands next to it.

    Raises:
        DataError: The file is missing, corrupt, a pickle of anything else, an archive without a
            clear entry, or beyond a limit, or was replaced while it was read.
    """
    with name_errors(path, "is truncated or corrupt", "write it again"):
        check_regular(path)
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            identity = identity_of(path, status)
            with unchanged(path, status):
                found = _load(file, status.st_size, network)
        return found._replace(identity=identity)


def _load(file: BinaryIO, size: int, network: str | None) -> LoadedArray:
    """Load an open file as what its content says it is: a name says nothing that can be trusted."""
    start = file.read(512)
    file.seek(0)
    if start[:2] == b"PK":
        return _load_archive(file, size, network)
    if start[:1] == b"\x80":
        return _load_pickle(Rest(file, size), network)
    if start[: len(MAGIC)] == MAGIC:
        if network is not None:
            raise DataError("holds one array: leave out what stands in brackets.")
        return LoadedArray(_map(file, size))

    check_start(start)
    what = f"begins with {start[:16]!r}" if start else "is empty"
    raise DataError(
        f"is truncated or corrupt, not a .npy or .npz file nor a pickle of protocol 2 to 5 ({what})"
    )


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


def _load_archive(file: BinaryIO, size: int, network: str | None) -> LoadedArray:
    """Load the array of an archive and what it says of it."""
    bounded: Any = limits.BoundedFile(file, limits.MAX_NPZ_DIRECTORY_BYTES)
    with zipfile.ZipFile(bounded) as archive:
        names = archive.namelist()
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(f"has the entry `{twice[0]}` twice: write it again with np.savez.")
        # torch.save writes a zip archive too, of which this entry is pickled.
        if any(name.endswith("/data.pkl") for name in names):
            return _found_in(read_zipped(file, size), size, network)

        stems = [name.removesuffix(".npy") for name in names]
        moments = found_statistics(stems, lambda name: _entry(archive, name), network)
        if moments is not None and not set(_ENTRIES) & set(stems):
            return LoadedArray(None, moments=moments)

        array = _entry(archive, _choose_entry(stems))
        protocol = _protocol(archive) if "protocol" in stems else None
        labels, remarks = None, []
        if "labels.npy" in names:
            header = _entry_header(archive, "labels")
            remarks = _unused_labels(header)
            labels = None if remarks else _labels(archive, header, array)
        return LoadedArray(array, protocol, labels, None, moments, tuple(remarks))


def entry_names(path: Path) -> list[str]:
    """Names of the entries of an `.npz` file; none where it is something else."""
    # zipfile raises nearly anything on damage, which is told where the file is read.
    with suppress(Exception), path.open("rb") as file:
        if file.read(2) == b"PK":
            bounded: Any = limits.BoundedFile(file, limits.MAX_NPZ_DIRECTORY_BYTES)
            with zipfile.ZipFile(bounded) as archive:
                return [name.removesuffix(".npy") for name in archive.namelist()]
    return []


def loaded_entries(path: Path) -> dict[str, np.ndarray]:
    """All entries of an `.npz` file, each as `loaded_array` reads the chosen one.

    Raises:
        DataError: The file is missing, no archive, corrupt, or beyond a limit.
    """
    with name_errors(path, "is truncated or corrupt", "write it again"):
        check_regular(path)
        with path.open("rb") as file, unchanged(path, os.fstat(file.fileno())):
            bounded: Any = limits.BoundedFile(file, limits.MAX_NPZ_DIRECTORY_BYTES)
            with zipfile.ZipFile(bounded) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist()]
                if len({*names}) < len(names):
                    raise DataError("has an entry twice: write it again.")
                return {name: _entry(archive, name) for name in names}


def _choose_entry(names: list[str]) -> str:
    """Choose the entry that holds the images or features."""
    arrays = [name for name in names if name not in {"protocol", "labels"}]
    for name in _ENTRIES:
        if name in arrays:
            return name
    if len(arrays) != 1:
        raise DataError(
            f"has the entries {', '.join(sorted(arrays)[:9]) or '(none)'}: "
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


def _unused_labels(header: _Header) -> list[str]:
    """Say that labels are no names or numbers of classes, if so: scores do not need them."""
    column = header.shape[1:] in {(), (1,)}
    if header.dtype.kind in "iuUb" and column:
        return []
    # NaN has no whole number, and floats do not say that they are whole.
    remedy = "labels.astype(int)" if column else "labels.argmax(1) of one-hot rows"
    return [
        f"its `labels`, {header.dtype} of shape {header.shape}, are not read: classes are one "
        f"whole number or text per row, such as {remedy}"
    ]


def _labels(archive: zipfile.ZipFile, header: _Header, array: np.ndarray) -> tuple[str, ...]:
    """Classes of the rows, by names or numbers."""
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


# --- pickles ----------------------------------------------------------------------------------


def _load_pickle(file: Rest, network: str | None) -> LoadedArray:
    """Load what a pickle holds, or a file of `torch.save` that is no archive."""
    size, value = file.left, unpickled(file)
    if type(value) is int and value == FIRST_NUMBER:
        value = read_legacy(file)
    if file.read(1):
        raise ValueError("bytes behind the end of a pickle")
    return _found_in(value, size, network)


def _found_in(value: Any, size: int, network: str | None) -> LoadedArray:
    """The arrays of a value of a file: itself, or entries of a dictionary or of those in it."""
    if isinstance(value, np.ndarray):
        value = {"features" if value.ndim == 2 else "images": value}
    if not isinstance(value, dict):
        raise DataError(f"holds no array but a value of type {type(value).__name__}: save one.")

    entries = dict(_flat(value))
    moments = found_statistics(entries, entries.__getitem__, network)
    if set(_PARTS) <= set(entries):
        array = _joined(entries["all_features"], entries["num_items"], size)
        if array is None and moments is None:
            raise DataError("holds neither all features nor their sums: write it again.")
        return LoadedArray(array, moments=moments)

    arrays = [name for name, one in entries.items() if isinstance(one, np.ndarray)]
    if moments is not None and not set(_ENTRIES) & set(arrays):
        return LoadedArray(None, moments=moments)
    return LoadedArray(entries[_choose_entry(arrays)], moments=moments)


def _flat(value: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Entries of a dictionary, and as "fid.mu" those of dictionaries in it."""
    for name, one in value.items():
        if type(name) is not str or len(name) > _MAX_NAME:
            continue  # none that is known, nor one to tell
        if not isinstance(one, dict):
            yield name, one
            continue
        for key, inner in one.items():
            if type(key) is str and len(key) <= _MAX_NAME:
                yield f"{name}.{key}", inner


def _joined(parts: Any, count: Any, size: int) -> np.ndarray | None:
    """The batches of a list as one array; None where not all of them were kept."""
    kinds = {type(part) for part in parts} if isinstance(parts, list) else set()
    if kinds != {np.ndarray}:
        return None
    if len({(part.shape[1:], part.dtype) for part in parts}) > 1 or parts[0].ndim != 2:
        raise ValueError("features of several shapes")
    if sum(map(len, parts)) != count:
        return None
    # A file may name one batch any number of times.
    if sum(part.nbytes for part in parts) > size:
        raise ValueError("more features than the file has room for")

    width, dtype = parts[0].shape[1], parts[0].dtype
    array = limits.room_for(count * width * dtype.itemsize).view(dtype).reshape(count, width)
    return np.concatenate(parts, out=array)


# --- images and features ----------------------------------------------------------------------


class ImageArray:
    """Images (N, H, W, C) in one uint8 array; C = 1 is grey, 3 is RGB, 4 is RGB and alpha.

    Args:
        array: The array, which may be mapped from disk: it is read one image at a time.
        path: The file that it comes from, for messages.
        labels: Class of each image, where it is known.
        identity: Of the file when it was read, as `file_identity` gives it.
        moments: Mean and covariance that stand next to the images, of features of these or of
            other ones.
        remarks: What else to know about the file, one line each.

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
        moments: Statistics | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        if problem := _image_problem(array):
            raise DataError(f"`{path}` holds a {array.dtype} array {array.shape}: {problem}")
        self._array, self._identity = array, identity
        self.path = Path(path)
        self.moments = moments
        self.remarks = [*remarks, *([] if moments is None else moments.remarks)]
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

    def size(self, index: int) -> None:
        """None: all images of an array have one size.

        Args:
            index: Its row.
        """

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
        moments: Mean and covariance, where the file holds these: next to features, which need not
            be of the same samples, or instead of them, of which there are none then, (0, D).
        remarks: What else to know about the file, one line each.
    """

    features: np.ndarray
    path: Path
    protocol: dict[str, Any] | None
    labels: tuple[str, ...] | None = None
    moments: Statistics | None = None
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
