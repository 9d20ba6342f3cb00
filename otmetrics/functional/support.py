"""The places where weight lies: points without weight left out, equal points taken together."""

from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.functional.certificate import Optimum
from otmetrics.functional.staircase import Units, staircase, units


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


def repeated(cloud: Tensor, weights: Tensor) -> Places | None:
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
