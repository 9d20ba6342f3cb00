"""The nearest points of a cloud to other points."""

from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.transport.costs import (
    BLOCK_ELEMENTS,
    centre_clouds,
    row_blocks,
    squared_distances,
)


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
    """The nearest of a cloud (m, D) to points (n, D), in blocks of pairs. Time O(n m D).

    `own` (n,) are the places of the points in the cloud: no point is near itself. Of equally near
    ones which come first is not said.
    """
    points, cloud = centre_clouds(points.double(), cloud.double())
    found = []
    for rows in row_blocks(len(points), len(cloud), BLOCK_ELEMENTS):
        squared = squared_distances(points[rows], cloud)
        if own is not None:
            squared[torch.arange(len(squared), device=own.device), own[rows]] = torch.inf
        found.append(squared.topk(num, dim=1, largest=False))
    distances = torch.cat([part.values for part in found]).sqrt()
    return Nearest(distances, torch.cat([part.indices for part in found]))
