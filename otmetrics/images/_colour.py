"""What the modes of Pillow mean as 8-bit colour and alpha."""

from typing import Any

import numpy as np
from PIL import Image

from otmetrics.errors import DataError

# Pillow scales pixels to 8 bits but leaves the transparent colour of a PNG as the file has it.
_KEY_TO_8_BITS = {
    "1": lambda key: 255 * min(key, 1),
    "L;2": lambda key: key * 85,
    "L;4": lambda key: key * 17,
    "RGB;16B": lambda key: key >> 8,
}


def rgb_and_alpha(image: Image.Image, rawmode: str) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Return the colours (H, W, 3) and, where the image has one, the alpha (H, W), both uint8.

    Beside them stands the largest value of grey of 16 bits, 0 for other files.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        key, values = image.info.get("transparency"), _sixteen_bit_values(image)
        rgb = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=-1)
        alpha = None if key is None else _alpha_of_key(values[..., None], key)
        return rgb, alpha, int(values.max())
    return *_eight_bit_values(image, rawmode), 0


def _eight_bit_values(image: Image.Image, rawmode: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return colours and alpha of what Pillow has brought to 8 bits."""
    key = image.info.get("transparency")
    if image.mode in {"1", "L", "RGB"} and key is not None:
        rgb = np.asarray(image.convert("RGB"))
        scaled = _KEY_TO_8_BITS.get(rawmode, lambda value: value)
        return rgb, _alpha_of_key(rgb, scaled(np.asarray(key)))
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        return rgba[..., :3], rgba[..., 3]
    # `convert` would copy what is RGB already.
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), None


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
