"""Random directions, and the mean over all directions with its error."""

import torch
from torch import Tensor

from otmetrics.checks import as_tensor, check_generator
from otmetrics.hashing import hash_counters
from otmetrics.transport.result import root
from otmetrics.unknown_options import told_options

# A standard error needs blocks to compare: two errors from 16 of them cover 94 %.
FEWEST_BLOCKS = 16
_STREAM = 0x51CED  # any number


def direction_generator(seed: int) -> torch.Generator:
    """A CPU generator of directions for a seed in [0, 2^63), with numbers of its own.

    Data drawn with the same seed would otherwise hold the very numbers that directions are made of,
    and no direction would be random for it: seed 0 is common.
    """
    return torch.Generator().manual_seed(int(hash_counters(torch.tensor(_STREAM), seed)))


@told_options
def random_directions(
    dimension: int,
    num_projections: int,
    *,
    generator: torch.Generator,
    orthogonal: bool = True,
    block: int | None = None,
) -> Tensor:
    """Random directions, each uniform on the unit sphere.

    Orthogonal ones come in independent blocks; the directions of a block are orthonormal, or,
    where a block is longer than D, several orthonormal bases. A complete basis integrates every
    quadratic form exactly, so that translations and scalings have no Monte-Carlo error along it.
    More directions continue fewer ones of the same `block`. Time O(L D min(D, block)).

    Args:
        dimension: D.
        num_projections: L.
        generator: A CPU generator, so that one seed gives the same directions on every device.
        orthogonal: False for independent directions.
        block: Directions per block; None for `block_size(D, L)`.

    Returns:
        Directions (D, L) in float64, columns of length one.

    References:
        Rowland et al., Orthogonal estimation of Wasserstein distances, 2019; Mezzadri, How to
        generate random matrices from the classical compact groups, 2007 (the signs).

    Example:
        >>> basis = random_directions(3, 3, generator=torch.Generator().manual_seed(0), block=3)
        >>> torch.allclose(basis.T @ basis, torch.eye(3, dtype=torch.float64))
        True
    """
    check_generator(generator)
    if not orthogonal:
        return _unit(_normal(num_projections, dimension, generator)).T

    block = block or block_size(dimension, num_projections)
    whole, rest = divmod(num_projections, block)
    rows = [_orthonormal(whole, block, dimension, generator)] if whole else []
    rows += [_orthonormal(1, rest, dimension, generator)] if rest else []
    return torch.cat(rows).T


def block_size(
    dimension: int, num_projections: int, *, orthogonal: bool = True, most: int | None = None
) -> int:
    """Directions in each of the independent blocks, at least 16 of them from L = 16 on.

    The largest size that leaves 16 blocks, at most `most` and a multiple of D where it is above D;
    the last block holds what remains. 1 for independent directions.
    """
    if not orthogonal:
        return 1
    size = max(1, num_projections // FEWEST_BLOCKS)
    size = min(size, most or size)
    return size if size <= dimension else size - size % dimension


def checked_directions(directions: Tensor, cloud: Tensor) -> Tensor:
    """Columns (D, L) of length 1 that the user gives as rows (L, D), like the cloud (..., D)."""
    directions = as_tensor("directions", directions)
    if directions.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "`directions` must not require a gradient, which they would not get: give "
            "directions.detach(), or take `MaxSliced` for the one that differs most."
        )
    if directions.ndim != 2 or directions.shape[0] != cloud.shape[-1] or directions.shape[1] < 1:
        raise ValueError(
            f"`directions` must have shape (D, L) with D = {cloud.shape[-1]} and L >= 1, "
            f"got {tuple(directions.shape)}."
        )

    lengths = directions.detach().double().norm(dim=0)
    if not ((lengths - 1).abs() < 1e-3).all():  # also catches NaN
        raise ValueError(
            "`directions` must have columns of length 1, got lengths from "
            f"{lengths.min():.3g} to {lengths.max():.3g}: divide by them."
        )
    return directions.detach().T.to(cloud).contiguous()


def _orthonormal(num_blocks: int, size: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Rows (num_blocks * size, D): in each block bases of D rows, and the beginning of one."""
    rows = _normal(num_blocks * size, dimension, generator).view(num_blocks, size, dimension)
    return torch.cat([_basis(part) for part in rows.split(dimension, 1)], 1).flatten(0, 1)


def _basis(rows: Tensor) -> Tensor:
    """Orthonormal rows (..., K, D) that span the same spaces, uniform if the rows are normal."""
    if rows.shape[-2] == 1:
        return _unit(rows)
    q, r = torch.linalg.qr(rows.mT)
    # The signs of R make Q uniform: LAPACK's own choice is not.
    return (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).mT


def _unit(rows: Tensor) -> Tensor:
    """Rows divided by their lengths."""
    return torch.nn.functional.normalize(rows, dim=-1)


def _normal(num: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Independent standard normal rows."""
    return torch.randn(num, dimension, generator=generator, dtype=torch.float64)


_FEWEST_PER_CONTROL = 16  # values that a regression needs for each of its coefficients
# Of a coefficient: where few values hardly gain by it, their error would look too small.
_PRICE = 12
_RIDGE = 1e-10  # share of the diagonal: collinear controls share their coefficient


def apply_controls(
    values: Tensor, controls: Tensor, *, positive: bool = True
) -> tuple[Tensor, Tensor]:
    """Values with the same mean over the sphere and less variance, and their deviations from it.

    Subtracts from each of the values (..., L), one per direction, the combination of its controls
    that least squares find in all other values, so that its coefficients do not know it; where that
    does not predict a value left out clearly better than the mean of the others does, it leaves the
    values as they are.

    `controls` are functions (..., L, Q) of the same directions whose means over the sphere are 0;
    with `positive` the mean is known to be positive, and controls that contradict are not used. The
    deviations (..., L) are those from what the others predict, so that a value which draws the
    coefficients towards itself does not hide its error.

    References:
        Nguyen and Ho, Sliced Wasserstein estimation with control variates, 2024; Owen, Monte Carlo
        theory, methods and examples, 2013, section 8.9; MacKinnon and White, Some
        heteroskedasticity-consistent covariance matrix estimators, 1985 (the deviations).
    """
    length, num = controls.shape[-2:]
    deviations = (values - values.mean(-1, keepdim=True)).detach()
    if length < _FEWEST_PER_CONTROL * num or not torch.isfinite(controls).all():
        return values, deviations

    # Least squares in units of the largest control, so that the ridge means the same for each.
    scale = controls.detach().abs().amax(-2, keepdim=True)
    controls = controls / torch.where(scale > 0, scale, 1.0)
    spread = controls - controls.mean(-2, keepdim=True)
    gram = spread.mT @ spread
    ridge = _RIDGE * gram.detach().diagonal(dim1=-2, dim2=-1).sum(-1)
    ridge = torch.where(ridge > 0, ridge, 1.0)[..., None, None]
    gram = gram + ridge * torch.eye(num, dtype=gram.dtype, device=gram.device)

    weights = torch.linalg.solve(gram, spread.mT).mT
    coefficients = weights.mT @ (values - values.mean(-1, keepdim=True)).unsqueeze(-1)
    # A value left out is predicted without a second regression: its residual over 1 - leverage.
    leverage = ((spread * weights).sum(-1) + 1 / length).clamp_max(1 - 1e-9)
    fitted = values - (controls @ coefficients).squeeze(-1)
    left_out = (fitted - fitted.mean(-1, keepdim=True)) / (1 - leverage)
    adjusted = fitted + (controls * weights).sum(-1) * left_out
    left_out = left_out.detach()

    with torch.no_grad():
        plain = deviations * (length / (length - 1))
        price = 1 + _PRICE * num / length
        errors, plain_errors = (v.square().sum(-1, keepdim=True) for v in (left_out, plain))
        better = price * errors < plain_errors
        if positive:
            better &= adjusted.mean(-1, keepdim=True) > 0
    return torch.where(better, adjusted, values), torch.where(better, left_out, deviations)


def errors_of_blocks(deviations: Tensor, block: int) -> Tensor:
    """What each block (..., K) of values (..., L) adds to the error of their mean.

    The squares sum to the square of its standard error. From the differences between the means of
    blocks, L > block; `deviations` are those of each value from the mean, and the last block holds
    what remains.
    """
    sums = _sums_of_blocks(deviations, block)
    num = sums.shape[-1]
    return sums * ((num / (num - 1)) ** 0.5 / deviations.shape[-1])


def error_of_mean(deviations: Tensor, block: int) -> Tensor:
    """Standard error (...) of the mean of values (..., L) that depend on each other in blocks."""
    sums = _sums_of_blocks(deviations, block)
    num = sums.shape[-1]
    return (sums.square().sum(-1) * (num / (num - 1))).sqrt() / deviations.shape[-1]


def _sums_of_blocks(values: Tensor, block: int) -> Tensor:
    """Sums (..., K) of blocks of values (..., L)."""
    length = values.shape[-1]
    num = -(-length // block)
    return (
        torch.nn.functional.pad(values, (0, num * block - length))
        .unflatten(-1, (num, block))
        .sum(-1)
    )


def error_of_root(error: Tensor, cost: Tensor, order: float) -> Tensor:
    """Standard error (...) of the p-th root of a cost by the delta method, 0 where that is 0."""
    slope = order * root(cost.detach().abs(), order) ** (order - 1)
    return torch.where(slope > 0, error / slope.clamp_min(torch.finfo(error.dtype).tiny), 0.0)
