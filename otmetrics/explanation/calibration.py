"""How strange is too strange: p-values from the scores of real samples, and lists made of them."""

import torch
from torch import Tensor

_SLACK = 1e-9  # share of a score that its rounding may be off


def conformal_pvalues(calibration: Tensor, scores: Tensor) -> Tensor:
    """Share (m,) of real scores (n,), with one for the score itself, that are at least as large.

    Where a sample and the n real ones are exchangeable it is at most a with a probability of at
    most a. Scores that are equal up to rounding count against a finding. The least is 1 / (n + 1).

    References:
        Bates, Candès, Lei, Romano, Sesia, Testing for outliers with conformal p-values, 2023.
    """
    ordered = calibration.double().sort().values
    scores = scores.double()
    below = torch.searchsorted(ordered, scores - _SLACK * scores.abs())
    return (len(ordered) - below + 1).double() / (len(ordered) + 1)


def discoveries(pvalues: Tensor, rate: float) -> Tensor:
    """Which of p-values (m,) to list, so that a share of `rate` of the list is false on average.

    The r smallest ones, for the largest r of which the last is at most r / m times the rate.

    References:
        Benjamini and Hochberg, Controlling the false discovery rate, 1995.
    """
    num = len(pvalues)
    ordered = pvalues.double().sort().values
    limits = torch.arange(1, num + 1, dtype=torch.float64, device=pvalues.device) * (rate / num)
    # Products of numbers that are equal on paper differ by a rounding.
    within = (ordered <= limits * (1 + _SLACK)).nonzero()
    if not len(within):
        return torch.zeros(num, dtype=torch.bool, device=pvalues.device)
    return pvalues.double() <= ordered[within[-1]]


def found_level(found: int, tested: int) -> float:
    """The level of intervals of what was found, of which those that miss are 5 % on average.

    At 95 % more of them miss: what is found is what chance made extreme. No list counts as none
    that misses.

    References:
        Benjamini and Yekutieli, False discovery rate-adjusted multiple confidence intervals for
        selected parameters, 2005.
    """
    return 1 - 0.05 * found / tested
