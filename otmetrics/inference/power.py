"""How many samples it takes to see a difference, from what a pilot says of its errors."""

import math

import torch
from scipy.stats import norm

from otmetrics.inference.influence import Influence
from otmetrics.inference.intervals import Estimate
from otmetrics.inference.two_sample import PermutationTest

_LEVEL = 0.05  # of the tests that are planned
_MOST = 10**9  # samples per side, more than anybody draws


def detectable_difference(estimate: Estimate, power: float) -> float:
    """The difference between the scores of two models like this one that is seen at this size.

    In the units of the score. What both models share, the real samples and the directions, does not
    count, but for precision, recall, density and coverage, whose errors are not told apart.
    """
    spread = estimate.spread
    variance = spread.variance("fake") if isinstance(spread, Influence) else spread.values.var()
    error = float(2 * variance + 2 * estimate.error**2) ** 0.5
    if estimate.order != 1:
        # Below its error a cost is not told from 0, where the root has no slope.
        cost = max(estimate.centre, error)
        error = error / (estimate.order * cost ** (1 - 1 / estimate.order)) if cost > 0 else 0.0
    return float(norm.ppf(1 - _LEVEL / 2) + norm.ppf(power)) * error


def samples_for_difference(detectable: float, size: int, difference: float) -> int:
    """Samples per model that show a difference, if so many show the detectable one."""
    # Errors fall with the root of the number.
    return max(2, math.ceil(size * (detectable / difference) ** 2))


def samples_to_differ(
    test: PermutationTest, error: float, order: float, power: float, *, two_sided: bool
) -> int | None:
    """Samples per side at which a permutation test tells both distributions apart.

    `error` is the standard error of the cost at the sizes that were tested. What the cost has above
    the mean of random labels stays, its error falls with 1/sqrt(n), and the reach of random labels
    with 1/n. None where the pilot shows no difference at 5 %: what it would take is a guess then.
    """
    null = test.null_distribution**order
    shift = float(test.statistic**order - null.mean())
    tail = _LEVEL / 2 if two_sided else _LEVEL
    low, high = null.quantile(torch.tensor([tail, 1 - tail], dtype=null.dtype)).tolist()
    reach = high - float(null.mean())
    if two_sided and shift < 0:
        shift, reach = -shift, float(null.mean()) - low

    def power_at(share: float) -> float:
        """Power at so many times the samples of the pilot."""
        room = shift - reach / share
        return float(norm.cdf(room * share**0.5 / error)) if error > 0 else float(room > 0)

    size = min(test.sizes)
    if test.pvalue > _LEVEL or shift <= 0 or power_at(_MOST / size) < power:
        return None
    # The power grows with the samples: halve the interval that holds the answer.
    least, most = 2, _MOST
    while least < most:
        middle = (least + most) // 2
        if power_at(middle / size) >= power:
            most = middle
        else:
            least = middle + 1
    return least
