"""One image file -> one uint8 RGB tensor, or a DataError that says what to do about the file."""

import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from torch import Tensor

from otmetrics.errors import Argument, DataError
from otmetrics.images import limits
from otmetrics.images.damage import ReplacedError, check_regular, check_start, explain
from otmetrics.images.facts import KINDS, MOST_FRAMES, ImageFacts, has_two_levels

# Only these decoders see a file, whatever its name: no EPS that would start an interpreter.
# Importing their modules here keeps Pillow from importing every plugin it has.
FORMATS = tuple(
    str(plugin.format)
    for plugin in (
        BmpImagePlugin.BmpImageFile,
        GifImagePlugin.GifImageFile,
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        PpmImagePlugin.PpmImageFile,
        TiffImagePlugin.TiffImageFile,
        WebPImagePlugin.WebPImageFile,
    )
)

_MOST_PAGES = 1000  # of a TIFF, that are counted
_COUNTED_BYTES = 2**24  # of a GIF, whose frames are counted
_PNG = b"\x89PNG\r\n\x1a\n"


class DecodedImage(NamedTuple):
    """An image as the features see it.

    Attributes:
        pixels: uint8 (3, H, W), RGB.
        transparent: True where an alpha below 255 was composited on white.
        facts: What its file says of it; None where there is no file.
    """

    pixels: Tensor
    transparent: bool
    facts: ImageFacts | None = None


def decoded_image(path: str | Path) -> DecodedImage:
    """Decode a BMP, GIF, JPEG, PNG, PPM, TIFF or WebP file, known by its content, to 8-bit RGB.

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
    a side of more than `MAX_SIDE`         DataError, from the header, before any decoding
    more than 2^29 bytes                   DataError, before it is read
    a PNG of more than `MAX_CHUNKS` parts  DataError, before any decoding
    no pixels, cut short, corrupt          DataError, never grey filler
    not a readable regular file            DataError
    =====================================  ====================================================

    Threads may decode at the same time. What Pillow warns of, such as damaged tags or more than 89
    million pixels, goes to the filters of the caller: a warning that these make an error is raised
    as it is, never told as damage. Of these formats PNG alone has checksums, which are compared: in
    others damage inside the data that still decodes, unlike a missing end, cannot be seen.

    Args:
        path: The file.

    Returns:
        The pixels, whether they were transparent, and what else the file says. Memory: up to 25
        bytes per pixel on the way.

    Raises:
        DataError: The file cannot be decoded; the message names the file, the rule, the remedy.
        RuntimeError: `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` is set, which would hide cut files.
    """
    path = Path(path)

    def opened() -> BinaryIO:
        check_regular(path)
        if path.stat().st_size > limits.MAX_MEMBER_BYTES:
            raise DataError(
                f"has more than the {limits.MAX_MEMBER_BYTES} bytes that are read of an image: "
                f"re-export it."
            )
        return path.open("rb")

    return decoded_from(opened, str(path))


def decoded_from(opened: Callable[[], BinaryIO], name: str) -> DecodedImage:
    """Decode what `opened` opens for reading, as `decoded_image` does; `name` is for messages."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "`PIL.ImageFile.LOAD_TRUNCATED_IMAGES` must be False, got True: "
            "it fills what is missing of a truncated image with grey, which would be scored."
        )

    try:
        with opened() as file:
            return _decode(file)
    except ReplacedError:
        raise  # to leave the image out would leave out all that follow
    except Warning:
        raise  # a filter of the caller makes errors of them: it stays what the caller asked for
    except Image.UnidentifiedImageError as error:
        raise unreadable(
            f"`{name}` is not a readable image ({', '.join(FORMATS)} are read): re-export it."
        ) from error
    except Image.DecompressionBombError as error:
        raise unreadable(f"`{name}` has too many pixels for Pillow: scale it down.") from error
    except Exception as error:  # Pillow raises nearly anything on a damaged file
        message = explain(error, name, "is truncated or corrupt", "re-export it")
        raise unreadable(message) from error


def unreadable(message: str) -> DataError:
    """The error of one image among many, which may be left out."""
    skip = Argument("skip_corrupt")
    return DataError(message.removesuffix("."), ", or pass ", skip, " to leave such files out.")


# --- colours ----------------------------------------------------------------------------------

# Pillow scales pixels to 8 bits but leaves the transparent colour of a PNG as the file has it.
_KEY_TO_8_BITS = {
    "1": lambda key: 255 * min(key, 1),
    "L;2": lambda key: key * 85,
    "L;4": lambda key: key * 17,
    "RGB;16B": lambda key: key >> 8,
}


def rgb_and_alpha(image: Image.Image, rawmode: str) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Return the colours (H, W, 3) and, where the image has one, the alpha (H, W), both uint8.

    The third is the largest value of grey of 16 bits, 0 for other files.
    """
    key = image.info.get("transparency")
    if image.mode == "F" or image.mode.startswith("I"):
        values = _sixteen_bit_values(image)
        rgb = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=-1)
        alpha = None if key is None else _alpha_of_key(values[..., None], key)
        return rgb, alpha, int(values.max())

    # All else Pillow has brought to 8 bits.
    if image.mode in {"1", "L", "RGB"} and key is not None:
        rgb = np.asarray(image.convert("RGB"))
        scaled = _KEY_TO_8_BITS.get(rawmode, lambda value: value)
        return rgb, _alpha_of_key(rgb, scaled(np.asarray(key))), 0
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        return rgba[..., :3], rgba[..., 3], 0
    # `convert` would copy what is RGB already.
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), None, 0


def _sixteen_bit_values(image: Image.Image) -> np.ndarray:
    """Return the values (H, W) of a 16-bit grey image; refuse every other kind of number."""
    tags: Any = getattr(image, "tag_v2", {})
    bits, photometric = tags.get(258, (16,)), tags.get(262, 1)  # 1: zero is black
    # Pillow before 11 opens a 16-bit PNG as "I", and brings a PPM to 0 to 65535 in it; in a TIFF
    # "I" is 32 bits or signed.
    plain = image.mode == "I" and image.format in {"PNG", "PPM"}
    sixteen = image.mode.startswith("I;16") or plain
    if not sixteen or tuple(bits) != (16,) or photometric != 1:
        kind = "floats" if image.mode == "F" else "integers that are not plain 16-bit grey"
        raise DataError(f"holds {kind}, whose range is not defined: convert it to 8 or 16 bits.")
    return np.asarray(image)


def _alpha_of_key(values: np.ndarray, key: Any) -> np.ndarray:
    """Return the alpha (H, W) of a picture (H, W, C) in which one colour is transparent."""
    return np.where((values == np.asarray(key)).all(axis=-1), 0, 255).astype(np.uint8)


def composited_on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return round(rgb * a + 255 * (1 - a)), a = alpha / 255: (..., 3) and (...) uint8 arrays."""
    weight = alpha[..., None].astype(np.uint16)
    # At most 255^2 + 127 < 2^16; 255 is odd, so that there are no ties to round.
    return ((rgb * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)


def image_tensor(rgb: np.ndarray) -> Tensor:
    """Return an (H, W, 3) array as a (3, H, W) tensor that owns its memory."""
    return torch.from_numpy(rgb.transpose(2, 0, 1).copy())


def check_size(size: tuple[int, int]) -> None:
    """Raise on an image, width by height, that is empty or would fill the memory."""
    width, height = size
    if min(size) < 1:
        raise DataError(f"has no pixels ({width} x {height}): re-export it.")

    if width * height > limits.MAX_PIXELS:
        raise DataError(
            f"has {width} x {height} pixels, more than the {limits.MAX_PIXELS} that are decoded: "
            f"scale it down."
        )
    if max(size) > limits.MAX_SIDE:
        raise DataError(
            f"has {width} x {height} pixels, and a side of more than {limits.MAX_SIDE} is not "
            f"decoded: cut it."
        )


def _decode(file: BinaryIO) -> DecodedImage:
    """Decode an open file."""
    start = file.read(512)
    check_start(start)
    # Before Pillow opens it, which reads all chunks in front of the pixels.
    if start.startswith(_PNG):
        _check_chunks(file)

    file.seek(0)
    image = Image.open(file, formats=FORMATS)
    # Before the checksums: they read the file to its end.
    check_size(image.size)
    if image.format == "PNG":
        _check_pixel_chunks(file)

    rawmode = str(image.tile[0][3]) if image.tile else ""  # gone after load
    image.load()
    check_size(image.size)  # which decoding may have changed

    rgb, alpha, largest = rgb_and_alpha(image, rawmode)
    transparent = alpha is not None and bool((alpha < 255).any())
    high = int(rgb.max())  # before white shines through
    if alpha is not None and transparent:
        rgb = composited_on_white(rgb, alpha)
    pixels = _upright(image_tensor(rgb), image)
    return DecodedImage(pixels, transparent, _facts(file, image, rawmode, pixels, high, largest))


def _check_chunks(file: BinaryIO) -> None:
    """Raise where a PNG has too many chunks: each takes microseconds here and in Pillow."""
    file.seek(len(_PNG))
    for _ in range(limits.MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    raise DataError(
        f"has more than the {limits.MAX_CHUNKS} chunks that a PNG may have: re-export it."
    )


def _check_pixel_chunks(file: BinaryIO) -> None:
    """Raise where the compressed pixels of a PNG are not those of which it has checksums."""
    # Pillow compares the checksums of all other chunks, but of these neither those of the chunks
    # nor that of the stream within: a flipped bit would be scored as other pixels.
    here = file.tell()  # from where Pillow reads on
    file.seek(len(_PNG))

    while len(head := file.read(8)) == 8:
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"IEND":
            break
        if kind != b"IDAT":
            file.seek(size + 4, os.SEEK_CUR)
            continue
        content, stored = file.read(size), file.read(4)
        if len(stored) < 4:
            break  # cut short, which decoding tells
        if zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(stored, "big"):
            raise ValueError("its pixels fail their checksum")  # told as all damage is

    file.seek(here)


_COLOURS = {"1": "grey", "L": "grey", "I": "grey", "P": "palette", "PA": "palette"}
_COLOURS |= {"LA": "grey with alpha", "RGB": "RGB", "RGBX": "RGB", "RGBA": "RGBA", "CMYK": "CMYK"}
_KINDS = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}


def _facts(
    file: BinaryIO, image: Image.Image, rawmode: str, pixels: Tensor, high: int, largest: int
) -> ImageFacts:
    """What an image that was decoded says of itself; it cannot be decoded again."""
    name = str(image.format)
    kind = _KINDS.get(name, name.lower())
    # Of a TIFF it matters whether its pixels went through a lossy compression.
    if kind == "tif" and image.info.get("compression") in {"jpeg", "tiff_jpeg", "webp"}:
        kind = "tif (jpeg)"
    # Pillow opens grey with alpha of 16 bits as RGBA.
    mode = "LA" if rawmode.startswith("LA") else image.mode.partition(";")[0]
    colour = _COLOURS.get(mode, "other")

    bits = 8 if colour == "palette" else _bits(image, rawmode)
    if not largest:  # Pillow reads colours of 16 bits as their high bytes
        largest = 256 * high + 255 if bits == 16 else high
    return ImageFacts(
        kind if kind in KINDS else "other",
        colour,
        bits,
        pixels.shape[2],
        pixels.shape[1],
        min(max(_frames(file, image), 1), MOST_FRAMES),
        largest,
        has_two_levels(pixels.numpy()),
    )


def _bits(image: Image.Image, rawmode: str) -> int:
    """Bits of a channel of a file."""
    if image.format == "TIFF":
        tags: Any = getattr(image, "tag_v2", {})
        return int(max(tags.get(258, (1,))))
    if image.mode == "1":
        return 1
    if image.mode.startswith("I"):
        return 16
    if image.format == "PPM":  # whose largest value may stand there
        most = re.search(r"(\d+)\)$", rawmode)
        return 16 if most and int(most[1]) > 255 else 8

    deep = image.format == "PNG" and ";" in rawmode
    depth = re.search(r";(\d+)", rawmode) if deep else None
    return int(depth[1]) if depth else 8


def _frames(file: BinaryIO, image: Image.Image) -> int:
    """Frames or pages of a file, as far as they can be counted in a moment."""
    if image.format == "TIFF":
        # Pillow counts pages by walking through all of them, however many there are.
        pages = 1
        try:
            while pages < _MOST_PAGES:
                image.seek(pages)
                pages += 1
        except EOFError:
            return pages
        except Warning:
            raise
        except Exception:  # one more, which cannot be read
            return pages + 1
        return pages

    # The frames of a GIF are counted by reading all of it.
    try:
        if image.format == "GIF" and file.seek(0, os.SEEK_END) > _COUNTED_BYTES:
            return 1 + bool(getattr(image, "is_animated", False))
        return int(getattr(image, "n_frames", 1))
    except Warning:
        raise
    except Exception:  # damage after the first one, which is intact
        return 1


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


def _upright(pixels: Tensor, image: Image.Image) -> Tensor:
    """Turn (3, H, W) pixels as the EXIF orientation says."""
    try:
        swapped, rows, columns = _ORIENTATIONS[image.getexif().get(0x0112, 1)]
    except Warning:
        raise  # the caller's filters make errors of warnings: not silently another orientation
    except Exception:  # orientation 1, none, or a damaged EXIF block next to sound pixels
        return pixels
    if swapped:
        pixels = pixels.transpose(1, 2)
    dimensions = [dim for dim, reverse in ((1, rows), (2, columns)) if reverse]
    return pixels.flip(dimensions).contiguous()


def write_png(path: Path | BinaryIO, image: Tensor) -> None:
    """Write one image, without loss.

    Args:
        path: The file, or one that is open for writing.
        image: uint8 (C, H, W), C = 1 for grey or 3 for RGB.
    """
    pixels = image.cpu().permute(1, 2, 0)
    array = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    Image.fromarray(array.contiguous().numpy()).save(path, format="PNG")
