"""What a file says of itself, and what is counted of it."""

import numpy as np
import pytest
import torch
from decode_cases import ALPHA, GREY, RGB, RNG, png_bytes, saved
from PIL import Image

from otmetrics.images import decoded_image
from otmetrics.images.facts import has_two_levels

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
