"""Clusters of real samples, made on one half of them so that the other half can be counted."""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from otmetrics.checks import check_at_least, check_seed, checked_clouds
from otmetrics.explanation.nearest import nearest

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
    """

    real: Tensor
    fake: Tensor
    medoids: Tensor
    held_out: Tensor


def find_clusters(real: Tensor, fake: Tensor, *, num_clusters: int = 20, seed: int = 0) -> Clusters:
    """Clusters of a random half of the real samples (N, D), and in which of them all samples are.

    K-means on the 64 leading principal axes of that half; other samples belong to the nearest
    centre. There are fewer clusters where the half holds fewer than ten samples for each, or fewer
    different ones. Time O(N D min(N, D)), for the axes.

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
    x, y = along_axes(real[~held_out], real, fake)
    centres = cluster_centres(x[~held_out], num_clusters, seed)

    own = nearest(x, centres, 1)
    clusters = own.ids[:, 0]
    members = [(clusters == one).nonzero()[:, 0] for one in range(len(centres))]
    medoids = [rows[own.distances[rows, 0].argmin()] for rows in members]
    return Clusters(clusters, nearest(y, centres, 1).ids[:, 0], torch.stack(medoids), held_out)


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
    centre = reference.double().mean(0)
    rows = reference.double() - centre
    few = rows.shape[0] < rows.shape[1]
    # The smaller one of both matrices of products has all that the larger one has.
    vectors = torch.linalg.eigh(rows @ rows.T if few else rows.T @ rows).eigenvectors[:, -_AXES:]
    axes = torch.nn.functional.normalize(rows.T @ vectors, dim=0) if few else vectors
    return [((cloud.double() - centre) @ axes).cpu() for cloud in clouds]


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
