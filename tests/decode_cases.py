"""Small pictures, and what their files must decode to."""

import struct
import zlib
from fractions import Fraction

import numpy as np
import torch
from PIL import Image

from otmetrics.images import decoded_image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
SMOOTH = np.add.outer(np.arange(24) * 5, np.arange(40) * 3).astype(np.uint8)


def saved(path, array_or_image, **options):
    image = array_or_image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(path, **options)
    return path


def in_mode(mode, array):
    """Return an image of a mode that the shape of the array does not tell."""
    return Image.frombytes(mode, array.shape[1::-1], array.tobytes())


def assert_decodes_to(path, expected, transparent=False):
    """Compare with an (H, W) or (H, W, 3) array."""
    pixels, flag, _ = decoded_image(path)
    if expected.ndim == 2:
        expected = np.stack([expected] * 3, axis=-1)
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), expected)
    assert flag is transparent


def on_white(value, alpha):
    """Return the exact composite in rational numbers, rounded to nearest."""
    return round(Fraction(int(value) * int(alpha) + 255 * (255 - int(alpha)), 255))


def on_white_image(rgb, alpha):
    pairs = np.broadcast_arrays(rgb, alpha[..., None])
    return np.vectorize(on_white)(*pairs).astype(np.uint8)


def png_chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png_bytes(width, height, depth, colour, rows, *chunks):
    """Write a PNG by hand, for the kinds that Pillow reads but does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", data), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
