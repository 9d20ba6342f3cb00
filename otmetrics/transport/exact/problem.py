"""Which way an exact problem is solved, and equal points as one place."""

from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.checks import is_uniform
from otmetrics.machine import memory_budget
from otmetrics.transport.costs import (
    Cloud,
    CloudPairs,
    MatrixPairs,
    power,
    power_of_two,
    squared_distances,
)
from otmetrics.transport.exact.certificate import (
    Limits,
    Optimum,
    Units,
    c_transform,
    prove_by_paths,
    tighter,
    units,
)
from otmetrics.transport.exact.large import optimum_by_columns
from otmetrics.transport.exact.simplex import sparse_simplex
from otmetrics.transport.exact.small import assigned_optimum, dense_optimum
from otmetrics.transport.line import line_optimum, staircase

DENSE = 700**2
"""Pairs N M up to which a solver of all costs at once is fastest."""

_EPSILON = torch.finfo(torch.float64).eps


class Support(NamedTuple):
    """The places of one cloud: points that are equal, and carry weight, as one."""

    ids: Tensor  # a point of each place (K,)
    points: Tensor  # the points that carry weight (L,)
    places: Tensor  # their places (L,)
    shares: Tensor  # their weights (L,) in whole units
    given: Tensor  # their weights (L,) of sum 1
    others: Tensor  # the points that carry none (N - L,)

    def of(self, points: Tensor) -> Tensor:
        """One point of each place."""
        return points if len(self.ids) == len(points) else points[self.ids]

    def summed(self, weights: Tensor) -> Tensor:
        """Weights (L,) of points as weights (K,) of places."""
        return weights.new_zeros(len(self.ids)).index_add_(0, self.places, weights)

    def potential(self, of_places: Tensor, of_others: Tensor) -> Tensor:
        """A potential (N,) on all points."""
        potential = of_places.new_empty(len(self.points) + len(self.others))
        potential[self.points], potential[self.others] = of_places[self.places], of_others
        return potential


def supports(real: Tensor, fake: Tensor, a: Tensor, b: Tensor) -> tuple[Support, Support]:
    """The places of two clouds, for weights of sum 1. Time that of sorting the points.

    Or of a matrix and its transpose: equal rows are interchangeable as equal points are.
    """
    whole = units(a[a > 0], b[b > 0])
    return _support(real, a, whole.real), _support(fake, b, whole.fake)


def _support(points: Tensor, weights: Tensor, shares: Tensor) -> Support:
    """The places of one cloud, in the order of their first points."""
    positive = weights > 0
    given = weights[positive]
    carriers, others = (mask.nonzero().squeeze(1) for mask in (positive, ~positive))
    everyone = torch.arange(len(carriers), device=points.device)
    # Sums that differ tell points apart much faster; the line needs no places.
    if points.shape[1] == 1 or len(points.sum(1).unique()) == len(points):
        return Support(carriers, carriers, everyone, shares, given, others)

    _, labels = points[carriers].unique(dim=0, return_inverse=True)
    first = everyone.new_full(everyone.shape, len(everyone))
    first.scatter_reduce_(0, labels, everyone, "amin")
    ids, places = first[labels].unique(return_inverse=True)
    return Support(carriers[ids], carriers, places, shares, given, others)


def place_weights(rows: Support, columns: Support) -> Units:
    """Weights of the places of two clouds."""
    given = rows.summed(rows.given), columns.summed(columns.given)
    total = float(rows.shares.sum())
    return Units(rows.summed(rows.shares), columns.summed(columns.shares), total, given)


def spread(optimum: Optimum, rows: Support, columns: Support, total: float) -> Optimum:
    """The plan between places as one between points; its potentials stay those of places.

    Masses have the sum 1, and `total` is that of the shares of either side.
    """
    i, cells, masses = _split(rows, optimum.rows, optimum.masses, total)
    j, again, masses = _split(columns, optimum.columns[cells], masses, total)
    return optimum._replace(rows=i[again], columns=j, masses=masses)


def _split(
    support: Support, places: Tensor, masses: Tensor, total: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Masses at places as masses of their points: the points, the masses they come from, shares."""
    if len(support.ids) == len(support.points):
        return support.points[places], torch.arange(len(places), device=places.device), masses

    points, cells = support.places.argsort(stable=True), places.argsort(stable=True)
    flows = (masses[cells] * total).round()
    path = staircase(support.shares[points], flows)
    points, cells = points[path.rows], cells[path.columns]
    # Whole units end together at each place; the test is for flows that rounding changed.
    here = (path.flows > 0) & (support.places[points] == places[cells])
    return support.points[points[here]], cells[here], path.flows[here] / total


@torch.no_grad()
def cloud_optimum(
    real: Tensor, fake: Tensor, a: Tensor, b: Tensor, order: float, limits: Limits
) -> Optimum:
    """Plan, potentials and bounds between two clouds (N, D) and (M, D), on their device.

    Weights have the sum 1. Potentials of points without weight are the largest that fit.
    """
    rows, columns = supports(real, fake, a, b)
    weights = place_weights(rows, columns)
    x, y = rows.of(real), columns.of(fake)
    optimum = _solve_places(x, y, weights, order, limits)
    long_line = x.shape[1] == 1 and len(x) * len(y) > DENSE  # which has too many pairs
    if optimum.is_open(limits.tolerance) and not long_line:
        optimum = _prove_again(optimum, x, y, weights, order, limits)

    f, g = optimum.potentials
    f = rows.potential(f, _fitting_potential(real[rows.others], y, g, order))
    g = columns.potential(g, _fitting_potential(fake[columns.others], real, f, order))
    return spread(optimum, rows, columns, weights.total)._replace(potentials=(f, g))


def _fitting_potential(points: Tensor, others: Tensor, potential: Tensor, order: float) -> Tensor:
    """The largest potential of points without weight that fits that of the other side."""
    if not len(points):
        return potential[:0]
    centre = others.mean(0, dtype=torch.float64)
    pairs = CloudPairs(Cloud(points, centre), Cloud(others, centre), order, stored=False)
    scale = pairs.scale or 1.0  # 0 where no cost fits float64
    return c_transform(pairs, potential / scale).values * pairs.scale


@torch.no_grad()
def matrix_optimum(cost: Tensor, a: Tensor, b: Tensor, limits: Limits) -> Optimum:
    """Plan, potentials and bounds for costs (N, M) in float64, on their device."""
    rows, columns = supports(cost, cost.T, a, b)
    weights = place_weights(rows, columns)
    places = columns.of(rows.of(cost).T).T
    optimum = _solve_matrix(places, weights, limits)
    if optimum.is_open(limits.tolerance):
        optimum = prove_by_paths(optimum, MatrixPairs(places), weights.given, limits)

    f, g = optimum.potentials
    f = rows.potential(f, (cost[rows.others][:, columns.ids] - g).amin(1))
    g = columns.potential(g, (cost[:, columns.others] - f[:, None]).amin(0))
    return spread(optimum, rows, columns, weights.total)._replace(potentials=(f, g))


def _solve_places(x: Tensor, y: Tensor, weights: Units, order: float, limits: Limits) -> Optimum:
    """Plan, potentials and bounds of points that all differ and carry weight."""
    a, b = weights.given
    if x.shape[1] == 1:
        return line_optimum(x[:, 0].double(), y[:, 0].double(), order, weights)
    if 1 in (len(x), len(y)):
        return _only_plan(x.double(), y.double(), order, a, b)

    # Squared costs split into those of centred clouds and the distance of the centres.
    centre_x, centre_y = Cloud(x).mean(a), Cloud(y).mean(b)
    if order != 2:
        centre_x = centre_y = (centre_x + centre_y) / 2
    real, fake, shift = Cloud(x, centre_x), Cloud(y, centre_y), centre_x - centre_y
    size = a @ real.norms().pow(order) + b @ fake.norms().pow(order)
    offset = float(shift.square().sum()) if order == 2 else 0.0

    if len(x) * len(y) <= DENSE:
        cost = power(squared_distances(real.whole(), fake.whole()), order)
        optimum = _solve_matrix(cost, weights, limits, offset, dimension=x.shape[1])
        # Costs that lost more than six digits to cancellation were computed from differences.
        error = (x.shape[1] + 8) * _EPSILON * size * (1 if order == 2 else 2.0**order * 1000)
    else:
        pairs = CloudPairs(real, fake, order, _fit(x, y, limits))
        optimum = optimum_by_columns(pairs, weights, limits, offset and offset / pairs.scale)
        optimum = optimum.in_units(pairs.scale)
        error = order * 4.0**order * _EPSILON * size

    if order == 2:
        along_x, along_y = 2 * real.along(shift), 2 * fake.along(shift)
        apart = shift.square().sum()
        moved = a @ along_x - b @ along_y + apart
        error += (4 * x.shape[1] + 64) * _EPSILON * (a @ along_x.abs() + b @ along_y.abs() + apart)
        f, g = optimum.potentials
        optimum = optimum._replace(
            potentials=(f + along_x + apart, g - along_y),
            lower_bound=optimum.lower_bound + moved,
            upper_bound=optimum.upper_bound + moved,
        )
    return optimum._replace(lower_bound=optimum.lower_bound - error)


def _only_plan(x: Tensor, y: Tensor, order: float, a: Tensor, b: Tensor) -> Optimum:
    """Plan, potentials and bounds where one side is a single point: there is one plan."""
    costs = power((x - y).square().sum(1), order)
    ids = torch.arange(len(costs), device=x.device)
    zeros = torch.zeros_like(ids)
    total = a @ costs if len(y) == 1 else b @ costs
    rounding = _EPSILON * (x.shape[1] + len(costs) + 64) * total
    if len(y) == 1:
        return Optimum(ids, zeros, a, (costs, 0 * b), total - rounding, total, rounding)
    return Optimum(zeros, ids, b, (0 * a, costs), total - rounding, total, rounding)


def _solve_matrix(
    cost: Tensor, weights: Units, limits: Limits, offset: float = 0.0, dimension: int | None = None
) -> Optimum:
    """Plan, potentials and bounds of a matrix of costs, perhaps between points."""
    size = max(map(abs, map(float, cost.aminmax())))
    if not 1e-30 < size < 1e30 and size > 0:  # squares would leave float64, or costs float32
        unit = power_of_two(size)
        scaled = _solve_matrix(cost * unit, weights, limits, offset * unit, dimension)
        return scaled.in_units(1 / unit)

    if cost.numel() > DENSE and 1 not in cost.shape:
        return optimum_by_columns(MatrixPairs(cost), weights, limits, offset)
    one_to_one = cost.shape[0] == cost.shape[1] > 1 and all(map(is_uniform, weights[:2]))
    if not one_to_one or dimension == 2:  # in the plane scipy's assignment is slow
        return dense_optimum(cost, weights)

    optimum = assigned_optimum(cost)
    gap, total = float(optimum.upper_bound - optimum.lower_bound), float(optimum.upper_bound)
    if gap <= limits.tolerance * abs(total + offset) or total <= float(cost.min()):
        return optimum
    # Where rounding leaves one proof open, that of the other solver may be closed.
    return tighter(optimum, dense_optimum(cost, weights))


def _prove_again(
    optimum: Optimum, x: Tensor, y: Tensor, weights: Units, order: float, limits: Limits
) -> Optimum:
    """A tighter proof of a plan, and a cheaper plan if that leaves the gap of many points open."""
    a, b = weights.given
    centre = (Cloud(x).mean(a) + Cloud(y).mean(b)) / 2
    # Exact costs from the points as they are: far from the origin that keeps their digits.
    clouds = Cloud(x, centre), Cloud(y, centre)
    pairs = CloudPairs(*clouds, order, _fit(x, y, limits), plain=True)
    if not pairs.scale:
        return optimum
    scaled = prove_by_paths(optimum.in_units(1 / pairs.scale), pairs, weights.given, limits)
    many = len(x) * len(y) > DENSE
    if many and scaled.is_open(limits.tolerance) and not limits.is_late():
        scaled = prove_by_paths(_improve(scaled, pairs, weights), pairs, weights.given, limits)
    return scaled.in_units(pairs.scale)


def _improve(optimum: Optimum, pairs: CloudPairs, weights: Units) -> Optimum:
    """A plan from the pairs of a plan and the nearest ones, if it costs less."""
    # Column generation takes first potentials from all costs, which drowns the small ones.
    near = c_transform(pairs, torch.zeros_like(weights.given[1]))
    keys = torch.cat([near.rows, optimum.rows]) * pairs.shape[1]
    keys = (keys + torch.cat([near.columns, optimum.columns])).unique()
    rows, columns = keys // pairs.shape[1], keys % pairs.shape[1]
    costs = pairs.exact(rows, columns)
    flows, _, _ = sparse_simplex(rows, columns, costs, weights)

    used = flows > 0
    masses = flows[used] / weights.total
    upper = masses @ costs[used]
    if upper >= optimum.upper_bound:
        return optimum
    return optimum._replace(
        rows=rows[used], columns=columns[used], masses=masses, upper_bound=upper
    )


def _fit(x: Tensor, y: Tensor, limits: Limits) -> bool:
    """Whether all costs, in float32, may be kept."""
    return 4 * len(x) * len(y) <= memory_budget(x.device, limits.memory)
