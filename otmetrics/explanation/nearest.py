"""The nearest points of a cloud to other points."""

from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.transport.costs import (
    Cloud,
    CloudPairs,
    blocks,
    row_blocks,
    squared_distances,
)

_SPARE = 8  # candidates beyond the nearest points that are wanted
_WORTH = 16  # a cloud of so many points per candidate is looked through in float32 first
_FEW = 2**22  # pairs that float64 has done in no time
_SIDE = 2048  # points of either side of a block in float64


class Nearest(NamedTuple):
    """The k nearest points of a cloud to each of n points, nearest first.

    Attributes:
        distances: To them, (n, k) in float64.
        ids: Which they are, (n, k).
    """

    distances: Tensor
    ids: Tensor


@torch.no_grad()
def nearest(points: Tensor, cloud: Tensor, num: int, own: Tensor | None = None) -> Nearest:
    """The nearest of a cloud (m, D) to points (n, D), as in float64. Time O(n m D).

    `own` (n,) are the places of the points in the cloud: no point is near itself. Of equally near
    ones which come first is not said. Memory is that of both in float32, and of a block.
    """
    # Distances stay, and near the origin they have more digits.
    centre = (total(points) + total(cloud)) / (len(points) + len(cloud))
    if len(cloud) < _WORTH * (num + _SPARE) or len(points) * len(cloud) < _FEW:
        return _in_float64(points, cloud, centre, num, own)

    squared, ids, unsure = _by_candidates(points, cloud, centre, num, own)
    found = Nearest(squared.sqrt(), ids)
    rows = unsure.nonzero()[:, 0]
    if len(rows):
        own = None if own is None else own[rows]
        again = _in_float64(points[rows], cloud, centre, num, own)
        found.distances[rows], found.ids[rows] = again
    return found


def total(points: Tensor) -> Tensor:
    """The sum (D,) of points (n, D) in float64, which not all of them are at a time."""
    parts = row_blocks(len(points), points.shape[1])
    return torch.stack([points[rows].double().sum(0) for rows in parts]).sum(0)


def _by_candidates(
    points: Tensor, cloud: Tensor, centre: Tensor, num: int, own: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances and ids (n, num), and for which points (n,) nearer ones may be left out.

    Products in float32 give lower bounds, and the candidates with the least of them their exact
    distances: where the last one that is wanted is not above the bound of the last candidate, no
    other point is nearer.
    """
    pairs = CloudPairs(Cloud(points, centre), Cloud(cloud, centre), 2.0, stored=False)
    count, parts = num + _SPARE, []
    for rows in blocks(pairs):
        lower, size = pairs.lower(rows), rows.stop - rows.start
        if own is not None:
            lower[torch.arange(size, device=own.device), own[rows]] = torch.inf
        bounds, ids = lower.topk(count, dim=1, largest=False)
        best = _squared_to(points[rows], cloud, ids).topk(num, dim=1, largest=False)
        unsure = best.values[:, -1] > bounds[:, -1].double() * pairs.scale
        parts.append((best.values, ids.gather(1, best.indices), unsure))
    squared, found, doubtful = (torch.cat(part) for part in zip(*parts, strict=True))
    return squared, found, doubtful


def _squared_to(points: Tensor, cloud: Tensor, ids: Tensor) -> Tensor:
    """Squared distances (n, K) of points (n, D) to those of a cloud by their ids (n, K)."""
    parts = []
    for rows in row_blocks(len(points), ids.shape[1] * points.shape[1]):
        moves = cloud[ids[rows]].double() - points[rows, None].double()
        parts.append(moves.square_().sum(2))
    return torch.cat(parts)


def _in_float64(
    points: Tensor, cloud: Tensor, centre: Tensor, num: int, own: Tensor | None
) -> Nearest:
    """The nearest by products in float64, in blocks of both sides."""
    parts = []
    for rows in row_blocks(len(points), _SIDE):
        x = points[rows].double() - centre
        values = x.new_empty(len(x), 0)
        ids = values.long()
        for columns in row_blocks(len(cloud), _SIDE):
            squared = squared_distances(x, cloud[columns].double() - centre)
            if own is not None:
                here = own[rows] - columns.start
                inside = ((here >= 0) & (here < squared.shape[1])).nonzero()[:, 0]
                squared[inside, here[inside]] = torch.inf
            places = torch.arange(columns.start, columns.stop, device=x.device)
            values = torch.cat([values, squared], 1)
            ids = torch.cat([ids, places.expand(len(x), -1)], 1)
            best = values.topk(min(num, values.shape[1]), dim=1, largest=False)
            values, ids = best.values, ids.gather(1, best.indices)
        parts.append((values, ids))
    squared, found = (torch.cat(part) for part in zip(*parts, strict=True))
    return Nearest(squared.sqrt(), found)
