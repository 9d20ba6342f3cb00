"""Each row of the table in `decoded_image` against an expectation that is computed here."""

import struct
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from decode_cases import (
    ALPHA,
    GREY,
    RGB,
    RNG,
    SMOOTH,
    assert_decodes_to,
    in_mode,
    on_white_image,
    png_bytes,
    png_chunk,
    saved,
)
from PIL import Image, ImageCms, ImageOps

from otmetrics.errors import DataError
from otmetrics.images import ImageFolder, batches, decoded_image
from otmetrics.images.decode import composited_on_white

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
