"""Random directions: uniform, orthonormal in blocks, one and the same for one seed."""

import pytest
import torch
from cases import cloud
from hypothesis import given
from hypothesis import strategies as st

from otmetrics.functional import random_directions, sliced_wasserstein
from otmetrics.transport.sliced.directions import block_size


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_they_are_uniform_on_the_sphere(orthogonal: bool) -> None:
    directions = random_directions(5, 40_000, generator=seeded(0), orthogonal=orthogonal)
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(40_000, dtype=torch.float64))
    # Mean 0 with error sqrt(1/5/40000) = 0.0022, second moments 1/5 and fourth 3/35 with smaller.
    assert directions.mean(1).abs().max() < 4 * 0.0022
    moments = directions @ directions.T / 40_000
    assert (moments - torch.eye(5) / 5).abs().max() < 4 * 0.0022
    assert (directions.pow(4).mean(1) - 3 / 35).abs().max() < 4 * 0.0022


@given(dimension=st.integers(1, 40), num=st.integers(1, 700), seed=st.integers(0, 9))
def test_blocks_are_orthonormal(dimension: int, num: int, seed: int) -> None:
    block = block_size(dimension, num)
    directions = random_directions(dimension, num, generator=seeded(seed))
    assert directions.shape == (dimension, num)
    assert block == 1 or num // block >= 16
    assert block <= dimension or block % dimension == 0
    for part in directions.split(block, 1):
        for basis in part.split(dimension, 1):
            gram = basis.T @ basis
            torch.testing.assert_close(gram, torch.eye(len(gram)).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dimension", [3, 24])
def test_blocks_are_independent(dimension: int) -> None:
    """Directions of different blocks are as near to each other as independent ones."""
    directions = random_directions(dimension, 16_000, generator=seeded(1), block=8)
    first, second = directions.T.split(8)[0::2], directions.T.split(8)[1::2]
    products = torch.cat([(a @ b.T).flatten() for a, b in zip(first, second, strict=True)])
    # Mean square 1 / D; 64 000 products, 8 000 of which are independent even in the worst case.
    assert products.square().mean().item() == pytest.approx(1 / dimension, rel=0.06)
    assert abs(products.mean().item()) < 4 / (8000 * dimension) ** 0.5


@pytest.mark.parametrize("orthogonal", [True, False])
def test_one_seed_gives_one_set(orthogonal: bool) -> None:
    def directions(seed: int) -> torch.Tensor:
        return random_directions(6, 50, generator=seeded(seed), orthogonal=orthogonal)

    assert torch.equal(directions(3), directions(3))
    assert not torch.equal(directions(3), directions(4))


def test_directions_that_want_a_gradient_are_refused() -> None:
    """Instead of leaving them without one."""
    x, theta = cloud(5, 3), torch.eye(3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match=r"`directions` must not .* directions.detach\(\)"):
        sliced_wasserstein(x, x + 1, directions=theta)
    with torch.no_grad():
        assert sliced_wasserstein(x, x + 1, directions=theta) == 1
