"""Mixtures of Gaussians in the plane, and how many of their modes a generator has found.

The two mixtures and their scores are those of the studies of mode collapse. Whoever compares with
published numbers compares at their sigma and at their 2500 samples: perfect samples score

- 98.89 % of high quality, 1 - exp(-9/2), and no generator of the true law scores more;
- a divergence of about (K - 1) / (2 N) from N samples: .0014 (ring8) and .0049 (grid25) at 2500.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

HIGH_QUALITY_RADIUS = 3.0
"""Standard deviations around a mode within which a sample is of high quality."""

HIGH_QUALITY_CEILING = 1 - math.exp(-(HIGH_QUALITY_RADIUS**2) / 2)
"""Share of high quality of the true mixture in the plane."""


class ModeScores(NamedTuple):
    """How a set of samples spreads over the modes of the data.

    Attributes:
        covered: Modes that own a sample; where quality is known, one of high quality.
        num_modes: Modes K of the data.
        high_quality: Share of all samples that are of high quality; None where it is not defined.
        kl: KL(histogram over the modes || uniform) in nats, from 0 to log K; None where the
            histogram is empty because no sample is of high quality.
    """

    covered: int
    num_modes: int
    high_quality: float | None
    kl: float | None


class Scaling(NamedTuple):
    """Units in which networks see points.

    Attributes:
        centre: What becomes zero, float64 (D,).
        scale: What becomes one along each axis, float64 (D,).
    """

    centre: Tensor
    scale: Tensor

    def applied(self, points: Tensor) -> Tensor:
        """(x - centre) / scale in float32, of points (N, D) on any device."""
        centre, scale = (values.to(points.device) for values in self)
        return ((points.double() - centre) / scale).float()

    def undone(self, points: Tensor) -> Tensor:
        """The inverse, in float64."""
        centre, scale = (values.to(points.device) for values in self)
        return points.double() * scale + centre


def standardisation(points: Tensor) -> Scaling:
    """Units of zero mean and unit standard deviation; an axis without spread keeps its scale.

    Args:
        points: float64 (N, D), finite.

    Returns:
        The units, infinite where the squares of the points overflow.
    """
    constant = points.amin(0) == points.amax(0)  # where rounding may leave a scale above zero
    scale = points.std(0, correction=0)
    return Scaling(points.mean(0), torch.where(constant, 1.0, scale))


@dataclass(frozen=True, eq=False)
class Mixture:
    """Equally weighted isotropic Gaussians about a mean of zero.

    Attributes:
        name: What it is called.
        centres: Means of the modes, float64 (K, 2).
        sigma: Standard deviation of each mode along each axis, > 0.
    """

    name: str
    centres: Tensor
    sigma: float

    @property
    def scaling(self) -> Scaling:
        """Units of the standard deviation of the whole mixture; the mean, zero, stays."""
        variance = self.centres.square().mean(0) + self.sigma**2
        return Scaling(torch.zeros_like(variance), variance.sqrt())

    def sample(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw independent samples.

        Args:
            num: How many, N.
            generator: A CPU generator: one seed, one set of samples.

        Returns:
            float64 (N, 2), on the CPU.
        """
        modes = torch.randint(len(self.centres), (num,), generator=generator)
        noise = torch.randn(num, 2, dtype=torch.float64, generator=generator)
        return self.centres[modes] + self.sigma * noise

    def mode_scores(self, samples: Tensor) -> ModeScores:
        """Score samples by the rule of the PacGAN experiments.

        A sample belongs to the mode nearest in Mahalanobis distance |x - c| / sigma, and is of high
        quality if that distance is below 3, strictly. A mode is covered if it owns a sample of high
        quality. The histogram over modes counts samples of high quality only, their share counts
        all samples. Time and memory O(N K).

        Args:
            samples: (N, 2) in the coordinates of the mixture, floating, on any device.

        Returns:
            The scores. The divergence of perfect samples is about `divergence_floor`, not 0.

        Raises:
            ValueError: If the samples are not (N, 2) with N >= 1, or not finite.

        References:
            Lin, Khetan, Fanti, Oh, "PacGAN: The power of two samples in generative adversarial
            networks", NeurIPS 2018.
            Srivastava et al., "VEEGAN: Reducing mode collapse in GANs using implicit variational
            learning", NIPS 2017.

        Examples:
            >>> ring8().mode_scores(torch.tensor([[1.0, 0.0], [1.0, 0.03], [0.0, 1.029]])).covered
            2
        """
        if samples.ndim != 2 or samples.shape[1] != 2 or len(samples) < 1:
            raise ValueError(
                f"`samples` must have shape (N, 2) with N >= 1, got {tuple(samples.shape)}."
            )
        points = samples.detach().to("cpu", torch.float64)
        if not torch.isfinite(points).all():
            raise ValueError("`samples` must be finite, got NaN or infinite values.")
        # Differences first: the product form of a distance would blur 3 sigma in float64 digits.
        distances = torch.cdist(points, self.centres, compute_mode="donot_use_mm_for_euclid_dist")
        distance, mode = distances.min(1)
        good = distance / self.sigma < HIGH_QUALITY_RADIUS
        counts = torch.bincount(mode[good], minlength=len(self.centres))
        return ModeScores(
            covered=int((counts > 0).sum()),
            num_modes=len(self.centres),
            high_quality=float(good.double().mean()),
            kl=uniform_divergence(counts),
        )


def ring8(sigma: float = 0.01) -> Mixture:
    """Eight modes on the unit circle, the first at (1, 0).

    Args:
        sigma: Standard deviation of a mode; the published one by default.

    Returns:
        The mixture.
    """
    angles = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    return Mixture("ring8", torch.stack([angles.cos(), angles.sin()], dim=1), sigma)


def grid25(sigma: float = 0.05) -> Mixture:
    """Twenty-five modes on the grid {-4, -2, 0, 2, 4}^2.

    Args:
        sigma: Standard deviation of a mode; the published one by default.

    Returns:
        The mixture.
    """
    ticks = torch.arange(-4, 5, 2, dtype=torch.float64)
    return Mixture("grid25", torch.cartesian_prod(ticks, ticks), sigma)


def uniform_divergence(counts: Tensor) -> float | None:
    """KL(p || uniform) = sum_k p_k log(K p_k) in nats, of a histogram p = counts / N.

    It is the "reverse KL" of the studies of mode collapse: 0 for equal counts, log K where one mode
    owns all samples.

    Args:
        counts: Samples per mode (K,), whole numbers.

    Returns:
        The divergence; None where there is no sample, which has none.
    """
    total = counts.sum()
    if total == 0:
        return None
    shares = counts.double() / total
    # Rounding may leave equal counts a last digit below zero.
    return max(0.0, float(torch.special.xlogy(shares, shares * len(counts)).sum()))


def divergence_floor(num_modes: int, num_samples: int) -> float:
    """Mean of `uniform_divergence` over sets of equally likely modes: (K - 1) / (2 N) + O(N^-2).

    Args:
        num_modes: Modes K.
        num_samples: Samples N in the histogram, well above K.

    Returns:
        The leading term, in nats.
    """
    return (num_modes - 1) / (2 * num_samples)
