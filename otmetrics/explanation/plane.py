"""Maps: the plane in which the excess transport lies, and a graph of clusters."""

from dataclasses import dataclass

import torch
from torch import Tensor

from otmetrics.explanation.directions import Axes

_SHOWN = 400  # samples of a side in the plane: more are a cloud of ink

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Plane:
    """Real and fake samples along the two directions of the largest excess.

    Attributes:
        excess: The share of the excess cost along each axis: lengths elsewhere do not show. None
            where there is no excess.
        rows: The samples that are shown, real and fake ones.
        real: Their coordinates along the axes, around the mean of the real samples.
        fake: The same of the fake ones.
    """

    excess: tuple[float, float] | None
    rows: tuple[tuple[int, ...], tuple[int, ...]]
    real: Points
    fake: Points


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


def transport_plane(real: Tensor, fake: Tensor, axes: Axes, seed: int) -> Plane:
    """The plane of the first two axes, with a part of the samples."""
    generator = torch.Generator().manual_seed(seed)
    centre = real.double().mean(0)
    rows, points = [], []
    for cloud in (real, fake):
        some = torch.randperm(len(cloud), generator=generator)[:_SHOWN].sort().values
        rows.append(tuple(some.tolist()))
        shown = (cloud[some.to(cloud.device)].double() - centre) @ axes.vectors[:, :2]
        # One feature has one direction: all lie on a line.
        shown = torch.nn.functional.pad(shown, (0, 2 - shown.shape[1]))
        points.append(tuple((x, y) for x, y in shown.tolist()))
    excess = None
    if axes.excess is not None:
        shares = [*axes.excess[:2].tolist(), 0.0]
        excess = shares[0], shares[1]
    return Plane(excess, (rows[0], rows[1]), points[0], points[1])


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
