"""What proves an optimum: a plan from above, potentials that all pairs respect from below."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.functional.pairs import Pairs, blocks

_EPSILON = torch.finfo(torch.float64).eps
_ROUNDINGS = 64  # of a product, a difference, and pairwise sums of up to 2^50 weights
_NEAR = 8  # pairs a row that are evaluated exactly; a row with more is computed again


class Optimum(NamedTuple):
    """A plan as its support and masses, and feasible potentials.

    Attributes:
        rows: Rows (K,) of the support.
        columns: Columns (K,) of the support.
        masses: Its masses (K,) in float64.
        potentials: f (N,) and g (M,) with f + g <= C.
        lower_bound: <a, f> + <b, g> less its rounding.
        upper_bound: Cost of the plan.
        rounding: What the lower bound was lowered by for rounding.
    """

    rows: Tensor
    columns: Tensor
    masses: Tensor
    potentials: tuple[Tensor, Tensor]
    lower_bound: Tensor
    upper_bound: Tensor
    rounding: Tensor


class Dual(NamedTuple):
    """What proves a lower bound; fields as those of `Optimum`."""

    potentials: tuple[Tensor, Tensor]
    lower_bound: Tensor
    rounding: Tensor


def dual(a: Tensor, b: Tensor, f: Tensor, g: Tensor) -> Dual:
    """The dual value <a, f> + <b, g> less its rounding.

    Args:
        a: Weights (N,) of sum 1, up to rounding.
        b: Weights (M,) of sum 1, up to rounding.
        f: Potentials (N,) in float64, each the minimum of differences to potentials g.
        g: Potentials (M,).

    Returns:
        It, with the potentials.
    """
    products = a * f, b * g
    value = f.new_tensor(sum(math.fsum(side.tolist()) for side in products))
    size = products[0].abs().sum() + products[1].abs().sum() + g.abs().amax()
    # Of products and differences, and of the weights, which were divided by sums and summed.
    rounding = _ROUNDINGS * _EPSILON * size
    return Dual((f, g), value - rounding, rounding)


def tighter(one: Optimum, other: Optimum) -> Optimum:
    """The tighter bound of either side.

    Args:
        one: A plan and potentials.
        other: Others of the same problem.

    Returns:
        The cheaper plan with the potentials that prove more.
    """
    upper = min((one, other), key=lambda each: each.upper_bound)
    lower = max((one, other), key=lambda each: each.lower_bound)
    return upper._replace(
        potentials=lower.potentials, lower_bound=lower.lower_bound, rounding=lower.rounding
    )


class Transform(NamedTuple):
    """The c-transform f_i = min_j (C_ij - g_j), and the pairs near those minima, exactly.

    Attributes:
        values: f (N,) in float64, from costs less their rounding.
        rows: Rows (K,) of the pairs.
        columns: Their columns.
        costs: Their costs in float64.
    """

    values: Tensor
    rows: Tensor
    columns: Tensor
    costs: Tensor


def c_transform(pairs: Pairs, g: Tensor) -> Transform:
    """The largest f with f_i + g_j <= C_ij for all pairs, up to float64 rounding.

    Float32 lower bounds of all costs of a row leave few pairs that may be its minimum, and those
    are evaluated exactly; where they leave many, the row is computed again in float64. Time
    O(N M D) or O(N M), memory that of a block.

    Args:
        pairs: Costs (N, M).
        g: Potentials (M,) in float64.

    Returns:
        f, never above the minima by more than rounding.
    """
    parts = [_transformed(pairs, g, rows) for rows in blocks(pairs)]
    return Transform(*map(torch.cat, zip(*parts, strict=True)))


def _transformed(pairs: Pairs, g: Tensor, rows: slice) -> Transform:
    """The c-transform of some rows."""
    lower = pairs.lower(rows)
    lower -= g.to(lower.dtype)
    ids = torch.arange(rows.start, rows.stop, device=g.device)
    lowest = lower.topk(min(_NEAR, lower.shape[1]), dim=1, largest=False)
    bounds, columns = lowest.values.double(), lowest.indices
    sure = 1 - pairs.rounding
    values = pairs.exact(ids, columns[:, 0]) * sure - g[columns[:, 0]]
    # What the subtraction may have rounded away.
    slack = 4 * torch.finfo(lower.dtype).eps * (values.abs() + g.abs().amax())
    near = bounds <= (values + slack)[:, None]
    i, k = near.nonzero(as_tuple=True)
    j = columns[i, k]
    costs = pairs.exact(ids[i], j)
    values.scatter_reduce_(0, i, costs * sure - g[j], "amin")
    many = near[:, -1].nonzero().squeeze(1)
    if len(many) and lower.shape[1] > _NEAR:
        for some in many.split(max(1, len(ids) // 2)):  # float64 takes twice the room
            values[some], nearest = (pairs.lower_in_float64(ids[some]) - g).min(1)
            i, j = torch.cat([i, some]), torch.cat([j, nearest])
            costs = torch.cat([costs, pairs.exact(ids[some], nearest)])
    return Transform(values, ids[i], j, costs)
