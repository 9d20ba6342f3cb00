"""Fréchet distance: squared W_2 between the Gaussians that share the clouds' first two moments."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from otmetrics.checks import as_tensor, checked_clouds
from otmetrics.machine import ieee_float32
from otmetrics.transport.costs import narrow
from otmetrics.transport.gradients import constant
from otmetrics.unknown_options import told_options

# Rows of a block that is factored, at least and per dimension: with eight times as many new rows
# as R has, carrying R along costs little.
_BLOCK_ROWS = 4096, 8


@told_options
def frechet_distance(real: Tensor, fake: Tensor) -> Tensor:
    """Fréchet distance |m - n|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) of two clouds.

    It is FID when the features are those of the FID Inception network, and on the same features
    with covariances divided by n it is a lower bound of the exact W_2^2 (Gelbrich 1990). The trace
    of the root is the nuclear norm of Xc Yc^T / sqrt((N - 1)(M - 1)), Xc and Yc centred (or their
    QR factors R where N > D): no matrix square root and no product of covariances, so nothing is
    lost for N < D. Time O((N + M) D^2 + D^3), or O(N M D) where N, M < D and where a graph is kept.
    Many samples are factored in blocks of rows: memory O(D^2) next to the clouds.

    Args:
        real: Features (N, D) or (B, N, D), N >= 2.
        fake: Features (M, D) or (B, M, D), M >= 2.

    Returns:
        Scalar or (B,), computed in float64, in squared units of the features; rounding below zero
        is clamped to 0. Differentiable in both clouds. Covariances divide by N - 1.

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If a side has fewer than two samples, shapes do not match, or the distance does
            not fit the dtype.

    References:
        Heusel et al., GANs trained by a two time-scale update rule, 2017, equation (6); Dowson and
        Landau, The Fréchet distance between multivariate normal distributions, 1982.

    Example:
        >>> x = torch.randn(40, 5, dtype=torch.float64)
        >>> round(frechet_distance(x, x + 2.0).item(), 9)
        20.0
    """
    real, fake = as_tensor("real", real, floating=True), as_tensor("fake", fake, floating=True)
    value = frechet_in_float64(real, fake)
    dtype = torch.promote_types(real.dtype, fake.dtype)
    return narrow(value, torch.promote_types(dtype, torch.float32))


def frechet_in_float64(real: Tensor, fake: Tensor) -> Tensor:
    """`frechet_distance` before it is rounded to the clouds' dtype."""
    real, fake = checked_clouds(real, fake, min_samples=2)
    return factors_distance(gaussian_factors(real), gaussian_factors(fake))


Gaussian = tuple[Tensor, Tensor]
"""A mean (..., 1, D), and F (..., R, D) with F^T F the covariance."""


def factors_distance(real: Gaussian, fake: Gaussian) -> Tensor:
    """The Fréchet distance between two Gaussians."""
    # tr (A^1/2 B A^1/2)^1/2 for A = Fx^T Fx and B = Fy^T Fy is the nuclear norm of Fx Fy^T.
    return _distance(real, fake, _nuclear_norm(real[1] @ fake[1].mT))


def _distance(real: Gaussian, fake: Gaussian, fidelity: Tensor) -> Tensor:
    """The same, given the trace of the root."""
    (mean_x, factor_x), (mean_y, factor_y) = real, fake
    spread = factor_x.square().sum((-2, -1)) + factor_y.square().sum((-2, -1))
    shift = (mean_x - mean_y).square().sum((-2, -1))
    return (shift + spread - 2 * fidelity).clamp_min(0)


class GaussianPair(NamedTuple):
    """The Gaussians of two clouds, and what tells their transport: Fx Fy^T = U S V^T.

    Attributes:
        real: Mean (1, D) and factor of the real side.
        fake: The same for fake.
        product: U, S and V.
    """

    real: Gaussian
    fake: Gaussian
    product: "SingularParts"

    @property
    def distance(self) -> Tensor:
        """The Fréchet distance."""
        return _distance(self.real, self.fake, self.product.total)


@torch.no_grad()
def gaussian_pair(real: Tensor, fake: Tensor) -> GaussianPair:
    """Of clouds (N, D) and (M, D), at the price of their distance."""
    return paired(gaussian_factors(real), gaussian_factors(fake))


def paired(real: Gaussian, fake: Gaussian) -> GaussianPair:
    """Of two Gaussians."""
    return GaussianPair(real, fake, singular_parts(real[1] @ fake[1].mT))


def gaussian_of_moments(mean: Tensor, covariance: Tensor) -> Gaussian:
    """The Gaussian of a mean (D,) and a covariance (D, D); without axes of no variance."""
    values, vectors = torch.linalg.eigh(covariance.double())
    # What rounding leaves of an empty axis is no variance.
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    kept[-1] = True  # one axis at least, whose variance may be 0
    values = values.clamp_min(0)
    return mean.double()[None], (vectors[:, kept] * values[kept].sqrt()).mT


def gaussian_factors(cloud: Tensor) -> Gaussian:
    """The Gaussian of a cloud; without graph F has at most D rows."""
    num, dimension = cloud.shape[-2:]

    # The derivative of QR needs full rank, which features do not promise.
    factored = num > dimension and not (cloud.requires_grad and torch.is_grad_enabled())
    size = max(_BLOCK_ROWS[0], _BLOCK_ROWS[1] * dimension) if factored else num

    # Block by block, as all in float64 would be a copy, of a float32 cloud twice its size.
    mean, factor = cloud.new_zeros((), dtype=torch.float64), None
    for block in cloud.split(size, -2):
        mean = mean + block.double().sum(-2, keepdim=True) / num

    for block in cloud.split(size, -2):
        rows = (block.double() - mean) / (num - 1) ** 0.5
        if factored:
            # R of the rows so far stands for them: R^T R is the sum of their products.
            rows = rows if factor is None else torch.cat([factor, rows], -2)
            rows = torch.linalg.qr(rows, mode="r").R
        factor = rows
    assert factor is not None
    return mean, factor


class SingularParts(NamedTuple):
    """What a matrix (Q, C) is made of, but for what is 1e-7 of its largest part or less.

    Attributes:
        total: Sum of all singular values.
        values: Those (R,) above that share.
        left: Their vectors (Q, R).
        right: The same, (C, R).
    """

    total: Tensor
    values: Tensor
    left: Tensor
    right: Tensor


def singular_parts(matrix: Tensor) -> SingularParts:
    """Of a float64 matrix (Q, C), in less time than its singular values alone take by an SVD."""
    wide = matrix.shape[0] < matrix.shape[1]
    tall = matrix.mT if wide else matrix
    # Squares of squares of features: brought to 1, neither too large nor too small for float64.
    scale = tall.abs().amax().clamp_min(torch.finfo(tall.dtype).tiny)
    rotated, v = _singular_columns(tall / scale)

    values = rotated.norm(dim=0)
    total, kept = scale * values.sum(), values > 1e-7 * values.amax()
    u, v = rotated[:, kept] / values[kept], v[:, kept]
    return SingularParts(total, scale * values[kept], *((v, u) if wide else (u, v)))


def _singular_columns(tall: Tensor) -> tuple[Tensor, Tensor]:
    """U S (Q, C) and V (C, C) of a matrix U S V^T with entries up to 1."""
    v = torch.linalg.eigh(tall.mT @ tall).eigenvectors
    rotated = tall @ v
    values = rotated.norm(dim=0)
    large = values > 1e-4 * values.amax()
    if bool(large.all()) or float(values.amax()) < 1e-14:
        return rotated, v

    # Eigenvectors are right up to 1e-16 of the largest square: those of large values are far
    # better than needed. What lies across them is a smaller matrix, with another largest value.
    basis, rest = rotated[:, large] / values[large], rotated[:, ~large]
    small, turned = _singular_columns(rest - basis @ (basis.mT @ rest))
    return torch.cat([rotated[:, large], small], 1), torch.cat(
        [v[:, large], v[:, ~large] @ turned], 1
    )


def _nuclear_norm(matrix: Tensor) -> Tensor:
    """Sum of the singular values (...) of matrices (..., Q, C)."""
    if matrix.requires_grad:
        return torch.linalg.matrix_norm(matrix, ord="nuc")
    if matrix.ndim == 2:
        return singular_parts(matrix).total
    return torch.stack([_nuclear_norm(item) for item in matrix])


@told_options
def frechet_distance_from_moments(
    real_mean: Tensor, real_covariance: Tensor, fake_mean: Tensor, fake_covariance: Tensor
) -> Tensor:
    """Fréchet distance from means and covariances, as files of reference statistics hold them.

    Time O(D^3). Covariances of fewer than D samples have lost digits that `frechet_distance` keeps.

    Args:
        real_mean: Mean (D,) or (B, D).
        real_covariance: Covariance (D, D) or (B, D, D), symmetric positive semi-definite.
        fake_mean: The same for fake.
        fake_covariance: The same for fake.

    Returns:
        Scalar or (B,), computed in float64 and clamped at 0. Differentiable once; in directions
        that a covariance does not reach the gradient is 0.

    Raises:
        TypeError: If a moment is not a floating tensor.
        ValueError: If shapes do not match, a value is not finite, or a covariance is not symmetric
            positive semi-definite, or the distance does not fit the dtype of `real_mean`.

    Example:
        >>> mean, eye = torch.zeros(3), torch.eye(3)
        >>> frechet_distance_from_moments(mean, eye, mean + 1, 4 * eye)
        tensor(6.)
    """
    real_mean, real_covariance = _checked_moments("real", real_mean, real_covariance)
    fake_mean, fake_covariance = _checked_moments("fake", fake_mean, fake_covariance)
    if real_mean.shape != fake_mean.shape:
        raise ValueError(
            "`real_mean` and `fake_mean` must have the same shape, "
            f"got {tuple(real_mean.shape)} and {tuple(fake_mean.shape)}."
        )
    return gaussian_distance(real_mean, real_covariance, fake_mean, fake_covariance)


def gaussian_distance(
    real_mean: Tensor, real_covariance: Tensor, fake_mean: Tensor, fake_covariance: Tensor
) -> Tensor:
    """Fréchet distance of moments that need no check; see `frechet_distance_from_moments`."""
    a, b = real_covariance.double(), fake_covariance.double()

    fidelity = _Fidelity.apply(a, b)
    trace = (a + b).diagonal(dim1=-2, dim2=-1).sum(-1)
    shift = (real_mean.double() - fake_mean.double()).square().sum(-1)
    return narrow((shift + trace - 2 * fidelity).clamp_min(0), real_mean.dtype)


class _Fidelity(torch.autograd.Function):
    """tr (A^1/2 B A^1/2)^1/2, with a gradient that survives repeated and zero eigenvalues.

    The derivative in A is half of the transport map A^-1/2 (A^1/2 B A^1/2)^1/2 A^-1/2, and in B
    half of its inverse (Takatsu, Wasserstein geometry of Gaussian measures, 2011); differentiating
    an eigendecomposition would divide by differences of eigenvalues instead.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        """Sum of the singular values of A^1/2 B^1/2."""
        ctx.save_for_backward(a, b)
        return _nuclear_norm(_power(a, 0.5) @ _power(b, 0.5))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Halves of the map and of its inverse."""
        a, b = ctx.saved_tensors

        # They have no graph: a second derivative must raise, not leave them out in silence.
        there, back = _maps(a.detach(), b.detach())
        half = gradient[..., None, None] / 2
        return half * constant(there, a, b), half * constant(back, a, b)


def _maps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The transport map between centred Gaussians of these covariances, and its inverse."""
    u, values, vh = torch.linalg.svd(_power(a, 0.5) @ _power(b, 0.5))
    inverse_a, inverse_b = _power(a, -0.5), _power(b, -0.5)
    there = inverse_a @ (u * values[..., None, :] @ u.mT) @ inverse_a
    back = inverse_b @ (vh.mT * values[..., None, :] @ vh) @ inverse_b
    return there, back


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Power of a positive semi-definite matrix on its range; noise around zero counts as zero."""
    values, vectors = torch.linalg.eigh(matrix)
    noise = values.amax(-1, keepdim=True) * matrix.shape[-1] * torch.finfo(matrix.dtype).eps
    powers = torch.where(values > noise, values.clamp_min(noise).pow(exponent), 0.0)
    return vectors * powers[..., None, :] @ vectors.mT


def _checked_moments(name: str, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The moments, which must be finite, of shapes (..., D), (..., D, D), and possible."""
    mean = as_tensor(f"{name}_mean", mean, floating=True)
    covariance = as_tensor(f"{name}_covariance", covariance, floating=True)

    for moment, value in (("mean", mean), ("covariance", covariance)):
        if not torch.isfinite(value).all():
            raise ValueError(f"`{name}_{moment}` must be finite.")

    if mean.ndim not in (1, 2) or covariance.shape != (*mean.shape, mean.shape[-1]):
        raise ValueError(
            f"`{name}_mean` and `{name}_covariance` must have shapes (D,) and (D, D), "
            f"got {tuple(mean.shape)} and {tuple(covariance.shape)}."
        )

    # Statistics that went through float32 are off by this share of their largest entry.
    slack = 1e-4 * covariance.detach().abs().amax((-2, -1))
    if ((covariance - covariance.mT).detach().abs().amax((-2, -1)) > slack).any():
        raise ValueError(f"`{name}_covariance` must be symmetric.")
    if (torch.linalg.eigvalsh(covariance.detach().double()).amin(-1) < -slack).any():
        raise ValueError(f"`{name}_covariance` must be positive semi-definite.")
    return mean, covariance


class Moments(NamedTuple):
    """What a Gaussian fit needs to know of samples.

    `num_samples` is an int64 scalar; `mean` (D,) and `scatter` (D, D), the sum of
    (x - mean)(x - mean)^T, are float64.
    """

    num_samples: Tensor
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """Covariance (D, D) with divisor num_samples - 1, for at least two samples."""
        return self.scatter / (self.num_samples - 1)


def moments(features: Tensor) -> Moments:
    """Moments of features (N, D), N >= 1, in float64. Time O(N D^2).

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

    Chan, Golub, LeVeque, Updating formulae and a pairwise algorithm for computing sample variances,
    1982, equation (2.1).
    """
    count = first.num_samples + second.num_samples
    shift = second.mean - first.mean
    share = second.num_samples / count.double()
    between = first.num_samples * share * shift

    # Sums of squares around zero would cancel where the mean is far larger than the spread; sums
    # around the means do not.
    scatter = (first.scatter + second.scatter).addr_(between, shift)
    return Moments(count, first.mean + share * shift, scatter)
