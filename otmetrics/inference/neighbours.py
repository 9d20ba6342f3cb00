"""Precision, recall, density and coverage of many labels and parts, from lists made once."""

from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.statistics.manifold import manifold_scores, pooled_distances

_OWN = 4, 12  # neighbours of the rarer label that a list holds on average, per k and besides: that
# fewer than k of a random label are there happens once in 10^8 lists
_CELLS = 2**26  # entries of all lists, of six bytes
_FEW_ROWS = 32  # that are computed again one by one


class NeighbourLists(NamedTuple):
    """The nearest other samples of each pooled sample (n, K), nearest first.

    Attributes:
        ids: Which they are.
        reach: For each of them the last one that is no farther, up to rounding.
        pool: The samples (n, D) in float64, for lists that end too early.
    """

    ids: Tensor
    reach: Tensor
    pool: Tensor


def neighbour_lists(pool: Tensor, num_neighbors: int, rarer: int) -> NeighbourLists:
    """Lists for up to k neighbours of either label, of which the rarer has so many samples.

    Time O(n^2 D).
    """
    pool, num = pool.double(), len(pool)
    per_k, besides = _OWN
    wanted = (per_k * num_neighbors + besides) * num // rarer
    size = min(num - 1, wanted, max(_CELLS // num, num_neighbors))
    ids = torch.empty(num, size, dtype=torch.int32, device=pool.device)
    reach = torch.empty_like(ids, dtype=_places(size))
    for rows, squared, widen in pooled_distances(pool):
        nearest = squared.topk(size, dim=1, largest=False)
        limits = widen(nearest.values, nearest.indices)
        ids[rows] = nearest.indices.int()
        reach[rows] = torch.searchsorted(nearest.values, limits, right=True).sub_(1).to(reach)
    return NeighbourLists(ids, reach, pool)


def _places(size: int) -> torch.dtype:
    """Whole numbers up to a size."""
    return torch.int16 if size < torch.iinfo(torch.int16).max else torch.int32


def manifold_of_labels(lists: NeighbourLists, labels: Tensor, num_neighbors: int) -> Tensor:
    """Precision, recall, density and coverage (B, 4) for labels (B, n), True for real.

    The lists are all that is needed: the ball of a sample ends at its k-th neighbour of its own
    label, and those of the other label that come before it in its list are inside.
    """
    return torch.stack([_of_label(lists, real, num_neighbors) for real in labels])


def _of_label(lists: NeighbourLists, real: Tensor, num_neighbors: int) -> Tensor:
    """The four scores of one labelling."""
    size = lists.ids.shape[1]
    counts = torch.zeros(len(real), dtype=torch.int64, device=real.device)
    hit = torch.zeros_like(real)

    # Nearly all balls end within the first third of a list.
    rows = torch.arange(len(real), device=real.device)
    for depth in (size // 3, size):
        rows = _count_inside(lists, rows, depth, real, num_neighbors, (counts, hit))
    if len(rows) > _FEW_ROWS:  # as where both labels lie apart
        scores = manifold_scores(lists.pool[real], lists.pool[~real], num_neighbors=num_neighbors)
        return torch.stack(scores)
    for row in rows.tolist():
        found = _inside_ball(lists.pool, row, real, num_neighbors)
        counts[row] = found.sum()
        hit |= found

    fake, hits = ~real, counts[real]
    return torch.stack(
        [
            hit[fake].double().mean(),
            hit[real].double().mean(),
            hits.sum().double() / fake.sum() / num_neighbors,
            (hits > 0).double().mean(),
        ]
    )


def _count_inside(
    lists: NeighbourLists,
    rows: Tensor,
    depth: int,
    real: Tensor,
    num_neighbors: int,
    found: tuple[Tensor, Tensor],
) -> Tensor:
    """Add to counts (n,) and hits (n,) of balls that end within a depth; the rows of the others."""
    if not (depth and len(rows)):
        return rows
    ids = lists.ids[rows, :depth]
    others = real.index_select(0, ids.flatten()).view_as(ids) != real[rows, None]

    # The place of the k-th neighbour of the own label, or past the end.
    place = ((~others).cumsum(1, dtype=_places(depth)) < num_neighbors).sum(1)
    last = lists.reach[rows].gather(1, place.clamp_max(depth - 1)[:, None])[:, 0]
    # Beyond a list's end there may be more that is no farther, unless it holds everything.
    ends = (place < depth) & (last < depth - 1) if depth < len(real) - 1 else place < depth
    inside = others & (torch.arange(depth, device=real.device) <= last[:, None]) & ends[:, None]

    counts, hit = found
    counts[rows] += inside.sum(1)
    hit[ids[inside].long()] = True
    return rows[~ends]


def _inside_ball(pool: Tensor, row: int, real: Tensor, num_neighbors: int) -> Tensor:
    """Which samples of the other label (n,) lie in the ball of one sample."""
    squared = (pool - pool[row]).square().sum(1)
    same = real == real[row]
    same[row] = False
    radius = squared[same].topk(num_neighbors, largest=False).values[-1]
    rounding = (pool.shape[1] + 16) * torch.finfo(torch.float64).eps
    return (squared <= radius * (1 + 2 * rounding)) & (real != real[row])


# --- parts of samples ---------------------------------------------------------------------------

_DEPTH = 8  # neighbours in a list for each of the k: half are away, and k of 8 k are still there


class _Balls(NamedTuple):
    """Balls around the samples of one side, for whichever of its samples are there.

    Attributes:
        neighbours: The nearest samples of the same side (n, K), nearest first.
        centres: Of P pairs the sample (P,) whose longest ball, the one that ends with the list,
            holds a sample of the other side,
        others: that sample (P,),
        ranks: and the place (P,) in the list from which on a ball that ends there holds it.
    """

    neighbours: Tensor
    centres: Tensor
    others: Tensor
    ranks: Tensor

    def held(self, own: Tensor, other: Tensor, num_neighbors: int) -> tuple[Tensor, Tensor]:
        """The pairs that are there, by masks (n,) and (m,) of both sides."""
        # The ball of a sample ends at the k-th of its neighbours that are there.
        there = own[self.neighbours].cumsum(1, dtype=torch.int32)
        ends = (there < num_neighbors).sum(1).clamp_max(self.neighbours.shape[1] - 1)
        ends[~own] = -1
        held = (self.ranks <= ends[self.centres]) & other[self.others]
        return self.centres[held], self.others[held]


def _balls(centres: Tensor, others: Tensor, num_neighbors: int) -> _Balls:
    """Balls of one side. Time O(n (n + m) D)."""
    depth = min(len(centres) - 1, _DEPTH * num_neighbors)
    neighbours = torch.empty(len(centres), depth, dtype=torch.int64, device=centres.device)
    pool, pairs = torch.cat([centres, others]), []
    for rows, squared, widen in pooled_distances(pool, len(centres)):
        nearest = squared[:, : len(centres)].topk(depth, dim=1, largest=False)
        neighbours[rows] = nearest.indices
        limits = widen(nearest.values, nearest.indices).cummax(1).values
        ranks = torch.searchsorted(limits, squared[:, len(centres) :].contiguous())
        centre, other = (ranks < depth).nonzero(as_tuple=True)
        pairs.append((centre + rows.start, other, ranks[centre, other]))
    return _Balls(neighbours, *(torch.cat(part) for part in zip(*pairs, strict=True)))


def manifold_of_parts(
    real: Tensor, fake: Tensor, num_neighbors: int, kept: tuple[Tensor, Tensor]
) -> Tensor:
    """Precision to coverage (R, 4) of parts of both sides, given by masks (R, N) and (R, M).

    Every part must have more than `num_neighbors` samples of each side.
    """
    real, fake = real.double(), fake.double()
    around_real = _balls(real, fake, num_neighbors)
    around_fake = _balls(fake, real, num_neighbors)
    scores = []
    for a, b in zip(*kept, strict=True):
        centres, inside = around_real.held(a, b, num_neighbors)
        _, recalled = around_fake.held(b, a, num_neighbors)
        sizes = a.sum(), b.sum()
        scores.append(
            torch.stack(
                [
                    _number(inside, b) / sizes[1],
                    _number(recalled, a) / sizes[0],
                    len(inside) / sizes[1] / num_neighbors,
                    _number(centres, a) / sizes[0],
                ]
            )
        )
    return torch.stack(scores).double()


def _number(places: Tensor, mask: Tensor) -> Tensor:
    """How many different places there are."""
    seen = torch.zeros_like(mask)
    seen[places] = True
    return seen.sum()
