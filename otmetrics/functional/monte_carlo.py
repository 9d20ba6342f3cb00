"""Means over random directions: control variates, and standard errors that keep their word."""

import torch
from torch import Tensor

from otmetrics.functional.result import root

_FEWEST_PER_CONTROL = 16  # values that a regression needs for each of its coefficients
# Of a coefficient: where few values hardly gain by it, their error would look too small.
_PRICE = 12
_RIDGE = 1e-10  # share of the diagonal: collinear controls share their coefficient


def controlled(values: Tensor, controls: Tensor, *, positive: bool = True) -> tuple[Tensor, Tensor]:
    """Values with the same mean over the sphere and less variance, and their deviations from it.

    Subtracts from each value the combination of its controls that least squares find in all other
    values, so that its coefficients do not know it; where that does not predict a value left out
    clearly better than the mean of the others does, it leaves the values as they are.

    Args:
        values: Values (..., L), one a direction.
        controls: Functions (..., L, Q) of the same directions whose means over the sphere are 0.
        positive: Whether the mean is known to be positive: controls that contradict are not used.

    Returns:
        New values (..., L), and by how much they deviate (..., L) from what the others predict, so
        that a value which draws the coefficients towards itself does not hide its error.

    References:
        Nguyen and Ho, Sliced Wasserstein estimation with control variates, 2024; Owen, Monte Carlo
        theory, methods and examples, 2013, section 8.9; MacKinnon and White, Some
        heteroskedasticity-consistent covariance matrix estimators, 1985 (the deviations).
    """
    length, num = controls.shape[-2:]
    deviations = (values - values.mean(-1, keepdim=True)).detach()
    if length < _FEWEST_PER_CONTROL * num or not torch.isfinite(controls).all():
        return values, deviations
    scale = controls.detach().abs().amax(-2, keepdim=True)
    controls = controls / torch.where(scale > 0, scale, 1.0)
    spread = controls - controls.mean(-2, keepdim=True)
    gram = spread.mT @ spread
    ridge = _RIDGE * gram.detach().diagonal(dim1=-2, dim2=-1).sum(-1)
    ridge = torch.where(ridge > 0, ridge, 1.0)[..., None, None]
    gram = gram + ridge * torch.eye(num, dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram, spread.mT).mT
    coefficients = weights.mT @ (values - values.mean(-1, keepdim=True)).unsqueeze(-1)
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


def error_of_mean(deviations: Tensor, block: int) -> Tensor:
    """Standard error of the mean of values of which those of one block depend on each other.

    Args:
        deviations: By how much each value deviates from the mean (..., L), L > block.
        block: Values a block; the last block holds what remains.

    Returns:
        Errors (...), from the differences between the means of blocks.
    """
    length = deviations.shape[-1]
    num = -(-length // block)
    deviations = torch.nn.functional.pad(deviations, (0, num * block - length))
    sums = deviations.unflatten(-1, (num, block)).sum(-1)
    return (sums.square().sum(-1) * (num / (num - 1))).sqrt() / length


def error_of_root(error: Tensor, cost: Tensor, order: float) -> Tensor:
    """Standard error of the p-th root of a cost, by the delta method.

    Args:
        error: Standard error (...) of the cost.
        cost: The cost (...).
        order: The order p.

    Returns:
        Errors (...), 0 where the cost is 0.
    """
    slope = order * root(cost.detach().abs(), order) ** (order - 1)
    return torch.where(slope > 0, error / slope.clamp_min(torch.finfo(error.dtype).tiny), 0.0)
