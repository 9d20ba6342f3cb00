"""Maps: the plane in which the excess transport lies, and a graph of clusters."""

from dataclasses import dataclass

import torch
from torch import Tensor

from otmetrics.explanation.directions import Axes
from otmetrics.explanation.pairs import Pairs

_SHOWN = 400  # samples of a side in the plane: more are a cloud of ink
_MOVES = 40  # arrows that can be told from each other
_USUAL = 0.99  # share of the moves between real samples that an arrow is longer than

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Plane:
    """Real and fake samples along the two directions of the largest excess.

    Attributes:
        excess: The share of the excess cost along each axis: lengths elsewhere do not show. None
            where there is no excess.
        rows: The samples that are shown, real and fake ones: some at random, and the ends of moves.
        real: Their coordinates along the axes, around the mean of the real samples.
        fake: The same of the fake ones.
        moves: Rows of a real and of a fake sample between which the optimal plan moves mass, the
            longest along the plane first: of the fakes at random, those that are moved further than
            99 % of real samples are moved to real ones. None where there is no excess.
    """

    excess: tuple[float, float] | None
    rows: tuple[tuple[int, ...], tuple[int, ...]]
    real: Points
    fake: Points
    moves: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Node:
    """A cluster or class in the graph.

    Attributes:
        name: Its name.
        place: Its place, at distances to others much like those of the centres of features.
        real: Its share of the real samples.
        fake: Its share of the fake ones.
    """

    name: str
    place: tuple[float, float]
    real: float
    fake: float


def transport_plane(
    real: Tensor,
    fake: Tensor,
    axes: Axes,
    plan: tuple[Pairs, Tensor, Tensor],
    floor: Pairs,
) -> Plane:
    """The plane of the first two axes, with a part of the samples, and of the plan between them.

    `plan` has its pairs, and the rows of the real and of the fake samples that it is of, in random
    order; `floor` is that between real samples.
    """
    pairs, *sides = plan
    longest = _longest_moves(pairs, floor, axes).cpu()
    ends = [
        side[rows.cpu()[longest]].tolist()
        for side, rows in zip(sides, (pairs.real, pairs.fake), strict=True)
    ]

    centre = real.double().mean(0)
    rows, points = [], []
    for cloud, side, moved in zip((real, fake), sides, ends, strict=True):
        shown = sorted({*side[:_SHOWN].tolist(), *moved})
        rows.append(tuple(shown))
        along = (cloud[shown].double() - centre) @ axes.vectors[:, :2]
        # One feature has one direction: all lie on a line.
        along = torch.nn.functional.pad(along, (0, 2 - along.shape[1]))
        points.append(tuple((x, y) for x, y in along.tolist()))
    excess = None
    if axes.excess is not None:
        shares = [*axes.excess[:2].tolist(), 0.0]
        excess = shares[0], shares[1]
    moves = tuple(zip(*ends, strict=True))
    return Plane(excess, (rows[0], rows[1]), points[0], points[1], moves)


def _longest_moves(pairs: Pairs, floor: Pairs, axes: Axes) -> Tensor:
    """The pairs of shown fakes that are moved furthest along the plane, further than real ones."""
    if axes.excess is None:
        # The axes are those along which this plan moves most, even where it is all chance.
        return torch.zeros(0, dtype=torch.int64)
    lengths, usual = ((one.moves @ axes.vectors[:, :2]).norm(dim=1) for one in (pairs, floor))
    further = (pairs.fake < _SHOWN) & (lengths > usual.quantile(_USUAL))
    order = lengths.where(further, 0.0).argsort(descending=True, stable=True)
    return order[: min(_MOVES, int(further.sum()))]


def cluster_nodes(
    names: list[str], real: Tensor, of_real: Tensor, of_fake: Tensor
) -> tuple[Node, ...]:
    """Clusters by multidimensional scaling of the centres of their real samples (N, D)."""
    count = len(names)
    sizes = torch.bincount(of_real, minlength=count)
    centres = torch.zeros(count, real.shape[1], dtype=torch.float64, device=real.device)
    centres.index_add_(0, of_real, real.double())
    centres /= sizes[:, None].clamp_min(1)
    centred = centres - centres.mean(0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    places = torch.zeros(count, 2, dtype=torch.float64)
    kept = min(2, len(values))
    places[:, :kept] = (left[:, :kept] * values[:kept]).cpu()
    # The sign of a singular vector is of no meaning: the first cluster is at its positive side.
    places *= torch.where(places[:1] < 0, -1.0, 1.0)
    shares = [
        (torch.bincount(side, minlength=count).double() / max(len(side), 1)).tolist()
        for side in (of_real, of_fake)
    ]
    return tuple(
        Node(name, (x, y), a, b)
        for name, (x, y), a, b in zip(names, places.tolist(), *shares, strict=True)
    )
