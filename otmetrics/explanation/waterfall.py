"""Where the distance comes from: a shift of the mean, other covariances, or another shape."""

from dataclasses import dataclass

from torch import Tensor

from otmetrics.statistics.frechet import factors_distance, gaussian_factors


@dataclass(frozen=True)
class CostParts:
    """W_2^2 of two clouds, in parts that add up to it, in squared units of the features.

    Attributes:
        mean: The squared distance of the means.
        covariance: What the Fréchet distance has above that: other spreads and correlations.
        shape: What is left, which two first moments do not tell, and the noise of sampling.
    """

    mean: float
    covariance: float
    shape: float

    @property
    def total(self) -> float:
        """W_2^2."""
        return self.mean + self.covariance + self.shape


@dataclass(frozen=True)
class Waterfall:
    """The parts of W_2^2 next to those of its floor, at one number of samples.

    Attributes:
        size: Samples per side.
        value: Between real and fake samples.
        floor: Between two parts of the real samples.
    """

    size: int
    value: CostParts
    floor: CostParts

    @property
    def excess(self) -> CostParts:
        """What each part has above its floor."""
        return CostParts(
            self.value.mean - self.floor.mean,
            self.value.covariance - self.floor.covariance,
            self.value.shape - self.floor.shape,
        )


def cost_parts(real: Tensor, fake: Tensor, cost: float) -> CostParts:
    """The parts of the cost W_2^2 of clouds (N, D) and (M, D).

    The Fréchet distance never exceeds it, of covariances with divisors N and M (Gelbrich, On a
    formula for the L2 Wasserstein metric between measures on Euclidean and Hilbert spaces, 1990).
    """
    gaussians = []
    for cloud in (real, fake):
        mean, factor = gaussian_factors(cloud)
        gaussians.append((mean, factor * ((len(cloud) - 1) / len(cloud)) ** 0.5))
    shift = float((gaussians[0][0] - gaussians[1][0]).square().sum())
    both = float(factors_distance(*gaussians))
    return CostParts(shift, both - shift, cost - both)
