"""The continuous distributions that semi-discrete transport starts from, and samples of them."""

from collections.abc import Iterator

import torch
from torch import Tensor

SOURCES = ("cube", "ball", "gaussian")
"""Uniform on [-1/2, 1/2]^D, uniform on the unit ball, standard normal."""

_WIDEST = 21_200  # dimensions of torch's Sobol points, less one for the radius of a ball
_SMALLEST = 2.0**-40  # the normal quantile of 0 would be infinite


def check_source(source: str) -> None:
    """Raise ValueError unless a source is one of `SOURCES`."""
    if source not in SOURCES:
        raise ValueError(f"`source` must be one of {', '.join(SOURCES)}, got {source!r}.")


def second_moment(source: str, dimension: int) -> float:
    """E |x|^2 of a source, whose mean is 0."""
    moments = {"cube": dimension / 12, "ball": dimension / (dimension + 2), "gaussian": dimension}
    return moments[source]


def standardise(points: Tensor, weights: Tensor, source: str) -> tuple[Tensor, Tensor, Tensor]:
    """Points (M, D) with mean 0 and the second moment of a source, under float64 weights (M,).

    Cells stay what they are: <x, p> changes by <x, mean>, one number for all points, and by a
    factor, which heights take too. With the points, in their dtype, come their mean (D,) and the
    factor that they were divided by, 1 for points without spread, both in float64.
    """
    exact = points.double()
    centre = weights @ exact
    moment = weights @ (exact - centre).square().sum(1)

    own = second_moment(source, points.shape[1])
    scale = torch.where(moment > 0, (moment / own).sqrt(), 1.0)
    return ((exact - centre) / scale).to(points.dtype), centre, scale


def source_samples(
    source: str, dimension: int, num_samples: int, *, generator: torch.Generator
) -> Tensor:
    """Scrambled Sobol points (N, D) of a source in float64, on the CPU.

    Each is a sample of the source; together they fill it more evenly than independent samples do.
    Every call scrambles again, as the generator decides. Beyond 21 200 dimensions, which torch has
    no Sobol points for, they are independent.

    References:
        Owen, Scrambling Sobol' and Niederreiter-Xing points, 1998.
    """
    check_source(source)
    (samples,) = sample_parts(source, dimension, num_samples, num_samples, generator=generator)
    return samples


def random_samples(
    source: str, dimension: int, num_samples: int, *, generator: torch.Generator
) -> Tensor:
    """Independent samples (N, D) of a source in float64, on the CPU."""
    check_source(source)
    numbers = dimension + (source == "ball")
    uniform = torch.rand(num_samples, numbers, generator=generator, dtype=torch.float64)
    return _transform_uniform(source, uniform)


def sample_parts(
    source: str, dimension: int, num_samples: int, part: int, *, generator: torch.Generator
) -> Iterator[Tensor]:
    """The samples of `source_samples`, at most `part` of them at a time."""
    numbers = dimension + (source == "ball")
    seed = int(torch.randint(2**31, (), generator=generator))
    sobol = None
    if dimension <= _WIDEST:
        sobol = torch.quasirandom.SobolEngine(numbers, scramble=True, seed=seed)

    for begin in range(0, num_samples, part):
        size = min(part, num_samples - begin)
        if sobol is None:
            uniform = torch.rand(size, numbers, generator=generator, dtype=torch.float64)
        else:
            # Goes on where the last part ended, so that parts change nothing.
            uniform = sobol.draw(size, dtype=torch.float64)
        yield _transform_uniform(source, uniform)


def _transform_uniform(source: str, uniform: Tensor) -> Tensor:
    """Samples of a source from uniform numbers, (N, D), or (N, D + 1) for the ball."""
    if source == "cube":
        return uniform - 0.5

    uniform = uniform.clamp(_SMALLEST, 1 - 2.0**-52)
    if source == "gaussian":
        return torch.special.ndtri(uniform)

    # A ball: a direction from normal numbers, and a radius r with r^D uniform.
    normal = torch.special.ndtri(uniform[:, :-1])
    radius = uniform[:, -1:] ** (1 / normal.shape[1])
    return torch.nn.functional.normalize(normal, dim=1) * radius
