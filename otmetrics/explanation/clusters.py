"""Clusters of real samples, made on one half of them so that the other half can be counted."""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from otmetrics.checks import check_at_least, check_seed, checked_clouds
from otmetrics.explanation.nearest import Nearest, nearest, total
from otmetrics.transport.costs import row_blocks

_AXES = 64
_LEAST_PER_CLUSTER = 10  # samples that the clusters are made on
_ITERATIONS = 30


class Clusters(NamedTuple):
    """Clusters of samples, numbered from the one that is largest down; all on the CPU.

    Attributes:
        real: The cluster of each real sample (N,).
        fake: The cluster of each fake one (M,).
        medoids: The real sample (C,) nearest to the centre of each cluster.
        held_out: Which real samples (N,) the clusters were not made on: given the clusters, their
            shares and those of fake samples of the same distribution differ by chance alone.
        agreement: Of these clusters with those that the held-out half makes, over all real samples:
            the adjusted Rand index, 1 for the same clusters and about 0 for random ones.
    """

    real: Tensor
    fake: Tensor
    medoids: Tensor
    held_out: Tensor
    agreement: float


def find_clusters(real: Tensor, fake: Tensor, *, num_clusters: int = 20, seed: int = 0) -> Clusters:
    """Clusters of a random half of the real samples (N, D), and in which of them all samples are.

    K-means on the 64 leading principal axes of that half; other samples belong to the nearest
    centre. There are fewer clusters where the half holds fewer than ten samples for each, or fewer
    different ones. The other half makes clusters too, to see how far they agree. Time
    O(N D min(N, D)), for the axes.

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If there are fewer than two real samples, or an argument breaks its rule.
    """
    check_at_least("num_clusters", num_clusters, 1)
    check_seed(seed)
    real, fake = checked_pair(real, fake, min_real=2)

    generator = torch.Generator().manual_seed(seed)
    held_out = torch.ones(len(real), dtype=torch.bool)
    held_out[torch.randperm(len(real), generator=generator)[: len(real) // 2]] = False
    own, of_fake = _made_on(real, ~held_out, (real, fake), num_clusters, seed)
    (again,) = _made_on(real, held_out, (real,), num_clusters, seed)

    clusters = own.ids[:, 0]  # none is without a sample
    members = [(clusters == one).nonzero()[:, 0] for one in range(int(clusters.max()) + 1)]
    medoids = [rows[own.distances[rows, 0].argmin()] for rows in members]
    agreement = adjusted_rand_index(clusters, again.ids[:, 0])
    return Clusters(clusters, of_fake.ids[:, 0], torch.stack(medoids), held_out, agreement)


def _made_on(
    real: Tensor, rows: Tensor, clouds: Sequence[Tensor], num_clusters: int, seed: int
) -> list[Nearest]:
    """The nearest centre to each sample of clouds, of clusters made on real rows by mask."""
    points, *along = along_axes(real[rows], real[rows], *clouds)
    centres = cluster_centres(points, num_clusters, seed)
    return [nearest(cloud, centres, 1) for cloud in along]


def adjusted_rand_index(first: Tensor, second: Tensor) -> float:
    """How far two clusterings (n,) of the same samples agree: 1 for alike, 0 on average by chance.

    References:
        Hubert, Arabie, Comparing partitions, 1985.
    """
    count = int(second.max()) + 1
    table = (first * count + second).bincount(minlength=(int(first.max()) + 1) * count)
    table = table.view(-1, count).double()
    together, of_first, of_second = (
        float((sizes * (sizes - 1) / 2).sum()) for sizes in (table, table.sum(1), table.sum(0))
    )
    pairs = max(len(first) * (len(first) - 1) / 2, 1.0)
    by_chance, most = of_first * of_second / pairs, (of_first + of_second) / 2
    # One cluster on both sides, or each sample one by itself: alike.
    return (together - by_chance) / (most - by_chance) if most > by_chance else 1.0


def checked_pair(real: Tensor, fake: Tensor, *, min_real: int) -> tuple[Tensor, Tensor]:
    """Clouds (N, D) and (M, D) as `checked_clouds` returns them, without batches."""
    real, fake = checked_clouds(real, fake)
    if real.ndim != 2:
        raise ValueError(f"`real` must have shape (N, D), got {tuple(real.shape)}.")
    if len(real) < min_real:
        raise ValueError(f"`real` must hold at least {min_real} samples, got {len(real)}.")
    return real.detach(), fake.detach()


def along_axes(reference: Tensor, *clouds: Tensor) -> list[Tensor]:
    """Clouds (n, D) along the 64 leading principal axes of a reference, in float64 on the CPU."""
    count, dimension = reference.shape
    centre = total(reference) / count
    # The smaller one of both matrices of products has all that the larger one has.
    if count < dimension:
        rows = reference.double() - centre
        vectors = torch.linalg.eigh(rows @ rows.T).eigenvectors[:, -_AXES:]
        axes = torch.nn.functional.normalize(rows.T @ vectors, dim=0)
    else:
        products = torch.zeros(dimension, dimension, dtype=torch.float64, device=reference.device)
        for part in _centred(reference, centre):
            products.addmm_(part.T, part)
        axes = torch.linalg.eigh(products).eigenvectors[:, -_AXES:]
    return [torch.cat([part @ axes for part in _centred(cloud, centre)]).cpu() for cloud in clouds]


def _centred(cloud: Tensor, centre: Tensor) -> Iterator[Tensor]:
    """Points (n, D) less a centre in float64, some at a time: all may take twice their memory."""
    for rows in row_blocks(len(cloud), cloud.shape[1]):
        yield cloud[rows].double() - centre


def cluster_centres(points: Tensor, most: int, seed: int) -> Tensor:
    """Centres (C, A) of clusters of points (n, A) on the CPU, those of the largest clusters first.

    At most so many, and none without a point.
    """
    different = len(np.unique(points.numpy(), axis=0))
    num = max(1, min(most, different, len(points) // _LEAST_PER_CLUSTER))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a cluster is empty: it is dropped
        found, _ = kmeans2(
            points.numpy(), num, iter=_ITERATIONS, minit="++", seed=np.random.default_rng(seed)
        )
    centres = torch.from_numpy(found)
    sizes = nearest(points, centres, 1).ids[:, 0].bincount(minlength=num)
    order = sizes.argsort(descending=True, stable=True)
    return centres[order[sizes[order] > 0]]
