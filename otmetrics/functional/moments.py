"""First two moments of a stream: centred, in float64, merged without loss."""

from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.precision import ieee_float32


class Moments(NamedTuple):
    """What a Gaussian fit needs to know of samples.

    Attributes:
        num_samples: Number of samples, int64 scalar.
        mean: Their mean (D,), float64.
        scatter: Sum of (x - mean)(x - mean)^T, (D, D), float64.
    """

    num_samples: Tensor
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """Covariance (D, D) with divisor num_samples - 1, for at least two samples."""
        return self.scatter / (self.num_samples - 1)


def moments(features: Tensor) -> Moments:
    """Moments of features (N, D), in float64. Time O(N D^2).

    Args:
        features: Floating features (N, D), N >= 1.

    Returns:
        Their moments.

    Example:
        >>> moments(torch.tensor([[1e8], [1e8 + 8]], dtype=torch.float64)).covariance.item()
        32.0
    """
    rows = features.double()
    mean = rows.mean(0)
    rows = rows - mean
    with ieee_float32(rows.device):
        return Moments(torch.tensor(len(rows), device=rows.device), mean, rows.T @ rows)


def merged_moments(first: Moments, second: Moments) -> Moments:
    """Moments of two sets of samples together. Time O(D^2).

    Sums of squares around zero would cancel where the mean is far larger than the spread; sums
    around the means do not.

    Args:
        first: Moments of one set.
        second: Moments of the other, of the same D.

    Returns:
        Moments of the union.

    References:
        Chan, Golub, LeVeque, Updating formulae and a pairwise algorithm for computing sample
        variances, 1982, equation (2.1).
    """
    count = first.num_samples + second.num_samples
    shift = second.mean - first.mean
    share = second.num_samples / count.double()
    between = first.num_samples * share * shift
    scatter = (first.scatter + second.scatter).addr_(between, shift)
    return Moments(count, first.mean + share * shift, scatter)
