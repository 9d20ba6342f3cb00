"""Data and cases that carry their closed-form answer."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

ORDERS = (1.0, 1.5, 2.0, 3.0)


def cloud(
    *shape: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal features, the same on every device and, up to rounding, in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)


def weights(*shape: int, seed: int = 0, zeros: int = 0) -> Tensor:
    """Positive weights that do not sum to one, the first `zeros` of each row set to zero."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1
    values[..., :zeros] = 0
    return values


def relative_tolerance(dtype: torch.dtype) -> float:
    """A few thousand roundings of `dtype`: sums over some hundred terms, then a root."""
    return 4096 * torch.finfo(dtype).eps


class TransportCase(NamedTuple):
    """Two clouds and their W_p^p."""

    name: str
    real: Tensor
    fake: Tensor
    order: float
    cost: float
    real_weights: Tensor | None = None
    fake_weights: Tensor | None = None


def transport_cases() -> list[TransportCase]:
    cases = []
    x = cloud(12, 5, seed=1)
    shift = cloud(5, seed=2)
    length = float(shift.norm())
    for p in ORDERS:
        cases += [
            TransportCase("diracs", x[:1], x[:1] + shift, p, length**p),
            TransportCase("dirac to cloud", x[:1] * 0, x, p, float(x.norm(dim=1).pow(p).mean())),
            TransportCase("translation", x, x.flip(0) + shift, p, length**p),
            TransportCase("permutation", x, x.roll(3, 0), p, 0.0),
            TransportCase("copies", x, x.repeat(3, 1), p, 0.0),
            TransportCase("copies, moved", x.repeat(2, 1), x.repeat(3, 1) + shift, p, length**p),
            _two_points(p),
            _line(p),
            _uniform_grids(p),
        ]
    # The gradient of a convex function is optimal for p = 2: here of s |x - mean|^2 / 2.
    mean = x.mean(0)
    spread = float((x - mean).square().sum(1).mean())
    for factor in (0.0, 0.25, 3.0):
        scaled = mean + factor * (x - mean)
        cases.append(
            TransportCase(f"scaling by {factor}", x, scaled, 2.0, (1 - factor) ** 2 * spread)
        )
    return cases


def _two_points(order: float) -> TransportCase:
    """Weights (1/4, 3/4) and (5/8, 3/8) on the same two points, 2 apart: 3/8 of the mass moves."""
    points = torch.tensor([[0.0, 0.0], [0.0, 2.0], [9.0, 9.0]], dtype=torch.float64)
    a, b = torch.tensor([1.0, 3.0, 0.0]), torch.tensor([5.0, 3.0, 0.0])
    return TransportCase("two points", points, points, order, 0.375 * 2**order, a, b)


def _line(order: float) -> TransportCase:
    """{0, 3} against {1, 2, 6}: quantile intervals of width 1/3, 1/6, 1/6, 1/3."""
    real = torch.tensor([[3.0], [0.0]], dtype=torch.float64)
    fake = torch.tensor([[6.0], [1.0], [2.0]], dtype=torch.float64)
    cost = 1 / 3 + 2**order / 6 + 1 / 6 + 3**order / 3
    return TransportCase("line", real, fake, order, cost)


def _uniform_grids(order: float, n: int = 4, k: int = 5) -> TransportCase:
    """Midpoints of n cells against midpoints of n k cells: each cell by itself."""
    coarse = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    fine = (torch.arange(n * k, dtype=torch.float64) + 0.5) / (n * k)
    cost = float((fine[:k] - coarse[0]).abs().pow(order).mean())
    return TransportCase("grids", coarse[:, None], fine[:, None], order, cost)


def sliced_translation(shift: Tensor, order: float) -> float:
    """SW_p^p between a law and its translate, the mean of |theta . shift|^p over the sphere."""
    d = len(shift)
    log_ratio = (
        math.lgamma(d / 2)
        + math.lgamma((order + 1) / 2)
        - math.lgamma((d + order) / 2)
        - math.log(math.pi) / 2
    )
    return float(shift.norm()) ** order * math.exp(log_ratio)


def bures(mean_a: Tensor, a: Tensor, mean_b: Tensor, b: Tensor) -> float:
    """Squared W_2 of Gaussians with diagonal covariances: no matrix root needed."""
    return float((mean_a - mean_b).square().sum() + (a.sqrt() - b.sqrt()).square().sum())


def entropic_gaussian(mean_a: float, a: float, mean_b: float, b: float, epsilon: float) -> float:
    """Entropic cost of two Gaussians on the line with variances a, b (Janati et al., 2020).

    Cost |x - y|^2, regulariser epsilon KL(P | product): theorem 1 there with epsilon = 2 s^2.
    """
    s2 = epsilon / 2
    d = math.sqrt(4 * a * b + s2**2)
    return (
        (mean_a - mean_b) ** 2 + (a + b - d) + s2 * (1 - math.log(2 * s2)) + s2 * math.log(d + s2)
    )


def gaussian_grid(mean: float, variance: float, size: int = 401) -> tuple[Tensor, Tensor]:
    """A Gaussian on the line as points (N, 1) and weights, over 8 standard deviations each way.

    The trapezoidal rule on a smooth, fast decaying integrand errs by far less than 1e-9 here.
    """
    points = torch.linspace(-8, 8, size, dtype=torch.float64)
    density = (-points.square() / 2).exp()
    return (mean + variance**0.5 * points)[:, None], density / density.sum()


def expected_coverage(num_real: int, num_fake: int, k: int) -> float:
    """Coverage in expectation for equal laws (Naeem et al., 2020, equation (9))."""
    missed = math.prod((num_real - i) / (num_fake + num_real - i) for i in range(1, k + 1))
    return 1 - missed
