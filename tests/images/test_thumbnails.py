"""Images made small: their shape stays, and so do their colours."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from otmetrics.images import thumbnail


def read(content):
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "WEBP"
        return image.size, np.asarray(image)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((3, 32, 32), (32, 32)),
        ((1, 28, 20), (20, 28)),
        ((3, 96, 96), (96, 96)),
        ((3, 600, 300), (48, 96)),
        ((3, 1, 4000), (96, 1)),
    ],
)
def test_shapes_stay(shape, size):
    assert read(thumbnail(torch.full(shape, 200, dtype=torch.uint8)))[0] == size


def test_colours_stay():
    colours = torch.tensor([250, 20, 120], dtype=torch.uint8)
    _, pixels = read(thumbnail(colours[:, None, None].expand(3, 300, 300)))
    assert np.abs(pixels.astype(int) - colours.numpy()).max() <= 6


def test_fine_stripes_become_grey():
    stripes = (torch.arange(960) % 2 * 255).to(torch.uint8).expand(3, 960, 960)
    _, pixels = read(thumbnail(stripes))
    assert np.abs(pixels.astype(int) - 128).max() <= 6


def test_three_hundred_of_photographs_fit_into_a_page():
    rng = np.random.default_rng(0)
    grid = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    photograph = np.asarray(Image.fromarray(grid).resize((512, 512), Image.Resampling.BICUBIC))
    content = thumbnail(torch.from_numpy(photograph.copy()).permute(2, 0, 1))
    assert len(content) * 300 * 4 / 3 < 5_000_000
