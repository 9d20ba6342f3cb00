"""Shares of classes on both sides, compared exactly."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import beta, fisher_exact

from otmetrics.explanation.calibration import discoveries, found_level


@dataclass(frozen=True)
class Share:
    """A class with its samples on both sides.

    Attributes:
        name: The class.
        real: Real samples of it.
        fake: Fake samples of it.
        ratio: Its share of the fake samples over that of the real ones; None where no real one is
            of it.
        low: Lower end of the interval of the ratio: at 95 %, of those that were found as wide as it
            takes that 5 % of them miss on average.
        high: Upper end; None where the ratio is.
        pvalue: Of Fisher's exact test that both shares are one, two-sided.
        found: Whether they differ, with the rate of false discoveries among all classes held.
    """

    name: str
    real: int
    fake: int
    ratio: float | None
    low: float
    high: float | None
    pvalue: float
    found: bool


def compared_shares(
    names: Sequence[str], real: np.ndarray, fake: np.ndarray, *, rate: float
) -> tuple[Share, ...]:
    """Compare counts (C,) of real and of fake samples in classes, the least chance first."""
    sizes = int(real.sum()), int(fake.sum())
    tables = [(int(a), int(b)) for a, b in zip(real, fake, strict=True)]
    pvalues = [share_pvalue(table, sizes) for table in tables]
    found = discoveries(torch.tensor(pvalues), rate).tolist()
    level = found_level(sum(found), len(found))
    shares = []
    for name, table, pvalue, one in zip(names, tables, pvalues, found, strict=True):
        interval = ratio_interval(table, sizes, level if one else 0.95)
        shares.append(Share(name, *table, share_ratio(table, sizes), *interval, pvalue, one))
    return tuple(sorted(shares, key=lambda share: (share.pvalue, share.name)))


def share_pvalue(table: tuple[int, int], sizes: tuple[int, int]) -> float:
    """Of Fisher's exact test that so many of the samples of each side are equal shares."""
    outside = [size - count for size, count in zip(sizes, table, strict=True)]
    return float(fisher_exact([list(table), outside]).pvalue)


def share_ratio(table: tuple[int, int], sizes: tuple[int, int]) -> float | None:
    """The share of fake over that of real samples."""
    return table[1] / sizes[1] / (table[0] / sizes[0]) if table[0] else None


def ratio_interval(
    table: tuple[int, int], sizes: tuple[int, int], level: float = 0.95
) -> tuple[float, float | None]:
    """An interval of the share of fake over that of real samples, None for no upper end.

    Of so many samples in a small part of both sides the fake ones are a share that depends on the
    ratio alone. Its interval is that of Jeffreys; of large parts it is too wide.

    References:
        Brown, Cai, DasGupta, Interval estimation for a binomial proportion, 2001.
    """
    real, fake = table
    tail = (1 - level) / 2
    odds = sizes[0] / sizes[1]
    low = float(beta.ppf(tail, fake + 0.5, real + 0.5)) if fake else 0.0
    high = float(beta.ppf(1 - tail, fake + 0.5, real + 0.5)) if real else None
    return low / (1 - low) * odds, None if high is None else high / (1 - high) * odds
