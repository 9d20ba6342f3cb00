"""What makes a distance a distance: one table, DISTANCES by properties. A new one is one line."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from otmetrics.functional import (
    density_coverage,
    exact_wasserstein,
    frechet_distance,
    kernel_distance,
    precision_recall,
    sinkhorn_divergence,
    sliced_wasserstein,
)


class Distance(NamedTuple):
    function: Callable[[Tensor, Tensor], Tensor]
    degree: float  # d(c x, c y) = c^degree d(x, y)
    holds: set[str]


class Clouds(NamedTuple):
    """Three clouds of one dimension, and how large their geometry is."""

    real: Tensor
    fake: Tensor
    third: Tensor
    size: float
    seed: int


def sliced(order: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: sliced_wasserstein(x, y, order=order, num_projections=16)


def exact(order: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: exact_wasserstein(x, y, order=order)


def sinkhorn(order: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: sinkhorn_divergence(
        x, y, order=order, epsilon=1.0, tolerance=1e-10, max_iterations=100_000
    )


def frechet(x: Tensor, y: Tensor) -> Tensor:
    return frechet_distance(x, y).sqrt()


def rbf(x: Tensor, y: Tensor) -> Tensor:
    return kernel_distance(x, y, kernel="rbf")


METRIC = {"symmetric", "identity", "triangle", "translation", "scaling", "permutation"}
ALL = METRIC | {"rotation", "duplication", "differentiable", "slope"}
# Of sixteen directions the turned ones are others: rotation is tested with the directions turned.
SLICED = ALL - {"rotation"}
# No triangle inequality holds. Its epsilon follows the data, and is a constant for the gradient.
ENTROPIC = ALL - {"triangle", "slope"}
# Its covariance divides by N - 1, so copies of every point are another sample.
FRECHET = ALL - {"duplication"}
# Unbiased estimates leave out i = j, so they see copies and are not 0 between equal clouds.
KERNEL = {"symmetric", "rotation", "permutation", "differentiable"}
COUNT = {"rotation", "translation", "scaling", "permutation"}

DISTANCES = {
    # At p = 1 it has a kink wherever two projections meet, and a step now and then holds one.
    "sliced p=1": Distance(sliced(1.0), 1, SLICED - {"slope"}),
    "sliced p=2": Distance(sliced(2.0), 1, SLICED),
    "sliced p=3": Distance(sliced(3.0), 1, SLICED),
    "exact p=1": Distance(exact(1.0), 1, ALL),
    "exact p=1.5": Distance(exact(1.5), 1, ALL),
    "exact p=2": Distance(exact(2.0), 1, ALL),
    "exact p=3": Distance(exact(3.0), 1, ALL),
    "sinkhorn p=1": Distance(sinkhorn(1.0), 1, ENTROPIC),
    "sinkhorn p=2": Distance(sinkhorn(2.0), 2, ENTROPIC),
    "frechet": Distance(frechet_distance, 2, FRECHET - {"triangle"}),
    "root of frechet": Distance(frechet, 1, FRECHET - {"differentiable", "slope"}),
    "polynomial kernel": Distance(kernel_distance, 0, KERNEL | {"slope"}),
    # Its default bandwidth follows the data, and is a constant for the gradient.
    "rbf kernel": Distance(rbf, 0, KERNEL | {"translation", "scaling"}),
    "precision": Distance(lambda x, y: precision_recall(x, y, num_neighbors=1).precision, 0, COUNT),
    "recall": Distance(lambda x, y: precision_recall(x, y, num_neighbors=1).recall, 0, COUNT),
    "density": Distance(lambda x, y: density_coverage(x, y, num_neighbors=1).density, 0, COUNT),
    "coverage": Distance(lambda x, y: density_coverage(x, y, num_neighbors=1).coverage, 0, COUNT),
}


def having(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a property on every distance that claims it."""
    names = [key for key, distance in DISTANCES.items() if name in distance.holds]
    return pytest.mark.parametrize("distance", [DISTANCES[key] for key in names], ids=names)


@st.composite
def clouds(draw: st.DrawFn, lattice: bool = True) -> Clouds:
    """Unequal sizes, any scale and place; sometimes on a lattice, where all ties and copies are."""
    sizes = [draw(st.integers(2, 9)) for _ in range(3)]
    dimension = draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**16))
    scale = 10.0 ** draw(st.integers(-3, 6))
    place = draw(st.sampled_from([0.0, 1.0, 1000.0]))
    on_lattice = lattice and draw(st.booleans())
    generator = torch.Generator().manual_seed(seed)

    def points(size: int) -> Tensor:
        normal = torch.randn(size, dimension, generator=generator, dtype=torch.float64)
        return scale * ((normal.round() if on_lattice else normal) + place)

    # Normal samples lie within about four of their centre.
    real, fake, third = (points(size) for size in sizes)
    return Clouds(real, fake, third, size=4 * scale * dimension**0.5, seed=seed)


def close(distance: Distance, found: Tensor, expected: Tensor, size: float, slack: float) -> None:
    """Equal up to a share `slack` of what the distance is between clouds of this size."""
    unit = max(size**distance.degree, expected.abs().item())
    assert abs(found.item() - expected.item()) <= slack * unit


def identities(x: Tensor, seed: int) -> Iterator[Tensor]:
    yield x.clone()
    yield x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]


# A place of 1000 scales costs three of sixteen digits, and squares and roots two more.
ROUNDING = 1e-10
# Of the squared Fréchet distance 1e-16 is left where two traces cancel, 1e-8 after the root; the
# entropic potentials stop at a marginal error of 1e-10.
ROOTED = 1e-6


@having("symmetric")
@given(data=clouds())
def test_symmetric(distance: Distance, data: Clouds) -> None:
    there, back = distance.function(data.real, data.fake), distance.function(data.fake, data.real)
    close(distance, there, back, data.size, ROUNDING * 100)


@having("identity")
@given(data=clouds())
def test_identity(distance: Distance, data: Clouds) -> None:
    for twin in identities(data.real, data.seed):
        found = distance.function(data.real, twin)
        close(distance, found, torch.zeros(()), data.size, ROOTED)
    assert distance.function(data.real, data.real + data.size) > 0.1 * data.size**distance.degree


@having("triangle")
@given(data=clouds())
def test_triangle(distance: Distance, data: Clouds) -> None:
    detour = distance.function(data.real, data.fake) + distance.function(data.fake, data.third)
    assert distance.function(data.real, data.third) <= detour + ROOTED * data.size


@having("translation")
@given(data=clouds(lattice=False), places=st.sampled_from([-100.0, 3.0]))
def test_translation(distance: Distance, data: Clouds, places: float) -> None:
    moved = distance.function(data.real + places * data.size, data.fake + places * data.size)
    close(distance, moved, distance.function(data.real, data.fake), data.size, ROOTED)


@having("rotation")
@given(data=clouds(lattice=False))
def test_rotation(distance: Distance, data: Clouds) -> None:
    dimension = data.real.shape[1]
    generator = torch.Generator().manual_seed(data.seed)
    normal = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(normal).Q
    turned = distance.function(data.real @ rotation, data.fake @ rotation)
    close(distance, turned, distance.function(data.real, data.fake), data.size, ROOTED)


@having("scaling")
@given(data=clouds(), factor=st.sampled_from([1e-3, 0.3, 7.0, 1e4]))
def test_scaling(distance: Distance, data: Clouds, factor: float) -> None:
    scaled = distance.function(factor * data.real, factor * data.fake)
    expected = factor**distance.degree * distance.function(data.real, data.fake)
    close(distance, scaled, expected, factor * data.size, ROOTED)


@having("permutation")
@given(data=clouds())
def test_permutation(distance: Distance, data: Clouds) -> None:
    mixed = distance.function(data.real.flip(0), data.fake.roll(1, 0))
    close(distance, mixed, distance.function(data.real, data.fake), data.size, ROOTED)


@having("duplication")
@given(data=clouds(), copies=st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_duplication(distance: Distance, data: Clouds, copies: tuple[int, int]) -> None:
    """A law is not its sample: k copies of every point are the same law."""
    repeated = distance.function(
        data.real.repeat(copies[0], 1), data.fake.repeat_interleave(copies[1], 0)
    )
    close(distance, repeated, distance.function(data.real, data.fake), data.size, ROOTED)


@having("differentiable")
@given(data=clouds())
def test_gradient_is_finite(distance: Distance, data: Clouds) -> None:
    """Everywhere, also on lattices, where points coincide, and between equal clouds."""
    for fake in (data.fake, data.real.clone()):
        x, y = data.real.clone().requires_grad_(), fake.clone().requires_grad_()
        distance.function(x, y).backward()
        assert x.grad is not None
        assert y.grad is not None
        assert x.grad.isfinite().all()
        assert y.grad.isfinite().all()


@having("slope")
@given(data=clouds(lattice=False))
def test_gradient_is_the_slope(distance: Distance, data: Clouds) -> None:
    """Along a random direction, by central differences."""
    generator = torch.Generator().manual_seed(data.seed)
    scale = data.size / 4
    step = scale * torch.randn(data.real.shape, generator=generator, dtype=torch.float64)
    x = data.real.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(distance.function(x, data.fake), x)
    slope = (gradient * step).sum().item()
    h = 1e-5
    up, down = (distance.function(data.real + s * h * step, data.fake) for s in (1, -1))
    unit = max(data.size**distance.degree, up.abs().item())
    # A step of 1e-5 errs by 1e-10 and rounding by 1e-11 / 1e-5; a kink may lie within it.
    assert abs((up - down).item() / (2 * h) - slope) <= 1e-4 * unit
