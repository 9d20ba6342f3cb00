"""Fake samples that copy training samples, next to what real samples do that no one trained on."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.stats import fisher_exact, norm
from torch import Tensor

from otmetrics.checks import check_at_least, check_seed, check_share, checked_cloud
from otmetrics.explanation.calibration import conformal_pvalues, discoveries
from otmetrics.explanation.clusters import along_axes, checked_pair, cluster_centres
from otmetrics.explanation.nearest import nearest

_NEIGHBOURS = 50  # training samples that a distance is compared with
_SAME = 0.2  # a ratio above this share of the usual one is none of a duplicate, and as many
_BY_CHANCE = 0.01  # samples that are none have a smaller one in Poisson's model of points
_CHANCE = 0.01  # with which both sides of one distribution have so different shares of duplicates
_NUM_CELLS = 3
_LEAST_IN_CELL = 20  # fake samples; a cell with fewer does not count
_PERMUTATIONS_AT_ONCE = 100


@dataclass(frozen=True)
class Copy:
    """A fake sample that is nearer to a training sample than real samples are.

    Attributes:
        fake: Its row.
        train: The row of the nearest training sample.
        ratio: Its distance over the mean distance to the next ones, up to the 50th.
        pvalue: Share of held-out real samples with a ratio as small, one for itself among them.
    """

    fake: int
    train: int
    ratio: float
    pvalue: float


@dataclass(frozen=True)
class Copies:
    """The result of `find_copies`.

    Attributes:
        rows: All copies that were found, the nearest first.
        number: How many they are,
        samples: of so many fake samples.
        rate: Share of the found ones that is expected to be no nearer than real samples are.
            Duplicates of training samples are among them in any case, unless real samples have as
            many.
        usual: Median ratio of the held-out real samples.
        shared: Held-out real samples that are duplicates of training samples, as pairs of rows in
            `real` and `train`: nothing else here counts them, unless fakes have as many.
        c_t: The statistic of Meehan et al., in standard errors: below 0 where fake samples are
            nearer to the training samples than real ones are. None where no cell counts.
        c_t_pvalue: Share of random labels with one as small; None as well.
        authentic: Share of fake samples that are further from their nearest training sample than
            that is from the nearest other one (AuthPct of Alaa et al.).
        authentic_held_out: The same of the held-out real samples.
        difference: 95 % interval of the first share less the second one.
    """

    rows: tuple[Copy, ...]
    number: int
    samples: int
    rate: float
    usual: float
    shared: tuple[tuple[int, int], ...]
    c_t: float | None
    c_t_pvalue: float | None
    authentic: float
    authentic_held_out: float
    difference: tuple[float, float]


def find_copies(
    real: Tensor,
    fake: Tensor,
    *,
    train: Tensor,
    rate: float = 0.1,
    num_permutations: int = 999,
    seed: int = 0,
) -> Copies:
    """Fake samples (M, D) that copy training samples (T, D), judged by real ones (N, D).

    The real samples must be none that the model was trained on. Time O((N + M) T D), memory
    O((N + M + T) D).

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If a cloud has another shape, `train` fewer than two samples, every real
            sample is in `train`, or an argument breaks its rule.

    References:
        Carlini et al., Extracting training data from diffusion models, 2023. Meehan, Chaudhuri,
        Dasgupta, A non-parametric test to detect data-copying in generative models, 2020. Alaa, van
        Breugel, Saveliev, van der Schaar, How faithful is your synthetic data?, 2022.
    """
    check_share("rate", rate)
    check_at_least("num_permutations", num_permutations, 1)
    check_seed(seed)
    real, fake = checked_pair(real, fake, min_real=1)
    train = _checked_train(train, real)

    held_out, made = _near_train(real, train), _near_train(fake, train)
    limit = _duplicate_limit(held_out)
    same, twins = held_out.ratios <= limit, made.ratios <= limit
    if bool(same.all()):
        raise ValueError(
            "`real` must hold samples that are not in `train`: all of them are there, give real "
            "samples that the model was not trained on."
        )
    rows = same.nonzero()[:, 0]
    shared = tuple(zip(rows.tolist(), held_out.ids[rows].tolist(), strict=True))
    if _by_nature(same, twins):
        same, twins = torch.zeros_like(same), torch.zeros_like(twins)
    kept, fresh = real[~same], held_out.at(~same)

    listed = _listed(fresh, made, twins, rate)
    cells = _cells(train, kept, fake, seed)
    c_t, c_t_pvalue = copying_test(
        torch.cat([fresh.distances, made.distances]).cpu(), cells, len(kept), num_permutations, seed
    )
    shares = _authentic_shares(made, fresh, train)
    return Copies(
        rows=listed,
        number=len(listed),
        samples=len(fake),
        rate=rate,
        usual=float(fresh.ratios.median()),
        shared=shared,
        c_t=c_t,
        c_t_pvalue=c_t_pvalue,
        authentic=shares[0],
        authentic_held_out=shares[1],
        difference=difference_interval((shares[0], len(fake)), (shares[1], len(kept))),
    )


def _checked_train(train: Tensor, real: Tensor) -> Tensor:
    """Training samples (T, D), where they compare with real ones (N, D)."""
    train = checked_cloud("train", train).detach().to(real.device)
    if train.shape[1] != real.shape[1] or len(train) < 2:
        raise ValueError(
            f"`train` must hold at least 2 samples of {real.shape[1]} features, got "
            f"{tuple(train.shape)}."
        )
    return train


class _NearTrain(NamedTuple):
    """Samples (n,) next to their nearest training samples.

    Attributes:
        distances: To the nearest one.
        seconds: To the second one.
        ids: Which the nearest one is.
        ratios: The distance to it over the mean distance to the next ones.
    """

    distances: Tensor
    seconds: Tensor
    ids: Tensor
    ratios: Tensor

    def at(self, rows: Tensor) -> "_NearTrain":
        """Some of the samples."""
        return _NearTrain(*(column[rows] for column in self))


def _near_train(samples: Tensor, train: Tensor) -> _NearTrain:
    """Samples (n, D) next to training samples (T, D)."""
    found = nearest(samples, train, min(_NEIGHBOURS, len(train)))
    first, others = found.distances[:, 0], found.distances[:, 1:].mean(1)
    # In the middle of training samples that are all one point: as near as can be.
    ratios = torch.where(others > 0, first / torch.where(others > 0, others, 1.0), 0.0)
    return _NearTrain(first, found.distances[:, 1], found.ids[:, 0], ratios)


def _duplicate_limit(near: _NearTrain) -> float:
    """The ratio up to which a sample is a training sample itself, but for a small change.

    Around a point in d dimensions the volumes of the balls that reach its two nearest neighbours
    have a uniform ratio: its median tells d, and d what share of a distance is too small for all of
    n samples.

    References:
        Facco, d'Errico, Rodriguez, Laio, Estimating the intrinsic dimension of datasets by a
        minimal neighborhood information, 2017.
    """
    apart = near.at(near.distances > 0)
    if not len(apart.ids):
        return 0.0
    steps = float((apart.seconds / apart.distances).log().median())
    share = math.exp(math.log(_BY_CHANCE / len(apart.ids)) * steps / math.log(2))
    return min(_SAME, share) * float(apart.ratios.median())


def _listed(held_out: _NearTrain, made: _NearTrain, twins: Tensor, rate: float) -> tuple[Copy, ...]:
    """The fakes nearer to a training sample than held-out real ones, or its twins, by mask (M,)."""
    # Small ratios are the strange ones.
    pvalues = conformal_pvalues(-held_out.ratios, -made.ratios)
    # Few copies among many samples have p-values that are too large for a list, however near.
    found = (discoveries(pvalues, rate) | twins).nonzero()[:, 0]
    order = found[made.ratios[found].argsort(stable=True)]
    columns = order, made.ids[order], made.ratios[order], pvalues[order]
    return tuple(Copy(*row) for row in zip(*(column.tolist() for column in columns), strict=True))


def _by_nature(real: Tensor, fake: Tensor) -> bool:
    """Whether duplicates of training samples, by masks of both sides, come with the distribution.

    Then real and fake samples have as many of them, such as blank images. Where real samples have
    none, or another share, they were copied, or drawn from the training samples.
    """
    counts = [[int(side.sum()), int((~side).sum())] for side in (real, fake)]
    return counts[0][0] > 0 and float(fisher_exact(counts).pvalue) > _CHANCE


def _cells(train: Tensor, real: Tensor, fake: Tensor, seed: int) -> Tensor:
    """The cell (N + M,) of the training samples' that each sample is in."""
    reference, x, y = along_axes(train, train, real, fake)
    centres = cluster_centres(reference, _NUM_CELLS, seed)
    return nearest(torch.cat([x, y]), centres, 1).ids[:, 0]


def copying_test(
    distances: Tensor, cells: Tensor, num_real: int, num_permutations: int, seed: int
) -> tuple[float | None, float | None]:
    """C_T of distances (N + M,) to the nearest training sample, real ones first, and its p-value.

    In each cell the statistic of Mann and Whitney, in standard errors, of fake against real
    distances; of cells with enough fake samples the mean, weighted by their real samples. Permuted
    labels show what it is by chance: samples with one nearest training sample are not independent.
    """
    inside = torch.nn.functional.one_hot(cells).double()
    ranks = torch.zeros_like(inside)
    for cell in range(inside.shape[1]):
        rows = (cells == cell).nonzero()[:, 0]
        ranks[rows, cell] = _ranks(distances[rows])

    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(len(distances)) >= num_real  # the fake ones
    found = _c_t(truth[None], ranks, inside)
    if not bool(found.isfinite()):
        return None, None
    drawn = []
    for start in range(0, num_permutations, _PERMUTATIONS_AT_ONCE):
        num = min(_PERMUTATIONS_AT_ONCE, num_permutations - start)
        orders = [torch.randperm(len(truth), generator=generator) for _ in range(num)]
        drawn.append(_c_t(truth[torch.stack(orders)], ranks, inside))
    # A labelling without a cell that counts says nothing, and so counts against a finding.
    as_small = torch.cat(drawn).nan_to_num(-torch.inf) <= found + 1e-9
    return float(found), (1 + int(as_small.sum())) / (1 + num_permutations)


def _ranks(values: Tensor) -> Tensor:
    """Ranks (n,) from 1, equal values with the mean of theirs."""
    ordered = values.sort().values
    first = torch.searchsorted(ordered, values)
    last = torch.searchsorted(ordered, values, right=True)
    return (first + last + 1).double() / 2


def _c_t(fake: Tensor, ranks: Tensor, inside: Tensor) -> Tensor:
    """C_T (B,) of labels (B, n), True for fake, from ranks in cells (n, C) and who is inside."""
    fake = fake.double()
    m = fake @ inside
    n = inside.sum(0) - m
    wins = fake @ ranks - m * (m + 1) / 2
    error = (n * m * (n + m + 1) / 12).sqrt()
    weights = torch.where((m >= _LEAST_IN_CELL) & (n > 0), n, 0.0)
    scores = torch.where(weights > 0, (wins - n * m / 2) / error.clamp_min(1e-300), 0.0)
    return (weights * scores).sum(1) / weights.sum(1)


def _authentic_shares(made: _NearTrain, held_out: _NearTrain, train: Tensor) -> list[float]:
    """Shares of each side that are further from a training sample than that from another."""
    rows, places = torch.cat([made.ids, held_out.ids]).unique(return_inverse=True)
    between = nearest(train[rows], train, 1, own=rows).distances[:, 0]
    further = torch.cat([made.distances, held_out.distances]) > between[places]
    sides = further.double().split([len(made.ids), len(held_out.ids)])
    return [float(side.mean()) for side in sides]


def difference_interval(
    first: tuple[float, int], second: tuple[float, int], level: float = 0.95
) -> tuple[float, float]:
    """An interval of the first less the second one of two shares, each with its sample size.

    References:
        Newcombe, Interval estimation for the difference between independent proportions, 1998,
        method 10.
    """
    ends = [_wilson(*one, level) for one in (first, second)]
    gap = first[0] - second[0]
    down = math.hypot(first[0] - ends[0][0], ends[1][1] - second[0])
    up = math.hypot(ends[0][1] - first[0], second[0] - ends[1][0])
    return gap - down, gap + up


def _wilson(share: float, num: int, level: float) -> tuple[float, float]:
    """Wilson's interval of a share of so many."""
    z2 = float(norm.ppf((1 + level) / 2)) ** 2 / num
    centre = (share + z2 / 2) / (1 + z2)
    reach = math.sqrt(z2 * share * (1 - share) + z2**2 / 4) / (1 + z2)
    return centre - reach, centre + reach
