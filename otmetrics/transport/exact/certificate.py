"""What proves an optimum: a plan from above, potentials that all pairs respect from below."""

import math
import time
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.transport.costs import Pairs, blocks

_EPSILON = torch.finfo(torch.float64).eps
_ROUNDINGS = 64  # of a product, a difference, and pairwise sums of up to 2^50 weights
_WORK, _LEAST_STEPS, _MOST_STEPS = 2**30, 4, 50  # pairs, and passes over them, for a better proof
_FAINT = 1e-6  # of a weight: below it and the rounding of weights, a mass may be rounding itself
_CLOSE = 64  # pairs a row, on average, that are evaluated exactly for a better proof
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
        noise: A gap that rounding leaves with any potentials, 0 where that is not known.
    """

    rows: Tensor
    columns: Tensor
    masses: Tensor
    potentials: tuple[Tensor, Tensor]
    lower_bound: Tensor
    upper_bound: Tensor
    rounding: Tensor
    noise: Tensor | float = 0.0


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


def faint(optimum: Optimum, a: Tensor, b: Tensor) -> Tensor:
    """Which masses of a plan are no more than the rounding of weights may have made.

    Args:
        optimum: The plan (K,).
        a: Weights (N,) of sum 1.
        b: Weights (M,) of sum 1.

    Returns:
        Mask (K,).
    """
    ends = torch.minimum(a[optimum.rows], b[optimum.columns])
    rounding = 8 * (len(a) + len(b)) * _EPSILON
    return (optimum.masses <= rounding) & (optimum.masses <= _FAINT * ends)


def both_weights(
    a: Tensor | None, b: Tensor | None, shape: tuple[int, int], like: Tensor
) -> tuple[Tensor, Tensor]:
    """Weights of both sides, uniform where none are given.

    Args:
        a: Weights (N,) of sum 1, or None.
        b: Weights (M,) of sum 1, or None.
        shape: N and M.
        like: A tensor of their dtype and device.

    Returns:
        Weights (N,) and (M,).
    """
    n, m = shape
    return (
        like.new_full((n,), 1 / n) if a is None else a,
        like.new_full((m,), 1 / m) if b is None else b,
    )


def missed_masses(optimum: Optimum, weights: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """By how much the masses of a plan miss each weight.

    Args:
        optimum: The plan.
        weights: Weights (N,) and (M,).

    Returns:
        Sizes of the differences (N,) and (M,).
    """
    rows, columns, masses = optimum[:3]
    a, b = weights
    return (
        torch.zeros_like(a).index_add_(0, rows, masses).sub_(a).abs_(),
        torch.zeros_like(b).index_add_(0, columns, masses).sub_(b).abs_(),
    )


def is_rounding(
    missed: tuple[Tensor, Tensor],
    weights: tuple[Tensor, Tensor],
    reaches: tuple[Tensor, Tensor],
) -> bool:
    """Whether masses miss weights by no more than rounding, each counted with what it may cost.

    Args:
        missed: What `missed_masses` gives.
        weights: Weights (N,) and (M,).
        reaches: Costs (N,) and (M,) of the order of those to move a unit of each.

    Returns:
        True if so.
    """
    sides = list(zip(missed, weights, reaches, strict=True))
    rounding = 8 * sum(map(len, missed)) * _EPSILON
    lost, whole = (sum(float(side[k] @ side[2]) for side in sides) for k in (0, 1))
    return lost <= rounding * whole


def proved_anew(
    optimum: Optimum,
    pairs: Pairs,
    weights: tuple[Tensor, Tensor],
    tolerance: float,
    deadline: float,
) -> Optimum:
    """The same plan with a bound by the smallest potentials that fit it, if that proves more.

    Rounding is relative to the potentials, which solvers leave as large as the largest cost. Where
    clouds are nearly equal the cost is far smaller, and potentials of its size prove it: shortest
    paths from f = 0 in the graph of the pairs that the plan uses (Ahuja, Magnanti, Orlin, Network
    Flows, 1993, section 9.2), a c-transform a step. Whatever they are, the bound holds.

    Args:
        optimum: A plan and potentials.
        pairs: The costs.
        weights: Weights (N,) and (M,) of sum 1.
        tolerance: Gap relative to the cost at which to stop.
        deadline: When `time.monotonic` says so, too.

    Returns:
        The optimum with the better of its old and of the new potentials.
    """
    rows, columns, masses = optimum[:3]
    costs = pairs.exact(rows, columns)
    upper = masses @ costs
    n, m = pairs.shape
    used = ~faint(optimum, *weights)
    served = torch.zeros(m, dtype=torch.bool, device=pairs.device)
    served[columns[used]] = True
    used |= ~served[columns]
    rows, columns, costs = rows[used], columns[used], costs[used]
    best = optimum._replace(upper_bound=upper)
    f, g = torch.zeros_like(weights[0]), optimum.potentials[1]
    for step in range(1 + max(_LEAST_STEPS, min(_MOST_STEPS, _WORK // (n * m)))):
        if time.monotonic() > deadline:
            break
        if step:
            g = torch.full_like(g, -torch.inf)
            g.scatter_reduce_(0, columns, costs - f[rows], "amax")
        values = c_transform(pairs, g, refined=True).values
        proof = dual(*weights, values, g)
        if proof.lower_bound > best.lower_bound:
            best = best._replace(
                potentials=proof.potentials, lower_bound=proof.lower_bound, rounding=proof.rounding
            )
        gap = float(upper - best.lower_bound)
        if gap <= tolerance * abs(float(upper)):
            break
        if not step:
            continue
        lower = torch.minimum(f, values)
        slack = 8 * _EPSILON * (f.abs().amax() + g.abs().amax())
        if (lower >= f - slack).all():  # they fit the plan: what is left is rounding
            return best._replace(noise=2 * best.rounding)
        f = lower
    return best


def c_transform(pairs: Pairs, g: Tensor, refined: bool = False) -> Transform:
    """The largest f with f_i + g_j <= C_ij for all pairs, up to float64 rounding.

    Float32 lower bounds of all costs of a row leave few pairs that may be its minimum, and those
    are evaluated exactly; where they leave many, the row is computed again in float64. Time
    O(N M D) or O(N M), memory that of a block.

    Args:
        pairs: Costs (N, M).
        g: Potentials (M,) in float64.
        refined: Whether pairs that a product in float64 does not tell apart are evaluated too.

    Returns:
        f, never above the minima by more than rounding.
    """
    parts = [_c_transform(pairs, g, rows, refined) for rows in blocks(pairs)]
    return Transform(*map(torch.cat, zip(*parts, strict=True)))


def _c_transform(pairs: Pairs, g: Tensor, rows: slice, refined: bool) -> Transform:
    """The c-transform of some rows."""
    lower = pairs.lower(rows)
    lower -= g.to(lower.dtype)
    ids = torch.arange(rows.start, rows.stop, device=g.device)
    lowest = lower.topk(min(_NEAR, lower.shape[1]), dim=1, largest=False)
    bounds, columns = lowest.values.double(), lowest.indices
    sure = 1 - pairs.rounding
    values = pairs.exact(ids, columns[:, 0]) * sure - g[columns[:, 0]]
    # What the subtraction may have rounded away.
    limits = torch.finfo(lower.dtype)
    slack = 4 * limits.eps * (values.abs() + g.abs().amax()) + limits.tiny
    near = bounds <= (values + slack)[:, None]
    i, k = near.nonzero(as_tuple=True)
    j = columns[i, k]
    costs = pairs.exact(ids[i], j)
    values.scatter_reduce_(0, i, costs * sure - g[j], "amin")
    many = near[:, -1].nonzero().squeeze(1)
    if len(many) and lower.shape[1] > _NEAR:
        for some in many.split(max(1, len(ids) // 2)):  # float64 takes twice the room
            doubles, above = pairs.lower_in_float64(ids[some]) - g, values[some]
            values[some], nearest = doubles.min(1)
            if refined and pairs.rounding:
                _refine(values, above, doubles, pairs, g, ids, some)
            i, j = torch.cat([i, some]), torch.cat([j, nearest])
            costs = torch.cat([costs, pairs.exact(ids[some], nearest)])
    return Transform(values, ids[i], j, costs)


def _refine(
    values: Tensor,
    above: Tensor,
    doubles: Tensor,
    pairs: Pairs,
    g: Tensor,
    ids: Tensor,
    some: Tensor,
) -> None:
    """Minima of some rows from the exact costs of all pairs that may be them, if not too many."""
    slack = 4 * _EPSILON * (above.abs() + g.abs().amax())
    i, j = (doubles <= (above + slack)[:, None]).nonzero(as_tuple=True)
    if len(i) > _CLOSE * len(some):
        return
    exact = pairs.exact(ids[some[i]], j) * (1 - pairs.rounding) - g[j]
    values[some] = above.scatter_reduce(0, i, exact, "amin")
