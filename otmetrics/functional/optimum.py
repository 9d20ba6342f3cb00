"""Plan, potentials and bounds of one problem: which way, at which size."""

import os
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.functional.certificate import Optimum, c_transform
from otmetrics.functional.checks import check_order, check_positive
from otmetrics.functional.cost import pairwise_costs, power
from otmetrics.functional.dense import dense_optimum
from otmetrics.functional.generation import generated_optimum
from otmetrics.functional.pairs import CloudPairs, MatrixPairs
from otmetrics.functional.staircase import line_optimum

DENSE = 900**2
"""Pairs N M up to which a solver of all costs at once is fastest."""

_MATRIX = 2500**2  # pairs up to which a float64 matrix is
_MODEST = 4e9  # bytes for costs where the memory of the machine is unknown
_EPSILON = torch.finfo(torch.float64).eps


class ExactOptions(NamedTuple):
    """Options of exact transport, those of `exact_result`."""

    order: float = 2.0
    tolerance: float = 1e-6
    memory_limit: float | None = None
    time_limit: float | None = None


def check_exact_options(options: ExactOptions) -> None:
    """Raise unless all options hold their rules.

    Args:
        options: The options.

    Raises:
        ValueError: If one does not.
    """
    check_order(options.order)
    check_positive("tolerance", options.tolerance)
    for name in ("memory_limit", "time_limit"):
        if getattr(options, name) is not None:
            check_positive(name, getattr(options, name))


@torch.no_grad()
def cloud_optimum(
    real: Tensor, fake: Tensor, a: Tensor | None, b: Tensor | None, options: ExactOptions
) -> Optimum:
    """Plan, potentials and bounds between two clouds, on their device.

    Args:
        real: Features (N, D).
        fake: Features (M, D).
        a: Non-negative weights (N,) of sum 1, or None.
        b: Non-negative weights (M,) of sum 1, or None.
        options: The options, checked.

    Returns:
        The optimum, or what was found of it within the time limit.
    """
    x, y = real.double(), fake.double()
    rows, columns = _weighted(a, x), _weighted(b, y)
    some_x = x if a is None else x[rows.ids]
    some_y = y if b is None else y[columns.ids]
    optimum = _on_support(some_x, some_y, rows.values, columns.values, options)
    shift = y.mean(0)

    def transformed(cloud: Tensor, other: Tensor, potential: Tensor) -> Tensor:
        pairs = CloudPairs(cloud - shift, other - shift, options.order, stored=False)
        return c_transform(pairs, potential / pairs.scale).values * pairs.scale

    f, g = optimum.potentials
    if len(rows.ids) < len(x):
        f = _filled(f, rows, transformed(x[rows.others], y[columns.ids], g))
    if len(columns.ids) < len(y):
        g = _filled(g, columns, transformed(y[columns.others], x, f))
    return _indexed(optimum, rows, columns, f, g)


@torch.no_grad()
def matrix_optimum(
    cost: Tensor, a: Tensor | None, b: Tensor | None, options: ExactOptions
) -> Optimum:
    """Plan, potentials and bounds for a matrix of costs, on its device.

    Args:
        cost: Costs (N, M) in float64.
        a: Non-negative weights (N,) of sum 1, or None.
        b: Non-negative weights (M,) of sum 1, or None.
        options: The options, checked.

    Returns:
        The optimum, or what was found of it within the time limit.
    """
    rows, columns = _weighted(a, cost), _weighted(b, cost.T)
    part = cost if a is None and b is None else cost[rows.ids][:, columns.ids]
    optimum = _of_matrix(part, rows.values, columns.values, options)
    f, g = optimum.potentials
    if len(rows.ids) < len(cost):
        f = _filled(f, rows, (cost[rows.others][:, columns.ids] - g).amin(1))
    if len(columns.ids) < cost.shape[1]:
        g = _filled(g, columns, (cost[:, columns.others] - f[:, None]).amin(0))
    return _indexed(optimum, rows, columns, f, g)


class _Weighted(NamedTuple):
    """The points that carry weight, and those that do not: these get potentials, but no mass.

    Attributes:
        values: Positive weights of sum 1.
        ids: Indices of their points.
        others: Indices of the points without.
    """

    values: Tensor
    ids: Tensor
    others: Tensor


def _weighted(weights: Tensor | None, points: Tensor) -> _Weighted:
    """Split points by their weights, which are uniform where there are none."""
    if weights is None:
        weights = points.new_full((len(points),), 1 / len(points))
    positive = weights > 0
    ids, others = (mask.nonzero().squeeze(1) for mask in (positive, ~positive))
    return _Weighted(weights[ids], ids, others)


def _filled(potential: Tensor, points: _Weighted, others: Tensor) -> Tensor:
    """A potential on all points from those on either part."""
    whole = potential.new_empty(len(potential) + len(others))
    whole[points.ids], whole[points.others] = potential, others
    return whole


def _indexed(
    optimum: Optimum, rows: _Weighted, columns: _Weighted, f: Tensor, g: Tensor
) -> Optimum:
    """An optimum of the points with weight, told by the indices of all."""
    ids = {"rows": rows.ids[optimum.rows], "columns": columns.ids[optimum.columns]}
    return optimum._replace(**ids, potentials=(f, g))


def _on_support(x: Tensor, y: Tensor, a: Tensor, b: Tensor, options: ExactOptions) -> Optimum:
    """Plan, potentials and bounds of points that all carry weight."""
    order = options.order
    if x.shape[1] == 1:
        return line_optimum(x[:, 0], y[:, 0], order, a, b)
    if 1 in (len(x), len(y)):
        return _only_plan(x, y, order, a, b)
    # Squared costs split into those of centred clouds and the distance of the centres.
    centre_x, centre_y = a @ x, b @ y
    if order != 2:
        centre_x = centre_y = (centre_x + centre_y) / 2
    x, y = x - centre_x, y - centre_y
    shift = centre_x - centre_y
    norms_x, norms_y = (torch.linalg.vector_norm(side, dim=1) for side in (x, y))
    size = a @ norms_x.pow(order) + b @ norms_y.pow(order)
    if len(x) * len(y) <= _MATRIX:
        optimum = _of_matrix(pairwise_costs(x, y, order), a, b, options)
        # Costs that lost more than six digits to cancellation were computed from differences.
        error = (x.shape[1] + 8) * _EPSILON * size * (1 if order == 2 else 2**order * 1000)
    else:
        pairs = CloudPairs(x, y, order, _fits(x, y, options.memory_limit))
        optimum = generated_optimum(pairs, a, b, options.tolerance, options.time_limit)
        optimum = _scaled(optimum, pairs.scale)
        error = order * 4**order * _EPSILON * size
    if order == 2:
        along_x, along_y = 2 * (x @ shift), 2 * (y @ shift)
        apart = shift.square().sum()
        moved = a @ along_x - b @ along_y + apart
        error += 4 * x.shape[1] * _EPSILON * (a @ along_x.abs() + b @ along_y.abs() + apart)
        f, g = optimum.potentials
        optimum = optimum._replace(
            potentials=(f + along_x + apart, g - along_y),
            lower_bound=optimum.lower_bound + moved,
            upper_bound=optimum.upper_bound + moved,
        )
    return optimum._replace(
        lower_bound=optimum.lower_bound - error, rounding=optimum.rounding + 2 * error
    )


def _only_plan(x: Tensor, y: Tensor, order: float, a: Tensor, b: Tensor) -> Optimum:
    """Plan, potentials and bounds where one side is a single point: there is one plan."""
    costs = power((x - y).square().sum(1), order)
    ids = torch.arange(len(costs), device=x.device)
    zeros = torch.zeros_like(ids)
    total = a @ costs if len(y) == 1 else b @ costs
    rounding = (x.shape[1] + len(costs) + 8) * _EPSILON * total
    if len(y) == 1:
        return Optimum(ids, zeros, a, (costs, 0 * b), total - rounding, total, rounding)
    return Optimum(zeros, ids, b, (0 * a, costs), total - rounding, total, rounding)


def _of_matrix(cost: Tensor, a: Tensor, b: Tensor, options: ExactOptions) -> Optimum:
    """Plan, potentials and bounds of a matrix of costs between points with weight."""
    if cost.numel() <= DENSE or 1 in cost.shape:
        return dense_optimum(cost, a, b)
    size = cost.abs().amax()
    unit = float(torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent))
    extreme = not 1e-100 < unit < 1e100 and unit > 0  # squares would leave float64
    pairs = MatrixPairs(cost / unit if extreme else cost)
    optimum = generated_optimum(pairs, a, b, options.tolerance, options.time_limit)
    return _scaled(optimum, unit) if extreme else optimum


def _fits(x: Tensor, y: Tensor, memory_limit: float | None) -> bool:
    """Whether the costs may be kept."""
    if memory_limit is None:
        if x.device.type == "cuda":
            memory_limit = torch.cuda.mem_get_info(x.device)[0] / 2
        elif hasattr(os, "sysconf"):
            memory_limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
        else:  # Windows does not say
            memory_limit = _MODEST
    return 4 * len(x) * len(y) <= memory_limit


def _scaled(optimum: Optimum, scale: float) -> Optimum:
    """An optimum in other units of cost."""
    f, g = optimum.potentials
    bounds = {name: getattr(optimum, name) * scale for name in Optimum._fields[4:]}
    return optimum._replace(potentials=(f * scale, g * scale), **bounds)
