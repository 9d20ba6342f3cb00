"""Clusters of real samples that fake samples avoid, and those that they crowd into."""

from dataclasses import dataclass

import torch
from torch import Tensor

from otmetrics.checks import check_share
from otmetrics.explanation.calibration import discoveries, found_level
from otmetrics.explanation.clusters import Clusters, checked_pair
from otmetrics.explanation.nearest import nearest
from otmetrics.explanation.shares import ratio_interval, share_pvalue, share_ratio

_NUM_EXAMPLES = 8
_CANDIDATES = 100  # samples nearest to a medoid, of which examples are chosen
_NUM_NEIGHBORS = 5  # a real sample is covered where a fake is nearer than so many real ones


@dataclass(frozen=True)
class Gap:
    """A cluster of real samples whose share of the fake ones is another.

    Attributes:
        cluster: Its number.
        real: Held-out real samples in it.
        fake: Fake samples in it.
        ratio: Its share of fake samples over that of held-out real ones; None where no held-out
            one is in it.
        low: Lower end of the interval of the ratio, as wide as it takes that of the clusters that
            are found 5 % miss on average.
        high: Upper end; None where the ratio is.
        pvalue: Of Fisher's exact test that both shares are one, two-sided.
        medoid: The real sample nearest to its centre.
        nearest_fake: The fake sample nearest to the medoid,
        distance: and how far that is;
        usual: the distance from the medoid to its nearest real sample.
        examples: Up to eight real samples of it around the medoid, first those to which five other
            real samples are nearer than any fake.
        fakes: Up to eight fake samples of it, the nearest to the medoid first.
    """

    cluster: int
    real: int
    fake: int
    ratio: float | None
    low: float
    high: float | None
    pvalue: float
    medoid: int
    nearest_fake: int
    distance: float
    usual: float
    examples: tuple[int, ...]
    fakes: tuple[int, ...]


@dataclass(frozen=True)
class Uncovered:
    """The result of `find_uncovered`.

    Attributes:
        gaps: Clusters that fake samples avoid, those that lack the largest share first.
        crowded: Clusters that too many of them are in, those with the largest excess first.
        clusters: How many clusters were tested.
        real: Held-out real samples that were counted.
        fake: Fake samples that were counted.
        rate: Share of the found clusters that is expected to be there by chance.
        agreement: How stable the clusters are: the adjusted Rand index of them and of those that
            the other half of the real samples makes, 1 for the same and about 0 for random ones.
    """

    gaps: tuple[Gap, ...]
    crowded: tuple[Gap, ...]
    clusters: int
    real: int
    fake: int
    rate: float
    agreement: float


def find_uncovered(
    real: Tensor, fake: Tensor, *, clusters: Clusters, rate: float = 0.1
) -> Uncovered:
    """Clusters of real samples (N, D) that fake ones (M, D) avoid or crowd into.

    The share of each among the fake samples is compared with that among the real ones that the
    clusters were not made on.

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If `clusters` are of other samples, or an argument breaks its rule.
    """
    check_share("rate", rate)
    real, fake = checked_pair(real, fake, min_real=2)
    if (len(clusters.real), len(clusters.fake)) != (len(real), len(fake)):
        raise ValueError(
            f"`clusters` must be of these {len(real)} real and {len(fake)} fake samples, got those "
            f"of {len(clusters.real)} and {len(clusters.fake)}: give `find_clusters(real, fake)`."
        )

    num = len(clusters.medoids)
    counts = clusters.real[clusters.held_out].bincount(minlength=num).tolist()
    counts_fake = clusters.fake.bincount(minlength=num).tolist()
    sizes = sum(counts), sum(counts_fake)
    tables = list(zip(counts, counts_fake, strict=True))
    pvalues = [share_pvalue(table, sizes) for table in tables]
    excess = [b / sizes[1] - a / sizes[0] for a, b in tables]

    gaps: list[Gap] = []
    crowded: list[Gap] = []
    places = discoveries(torch.tensor(pvalues), rate).nonzero()[:, 0].tolist()
    level = found_level(len(places), num)
    for place in places:
        found = _described(real, fake, clusters, place, tables[place], pvalues[place], level)
        (gaps if excess[place] < 0 else crowded).append(found)
    gaps.sort(key=lambda gap: excess[gap.cluster])
    crowded.sort(key=lambda gap: -excess[gap.cluster])
    return Uncovered(tuple(gaps), tuple(crowded), num, *sizes, rate, clusters.agreement)


def _described(
    real: Tensor,
    fake: Tensor,
    clusters: Clusters,
    place: int,
    table: tuple[int, int],
    pvalue: float,
    level: float,
) -> Gap:
    """A cluster with its ratio and an interval of this level, its medoid and examples."""
    sizes = int(clusters.held_out.sum()), len(fake)
    low, high = ratio_interval(table, sizes, level)

    medoid = clusters.medoids[place : place + 1]
    centre = real[medoid.to(real.device)]
    to_fake = nearest(centre, fake, 1)
    to_real = nearest(centre, real, 1, own=medoid.to(real.device))
    around = _around(centre, real, clusters.real == place, _CANDIDATES)
    fakes = _around(centre, fake, clusters.fake == place, _NUM_EXAMPLES)
    return Gap(
        cluster=place,
        real=table[0],
        fake=table[1],
        ratio=share_ratio(table, sizes),
        low=low,
        high=high,
        pvalue=pvalue,
        medoid=int(medoid),
        nearest_fake=int(to_fake.ids),
        distance=float(to_fake.distances),
        usual=float(to_real.distances),
        examples=tuple(_uncovered_first(real, fake, around)[:_NUM_EXAMPLES].tolist()),
        fakes=tuple(fakes.tolist()),
    )


def _around(centre: Tensor, samples: Tensor, members: Tensor, most: int) -> Tensor:
    """Rows (n,) of the members, by mask, nearest to a point (1, D), at most so many."""
    rows = members.nonzero()[:, 0].to(samples.device)
    return rows[nearest(centre, samples[rows], min(most, len(rows))).ids[0]] if len(rows) else rows


def _uncovered_first(real: Tensor, fake: Tensor, rows: Tensor) -> Tensor:
    """Rows (n,) of real samples, first those without a fake before their k-th real neighbour."""
    balls = nearest(real[rows], real, min(_NUM_NEIGHBORS, len(real) - 1), own=rows)
    covered = nearest(real[rows], fake, 1).distances[:, 0] <= balls.distances[:, -1]
    return rows[covered.to(torch.uint8).argsort(stable=True)]
