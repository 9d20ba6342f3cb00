"""One image file -> one uint8 RGB tensor, or a DataError that says what to do about the file."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor

from otmetrics.errors import DataError
from otmetrics.images._colour import composited_on_white, rgb_and_alpha
from otmetrics.images._pillow import FORMATS, muted

MAX_PIXELS = 2**27
"""The largest image that is decoded: 134 million pixels, 400 MB as RGB."""

_SKIP = "or pass --skip-corrupt to leave such files out."

# EXIF orientation -> (rows and columns swapped, then rows reversed, then columns reversed).
_ORIENTATIONS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


class DecodedImage(NamedTuple):
    """An image as the features see it.

    Attributes:
        pixels: uint8 (3, H, W), RGB.
        transparent: True where an alpha below 255 was composited on white.
    """

    pixels: Tensor
    transparent: bool


def decoded_image(path: str | Path) -> DecodedImage:
    """Decode a BMP, GIF, JPEG, PNG, TIFF or WebP file, recognised by content, to 8-bit RGB.

    =====================================  ====================================================
    the file holds                         what is returned
    =====================================  ====================================================
    1, 2, 4, 8-bit grey                    the grey value in all three channels
    palette                                the colours of the palette
    alpha, or a transparent colour         composited on white, rounded to nearest
    CMYK, YCbCr, LAB                       converted to RGB by Pillow
    16 bits per channel                    the high byte, `value >> 8`, grey and colour alike
    floats, or integers of other widths    DataError: their range is not defined
    an EXIF or TIFF orientation            turned upright; an unreadable EXIF block is ignored
    a colour profile                       ignored: values are taken as sRGB
    several frames or pages                the first
    more than `MAX_PIXELS` pixels          DataError, from the header, before any decoding
    no pixels, cut short, corrupt          DataError, never grey filler
    not a readable regular file            DataError
    =====================================  ====================================================

    Threads may decode at the same time; no warning of Pillow leaves this function. A JPEG has no
    checksum: damage inside its data that still decodes, unlike a missing end, cannot be seen.

    Args:
        path: The file.

    Returns:
        The pixels and whether they were transparent. Memory: up to 25 bytes per pixel on the way.

    Raises:
        DataError: The file cannot be decoded; the message names the file, the rule, the remedy.
        RuntimeError: `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` is set, which would hide cut files.
    """
    path = Path(path)

    def opened() -> BinaryIO:
        check_regular(path)
        return path.open("rb")

    return decoded_from(opened, str(path))


def decoded_from(opened: Callable[[], BinaryIO], name: str) -> DecodedImage:
    """Decode an image that is no file of its own, as `decoded_image` does.

    Args:
        opened: Opens it for reading from its beginning.
        name: What messages call it.

    Returns:
        The pixels and whether they were transparent.

    Raises:
        DataError: It cannot be read or decoded.
        RuntimeError: `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` is set.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "`PIL.ImageFile.LOAD_TRUNCATED_IMAGES` must be False, got True: "
            "it fills what is missing of a truncated image with grey, which would be scored."
        )
    try:
        with muted(), opened() as file:
            return _decoded(file)
    except Exception as error:  # Pillow raises nearly anything on a damaged file
        raise DataError(f"`{name}` {_explained(error)}") from error


def image_tensor(rgb: np.ndarray) -> Tensor:
    """Return an (H, W, 3) array as a (3, H, W) tensor that owns its memory."""
    return torch.from_numpy(rgb.transpose(2, 0, 1).copy())


def check_regular(path: Path) -> None:
    """Raise unless the path leads to a regular file: opening a pipe would wait for ever."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise DataError("is a folder, not a file: give a file in it.")
    if not stat.S_ISREG(mode):
        raise DataError("is not a regular file but a device, pipe or socket: remove it.")


def _explained(error: Exception) -> str:
    """Say in one line what is wrong with a file and what to do about it."""
    detail = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, DataError):
        return detail
    if isinstance(error, FileNotFoundError):
        return f"does not exist, or is a link to a missing file: check the path, {_SKIP}"
    if isinstance(error, OSError) and error.errno:
        return f"cannot be read ({os.strerror(error.errno)}): check its permissions, {_SKIP}"
    if isinstance(error, Image.DecompressionBombError):
        return f"has too many pixels for Pillow ({detail}): scale it down, {_SKIP}"
    if isinstance(error, Image.UnidentifiedImageError):
        known = ", ".join(str(name) for name in FORMATS)
        return f"is not a readable image ({known} are read): re-export it, {_SKIP}"
    return f"is truncated or corrupt ({detail}): re-export it, {_SKIP}"


def _decoded(file: BinaryIO) -> DecodedImage:
    """Decode an open file."""
    image = Image.open(file, formats=[str(name) for name in FORMATS])
    _check_size(image.size)
    rawmode = str(image.tile[0][3]) if image.tile else ""  # gone after load
    image.load()
    _check_size(image.size)
    rgb, alpha = rgb_and_alpha(image, rawmode)
    transparent = alpha is not None and bool((alpha < 255).any())
    if alpha is not None and transparent:
        rgb = composited_on_white(rgb, alpha)
    return DecodedImage(_upright(image_tensor(rgb), image), transparent)


def _check_size(size: tuple[int, int]) -> None:
    """Raise on an empty image and on one that would fill the memory."""
    width, height = size
    if min(size) < 1:
        raise DataError(f"has no pixels ({width} x {height}): re-export it, {_SKIP}")
    if width * height > MAX_PIXELS:
        raise DataError(
            f"has {width} x {height} pixels, more than the {MAX_PIXELS} that are decoded: "
            f"scale it down, {_SKIP}"
        )


def _upright(pixels: Tensor, image: Image.Image) -> Tensor:
    """Turn (3, H, W) pixels as the EXIF orientation says."""
    try:
        swapped, rows, columns = _ORIENTATIONS[image.getexif().get(0x0112, 1)]
    except Exception:  # orientation 1, none, or a damaged EXIF block beside sound pixels
        return pixels
    if swapped:
        pixels = pixels.transpose(1, 2)
    dimensions = [dim for dim, reverse in ((1, rows), (2, columns)) if reverse]
    return pixels.flip(dimensions).contiguous()
