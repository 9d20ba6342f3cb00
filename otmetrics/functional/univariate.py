"""Optimal transport on the line: sorting solves it, for every order p >= 1 at once."""

import math

import numpy as np
import torch
from torch import Tensor

from otmetrics.functional.checks import (
    check_order,
    check_tensor,
    checked_clouds,
    checked_weights,
)


def univariate_cost(
    real: Tensor,
    fake: Tensor,
    *,
    order: float = 2.0,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
) -> Tensor:
    """W_p^p between one-dimensional samples, int_0^1 |F^-1(t) - G^-1(t)|^p dt.

    Equal sizes pair sorted values; unequal sizes merge the quantile levels i/N and j/M on the
    integer lattice of N M, which all rows share; weights merge the cumulative weights row by row.
    Nothing is subsampled. Time O((N + M) log (N + M)) a row.

    Args:
        real: Values (N,) or (B, N), in any order.
        fake: Values (M,) or (B, M).
        order: The order p >= 1.
        real_weights: Non-negative weights (N,) or (B, N), normalised here; None for uniform.
        fake_weights: The same for `fake`.

    Returns:
        Costs, scalar or (B,), accumulated in float64. Differentiable; ties take any order, each of
        which is a valid subgradient.

    Raises:
        TypeError: If an argument is not a floating tensor.
        ValueError: If a shape, a weight or the order breaks its rule.

    References:
        Peyre and Cuturi, Computational Optimal Transport, 2019, section 2.6.

    Example:
        >>> univariate_cost(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 5.0]), order=1)
        tensor(3., dtype=torch.float64)
    """
    check_order(order)
    check_tensor("real", real)
    check_tensor("fake", fake)
    real, fake = checked_clouds(real[..., None], fake[..., None], order=order)
    a = checked_weights("real_weights", real_weights, real)
    b = checked_weights("fake_weights", fake_weights, fake)
    return line_costs(real[..., 0], fake[..., 0], order, a, b)


def line_costs(
    real: Tensor,
    fake: Tensor,
    order: float,
    real_weights: Tensor | None,
    fake_weights: Tensor | None,
) -> Tensor:
    """W_p^p of samples that are already checked; see `univariate_cost`.

    Args:
        real: Values (..., N), in any order.
        fake: Values (..., M) with the same leading dimensions.
        order: The order p >= 1.
        real_weights: Float64 weights that sum to one and broadcast to `real`, or None.
        fake_weights: The same for `fake`.

    Returns:
        Costs (...) in float64.
    """
    if real_weights is None and fake_weights is None:
        return _uniform_cost(_sorted(real), _sorted(fake), order)
    return _weighted_cost(real, fake, order, real_weights, fake_weights)


def _sorted(values: Tensor) -> Tensor:
    """Sort the last dimension; numpy's vectorised sort wins on the CPU when no graph is needed."""
    if values.device.type == "cpu" and not values.requires_grad:
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(dim=-1).values


def _powers(difference: Tensor, order: float) -> Tensor:
    """|difference|^p in float64."""
    difference = difference.double()
    return difference.square() if order == 2 else difference.abs().pow(order)


def _uniform_cost(real: Tensor, fake: Tensor, order: float) -> Tensor:
    """Cost between sorted samples of equal weights."""
    if real.shape[-1] == fake.shape[-1]:
        return _powers(real - fake, order).mean(-1)
    rows, columns, widths = merged_quantiles(real.shape[-1], fake.shape[-1])
    difference = real[..., rows.to(real.device)] - fake[..., columns.to(fake.device)]
    return (_powers(difference, order) * widths.to(real.device)).sum(-1)


def merged_quantiles(num_real: int, num_fake: int) -> tuple[Tensor, Tensor, Tensor]:
    """Intervals of [0, 1] on which both quantile functions of N and M samples are constant.

    Args:
        num_real: N.
        num_fake: M.

    Returns:
        For each of the K = N + M - gcd(N, M) intervals the index of its sorted real and of its
        sorted fake sample (int64) and its width (float64); the widths sum to one.
    """
    # Levels i/N and j/M are i*M and j*N on the lattice of N*M: exact in integers.
    levels = torch.cat(
        [torch.arange(1, num_real + 1) * num_fake, torch.arange(1, num_fake + 1) * num_real]
    ).unique()
    assert len(levels) == num_real + num_fake - math.gcd(num_real, num_fake)
    starts = torch.cat([levels.new_zeros(1), levels[:-1]])
    widths = (levels - starts).double() / (num_real * num_fake)
    return starts // num_fake, starts // num_real, widths


def _weighted_cost(
    real: Tensor,
    fake: Tensor,
    order: float,
    real_weights: Tensor | None,
    fake_weights: Tensor | None,
) -> Tensor:
    """Cost between weighted samples by merging both sets of cumulative weights."""
    real, real_levels = _quantile_function(real, real_weights)
    fake, fake_levels = _quantile_function(fake, fake_weights)
    levels = torch.cat([real_levels, fake_levels], -1).sort(-1).values
    widths = torch.diff(levels, dim=-1, prepend=torch.zeros_like(levels[..., :1]))
    rows = torch.searchsorted(real_levels, levels)
    columns = torch.searchsorted(fake_levels, levels)
    difference = real.gather(-1, rows) - fake.gather(-1, columns)
    return (_powers(difference, order) * widths).sum(-1)


def _quantile_function(values: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sorted values and the cumulative weight (float64) up to and including each."""
    values, permutation = values.sort(dim=-1)
    if weights is None:
        weights = torch.full_like(values, 1 / values.shape[-1], dtype=torch.float64)
    else:
        weights = weights.expand(values.shape).gather(-1, permutation)
    levels = weights.cumsum(-1)
    # The last level is 1 to the bit, so that no search runs past it onto a weightless point.
    return values, levels / levels[..., -1:]
