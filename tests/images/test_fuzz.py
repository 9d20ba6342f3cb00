"""Damaged files give a checked result or a DataError: no other error, no warning, no long wait."""

import io
import random
import time

import numpy as np
import pytest
import torch
from PIL import Image

from otmetrics.errors import DataError
from otmetrics.images import FeatureArray, ImageArray, decoded_image, open_input

NUM_MUTANTS = 120


def images():
    """Pictures of several modes, with the metadata that the readers parse."""
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(20) * 5, np.arange(24) * 4).astype(np.uint8)
    noise = rng.integers(0, 256, (20, 24, 4), dtype=np.uint8)
    return [
        Image.fromarray(smooth),
        Image.fromarray(noise[..., :3]),
        Image.fromarray(noise),
        Image.fromarray(noise[..., :3]).convert("P"),
        Image.fromarray(noise[..., 0].astype(np.uint16) * 257),
    ]


def encoded(kind):
    """Return several files of one kind."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    files = []
    for image in images():
        buffer = io.BytesIO()
        options = {"exif": exif} if kind in {"PNG", "JPEG", "WEBP"} else {}
        if kind == "TIFF":
            options = {"compression": "tiff_lzw"} if image.mode == "RGB" else {}
        try:
            image.save(buffer, kind, **options)
        except OSError:
            continue  # this kind has no such mode
        files.append(buffer.getvalue())
    return files


def encoded_arrays(suffix):
    rng = np.random.default_rng(0)
    files = []
    for array in (rng.normal(size=(9, 4)), rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)):
        buffer = io.BytesIO()
        if suffix == "npy":
            np.save(buffer, array)
        else:
            np.savez_compressed(buffer, features=array, protocol='{"n": 9}')
        files.append(buffer.getvalue())
    return files


def mutant(files, rng):
    """Flip bytes of a file, cut it, or splice it with another."""
    content = bytearray(rng.choice(files))
    kind = rng.randrange(4)
    if kind == 0:
        for _ in range(rng.choice([1, 2, 8, 40])):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif kind == 1:
        for _ in range(rng.choice([1, 4])):  # headers matter most
            content[rng.randrange(min(128, len(content)))] = rng.choice([0, 1, 127, 128, 255])
    elif kind == 2:
        del content[rng.randrange(len(content)) :]
    else:
        other = rng.choice(files)
        content = content[: rng.randrange(len(content))] + other[rng.randrange(len(other)) :]
    return bytes(content)


def outcomes(read, check, files, path):
    """Read mutants; count results and errors. Anything else, and any warning, fails the test."""
    rng = random.Random(0)
    counts = {"result": 0, "error": 0}
    start = time.monotonic()
    for _ in range(NUM_MUTANTS):
        path.write_bytes(mutant(files, rng))
        try:
            result = read(path)
        except DataError as error:
            counts["error"] += str(path) in str(error) and "\n" not in str(error)
        else:
            check(result)
            counts["result"] += 1
    assert time.monotonic() - start < 20
    assert sum(counts.values()) == NUM_MUTANTS
    return counts


def check_image(image):
    assert image.pixels.dtype == torch.uint8
    assert image.pixels.ndim == 3
    assert image.pixels.shape[0] == 3
    assert image.pixels.numel() > 0
    assert isinstance(image.transparent, bool)


def check_source(source):
    if isinstance(source, FeatureArray):
        assert source.features.ndim == 2
        assert np.isfinite(source.features).all()
    else:
        assert isinstance(source, ImageArray)
        check_image(source.read(len(source) - 1))


@pytest.mark.filterwarnings("ignore:Image size")  # which headers may claim
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_damaged_images(tmp_path, kind):
    counts = outcomes(decoded_image, check_image, encoded(kind), tmp_path / "mutant.img")
    assert min(counts.values()) > 0  # the mutants are neither all sound nor all hopeless


def test_images_spliced_across_kinds(tmp_path):
    files = [file for kind in ("PNG", "JPEG", "GIF", "TIFF") for file in encoded(kind)]
    outcomes(decoded_image, check_image, files, tmp_path / "mutant.img")


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_damaged_arrays(tmp_path, suffix):
    path = tmp_path / f"mutant.{suffix}"
    counts = outcomes(open_input, check_source, encoded_arrays(suffix), path)
    assert counts["error"] > 5
