"""Permutation tests: could both sides be samples of one distribution?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.checks import check_at_least, check_seed, checked_clouds
from otmetrics.inference.labels import first_of_each, relabellings
from otmetrics.inference.neighbours import manifold_of_labels, neighbour_lists
from otmetrics.inference.relabelled import (
    relabelled_exact,
    relabelled_frechet,
    relabelled_kernel,
    relabelled_sinkhorn,
    relabelled_sliced,
)
from otmetrics.transport.exact.exact import Exact
from otmetrics.transport.result import root
from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn
from otmetrics.transport.sliced.directions import direction_generator, random_directions
from otmetrics.transport.sliced.sliced import Sliced
from otmetrics.unknown_options import told_options


@dataclass(frozen=True)
class Statistics:
    """Options of the statistics that tests compute on relabelled samples.

    Attributes:
        sliced: Order and seed of the sliced distance.
        exact: Order of exact transport.
        sinkhorn: Order and epsilon of the Sinkhorn divergence.
        num_neighbors: k of precision, recall, density and coverage.
    """

    sliced: Sliced = Sliced()
    exact: Exact = Exact()
    sinkhorn: Sinkhorn = Sinkhorn()
    num_neighbors: int = 5


class PermutationTest(NamedTuple):
    """The result of a permutation test, with the fields of SciPy's.

    Attributes:
        statistic: The score of the samples as they are labelled.
        pvalue: Share of all labels, the true ones among them, under which the score is at least as
            extreme: at least 1 / (n_resamples + 1). Equal values of precision, recall and coverage
            are told apart by the density under the same labels. Where both sides are samples of one
            distribution it is at most a with a probability of at most a, at any size.
        null_distribution: The score (n_resamples,) under random labels.
        sizes: Real and fake samples that were tested.
    """

    statistic: float
    pvalue: float
    null_distribution: Tensor
    sizes: tuple[int, int]


class _Tested(NamedTuple):
    """Scores of labels (B, n) of a pool (n, D), as (B, K); on how many samples of a side.

    Both tails count where one of the scores, at the place `ties`, tells equal ones apart.
    """

    names: tuple[str, ...]
    scores: Callable[[Tensor, Tensor, Statistics], Tensor]
    most: int
    ties: int | None = None


_DIRECTIONS = 64  # of a statistic; its level does not depend on them, its power hardly


def _sliced(pool: Tensor, labels: Tensor, options: Statistics) -> Tensor:
    generator, order = direction_generator(options.sliced.seed), options.sliced.order
    rows = random_directions(pool.shape[1], _DIRECTIONS, generator=generator).T.to(pool)
    return root(relabelled_sliced(pool, labels, rows, order), order)[:, None]


def _exact(pool: Tensor, labels: Tensor, options: Statistics) -> Tensor:
    order = options.exact.order
    return root(relabelled_exact(pool, labels, order), order)[:, None]


def _sinkhorn(pool: Tensor, labels: Tensor, options: Statistics) -> Tensor:
    return relabelled_sinkhorn(pool, labels, options.sinkhorn)[:, None]


def _frechet(pool: Tensor, labels: Tensor, options: Statistics) -> Tensor:
    return relabelled_frechet(pool, labels)[:, None]


def _kernel(pool: Tensor, labels: Tensor, options: Statistics) -> Tensor:
    return relabelled_kernel(pool.double(), labels)[:, None]


def _manifold(pool: Tensor, labels: Tensor, options: Statistics) -> Tensor:
    real = int(labels[0].sum())
    lists = neighbour_lists(pool, options.num_neighbors, min(real, len(pool) - real))
    return manifold_of_labels(lists, labels, options.num_neighbors)


MOST_TESTED = 50_000
"""Samples per side of any test: pairs of more take hours."""

_TESTED = (
    _Tested(("sliced_wasserstein",), _sliced, MOST_TESTED),
    _Tested(("wasserstein",), _exact, 500),  # a solve for each label
    _Tested(("sinkhorn_divergence",), _sinkhorn, 1000),  # a matrix of all pairs in memory
    _Tested(("frechet_distance",), _frechet, MOST_TESTED),
    _Tested(("kernel_distance",), _kernel, MOST_TESTED),
    _Tested(("precision", "recall", "density", "coverage"), _manifold, MOST_TESTED, ties=2),
)

TESTED = tuple(name for tested in _TESTED for name in tested.names)
"""The scores that have a test."""


@torch.no_grad()
def permutation_tests(
    real: Tensor,
    fake: Tensor,
    names: Sequence[str],
    num: int,
    seed: int,
    options: Statistics = Statistics(),
) -> tuple[dict[str, PermutationTest], float]:
    """Test clouds (N, D) and (M, D), in random order, by several scores, and by all of them.

    Every score sees the same relabellings. The second result is the p-value of the smallest of
    their p-values among those of random labels: it holds its level however many scores there are
    (Westfall and Young, Resampling-based multiple testing, 1993). Scores that are no number for
    some labels, as of features beyond float64, have no test.
    """
    wanted = [tested for tested in _TESTED if set(tested.names) & set(names)]
    sizes = len(real), len(fake)
    labels = relabellings(sizes, [tested.most for tested in wanted], num, seed).to(real.device)
    pool = torch.cat([real, fake])

    tests, extremes = {}, []
    for tested in wanted:
        places = first_of_each(sizes, tested.most).to(real.device)
        scores = tested.scores(pool[places], labels[:, places], options).double().cpu()
        tested_sizes = min(sizes[0], tested.most), min(sizes[1], tested.most)
        for name, column in zip(tested.names, scores.T, strict=True):
            if name in names and bool(torch.isfinite(column).all()):
                by = None if tested.ties is None else scores[:, tested.ties]
                shares = _shares(column, by)
                extremes.append(shares)
                tests[name] = PermutationTest(
                    float(column[0]), float(shares[0]), column[1:].clone(), tested_sizes
                )
    if not extremes:
        return {}, 1.0
    smallest = torch.stack(extremes).amin(0)
    joint = float((smallest <= smallest[0]).double().mean())
    return tests, joint


def _shares(scores: Tensor, ties: Tensor | None) -> Tensor:
    """The p-value (B,) of each of the labels among all of them."""
    if ties is None:
        return _at_least(scores)
    # Shares of n samples have few values: with their ties counted as they are, of random labels
    # far fewer than a share of a would have a p-value of a. By 1e-5 no two values change places.
    scores = scores - 1e-5 * _at_least(ties)
    return (2 * torch.minimum(_at_least(scores), _at_least(-scores))).clamp_max(1)


def _at_least(scores: Tensor) -> Tensor:
    """Share of all scores (B,) that are at least as large as each; equal up to rounding counts."""
    slack = 1e-9 * scores.abs().amax()
    ordered = scores.sort().values
    below = torch.searchsorted(ordered, scores - slack)
    return (len(scores) - below).double() / len(scores)


@told_options
def two_sample_test(
    real: Tensor,
    fake: Tensor,
    *,
    statistic: str = "sliced_wasserstein",
    n_resamples: int = 199,
    rng: int = 0,
    num_neighbors: int = 5,
) -> PermutationTest:
    """Test whether real and fake samples may come from one distribution, by any of the scores.

    The score is compared with those of random relabellings of the pooled samples. Its level is
    exact at any size and dimension; a small p-value says that the distributions differ, not by how
    much. Of precision, recall, density and coverage both tails count: a precision above its null
    often is a loss of diversity. Exact transport is tested on at most 500 samples per side, the
    Sinkhorn divergence on 1000; the Fréchet distance to second order along the 256 leading
    principal axes, the sliced distance along 64 directions.

    Args:
        real: Features (N, D), N >= 2, independent of each other.
        fake: Features (M, D), M >= 2.
        statistic: One of the scores of `Scoring`.
        n_resamples: Random relabellings B. The least p-value is 1 / (B + 1).
        rng: Seed of the order of the samples and of the relabellings.
        num_neighbors: k of precision, recall, density and coverage.

    Returns:
        The score, its p-value and the scores of random labels. Time of a few scores for B = 199.

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If an argument breaks its rule.

    References:
        Phipson and Smyth, Permutation p-values should never be zero, 2010.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> real, fake = torch.randn(2, 100, 3, generator=generator)
        >>> two_sample_test(real, fake + 1).pvalue
        0.005
    """
    if statistic not in TESTED:
        raise ValueError(f"`statistic` must be one of {', '.join(TESTED)}; got {statistic!r}.")
    check_at_least("n_resamples", n_resamples, 1)
    check_at_least("num_neighbors", num_neighbors, 1)
    check_seed(rng, "rng")
    least = num_neighbors + 1 if statistic in TESTED[-4:] else 2
    real, fake = checked_clouds(real, fake, min_samples=least, order=6)
    if real.ndim != 2:
        raise ValueError(f"`real` must have shape (N, D), got {tuple(real.shape)}.")

    generator = torch.Generator().manual_seed(rng)
    x, y = (side[torch.randperm(len(side), generator=generator)] for side in (real, fake))
    options = Statistics(sliced=Sliced(seed=rng), num_neighbors=num_neighbors)
    tests, _ = permutation_tests(x, y, [statistic], n_resamples, rng, options)
    if statistic not in tests:
        raise ValueError(
            "`real` and `fake` must be small enough for the statistic to be a number: scale both "
            "clouds down."
        )
    return tests[statistic]
