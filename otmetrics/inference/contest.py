"""Several models, or training recipes, by one score: who is better, and by how much."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.stats import norm, t
from torch import Tensor

from otmetrics.inference.intervals import Estimate, Over, covariance_of
from otmetrics.inference.ranking import Ranking, joint_draws, rank_sets

_POWER = 0.8  # with which a difference of the detectable size is seen


@dataclass(frozen=True)
class Difference:
    """The score of one model minus that of another, in the units of the score.

    Attributes:
        value: The difference; of scores with a bias that is known, the one without it.
        low: Lower end of its interval.
        high: Upper end.
        level: Share of such intervals that hold the true difference, at least; of all differences
            from one baseline together where they are compared with it.
        pvalue: Chance of so large a difference, to either side, where there is none; the smallest
            level at which its interval leaves 0 out.
        detectable: The difference that samples of this size tell from 0 with a probability of 0.8.
    """

    value: float
    low: float
    high: float
    level: float
    pvalue: float
    detectable: float


class Contest(NamedTuple):
    """Scores of K models against the same real samples, in units of their cost.

    Attributes:
        centres: The scores (K,), without their bias where it is known.
        covariance: Their covariance (K, K), over samples, directions and training runs.
        own: The part (K,) of their variances that comes of the spread of their training runs; 0 for
            models with one run, of which nothing is known.
        runs: Training runs of each.
        order: The root p that turns costs into scores.
        higher_is_better: Whether the best model is the one with the largest score.
    """

    centres: Tensor
    covariance: Tensor
    own: Tensor
    runs: list[int]
    order: float = 1.0
    higher_is_better: bool = False

    def ranking(self, level: float, seed: int) -> Ranking:
        """Rank sets that all hold together, the best model first."""
        scores = -self.centres if self.higher_is_better else self.centres
        return rank_sets(scores, self.covariance, level, seed, self.freedom)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the least known difference; infinite for one run of each."""
        pairs = [(i, j) for i in range(len(self.runs)) for j in range(i)]
        return min((self._freedom(*pair) for pair in pairs), default=float("inf"))

    def reach(self, model: int, level: float) -> float:
        """How far the interval of a model reaches to each side of its centre."""
        # Never more than runs have: where they are close by chance, their error is too small.
        freedom = self.runs[model] - 1 if self.runs[model] > 1 else float("inf")
        return _quantile((1 + level) / 2, freedom) * float(self.covariance[model, model]) ** 0.5

    def difference(self, first: int, second: int, level: float) -> Difference:
        """The difference of two models, by itself."""
        error, freedom = self._error(first, second), self._freedom(first, second)
        reach = float(_quantile((1 + level) / 2, freedom))
        gap = float(self.centres[first] - self.centres[second])
        pvalue = 1.0 if error == 0 else 2 * float(_share_below(-abs(gap) / error, freedom))
        return self._difference(first, second, reach, pvalue, level)

    def differences_from(self, reference: int, level: float, seed: int) -> list[Difference | None]:
        """The differences from one model, which hold together; None for itself.

        References:
            Dunnett, A multiple comparison procedure for comparing several treatments with a
            control, 1955.
        """
        others = [model for model in range(len(self.runs)) if model != reference]
        draws = joint_draws(self.covariance, seed, self.freedom)
        errors = torch.tensor(
            [self._error(other, reference) for other in others], dtype=torch.float64
        )
        lengths = torch.where(errors > 0, errors, torch.inf)
        largest = ((draws[:, others] - draws[:, [reference]]) / lengths).abs().amax(1)

        reach = float(largest.quantile(level))
        found: list[Difference | None] = [None] * len(self.runs)
        for other, length in zip(others, lengths, strict=True):
            gap = (self.centres[other] - self.centres[reference]).abs() / length
            # As in a permutation test: never 0.
            pvalue = (1 + int((largest >= gap).sum())) / (1 + len(largest))
            found[other] = self._difference(other, reference, reach, pvalue, level)
        return found

    def _difference(
        self, first: int, second: int, reach: float, pvalue: float, level: float
    ) -> Difference:
        """The difference of two models, so many errors wide to each side."""
        error = self._error(first, second)
        value, low, high = self._ends(first, second, reach, error)
        # The interval leaves 0 out in four of five cases where the difference is this much.
        share = 1 + float(norm.ppf(_POWER)) / reach if reach > 0 else 0.0
        return Difference(value, low, high, level, pvalue, share * (high - low) / 2)

    def _ends(
        self, first: int, second: int, reach: float, error: float
    ) -> tuple[float, float, float]:
        """A difference of scores and the ends of its interval."""
        one, two = (float(self.centres[model]) for model in (first, second))
        if self.order == 1 or error == 0:
            value, width = self._rooted(one) - self._rooted(two), reach * error
            return value, value - width, value + width

        value = self._rooted(one) - self._rooted(two)
        lows, highs = [], []
        for model, centre in ((first, one), (second, two)):
            own = reach * float(self.covariance[model, model]) ** 0.5
            lows.append(centre - own)
            highs.append(centre + own)
        # Near 0 a root has any slope: what both have in common does not cancel there.
        if min(lows) <= 0:
            ends = (self._rooted(lows[0]), self._rooted(highs[0]))
            others = (self._rooted(lows[1]), self._rooted(highs[1]))
            low, high = ends[0] - others[1], ends[1] - others[0]
            # Costs that are told apart are so in any unit: no slope of the power is above this one.
            slope = self.order * self._rooted(max(highs)) ** (self.order - 1)
            away = min(abs(one - two) - reach * error, abs(value) * slope)
            if away > 0:
                away /= slope
                low, high = (max(low, away), high) if one > two else (low, min(high, -away))
            return value, low, high
        gap, power = one - two, 1 / self.order
        steep = power * max(one, two) ** (power - 1)
        width = reach * error * (value / gap if abs(gap) > 1e-6 * max(one, two) else steep)
        return value, value - width, value + width

    def _rooted(self, cost: float) -> float:
        """A cost in the units of the score; the root of a negative one is 0."""
        return cost if self.order == 1 else max(cost, 0.0) ** (1 / self.order)

    def _error(self, first: int, second: int) -> float:
        """Standard error of the difference of two costs."""
        own = self.covariance[first, first] + self.covariance[second, second]
        square = float(own - 2 * self.covariance[first, second])
        # What training runs add is not shared, though an estimate of what is may say so.
        square = max(square, float(self.own[first] + self.own[second]))
        # Below the rounding of both a difference is that of a model with itself.
        return square**0.5 if square > 1e-12 * float(own) else 0.0

    def _freedom(self, first: int, second: int) -> float:
        """Degrees of freedom of a difference (Welch, 1947); infinite for one run of each."""
        known = sum(
            float(self.own[model]) ** 2 / (self.runs[model] - 1)
            for model in (first, second)
            if self.runs[model] > 1
        )
        error = self._error(first, second)
        return error**4 / known if known > 0 else float("inf")


def contest_of(
    estimates: Sequence[Sequence[Estimate]], over: Over, higher_is_better: bool = False
) -> Contest:
    """A contest of models by the estimates of their training runs, against the same real samples.

    A model is the mean of its runs. What these share, the real samples and the directions, stays;
    the rest of its error is how much they differ.
    """
    flat = [estimate for runs in estimates for estimate in runs]
    whole = covariance_of(flat, over)
    centres = torch.tensor([estimate.centre for estimate in flat], dtype=torch.float64)
    runs = [len(model) for model in estimates]
    places = torch.arange(len(flat)).split(runs)

    covariance = torch.empty(len(runs), len(runs), dtype=torch.float64)
    own = torch.zeros(len(runs), dtype=torch.float64)
    for i, mine in enumerate(places):
        for j, others in enumerate(places):
            covariance[i, j] = whole[mine][:, others].mean()
        if runs[i] > 1:
            block = whole[mine][:, mine]
            shared = (block.sum() - block.trace()) / (runs[i] * (runs[i] - 1))
            shared = shared.clamp_min(0)
            # Runs differ by their samples at least, though a few may be close by chance.
            least = (block.trace() / runs[i] - shared).clamp_min(0)
            own[i] = torch.maximum(centres[mine].var(), least) / runs[i]
            covariance[i, i] = shared + own[i]
    means = torch.stack([centres[mine].mean() for mine in places])
    return Contest(means, covariance, own, runs, flat[0].order, higher_is_better)


def _quantile(share: float, freedom: float) -> float:
    """Quantile of t, or of the normal distribution."""
    return float(norm.ppf(share) if freedom == float("inf") else t.ppf(share, freedom))


def _share_below(value: float, freedom: float) -> float:
    """Share of t, or of the normal distribution, below a value."""
    return float(norm.cdf(value) if freedom == float("inf") else t.cdf(value, freedom))
