"""Arrays from files -> images or features, checked when they are made."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from otmetrics.errors import DataError
from otmetrics.images._colour import composited_on_white
from otmetrics.images.decode import DecodedImage, check_size, image_tensor
from otmetrics.images.facts import pixel_facts
from otmetrics.images.identity import digest, file_identity
from otmetrics.images.limits import check_rows
from otmetrics.images.names import RowNames

_ROWS_AT_A_TIME = 4096
BESIDE = "the file also holds a mean and covariance (mu, sigma), which are not used"
"""What is said of samples next to statistics of others."""
_SHOWN_VALUES = 2**22  # of which a message names the range


class ImageArray:
    """Images (N, H, W, C) in one uint8 array; C = 1 is grey, 3 is RGB, 4 is RGB and alpha.

    Args:
        array: The array, which may be mapped from disk: it is read one image at a time.
        path: The file that it comes from, for messages.
        labels: Class of each image, where it is known.
        identity: Of the file when it was read, as `file_identity` gives it.
        beside: Whether mean and covariance of other samples stand next to the images.

    Attributes:
        path: The file.
        beside: The same.
        remarks: What to know about the file, one line each.
        labels: Class of each image, or None.
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
        self.path = Path(path)
        self.beside = beside
        self.remarks = [BESIDE] if beside else []
        self.labels = labels
        self._identity = identity
        problem = _image_problem(array)
        if problem:
            raise DataError(f"`{path}` holds a {array.dtype} array {array.shape}: {problem}")
        self._array = array
        self.names = RowNames(self.path.name, len(array))

    def __len__(self) -> int:
        return len(self._array)

    def read(self, index: int) -> DecodedImage:
        """Copy one image out of the array.

        Args:
            index: Its row.

        Returns:
            The pixels, whether they were transparent, and what the array says of them.

        Raises:
            DataError: The image is larger than images that are decoded.
        """
        try:
            check_size((self._array.shape[2], self._array.shape[1]))
        except DataError as error:
            raise DataError(f"`{self.names[index]}` {error}") from error
        image = np.asarray(self._array[index])
        rgb = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]
        transparent = image.shape[-1] == 4 and bool((image[..., 3] < 255).any())
        if transparent:
            rgb = composited_on_white(rgb, image[..., 3])
        pixels, colour = image_tensor(rgb), {1: "grey", 3: "RGB", 4: "RGBA"}[image.shape[-1]]
        return DecodedImage(pixels, transparent, pixel_facts(pixels, colour))

    def identity(self, index: int, content: bool) -> bytes | None:
        """Tell one image from all others.

        Args:
            index: Its row.
            content: Hash its pixels instead of asking for path, size and time of its file.

        Returns:
            16 bytes; None where the file was changed since, or a moment before it was read.
        """
        if content:
            image = np.ascontiguousarray(self._array[index])
            return digest("pixels", str(image.shape), image.tobytes())
        whole = self._identity
        if whole is None or file_identity(self.path, content=False) != whole:
            return None  # a mapped file may have been written to
        return digest("row", whole, str(index))


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
    """

    features: np.ndarray
    path: Path
    protocol: dict[str, Any] | None
    labels: tuple[str, ...] | None = None
    moments: tuple[np.ndarray, np.ndarray] | None = None
    beside: bool = False


def _image_problem(array: np.ndarray) -> str | None:
    """Say what keeps an array from being images (N, H, W, C), and the remedy."""
    shape, is_byte = array.shape, array.dtype == np.uint8
    expected = "give images (N, H, W, C) as uint8 or features (N, D)."
    if array.ndim in {3, 4} and not is_byte and array.dtype.kind in "iuf" and array.size:
        return _number_problem(array)
    if array.ndim == 1:
        return f"one row is no set of features: {expected}"
    if array.ndim == 3 and is_byte:
        return "add the missing axis, [..., None] for N grey images or [None] for one image."
    if array.ndim == 5:
        return f"reshape it to images with .reshape(-1, *x.shape[2:]), or {expected}"
    if array.ndim != 4:
        return expected
    if array.dtype.kind == "c":
        return f"complex values are no images: {expected}"
    if not is_byte:
        return "convert it to uint8 with values from 0 to 255."
    if 0 in shape:
        return f"it is empty: {expected}"
    if shape[-1] not in {1, 3, 4}:
        return f"transpose it with {_TO_LAST}." if shape[1] in {1, 3, 4} else expected
    check_rows(len(array))
    return None


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


_TO_LAST = ".transpose(0, 2, 3, 1)"


def _number_problem(array: np.ndarray) -> str:
    """Say how an array (N, H, W), (N, H, W, C) or (N, C, H, W) of other numbers becomes images."""
    part = np.asarray(array.flat[:_SHOWN_VALUES], np.float64)
    part = part[np.isfinite(part)]
    low, high = (float(part.min()), float(part.max())) if part.size else (np.nan, np.nan)
    among = "" if array.size <= _SHOWN_VALUES else f" (of the first {_SHOWN_VALUES})"
    found = f"values from {low:.4g} to {high:.4g}{among}"
    is_planar = array.ndim == 4 and array.shape[-1] not in {1, 3, 4}
    if is_planar and array.shape[1] not in {1, 3, 4}:
        return (
            f"{found}: images are uint8 (N, H, W, C) with C = 1, 3 or 4, features (N, D); for "
            "features of each place use their mean, such as .mean((2, 3))."
        )
    is_float = array.dtype.kind == "f"
    if is_planar and is_float and array.shape[1] == 4 and (low < -1 or high > 1):
        return (
            f"{found}, (N, 4, h, w): these look like the latents of an autoencoder, not like "
            "images: decode them first."
        )
    bytes_ = "x.round().clip(0, 255)"
    if is_float and -1 <= low < 0 and high <= 1:
        bytes_ = "((x + 1) * 127.5).round()"
    elif is_float and low >= 0 and high <= 1:
        bytes_ = "(x * 255).round()"
    elif not (low >= 0 and high <= 255):
        bytes_ = "(255 * (x - x.min()) / (x.max() - x.min())).round()"
    axes = _TO_LAST if is_planar else "[..., None]" if array.ndim == 3 else ""
    given = {3: "(N, H, W)", 4: "(N, C, H, W)" if is_planar else "(N, H, W, C)"}[array.ndim]
    features = ", or features (N, D)" if array.ndim == 3 else ""
    return (
        f"{given} with {found}: images are uint8 (N, H, W, C) from 0 to 255{features}: "
        f"convert it to uint8 with {bytes_}.astype('uint8'){axes}."
    )


def checked_features(array: np.ndarray, path: Path) -> np.ndarray:
    """Return (N, D) features; raise where they are not finite numbers."""
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
    for start in range(0, len(array), _ROWS_AT_A_TIME):
        bad = ~np.isfinite(array[start : start + _ROWS_AT_A_TIME]).all(axis=1)
        if bad.any():
            row = start + int(bad.argmax())
            raise DataError(f"{found} row {row} has a NaN or infinite value, leave it out.")
    return array
