"""Each row of the table in `decoded_image` against an expectation that is computed here."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile, ImageOps

from otmetrics.errors import DataError
from otmetrics.images import MAX_PIXELS, ImageArray, ImageFolder, batches, decoded_image
from otmetrics.images.decode import composited_on_white
from otmetrics.images.facts import has_two_levels
from otmetrics.images.limits import MAX_CHUNKS, MAX_SIDE

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


# --- colour ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif"])
def test_grey_is_replicated(tmp_path, suffix):
    assert_decodes_to(saved(tmp_path / f"a.{suffix}", GREY), GREY)


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif"])
def test_one_bit_is_black_and_white(tmp_path, suffix):
    bits = GREY > 127
    path = saved(
        tmp_path / f"a.{suffix}", Image.fromarray(GREY).point(lambda v: 255 * (v > 127), "1")
    )
    assert_decodes_to(path, np.where(bits, 255, 0).astype(np.uint8))


@pytest.mark.parametrize(("suffix", "options"), [("png", {}), ("bmp", {}), ("tiff", {}),
                                                 ("webp", {"lossless": True})])  # fmt: skip
def test_rgb_is_kept(tmp_path, suffix, options):
    assert_decodes_to(saved(tmp_path / f"a.{suffix}", RGB, **options), RGB)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_what_it_encodes(tmp_path, mode):
    array = SMOOTH if mode == "L" else np.stack([SMOOTH, SMOOTH[::-1], SMOOTH], axis=-1)
    pixels, *_ = decoded_image(saved(tmp_path / "a.jpg", array, quality=100, subsampling=0))
    expected = np.broadcast_to(array if mode == "RGB" else array[..., None], (24, 40, 3))
    assert np.abs(pixels.permute(1, 2, 0).numpy() - expected.astype(int)).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif"])
def test_palette_is_looked_up(tmp_path, suffix):
    palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(GREY)
    image.putpalette(palette.tobytes())
    assert image.mode == "P"
    assert_decodes_to(saved(tmp_path / f"a.{suffix}", image), palette[GREY])


def test_content_decides_not_the_name(tmp_path):
    assert_decodes_to(saved(tmp_path / "a.jpg", RGB, format="PNG"), RGB)


@pytest.mark.parametrize("suffix", ["tif", "jpg"])
def test_cmyk_is_converted(tmp_path, suffix):
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[..., 0], inks[..., 3] = 200, 40
    path = saved(
        tmp_path / f"a.{suffix}",
        in_mode("CMYK", inks),
        **({"quality": 100} if suffix == "jpg" else {}),
    )
    pixels, *_ = decoded_image(path)
    cyan = (255 - 200) * (255 - 40) / 255
    expected = torch.tensor([cyan, 215, 215])
    assert (pixels.float() - expected[:, None, None]).abs().max() <= 2


def test_ycbcr_is_converted(tmp_path):
    ycbcr = np.full((4, 4, 3), (120, 90, 180), np.uint8)
    pixels, *_ = decoded_image(
        saved(tmp_path / "a.tif", in_mode("YCbCr", ycbcr), compression="tiff_lzw")
    )
    blue, red = 90 - 128, 180 - 128
    expected = [120 + 1.402 * red, 120 - 0.344136 * blue - 0.714136 * red, 120 + 1.772 * blue]
    assert (pixels[:, 0, 0].double() - torch.tensor(expected).double()).abs().max() <= 1


def test_lab_is_converted(tmp_path):
    srgb = ImageCms.createProfile("sRGB")
    to_lab = ImageCms.buildTransform(srgb, ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.new("RGB", (4, 4), (200, 120, 40)), to_lab)
    pixels, *_ = decoded_image(saved(tmp_path / "a.tif", lab))
    assert (pixels[:, 0, 0].int() - torch.tensor([200, 120, 40])).abs().max() <= 3


# --- transparency ---------------------------------------------------------------------------


def test_composite_is_rounded_correctly_for_every_value_and_alpha():
    value, alpha = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    rgb = np.repeat(value[..., None], 3, axis=-1).astype(np.uint8)
    composite = composited_on_white(rgb, alpha.astype(np.uint8))
    exact = value * alpha + 255 * (255 - alpha)
    assert (2 * np.abs(255 * composite[..., 0].astype(int) - exact) < 255).all()
    assert (composite[..., 0] == composite[..., 2]).all()


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("png", {}), ("tif", {}), ("webp", {"lossless": True, "exact": True})],
)
def test_rgba_is_composited_on_white(tmp_path, suffix, options):
    path = saved(tmp_path / f"a.{suffix}", np.dstack([RGB, ALPHA]), **options)
    assert_decodes_to(path, on_white_image(RGB, ALPHA), transparent=True)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_la_is_composited_on_white(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", in_mode("LA", np.dstack([GREY, ALPHA])))
    expected = on_white_image(np.stack([GREY] * 3, axis=-1), ALPHA)
    assert_decodes_to(path, expected, transparent=True)


def test_pa_is_composited_on_white(tmp_path):
    palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    image = in_mode("LA", np.dstack([GREY, ALPHA]))
    image.putpalette(palette.tobytes())
    assert image.mode == "PA"
    path = saved(tmp_path / "a.tif", image)
    assert_decodes_to(path, on_white_image(palette[GREY], ALPHA), transparent=True)


def test_opaque_alpha_is_not_transparent(tmp_path):
    opaque = np.full_like(ALPHA, 255)
    assert_decodes_to(saved(tmp_path / "a.png", np.dstack([RGB, opaque])), RGB)


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette_with_one_transparent_entry(tmp_path, suffix):
    palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(GREY)
    image.putpalette(palette.tobytes())
    path = saved(tmp_path / f"a.{suffix}", image, transparency=int(GREY[2, 3]))
    alpha = np.where(GREY[2, 3] == GREY, 0, 255).astype(np.uint8)
    assert_decodes_to(path, on_white_image(palette[GREY], alpha), transparent=True)


def test_palette_with_an_alpha_per_entry(tmp_path):
    palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    alphas = RNG.integers(0, 256, 256, dtype=np.uint8)
    image = Image.fromarray(GREY)
    image.putpalette(palette.tobytes())
    path = saved(tmp_path / "a.png", image, transparency=alphas.tobytes())
    assert_decodes_to(path, on_white_image(palette[GREY], alphas[GREY]), transparent=True)


def test_grey_with_a_transparent_value(tmp_path):
    path = saved(tmp_path / "a.png", GREY, transparency=int(GREY[1, 1]))
    assert_decodes_to(path, np.where(GREY[1, 1] == GREY, 255, GREY), transparent=True)


def test_rgb_with_a_transparent_colour(tmp_path):
    path = saved(tmp_path / "a.png", RGB, transparency=tuple(map(int, RGB[1, 1])))
    expected = RGB.copy()
    expected[(RGB[1, 1] == RGB).all(-1)] = 255
    assert_decodes_to(path, expected, transparent=True)


@pytest.mark.parametrize(("depth", "row", "values"), [
    (1, 0b10110000, [255, 0, 255, 255]),
    (2, 0b00011011, [0, 85, 170, 255]),
    (4, 0x17, [17, 119]),
])  # fmt: skip
def test_low_bit_grey_with_a_transparent_value(tmp_path, depth, row, values):
    """The transparent value counts in the units of the file, here 1 (white, 85 and 17)."""
    key = png_chunk(b"tRNS", struct.pack(">H", 1))
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(len(values), 1, depth, 0, [bytes([row])], key))
    white = {1: 255, 2: 85, 4: 17}[depth]
    expected = np.array([[255 if value == white else value for value in values]], np.uint8)
    assert_decodes_to(path, expected, transparent=True)


def test_one_bit_grey_with_transparent_black(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(2, 1, 1, 0, [b"\x40"], png_chunk(b"tRNS", b"\0\0")))
    assert_decodes_to(path, np.array([[255, 255]], np.uint8), transparent=True)


# --- 16 bits and undefined ranges -----------------------------------------------------------

WORDS = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_is_its_high_byte(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(WORDS))
    assert_decodes_to(path, (WORDS >> 8).astype(np.uint8))


def test_big_endian_sixteen_bit_grey(tmp_path):
    path = saved(
        tmp_path / "a.tif", Image.frombytes("I;16B", (7, 5), WORDS.astype(">u2").tobytes())
    )
    with Image.open(path) as image:
        assert image.mode == "I;16B"
    assert_decodes_to(path, (WORDS >> 8).astype(np.uint8))


def test_sixteen_bit_rgb_is_its_high_byte_too(tmp_path):
    words = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(7, 5, 16, 2, [row.astype(">u2").tobytes() for row in words]))
    assert_decodes_to(path, (words >> 8).astype(np.uint8))


def test_sixteen_bit_grey_with_a_transparent_value(tmp_path):
    words = np.array([[0x1234, 0x1235, 0x0012]], np.uint16)
    key = png_chunk(b"tRNS", struct.pack(">H", 0x1234))
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(3, 1, 16, 0, [words.astype(">u2").tobytes()], key))
    assert_decodes_to(path, np.array([[255, 0x12, 0]], np.uint8), transparent=True)


def test_sixteen_bit_rgb_with_a_transparent_colour(tmp_path):
    words = np.array([[[0x1234, 0x5678, 0x9ABC], [1, 2, 3]]], np.uint16)
    key = png_chunk(b"tRNS", struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC))
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(2, 1, 16, 2, [words.astype(">u2").tobytes()], key))
    assert_decodes_to(path, np.array([[[255] * 3, [0] * 3]], np.uint8), transparent=True)


@pytest.mark.parametrize("array", [
    np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4),
    np.full((3, 4), 70_000, np.int32),
    np.full((3, 4), -1, np.int32),
    np.full((3, 4), 255, np.int32),
], ids=["float", "above", "below", "small"])  # fmt: skip
def test_undefined_ranges_are_refused(tmp_path, array):
    path = saved(tmp_path / "a.tif", array)
    with pytest.raises(DataError, match=r"a\.tif` holds .*convert it to 8 or 16 bits"):
        decoded_image(path)


# --- orientation and frames -----------------------------------------------------------------

# Where EXIF says that row 0 and column 0 of the stored image lie in the upright one.
STORED_AS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    stored = Image.fromarray(np.ascontiguousarray(STORED_AS[orientation](RGB)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", stored, exif=exif, **options)
    assert_decodes_to(path, RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_orientation_agrees_with_pillow(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.jpg", np.stack([SMOOTH, SMOOTH[::-1], SMOOTH], -1), exif=exif)
    with Image.open(path) as image:
        assert_decodes_to(path, np.asarray(ImageOps.exif_transpose(image)))


def test_sixteen_bit_images_are_turned_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(WORDS)))
    path = saved(tmp_path / "a.png", stored, exif=exif)
    assert_decodes_to(path, (WORDS >> 8).astype(np.uint8))


@pytest.mark.parametrize(("suffix", "options"), [("gif", {}), ("tif", {}), ("png", {}),
                                                 ("webp", {"lossless": True})])  # fmt: skip
def test_first_frame_is_read(tmp_path, suffix, options):
    frames = [Image.fromarray(np.full((6, 6), value, np.uint8)) for value in (40, 200)]
    if suffix == "webp":
        frames = [frame.convert("RGB") for frame in frames]
    path = saved(
        tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:], **options
    )
    assert_decodes_to(path, np.full((6, 6), 40, np.uint8))


def test_jpegs_of_several_pictures_are_read_at_the_first(tmp_path):
    frames = [Image.new("RGB", (16, 16), (value,) * 3) for value in (40, 200)]
    path = saved(
        tmp_path / "a.jpg", frames[0], format="MPO", save_all=True, append_images=frames[1:]
    )
    assert_decodes_to(path, np.full((16, 16), 40, np.uint8))


def test_one_pixel(tmp_path):
    assert_decodes_to(saved(tmp_path / "a.png", RGB[:1, :1].copy()), RGB[:1, :1])


# --- what a file says of itself -------------------------------------------------------------

PICTURE = Image.fromarray(RGB)
DEEP = RNG.integers(0, 4096, (5, 7)).astype(np.uint16)


@pytest.mark.parametrize(("name", "image", "options", "expected"), [
    ("a.png", PICTURE, {}, ("png", "RGB", 8)),
    ("a.png", PICTURE.convert("L"), {}, ("png", "grey", 8)),
    ("a.png", PICTURE.convert("1"), {}, ("png", "grey", 1)),
    ("a.png", PICTURE.convert("LA"), {}, ("png", "grey with alpha", 8)),
    ("a.png", PICTURE.convert("RGBA"), {}, ("png", "RGBA", 8)),
    ("a.png", PICTURE.quantize(4), {}, ("png", "palette", 8)),
    ("a.png", Image.fromarray(DEEP), {}, ("png", "grey", 16)),
    ("a.png", PICTURE, {"format": "JPEG"}, ("jpg", "RGB", 8)),
    ("a.jpg", PICTURE.convert("CMYK"), {}, ("jpg", "CMYK", 8)),
    ("a.gif", PICTURE, {}, ("gif", "palette", 8)),
    ("a.bmp", PICTURE, {}, ("bmp", "RGB", 8)),
    ("a.bmp", PICTURE.convert("1"), {}, ("bmp", "grey", 1)),
    ("a.webp", PICTURE, {}, ("webp", "RGB", 8)),
    ("a.webp", Image.fromarray(np.dstack([RGB, ALPHA])), {}, ("webp", "RGBA", 8)),
    ("a.tif", PICTURE, {}, ("tif", "RGB", 8)),
    ("a.tif", PICTURE, {"compression": "tiff_lzw"}, ("tif", "RGB", 8)),
    ("a.tif", PICTURE, {"compression": "jpeg"}, ("tif (jpeg)", "RGB", 8)),
    ("a.tif", PICTURE.convert("1"), {}, ("tif", "grey", 1)),
    ("a.tif", Image.fromarray(DEEP), {}, ("tif", "grey", 16)),
    ("a.tif", Image.fromarray(DEEP), {"compression": "tiff_deflate"}, ("tif", "grey", 16)),
])  # fmt: skip
def test_facts(tmp_path, name, image, options, expected):
    facts = decoded_image(saved(tmp_path / name, image, **options)).facts
    assert facts[:3] == expected
    assert facts[3:6] == (7, 5, 1)
    if expected[0] in {"png", "bmp", "tif"}:  # without loss
        deep = expected[2] == 16
        assert facts.largest == (DEEP.max() if deep else np.asarray(image.convert("RGB")).max())
    assert facts.two_levels == (image.mode == "1")


@pytest.mark.parametrize(("colour", "channels", "name"), [
    (2, 3, "RGB"), (6, 4, "RGBA"), (4, 2, "grey with alpha"),
])  # fmt: skip
def test_colours_of_sixteen_bits(tmp_path, colour, channels, name):
    """The largest value is a bound: Pillow gives the high byte alone."""
    values = RNG.integers(0, 4096, (5, 7, channels)).astype(">u2")
    values[0, 0, 0] = 4095
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(7, 5, 16, colour, [row.tobytes() for row in values]))
    facts = decoded_image(path).facts
    assert (facts.colour, facts.bits, facts.largest) == (name, 16, 4095)


@pytest.mark.parametrize("orientation", [1, 6])
def test_sizes_are_those_of_the_upright_picture(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    facts = decoded_image(saved(tmp_path / "a.png", RGB, exif=exif)).facts
    assert (facts.width, facts.height) == ((7, 5) if orientation == 1 else (5, 7))


@pytest.mark.parametrize("suffix", ["gif", "tif", "png", "webp"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_frames_are_counted(tmp_path, suffix, count):
    frames = [Image.fromarray(np.roll(RGB, index, 0)) for index in range(count)]
    path = saved(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    assert decoded_image(path).facts.frames == count


def test_pages_are_counted_as_far_as_they_go(tmp_path, monkeypatch):
    """Pages in a ring, pages that are damaged, and more of them than anybody counts."""
    frames = [Image.fromarray(np.roll(GREY, index, 0)) for index in range(4)]
    path = saved(tmp_path / "a.tif", frames[0], save_all=True, append_images=frames[1:])
    content = bytearray(path.read_bytes())
    offsets, at = [], 4
    while where := int.from_bytes(content[at : at + 4], "little"):
        offsets.append(at)
        at = where + 2 + 12 * int.from_bytes(content[where : where + 2], "little")
    ring, damaged = bytearray(content), bytearray(content)
    ring[at : at + 4] = content[4:8]
    damaged[offsets[2] : offsets[2] + 4] = (2**31).to_bytes(4, "little")
    expected = [decoded_image(path).pixels, 4]
    for changed, count in ((content, 4), (ring, 4), (damaged, 3)):
        path.write_bytes(changed)
        image = decoded_image(path)
        assert torch.equal(image.pixels, expected[0])
        assert image.facts.frames == count
    monkeypatch.setattr("otmetrics.images.decode._MOST_PAGES", 2)
    path.write_bytes(content)
    assert decoded_image(path).facts.frames == 2
    animated = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    monkeypatch.setattr("otmetrics.images.decode._COUNTED_BYTES", 10)
    assert decoded_image(animated).facts.frames == 2  # or more: a large one is not read for it


@pytest.mark.parametrize("values", [[0], [255], [3, 200], [0, 1, 2]])
@pytest.mark.parametrize("size", [1, 40, 200])
def test_two_levels(values, size):
    """Against a set of the values; the third one is rare, and at the end."""
    pixels = np.resize(np.array(values[:2], np.uint8), (3, size, size)).copy()
    pixels[2, -1, -1] = values[-1]
    assert has_two_levels(pixels) == (len(np.unique(pixels)) <= 2)


# --- what is refused ------------------------------------------------------------------------


def encoded(suffix):
    buffer = io.BytesIO()
    options = {"WEBP": {"lossless": True}}.get(suffix, {})
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
        buffer, suffix, **options
    )
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_errors(tmp_path, suffix, share):
    content = encoded(suffix)
    path = tmp_path / "a.png"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"`.*a\.png` .*`skip_corrupt`") as error:
        decoded_image(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_a_cut_tail_is_never_filled(tmp_path, suffix):
    """Where the last bytes are no pixels the image is whole; else it is an error."""
    content = encoded(suffix)
    path = tmp_path / "a.png"
    path.write_bytes(content)
    whole = decoded_image(path).pixels
    for missing in range(1, 40):
        path.write_bytes(content[:-missing])
        try:
            pixels = decoded_image(path).pixels
        except DataError:
            continue
        assert torch.equal(pixels, whole)


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("side", [11_600, 13_000, 20_000, 2**31 - 1])
def test_bombs_are_refused_from_the_header(tmp_path, side):
    """Above `MAX_PIXELS`, and on both sides of Pillow's own error."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bytes(side, side, 8, 0, [b"\0"]))
    with pytest.raises(DataError, match=r"bomb\.png` has .*pixels.*scale it down"):
        decoded_image(path)


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("size", [(2**27, 1), (1, 2**27), (2**16 + 1, 1), (1, 2**16 + 1)])
@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_long_and_narrow_images_are_refused_from_the_header(tmp_path, size, suffix):
    """What shrinks them would take 60 bytes a pixel of the side."""
    path = tmp_path / f"a.{suffix}"
    header = b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, *size, 1, 24, 0, 0, 0, 0, 0, 0)
    path.write_bytes(png_bytes(*size, 8, 0, [b"\0"]) if suffix == "png" else header)
    with pytest.raises(DataError, match=rf"has {size[0]} x {size[1]} pixels, and a side of more"):
        decoded_image(path)


def test_the_longest_side_is_read(tmp_path):
    path = saved(tmp_path / "a.png", np.zeros((1, MAX_SIDE), np.uint8))
    assert decoded_image(path).pixels.shape == (3, 1, MAX_SIDE)


def test_long_and_narrow_rows_of_arrays_are_refused(tmp_path):
    array = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (2, 1, 2**17, 3))
    with pytest.raises(DataError, match=r"`a.npy\[1\]` has 131072 x 1 pixels, and a side of more"):
        ImageArray(array, "a.npy").read(1)


@pytest.mark.parametrize("start", [b"", b"BM", b"GIF89a", b"\xff\xd8\xff", b"II*\0", b"RIFF"])
def test_files_of_many_bytes_are_not_read(tmp_path, start):
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.write(start)
        file.truncate(5 * 2**30)  # of zeros, in no space
    with pytest.raises(DataError, match="has more than the 536870912 bytes that are read"):
        decoded_image(path)


@pytest.mark.filterwarnings("ignore:Image size")
def test_sizes_in_headers_that_are_not_true(tmp_path):
    """A header promises 121 million pixels, and nothing follows: no memory is filled for them."""
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(11_000, 11_000, 8, 2, [b"\0" * 100]))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"truncated or corrupt"):
        decoded_image(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_text_and_profiles_that_unfold_are_bounded(tmp_path, kind):
    """A chunk of 300 kB holds 300 MB: refused or passed by, in little memory."""
    middle = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind]
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(3, 1, 8, 0, [b"\1\2\3"], png_chunk(kind, middle + data)))
    tracemalloc.start()
    with contextlib.suppress(DataError):
        assert decoded_image(path).pixels.shape == (3, 1, 3)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**26


@pytest.mark.filterwarnings("ignore:Image size")
def test_pillows_own_limits_hold(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 34)  # Pillow warns above, raises above 68
    assert_decodes_to(path, RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 17)
    with pytest.raises(DataError, match="too many pixels for Pillow"):
        decoded_image(path)


def test_the_limit_lies_between_those_of_pillow():
    """So that both the warning and the error of Pillow are met by `side` above."""
    assert Image.MAX_IMAGE_PIXELS < MAX_PIXELS < 2 * Image.MAX_IMAGE_PIXELS


def test_empty_images(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(0, 5, 8, 0, []))
    with pytest.raises(DataError, match=r"a\.png` "):
        decoded_image(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is not a readable image"):
        decoded_image(path)


def test_other_formats_are_not_decoded(tmp_path):
    path = saved(tmp_path / "a.png", RGB, format="TGA")
    with pytest.raises(DataError, match="BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP are read"):
        decoded_image(path)


def test_missing_files_and_links_to_them(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png` does not exist"):
        decoded_image(tmp_path / "gone.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"link\.png` does not exist"):
        decoded_image(str(tmp_path / "link.png"))


def test_links_in_a_circle(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png` cannot be read"):
        decoded_image(tmp_path / "a.png")


def test_folders_and_pipes_are_not_opened(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        decoded_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="device, pipe or socket"):
        decoded_image(tmp_path / "pipe.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_permission_denied(tmp_path):
    path = saved(tmp_path / "a.png", RGB)
    path.chmod(0)
    with pytest.raises(DataError, match="check its permissions"):
        decoded_image(path)


def test_filling_of_truncated_images_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES"):
        decoded_image(saved(tmp_path / "a.png", RGB))


# --- warnings and threads -------------------------------------------------------------------


@pytest.fixture
def damaged_exif(tmp_path):
    """Write a JPEG whose EXIF directory promises more than it holds: Pillow warns of it."""
    exif = (
        b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\x0f\x01\x02\0\xff\xff\0\0"
    )
    path = saved(tmp_path / "damaged.jpg", SMOOTH, exif=exif)
    with pytest.warns(UserWarning, match="EXIF"), Image.open(path) as image:
        image.getexif()
    return path


def test_damaged_exif_is_read_and_told_as_the_caller_wants(damaged_exif):
    with pytest.warns(UserWarning, match="EXIF"):
        assert decoded_image(damaged_exif).pixels.shape == (3, 24, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="Corrupt EXIF data"):
            decoded_image(damaged_exif)
        # Nobody asked to leave out what the caller's filters stop at.
        options = {"transform": torch.clone, "batch_size": 2, "skip_corrupt": True}
        with pytest.raises(UserWarning, match="Corrupt EXIF data"):
            list(batches(ImageFolder(damaged_exif.parent), **options))


def test_threads_leave_the_filters_of_warnings_alone(damaged_exif):
    filters = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(decoded_image, [damaged_exif] * 100))
    assert all(torch.equal(image.pixels, images[0].pixels) for image in images)
    assert list(warnings.filters) == filters


def test_threads_see_the_same_images(tmp_path):
    path = saved(tmp_path / "a.png", RGB)
    barrier = threading.Barrier(8)

    def decode(_):
        barrier.wait()
        return decoded_image(path).pixels

    with ThreadPoolExecutor(8) as pool:
        for pixels in pool.map(decode, range(8)):
            assert np.array_equal(pixels.permute(1, 2, 0).numpy(), RGB)


def test_importing_otmetrics_does_not_import_pillow():
    code = "import sys, otmetrics; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"P6 2 1 255\n\1\2\3\4\5\6", [[1, 2, 3], [4, 5, 6]]),
        (b"P5 2 1 255\n\7\x09", [[7, 7, 7], [9, 9, 9]]),
        (b"P2 2 1 15\n0 15\n", [[0, 0, 0], [255, 255, 255]]),
        (b"P3 1 1 255 3 4 5\n", [[3, 4, 5]]),
        (b"P4 2 1\n\x40", [[255, 255, 255], [0, 0, 0]]),
    ],
)
def test_portable_maps(tmp_path, content, expected):
    (tmp_path / "a.pnm").write_bytes(content)
    assert decoded_image(tmp_path / "a.pnm").pixels[:, 0].T.tolist() == expected


def test_no_flipped_bit_of_a_png_gives_other_pixels(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "a.png"
    Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(path)
    sound, pixels = path.read_bytes(), decoded_image(path).pixels
    refused = 0
    for place in range(len(sound)):
        path.write_bytes(
            sound[:place] + bytes([sound[place] ^ 1 << place % 8]) + sound[place + 1 :]
        )
        try:
            assert torch.equal(decoded_image(path).pixels, pixels)
        except DataError:
            refused += 1
    start, end = sound.index(b"IDAT"), sound.index(b"IEND")
    assert refused >= end - 8 - start  # at the least each of those that hold pixels


@pytest.mark.parametrize("kind", [b"IDAT", b"prVt"])
def test_a_png_of_a_great_many_chunks(tmp_path, kind):
    saved(tmp_path / "a.png", RGB)
    sound = (tmp_path / "a.png").read_bytes()
    start = sound.index(b"IDAT") - 4
    for number, whole in ((1000, True), (MAX_CHUNKS, False), (20 * MAX_CHUNKS, False)):
        (tmp_path / "b.png").write_bytes(
            sound[:start] + png_chunk(kind, b"") * number + sound[start:]
        )
        if whole:
            assert np.array_equal(decoded_image(tmp_path / "b.png").pixels.permute(1, 2, 0), RGB)
            continue
        with pytest.raises(DataError, match="has more than the 262144 chunks that a PNG may have"):
            decoded_image(tmp_path / "b.png")
