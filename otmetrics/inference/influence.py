"""What each sample adds to a score, to first order: intervals and comparisons follow from it."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.machine import ieee_float32
from otmetrics.statistics.frechet import GaussianPair
from otmetrics.statistics.kernel import KernelSums
from otmetrics.transport.line import line_potentials
from otmetrics.transport.result import TransportResult
from otmetrics.transport.sliced.slices import Weights, measure_along, split_costs_along

_VALUES = 2**18  # of projections whose potentials are made at once: they stay in a cache
_ROWS = 512  # of a block of samples that stays in a cache
_STEP = 0.6  # of trapezoids in the logarithm: errors fall with exp(-pi^2 / step)


class Influence(NamedTuple):
    """First-order effects of single samples on a score.

    T = E T + mean_i a(x_i) + mean_j b(y_j) + what is of second order in 1/N and 1/M: the variances
    of a and b give the error that sampling leaves in T, and their covariances that of differences.

    Attributes:
        real: Effects a (R, N) of the real samples in float64, each row of mean 0. A score that is
            an average over random directions has R > 1 rows, from independent blocks of them.
        fake: Effects b (R, M) of the fake ones.
        blocks: Such blocks that the score itself averages over, where R > 1.
    """

    real: Tensor
    fake: Tensor
    blocks: float = 1.0

    def variance(self, over: str = "both") -> float:
        """Variance of the score over new samples: of both sides, or of "fake" alone."""
        own = covariance_of_means(self.fake, self.fake, self.blocks)
        if over == "fake":
            return own
        return own + covariance_of_means(self.real, self.real, self.blocks)

    def of_sizes(self, sizes: tuple[int, int] | None) -> "Influence":
        """The same of so many samples, of which those with an effect here are a part."""
        if sizes is None:
            return self
        real, fake = (
            side * (side.shape[1] / size) ** 0.5
            for side, size in zip((self.real, self.fake), sizes, strict=True)
        )
        return Influence(real, fake, self.blocks)

    def shared(self, other: "Influence") -> float:
        """Covariance of two scores against the same real samples."""
        return covariance_of_means(self.real, other.real, self.blocks)


def covariance_of_means(first: Tensor, second: Tensor, blocks: float) -> float:
    """Covariance of the means of two effects (R, n) of the same n samples.

    What rows of different blocks share is there with any number of directions; the rest, which
    blocks have each for itself, falls with their number.
    """
    num_rows, size = first.shape
    total = float(first.mean(0) @ second.mean(0)) / (size - 1)
    if num_rows > 1:
        own = float((first * second).sum()) / (num_rows * (size - 1))
        shared = (num_rows * total - own) / (num_rows - 1)
        # A variance is not negative, though its estimate may be.
        shared = max(shared, 0.0) if first is second else shared
        total = shared + (own - shared) / blocks
    return total / size


def transport_influence(result: TransportResult) -> Influence:
    """Effects on the cost of `Exact` or `Sinkhorn`: the centred potentials of its result.

    The cost is linear in the weights of the samples, up to second order, with the potentials as its
    slopes (del Barrio and Loubes, Central limit theorems for empirical transportation cost in
    general dimension, 2019; for entropic costs del Barrio et al., An improved central limit theorem
    and fast convergence rates for entropic transportation costs, 2023).
    """
    assert result.potentials is not None
    f, g = (potential.detach().double()[None] for potential in result.potentials)
    return Influence(f - f.mean(), g - g.mean())


class SlicedEffects(NamedTuple):
    """What directions (L, D) say of SW_p^p next to its value.

    Attributes:
        influence: Effects of the samples on it.
        costs: The cost (L,) along each direction.
        products: Along each direction the product (L,) of the differences of two independent pairs
            of halves, whose mean has no bias at p = 2; None where there are no halves.
    """

    influence: Influence
    costs: Tensor
    products: Tensor | None


@torch.no_grad()
def sliced_effects(
    real: Tensor,
    fake: Tensor,
    rows: Tensor,
    order: float,
    num_blocks: int,
    blocks: float,
    seeds: Tensor | None = None,
) -> SlicedEffects:
    """Effects on SW_p^p, from directions (L, D) in so many blocks of one size.

    Clouds are (N, D) and (M, D) near the origin; a seed for each block splits them into halves. The
    effect of a sample is the mean of its potentials over directions, not to be confused with the
    much larger spread of one of them (Rodríguez-Vítores, del Barrio, Loubes, 2025).
    """
    size = len(rows) // num_blocks
    effects = tuple(
        torch.zeros(num_blocks, len(side), dtype=torch.float64, device=side.device)
        for side in (real, fake)
    )
    halves = None if seeds is None else split_costs_along((len(real), len(fake)), size, seeds)

    def collect(x: Tensor, y: Tensor, weights: Weights, start: int) -> Tensor:
        costs = []
        # A few lines at a time: potentials take several times the memory of a projection.
        step = max(1, _VALUES // (x.shape[1] + y.shape[1]))
        for lines in zip(x.split(step), y.split(step), strict=True):
            potentials = line_potentials(*lines, order)
            for total, potential in zip(effects, potentials, strict=True):
                total[start // size] += potential.sum(0) / size
            costs.append(potentials[0].mean(1) + potentials[1].mean(1))
        numbers = [torch.cat(costs)]
        numbers += [] if halves is None else [halves(x, y, weights, start)[:, 0]]
        return torch.stack(numbers, 1)

    numbers = measure_along(real, fake, rows, collect, size)
    a, b = (total - total.mean(1, keepdim=True) for total in effects)
    products = None if halves is None else numbers[:, 1]
    return SlicedEffects(Influence(a, b, blocks), numbers[:, 0], products)


class FrechetEffects(NamedTuple):
    """What samples say of the Fréchet distance next to its value.

    Attributes:
        influence: Effects of the samples on it.
        bias: How far it lies above its limit in expectation, to order 1/N and 1/M.
        error: Standard error that what is of second order in the samples leaves in it.
    """

    influence: Influence
    bias: float
    error: float


@torch.no_grad()
def frechet_effects(
    real: Tensor | None,
    fake: Tensor,
    pair: GaussianPair,
    sizes: tuple[int, int] | None = None,
) -> FrechetEffects:
    """Effects on the Fréchet distance of clouds (N, D) and (M, D), 3 samples or more. O(N D^2).

    A sample's effect is 2 d.(x - m) + |x - m|^2 - (x - m)'T (x - m), d the difference of the means
    and T the transport map between both Gaussians (Rippl, Munk, Sturm, Limit laws of the empirical
    Wasserstein distance: Gaussian distributions, 2016). The bias is that of the jackknife, which
    leaves out each sample in turn, in closed form. With `sizes` the pair is that of so many
    samples, of which the clouds are a part. A real side without samples is fixed: it has neither
    effects nor a part in bias and error.
    """
    if sizes is None:
        assert real is not None
        sizes = len(real), len(fake)
    (mean_x, factor_x), (mean_y, factor_y) = pair.real, pair.fake
    product, shift = pair.product, (mean_x - mean_y)[0]

    # T = Fy' V S^-1 V' Fy: only what the other side spans counts, and nothing is inverted but S.
    there, back = (factor_y, product.right), (factor_x, product.left)
    b, curved_y = _gaussian_effects(fake, mean_y, back, product.values, -shift, sizes[1])
    a, sides = b.new_zeros(1, 0), [(factor_y, sizes[1], curved_y)]
    if real is not None:
        a, curved_x = _gaussian_effects(real, mean_x, there, product.values, shift, sizes[0])
        sides.insert(0, (factor_x, sizes[0], curved_x))

    fidelity, of_means, of_covariances = float(product.total), 0.0, 0.0
    for factor, size, curved in sides:
        of_means += float(factor.square().sum()) / size
        # Without a sample the divisor of a covariance is N - 2.
        grown = math.sqrt((size - 1) / max(size - 2, 1))
        without = grown * (fidelity * (1 - 0.5 / (size - 1)) + curved)
        of_covariances += 2 * (size - 1) * (fidelity - without)

    # Independent squares of means b_k have the variance 2 sum b_k^2. There is one for every axis
    # of the means, and for every pair of axes of the covariances; how large they are next to each
    # other is taken from normal samples, how large they are in sum is what the bias says.
    axes = product.values
    pairs = axes[:, None] * axes / (axes[:, None] + axes)
    parts = of_means * _concentration(axes), of_covariances * _concentration(pairs)
    error = math.sqrt(2) * math.hypot(*parts)
    influence = Influence(a, b).of_sizes(sizes)
    return FrechetEffects(influence, of_means + of_covariances, error)


def _gaussian_effects(
    cloud: Tensor,
    mean: Tensor,
    other: tuple[Tensor, Tensor],
    values: Tensor,
    shift: Tensor,
    size: int,
) -> tuple[Tensor, float]:
    """Effects (1, n) of some of the samples of a side, of which there are `size`.

    And by what tr S changes on average where one of them is left out.

    Of the change only what is of second order and beyond: with k = V' Fy (x - m), S^2 loses c k k',
    and tr S gains the integral over t > 0 of log(1 - c k'(S^2 + t^2)^-1 k) / pi. `other` are Fy,
    the factor of the other side, and V.
    """
    # In float32 what rounding leaves of float32 features is far more than sampling does.
    dtype = torch.promote_types(cloud.dtype, torch.float32)
    factor, vectors = other
    resolvents, weights = _resolvents(values)
    share = size / (size - 1) ** 2

    most = 1 - 4 * torch.finfo(dtype).eps

    effects, curved = [], weights.new_zeros(())
    with ieee_float32(cloud.device):
        basis = factor.mT.to(dtype) @ (vectors / values.sqrt()).to(dtype)
        for block in cloud.split(_ROWS):
            rows = block.double() - mean
            squares = (rows.to(dtype) @ basis).square_()
            mapped = squares.sum(1, dtype=torch.float64)
            effects.append(2 * rows @ shift + rows.square().sum(1) - mapped)

            # 1 where a sample alone reaches some direction; the integral stays finite.
            lost = (share * (squares @ resolvents.to(dtype)).double()).clamp_max(most)
            curved += ((torch.log1p(-lost) + lost) @ weights).sum()
    effect = torch.cat(effects)
    return (effect - effect.mean())[None], float(curved) / len(cloud)


def _resolvents(values: Tensor) -> tuple[Tensor, Tensor]:
    """The ratios s / (s^2 + t^2) (R, K) of values s at nodes t, and the nodes' weights (K,).

    Trapezoids in log t, which are right to 1e-6, between where nothing is left of the integrand.
    """
    if not len(values):
        return values.new_zeros(0, 1), values.new_zeros(1)
    low, high = math.log(1e-8 * float(values.mean())), math.log(100 * float(values.max()))
    count = math.ceil((high - low) / _STEP) + 1
    nodes = torch.linspace(low, high, count, dtype=values.dtype, device=values.device).exp()
    step = (high - low) / (count - 1)
    return values[:, None] / (values[:, None].square() + nodes.square()), step / math.pi * nodes


def _concentration(weights: Tensor) -> float:
    """1 for a single weight, and 1 / sqrt(k) for k equal ones."""
    total = float(weights.sum())
    return float(weights.norm()) / total if total > 0 else 1.0


def kernel_influence(sums: KernelSums) -> Influence:
    """Effects on MMD^2, from the sums over pairs that the value itself is made of."""
    n, m = len(sums.real.by_row), len(sums.fake.by_row)
    # Divided by N - 2, as in a jackknife, not by N - 1: what a kernel has for each sample alone,
    # which no MMD feels and which may be far larger than the rest, cancels only so.
    real = 2 * (sums.real.by_row / max(n - 2, 1) - sums.across.by_row / m)
    fake = 2 * (sums.fake.by_row / max(m - 2, 1) - sums.across.by_column / n)
    return Influence((real - real.mean())[None], (fake - fake.mean())[None])
