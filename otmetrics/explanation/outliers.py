"""Fake samples that lie further from the real ones than those lie from each other."""

from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.checks import check_at_least, check_share
from otmetrics.explanation.calibration import conformal_pvalues, discoveries
from otmetrics.explanation.clusters import checked_pair
from otmetrics.explanation.nearest import nearest

_ONE_DIRECTION = 1e-6  # distances between directions that are one but for the rounding of float32
_UPPER = 0.95  # quantile of real scores: from their median to it is the unit of both kinds


class Outliers(NamedTuple):
    """How strange each fake sample is next to the real ones, and which are too strange.

    Attributes:
        scores: The score (M,): what is above 1 is beyond 95 % of the real samples.
        pvalues: Share (M,) of real samples that are as strange to the others, and of itself.
        found: Which (M,) are told to be stranger than real samples, at the rate that was asked for.
        by_direction: Which (M,) stand out by direction from the origin, not by distance.
        nearest: The real sample (M,) that is nearest by that.
        distances: The mean distance (M,) to the nearest real samples, whatever they stand out by.
        same: Which (M,) equal a real sample.
        repeated: How many real samples equal an earlier one.
        usual: Median over the real samples of their mean distance to the nearest others.
    """

    scores: Tensor
    pvalues: Tensor
    found: Tensor
    by_direction: Tensor
    nearest: Tensor
    distances: Tensor
    same: Tensor
    repeated: int
    usual: float


@torch.no_grad()
def find_outliers(
    real: Tensor, fake: Tensor, *, num_neighbors: int = 10, rate: float = 0.1
) -> Outliers:
    """Fake samples (M, D) further from real ones (N, D) than those are from each other.

    The score of a sample is its mean distance to the nearest real samples, of a real one to the
    nearest others; the larger one of two such scores, of the samples as they are and of their
    directions. Features of noise or of blur are short: near to the real ones by distance, they
    point elsewhere. One more sample of the same distribution could only make real scores smaller:
    p-values nearly hold without a part of the real samples that is set aside. Real samples that
    occur repeatedly count once, and no fake that equals one is listed. Time O((N + M) N D), memory
    O((N + M) D).

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If `real` has no more samples than neighbours, or an argument breaks its rule.
    """
    check_at_least("num_neighbors", num_neighbors, 1)
    check_share("rate", rate)
    real, fake = checked_pair(real, fake, min_real=1)
    rows = _first_of_repeated(real)
    if len(rows) <= num_neighbors:
        raise ValueError(
            f"`real` must hold at least {num_neighbors + 1} different samples, to have "
            f"{num_neighbors} neighbours each, got {len(rows)}: give others."
        )

    kinds = [_distances(real[rows], fake, num_neighbors)]
    turned = _distances(_directions(real[rows]), _directions(fake), num_neighbors)
    if float(turned.real.median()) > _ONE_DIRECTION:
        kinds.append(turned)
    standard = [kind.standardised() for kind in kinds]
    of_real = torch.stack([scores for scores, _ in standard]).amax(0)
    of_fake, kind = torch.stack([scores for _, scores in standard]).max(0)
    pvalues = conformal_pvalues(of_real, of_fake)
    # What equals a real sample is as strange as that, which has no equals left among the real ones.
    same = kinds[0].least == 0
    pvalues[same] = 1.0
    near = torch.stack([one.ids for one in kinds]).gather(0, kind[None])[0]
    return Outliers(
        scores=of_fake,
        pvalues=pvalues,
        found=discoveries(pvalues, rate),
        by_direction=kind == 1,
        nearest=rows[near],
        distances=kinds[0].fake,
        same=same,
        repeated=len(real) - len(rows),
        usual=float(kinds[0].real.median()),
    )


class _Distances(NamedTuple):
    """Mean distances to the k nearest real samples, of one kind.

    Attributes:
        real: Of each real sample (N,), to others.
        fake: Of each fake sample (M,).
        ids: The real sample (M,) nearest to each fake one.
        least: The distance (M,) to that.
    """

    real: Tensor
    fake: Tensor
    ids: Tensor
    least: Tensor

    def standardised(self) -> tuple[Tensor, Tensor]:
        """Both above the median of the real ones, in units of how far their upper tail reaches."""
        centre = self.real.median()
        reach = self.real.quantile(_UPPER) - centre
        unit = torch.where(reach > 0, reach, centre)
        return (self.real - centre) / unit, (self.fake - centre) / unit


def _distances(real: Tensor, fake: Tensor, num_neighbors: int) -> _Distances:
    """Mean distances of one kind, by different real samples (N, D) and fake ones (M, D)."""
    others = torch.arange(len(real), device=real.device)
    own = nearest(real, real, num_neighbors, own=others)
    other = nearest(fake, real, num_neighbors)
    means = own.distances.mean(1), other.distances.mean(1)
    return _Distances(*means, other.ids[:, 0], other.distances[:, 0])


def _directions(samples: Tensor) -> Tensor:
    """Signed roots of features (n, D), of length 1, in float64.

    Roots keep the few largest features from deciding alone; between histograms their distance is
    that of Hellinger.

    References:
        Arandjelovic, Zisserman, Three things everyone should know to improve object retrieval,
        2012.
    """
    samples = samples.double()
    return torch.nn.functional.normalize(samples.sign() * samples.abs().sqrt(), dim=1)


def _first_of_repeated(samples: Tensor) -> Tensor:
    """The first row (K,) of each of the different samples among (n, D), in order."""
    _, places = samples.unique(dim=0, return_inverse=True)
    rows = torch.arange(len(samples), device=samples.device)
    first = rows.new_full((int(places.max()) + 1,), len(samples))
    return first.scatter_reduce(0, places, rows, "amin").sort().values
