"""Attributes of images by their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otmetrics.images.looks import ATTRIBUTES, attributes_of


def looks(pixels: torch.Tensor) -> dict[str, float]:
    return dict(zip(ATTRIBUTES, attributes_of(pixels).tolist(), strict=True))


def flat(level: int, height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.full((3, height, width), level, dtype=torch.uint8)


def test_a_flat_grey_image():
    found = looks(flat(51))
    assert found["brightness"] == pytest.approx(0.2)
    others = {name: value for name, value in found.items() if name != "brightness"}
    assert others == pytest.approx(dict.fromkeys(others, 0.0), abs=1e-6)


def test_two_halves_and_pure_red():
    half = flat(0)
    half[:, :, 4:] = 255
    assert looks(half)["contrast"] == pytest.approx(0.5)
    red = flat(0)
    red[0] = 255
    assert looks(red)["colourfulness"] == pytest.approx(1)
    assert looks(red)["brightness"] == pytest.approx(0.299)


@pytest.mark.parametrize("pattern", ["rows", "columns", "checks"])
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_grids_of_two_pixels(pattern, size):
    i, j = np.indices(size)
    sign = {"rows": i % 2, "columns": j % 2, "checks": (i + j) % 2}[pattern]
    image = torch.from_numpy(np.where(sign, 138, 117).astype(np.uint8)).expand(3, *size)
    assert looks(image)["grid of 2 pixels"] == pytest.approx(21 / 255 / 2, rel=1e-5)


def test_sharpness_is_the_spread_of_the_laplacian():
    from scipy.ndimage import laplace

    generator = np.random.default_rng(0)
    grey = generator.integers(0, 256, (20, 30), np.uint8)
    image = torch.from_numpy(grey).expand(3, 20, 30)
    wanted = laplace(grey / 255)[1:-1, 1:-1].std()
    assert looks(image)["sharpness"] == pytest.approx(wanted, rel=1e-5)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 255))
def test_smallest_images_have_finite_attributes(height, width, level):
    assert torch.isfinite(attributes_of(flat(level, height, width))).all()
