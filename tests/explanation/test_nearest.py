"""Nearest points are those of all distances in float64, also where float32 cannot tell them."""

import pytest
import torch
from torch import Tensor

from otmetrics.explanation import nearest as module
from otmetrics.explanation.nearest import nearest
from otmetrics.transport.costs import row_blocks


@pytest.fixture(autouse=True)
def many(monkeypatch):
    """Take all clouds for large ones."""
    monkeypatch.setattr(module, "_FEW", 0)


def drawn(num: int, dimension: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, dimension, generator=generator, dtype=torch.float64)


def distances(points: Tensor, cloud: Tensor) -> Tensor:
    """All distances (n, m), by differences."""
    return (points[:, None].double() - cloud[None].double()).norm(dim=2)


def check(points: Tensor, cloud: Tensor, num: int) -> None:
    found, truth = nearest(points, cloud, num), distances(points, cloud)
    torch.testing.assert_close(found.distances, truth.sort(1).values[:, :num], rtol=1e-9, atol=0)
    torch.testing.assert_close(truth.gather(1, found.ids), found.distances, rtol=1e-9, atol=0)


def near_and_far(num: int) -> Tensor:
    """Half of the points within 1e-6 of each other, as far from the mean as the others."""
    cloud = 1e-6 * drawn(num, 40)
    cloud[::2, 0] += 50
    cloud[1::2] *= 1e6
    return cloud


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [50, 3000])
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_nearest_of_all(dtype, size, shift):
    check((drawn(70) + shift).to(dtype), (drawn(size, seed=1) + shift).to(dtype), 7)


def test_points_that_float32_does_not_tell_apart():
    points = near_and_far(2020)
    check(points[:20], points[20:], 3)


@pytest.mark.parametrize("scale", [1e-30, 1e15])
def test_tiny_and_huge_features(scale):
    check((scale * drawn(20)).float(), (scale * drawn(1000, seed=1)).float(), 3)


def test_equal_points_are_0_apart_and_none_is_near_itself():
    cloud = drawn(1000).float()
    cloud[500:] = cloud[0]
    found = nearest(cloud, cloud, 2)
    assert (found.distances[:, 0] == 0).all()
    own = torch.arange(1000)
    found = nearest(cloud, cloud, 2, own=own)
    assert (found.ids != own[:, None]).all()
    assert (found.distances[500:] == 0).all()
    truth = distances(cloud, cloud)
    truth.fill_diagonal_(torch.inf)
    torch.testing.assert_close(found.distances, truth.sort(1).values[:, :2])


def test_blocks_of_both_sides(monkeypatch):
    monkeypatch.setattr(module, "row_blocks", lambda num, *_: row_blocks(num, 1, 40))
    cloud = near_and_far(410)
    own = torch.arange(410)
    found = nearest(cloud, cloud, 3, own=own)
    truth = distances(cloud, cloud).fill_diagonal_(torch.inf)
    torch.testing.assert_close(found.distances, truth.sort(1).values[:, :3], rtol=1e-9, atol=0)
