"""Which way an exact problem is solved, and equal points as one place."""

import math
import time
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.checks import check_order, check_positive, is_uniform
from otmetrics.machine import memory_budget
from otmetrics.transport.costs import Cloud, CloudPairs, MatrixPairs, power, squared_distances
from otmetrics.transport.exact.certificate import Optimum, c_transform, proved_anew, tighter
from otmetrics.transport.exact.large import generated_optimum
from otmetrics.transport.exact.simplex import sparse_simplex
from otmetrics.transport.exact.small import assigned_optimum, dense_optimum
from otmetrics.transport.line import Units, line_optimum, staircase, units


class Support(NamedTuple):
    """The places of one cloud.

    Attributes:
        ids: A point of each place (K,).
        points: The points that carry weight (L,).
        places: Their places (L,).
        shares: Their weights (L,) in whole units.
        given: Their weights (L,) of sum 1.
        others: The points that carry none (N - L,).
    """

    ids: Tensor
    points: Tensor
    places: Tensor
    shares: Tensor
    given: Tensor
    others: Tensor

    def of(self, points: Tensor) -> Tensor:
        """One point of each place."""
        return points if len(self.ids) == len(points) else points[self.ids]

    def potential(self, of_places: Tensor, of_others: Tensor) -> Tensor:
        """A potential on all points."""
        potential = of_places.new_empty(len(self.points) + len(self.others))
        potential[self.points], potential[self.others] = of_places[self.places], of_others
        return potential


def supports(
    real: Tensor, fake: Tensor, a: Tensor | None, b: Tensor | None
) -> tuple[Support, Support]:
    """The places of two clouds. Time that of sorting the points.

    Args:
        real: Points (N, D); or costs, whose equal rows are interchangeable as equal points are.
        fake: Points (M, E).
        a: Non-negative weights (N,) of sum 1; None for uniform.
        b: Non-negative weights (M,) of sum 1; None for uniform.

    Returns:
        Those of either cloud.
    """
    found = []
    for points, weights in ((real, a), (fake, b)):
        if weights is None:
            weights = points.new_full((len(points),), 1 / len(points), dtype=torch.float64)
        found.append((points, weights, weights > 0))
    shares = units(*(weights[positive] for _, weights, positive in found))
    row, column = (
        _support(points, positive, side, weights[positive])
        for (points, weights, positive), side in zip(found, shares[:2], strict=True)
    )
    return row, column


def _support(points: Tensor, positive: Tensor, shares: Tensor, given: Tensor) -> Support:
    """The places of one cloud, in the order of their first points."""
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
    """Weights of the places of two clouds.

    Args:
        rows: The places of one.
        columns: The places of the other.

    Returns:
        The sums over their points.
    """

    def summed(side: Support, weights: Tensor) -> Tensor:
        return weights.new_zeros(len(side.ids)).index_add_(0, side.places, weights)

    real, fake = summed(rows, rows.shares), summed(columns, columns.shares)
    given = summed(rows, rows.given), summed(columns, columns.given)
    return Units(real, fake, float(rows.shares.sum()), given)


def spread(optimum: Optimum, rows: Support, columns: Support, total: float) -> Optimum:
    """The plan between places as one between points.

    Args:
        optimum: A plan between the places, in masses of sum 1.
        rows: The places of the rows.
        columns: The places of the columns.
        total: The sum of the shares of either.

    Returns:
        The optimum with rows, columns and masses of points; its potentials stay those of places.
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


class Places(NamedTuple):
    """Different points of a cloud that has each of them many times.

    Attributes:
        ids: A point of each place (K,).
        of: The place of each point (N,).
        weights: Weights (1, K) of the places.
        shares: What each point has of its place's weight (1, N).
    """

    ids: Tensor
    of: Tensor
    weights: Tensor
    shares: Tensor


def merge_repeated(cloud: Tensor, weights: Tensor) -> Places | None:
    """Equal points as one place with their whole weight, where that halves a cloud at least.

    Args:
        cloud: Points (N, D).
        weights: Non-negative weights (N,) of sum 1.

    Returns:
        The places, or None where they are more than half as many as the points.
    """
    # Sums that differ tell points apart much faster.
    if 2 * len(cloud.sum(1).unique()) > len(cloud):
        return None
    _, of = cloud.unique(dim=0, return_inverse=True)
    count = int(of.max()) + 1
    if 2 * count > len(cloud):
        return None
    ids = torch.zeros(count, dtype=of.dtype, device=of.device)
    ids[of] = torch.arange(len(of), device=of.device)
    total = weights.new_zeros(count).index_add_(0, of, weights)
    shares = weights / torch.where(total > 0, total, 1.0)[of]
    return Places(ids, of, total[None], shares[None])


DENSE = 700**2
"""Pairs N M up to which a solver of all costs at once is fastest."""

_LARGEST_ORDER = 256  # above it 4^p and the power of two of the costs leave float64
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
    if options.order > _LARGEST_ORDER:
        raise ValueError(f"`order` must be at most {_LARGEST_ORDER}, got {options.order:g}.")
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
    rows, columns = supports(real, fake, a, b)
    weights = place_weights(rows, columns)
    optimum = _between_places(rows.of(real), columns.of(fake), weights, options)

    def transformed(points: Tensor, others: Tensor, potential: Tensor) -> Tensor:
        if not len(points):
            return potential[:0]
        centre = others.mean(0, dtype=torch.float64)
        clouds = Cloud(points, centre), Cloud(others, centre)
        pairs = CloudPairs(*clouds, options.order, stored=False)
        scale = pairs.scale or 1.0  # 0 where no cost fits float64
        return c_transform(pairs, potential / scale).values * pairs.scale

    f, g = optimum.potentials
    of_row_others = transformed(real[rows.others], columns.of(fake), g)
    f = rows.potential(f, of_row_others)
    of_column_others = transformed(fake[columns.others], real, f)
    g = columns.potential(g, of_column_others)
    return spread(optimum, rows, columns, weights.total)._replace(potentials=(f, g))


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
    rows, columns = supports(cost, cost.T, a, b)
    weights = place_weights(rows, columns)
    deadline, places = _deadline(options), columns.of(rows.of(cost).T).T
    optimum = _of_matrix(places, weights, options, deadline)
    if _is_open(optimum, options):
        pairs = MatrixPairs(places)
        optimum = proved_anew(optimum, pairs, weights.given, options.tolerance, deadline)
    f, g = optimum.potentials
    f = rows.potential(f, (cost[rows.others][:, columns.ids] - g).amin(1))
    g = columns.potential(g, (cost[:, columns.others] - f[:, None]).amin(0))
    return spread(optimum, rows, columns, weights.total)._replace(potentials=(f, g))


def _between_places(x: Tensor, y: Tensor, weights: Units, options: ExactOptions) -> Optimum:
    """Plan, potentials and bounds of points that all carry weight."""
    deadline = _deadline(options)
    optimum = _found_between(x, y, weights, options, deadline)
    large = len(x) * len(y) > DENSE
    if not _is_open(optimum, options) or (large and x.shape[1] == 1):  # a long line has no pairs
        return optimum
    order, (a, b) = options.order, weights.given
    centre = (Cloud(x).mean(a) + Cloud(y).mean(b)) / 2
    stored = 4 * len(x) * len(y) <= memory_budget(x.device, options.memory_limit)
    pairs = CloudPairs(Cloud(x, centre), Cloud(y, centre), order, stored, plain=True)
    if not pairs.scale:
        return optimum
    proof = weights.given, options.tolerance, deadline
    scaled = proved_anew(_scale_costs(optimum, 1 / pairs.scale), pairs, *proof)
    if large and _is_open(scaled, options) and time.monotonic() <= deadline:
        scaled = proved_anew(_improve(scaled, pairs, weights), pairs, *proof)
    return _scale_costs(scaled, pairs.scale)


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


def _deadline(options: ExactOptions) -> float:
    """When `time.monotonic` calls a stop."""
    return math.inf if options.time_limit is None else time.monotonic() + options.time_limit


def _is_open(optimum: Optimum, options: ExactOptions) -> bool:
    """Whether the proof of an optimum falls short of the tolerance."""
    upper = float(optimum.upper_bound)
    return not upper - float(optimum.lower_bound) <= options.tolerance * abs(upper)


def _found_between(
    x: Tensor, y: Tensor, weights: Units, options: ExactOptions, deadline: float
) -> Optimum:
    """The same, with a proof by the potentials that the solver leaves."""
    order, (a, b) = options.order, weights.given
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
        optimum = _of_matrix(cost, weights, options, deadline, offset, dimension=x.shape[1])
        # Costs that lost more than six digits to cancellation were computed from differences.
        error = (x.shape[1] + 8) * _EPSILON * size * (1 if order == 2 else 2.0**order * 1000)
    else:
        pairs = CloudPairs(
            real, fake, order, 4 * len(x) * len(y) <= memory_budget(x.device, options.memory_limit)
        )
        optimum = generated_optimum(
            pairs, weights, options.tolerance, deadline, offset and offset / pairs.scale
        )
        optimum = _scale_costs(optimum, pairs.scale)
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


def _of_matrix(
    cost: Tensor,
    weights: Units,
    options: ExactOptions,
    deadline: float,
    offset: float = 0.0,
    dimension: int | None = None,
) -> Optimum:
    """Plan, potentials and bounds of a matrix of costs, perhaps between points."""
    size = max(map(abs, map(float, cost.aminmax())))
    unit = 2.0 ** (math.frexp(size)[1] - 1)
    if not 1e-30 < unit < 1e30 and size > 0:  # squares would leave float64, or costs float32
        optimum = _of_matrix(cost / unit, weights, options, deadline, offset / unit, dimension)
        return _scale_costs(optimum, unit)
    if 1 in cost.shape:
        return dense_optimum(cost, weights)
    one_to_one = cost.shape[0] == cost.shape[1] and all(map(is_uniform, weights[:2]))
    if one_to_one and cost.numel() <= DENSE and dimension != 2:  # in the plane it is slow
        optimum = assigned_optimum(cost)
        gap, total = float(optimum.upper_bound - optimum.lower_bound), float(optimum.upper_bound)
        if gap <= options.tolerance * abs(total + offset) or total <= float(cost.min()):
            return optimum
        return tighter(optimum, dense_optimum(cost, weights))
    if cost.numel() <= DENSE:
        return dense_optimum(cost, weights)
    return generated_optimum(MatrixPairs(cost), weights, options.tolerance, deadline, offset)


def _scale_costs(optimum: Optimum, scale: float) -> Optimum:
    """An optimum in other units of cost."""
    f, g = optimum.potentials
    bounds = {name: getattr(optimum, name) * scale for name in Optimum._fields[4:]}
    return optimum._replace(potentials=(f * scale, g * scale), **bounds)
