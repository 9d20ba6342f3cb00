"""Confidence intervals of scores, and what they are intervals for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from scipy.stats import norm
from torch import Tensor

from otmetrics.inference.influence import Influence

Over = Literal["both", "fake"]
Target = Literal["limit", "mean at these sizes"]


@dataclass(frozen=True)
class Interval:
    """Where a score may lie, given what sampling leaves open.

    Attributes:
        low: Lower end, in the units of the score.
        high: Upper end.
        level: Share of such intervals that hold what they aim at, at least.
        target: What that is: "limit", the distance between the distributions themselves; "mean at
            these sizes", the mean of this score over new samples of the same sizes, which for
            transport in many dimensions lies far above the limit.
        over: What is new in those samples: "both" sides, or "fake" alone, with these real ones.
    """

    low: float
    high: float
    level: float
    target: Target
    over: Over


class Subsamples(NamedTuple):
    """A score on random parts of the samples, scaled to spread as new samples of their size do.

    Attributes:
        values: The score (R,) on parts of both sides, or of the fake one alone.
        over: Which of them.
    """

    values: Tensor
    over: Over

    def variance(self, over: Over) -> float:
        """Variance of the score over new samples."""
        assert over == self.over
        return float(self.values.var())


class Estimate(NamedTuple):
    """What an interval of a score is made of, in units of its cost: the score to the power `order`.

    Attributes:
        centre: The cost, or what is left of it without its bias.
        spread: The effects of the samples on it.
        target: What an interval around the centre is for.
        error: A standard error that it has for itself, independent of the samples.
        drawn: What blocks of random directions and halves add to its error, (Q,), next to the
            samples; those of other estimates with the same directions are alike.
        order: The root p that turns costs into scores.
        power: The power of a distance that the cost is, 1 where it is none.
        bounds: The least and the largest value that the score can have.
        bias: What was taken off the cost of the samples to get the centre; None where nothing was.
    """

    centre: float
    spread: Influence | Subsamples
    target: Target
    error: float = 0.0
    drawn: Tensor | None = None
    order: float = 1.0
    power: float = 1.0
    bounds: tuple[float, float] = (float("-inf"), float("inf"))
    bias: float | None = None

    def of_target(self, over: Over) -> "Estimate":
        """The estimate whose error over these samples is all that it has.

        Of fake samples alone the error is that of the score against these real ones: to take the
        bias of both sides off would leave the error of the real side out.
        """
        if over == "both" or self.target != "limit":
            return self
        centre = self.centre + (self.bias or 0.0)
        return self._replace(centre=centre, target="mean at these sizes", bias=None)

    def standard_error(self, over: Over = "both") -> float:
        """Standard error of the centre, over samples and over directions."""
        drawn = 0.0 if self.drawn is None else float(self.drawn.square().sum())
        return float((self.spread.variance(over) + drawn + self.error**2) ** 0.5)

    def interval(self, level: float, over: Over = "both") -> Interval:
        """An interval of this level around the centre."""
        reach = float(norm.ppf((1 + level) / 2)) * self.standard_error(over)
        return self.interval_around(self.centre, reach, level, over)

    def interval_around(self, centre: float, reach: float, level: float, over: Over) -> Interval:
        """An interval that reaches so far, in units of the cost, to both sides of a centre.

        Further up where the cost is a power of a distance: its error grows with it, so that samples
        that make it too small make its error too small as well. The error of the distance does not,
        and an interval of that reaches in the power by a term of second order further.
        """
        further = (1 - 1 / self.power) / 2 * reach**2 / max(centre, reach / 2) if reach > 0 else 0.0
        # The ends are rooted, not the error: near 0 the slope of a root is infinite.
        least, most = self.bounds
        low, high = (
            min(max(self.rooted(end), least), most)
            for end in (centre - reach, centre + reach + further)
        )
        return Interval(low, high, level, self.target, over)

    def rooted(self, cost: float) -> float:
        """A cost in the units of the score: its root, or 0 where it is negative."""
        return cost if self.order == 1 else max(cost, 0.0) ** (1 / self.order)

    def at_value(self, value: float) -> "Estimate":
        """The same in the units of the score, to first order around its value."""
        if self.order == 1:
            return self
        slope = 1 / (self.order * value ** (self.order - 1)) if value > 0 else float("inf")
        spread = self.spread
        if isinstance(spread, Influence):
            spread = spread._replace(real=spread.real * slope, fake=spread.fake * slope)
        else:
            spread = spread._replace(values=spread.values * slope)
        drawn = None if self.drawn is None else self.drawn * slope
        error = self.error * slope
        return self._replace(centre=value, spread=spread, error=error, drawn=drawn, order=1.0)


def covariance_of(estimates: Sequence[Estimate], over: Over = "both") -> Tensor:
    """Covariance (K, K) of the centres of estimates of one score against the same real samples.

    They share these samples, the random directions and the parts; fake samples are independent.
    """
    spreads = [estimate.spread for estimate in estimates]
    if isinstance(spreads[0], Subsamples):
        values = torch.stack([one.values for one in spreads if isinstance(one, Subsamples)])
        found = torch.atleast_2d(torch.cov(values))
    else:
        found = _covariance_of_influences([s for s in spreads if isinstance(s, Influence)], over)

    for i, one in enumerate(estimates):
        found[i, i] += one.error**2
        for j, two in enumerate(estimates):
            if one.drawn is not None and two.drawn is not None:
                # An adaptive number of directions continues a smaller one.
                common = min(len(one.drawn), len(two.drawn))
                found[i, j] += float(one.drawn[:common] @ two.drawn[:common])
    return found


def _covariance_of_influences(influences: list[Influence], over: Over) -> Tensor:
    """What samples add to the covariance."""
    found = torch.diag(
        torch.tensor([one.variance("fake") for one in influences], dtype=torch.float64)
    )
    if over == "fake":
        return found
    for i, one in enumerate(influences):
        for j, two in enumerate(influences):
            found[i, j] += one.shared(two)
    return found


def difference_error(first: Estimate, second: Estimate, over: Over) -> float | None:
    """Standard error of the difference of two scores against the same real samples, if finite."""
    (one, shared), (_, two) = covariance_of([first, second], over).tolist()
    variance = max(one + two - 2 * shared, 0.0)
    return variance**0.5 if variance < float("inf") else None
