"""Continuous laws that semi-discrete transport starts from, and quasi-random samples of them."""

from collections.abc import Iterator

import torch
from torch import Tensor

SOURCES = ("cube", "ball", "gaussian")
"""Uniform on [-1/2, 1/2]^D, uniform on the unit ball, standard normal."""

_WIDEST = 21_200  # dimensions of Sobol points, less one for the radius of a ball
_SMALLEST = 2.0**-40  # a normal number of a uniform one that is 0 would be infinite


def second_moment(source: str, dimension: int) -> float:
    """E |x|^2 of a source, whose mean is 0.

    Args:
        source: One of `SOURCES`.
        dimension: D.

    Returns:
        D / 12 for the cube, D / (D + 2) for the ball, D for the normal law.
    """
    moments = {"cube": dimension / 12, "ball": dimension / (dimension + 2), "gaussian": dimension}
    return moments[source]


def standardise(points: Tensor, weights: Tensor, source: str) -> tuple[Tensor, Tensor, Tensor]:
    """Points with mean 0 and the second moment of a source.

    Cells stay what they are: <x, p> changes by <x, mean>, one number for all points, and by a
    factor, which heights take too.

    Args:
        points: Points (M, D).
        weights: Weights (M,) in float64 that sum to 1.
        source: One of `SOURCES`.

    Returns:
        The points, their mean (D,) and the factor that they were divided by, both in float64; the
        factor is 1 for points without spread.
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
    """Scrambled Sobol points of a source; pseudo-random ones beyond 21 200 dimensions.

    Each is a sample of the law; together they fill it more evenly than independent ones do. Time
    and memory O(N D).

    Args:
        source: One of `SOURCES`.
        dimension: D.
        num_samples: N.
        generator: A CPU generator: each call is scrambled anew, one seed gives one set.

    Returns:
        Samples (N, D) in float64, on the CPU.

    Raises:
        ValueError: If the source is none.

    References:
        Owen, Scrambling Sobol' and Niederreiter-Xing points, 1998.
    """
    check_source(source)
    (samples,) = sample_parts(source, dimension, num_samples, num_samples, generator=generator)
    return samples


def random_samples(
    source: str, dimension: int, num_samples: int, *, generator: torch.Generator
) -> Tensor:
    """Independent samples of a source.

    Args:
        source: One of `SOURCES`.
        dimension: D.
        num_samples: N.
        generator: A CPU generator.

    Returns:
        Samples (N, D) in float64, on the CPU.

    Raises:
        ValueError: If the source is none.
    """
    check_source(source)
    numbers = dimension + (source == "ball")
    uniform = torch.rand(num_samples, numbers, generator=generator, dtype=torch.float64)
    return _of_uniform(source, uniform)


def sample_parts(
    source: str, dimension: int, num_samples: int, part: int, *, generator: torch.Generator
) -> Iterator[Tensor]:
    """The samples of `source_samples` a part at a time.

    Args:
        source: One of `SOURCES`.
        dimension: D.
        num_samples: N in all.
        part: Most of them at a time.
        generator: A CPU generator.

    Yields:
        Samples (part, D) in float64; the last part may be shorter.
    """
    numbers = dimension + (source == "ball")
    seed = int(torch.randint(2**31, (), generator=generator))
    sobol = (
        torch.quasirandom.SobolEngine(numbers, scramble=True, seed=seed)
        if (dimension <= _WIDEST)
        else None
    )
    for begin in range(0, num_samples, part):
        size = min(part, num_samples - begin)
        if sobol is None:
            uniform = torch.rand(size, numbers, generator=generator, dtype=torch.float64)
        else:
            uniform = sobol.draw(size, dtype=torch.float64)
        yield _of_uniform(source, uniform)


def check_source(source: str) -> None:
    """Raise unless a source is known.

    Args:
        source: Its name.

    Raises:
        ValueError: If it is not one of `SOURCES`.
    """
    if source not in SOURCES:
        raise ValueError(f"`source` must be one of {', '.join(SOURCES)}, got {source!r}.")


def _of_uniform(source: str, uniform: Tensor) -> Tensor:
    """Samples of a source from uniform numbers, (N, D), or (N, D + 1) for the ball."""
    if source == "cube":
        return uniform - 0.5
    uniform = uniform.clamp(_SMALLEST, 1 - 2.0**-52)
    if source == "gaussian":
        return torch.special.ndtri(uniform)
    normal = torch.special.ndtri(uniform[:, :-1])
    radius = uniform[:, -1:] ** (1 / normal.shape[1])
    return torch.nn.functional.normalize(normal, dim=1) * radius
