"""Files that are refused: damage, sizes beyond reason, other formats, and what is no file."""

import contextlib
import io
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from decode_cases import (
    RGB,
    assert_decodes_to,
    png_bytes,
    png_chunk,
    saved,
)
from PIL import Image, ImageFile

from otmetrics.errors import DataError
from otmetrics.images import MAX_PIXELS, ImageArray, decoded_image
from otmetrics.images.limits import MAX_CHUNKS, MAX_SIDE


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
