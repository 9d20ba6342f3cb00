"""The plan that moves masses in a given order, which is optimal on the line."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.functional.certificate import Optimum
from otmetrics.functional.checks import is_uniform
from otmetrics.functional.cost import power


class Staircase(NamedTuple):
    """A path through the matrix of pairs from corner to corner, one step down or right at a time.

    Attributes:
        rows: Rows (N + M - 1,) of its cells.
        columns: Their columns.
        flows: What they move, in the units of the weights; 0 where both weights end together.
    """

    rows: Tensor
    columns: Tensor
    flows: Tensor


class Units(NamedTuple):
    """Weights as whole numbers in float64, whose sums and differences are not rounded.

    Attributes:
        real: Weights (N,).
        fake: Weights (M,) of the same sum.
        total: That sum.
        given: The weights of sum 1 that these stand for, to which the bounds belong.
    """

    real: Tensor
    fake: Tensor
    total: float
    given: tuple[Tensor, Tensor]


def units(a: Tensor, b: Tensor) -> Units:
    """Weights in a common unit: exactly for uniform ones, else in parts of 2^52.

    Args:
        a: Positive weights (N,) of sum 1.
        b: Positive weights (M,) of sum 1.

    Returns:
        Them, at least one unit each.
    """
    n, m = len(a), len(b)
    if is_uniform(a) and is_uniform(b):
        common = math.gcd(n, m)
        real, fake = a.new_full((n,), m // common), b.new_full((m,), n // common)
        return Units(real, fake, n * m // common, (a, b))
    real, fake = ((weights * 2.0**52).round().clamp_min(1) for weights in (a, b))
    for weights in (real, fake):  # what rounding took is shared among those that hardly feel it
        heavy = (weights >= 2.0**51 / len(weights)).nonzero().squeeze(1)
        each, rest = divmod(int(2.0**52 - weights.sum()), len(heavy))
        weights[heavy] += each
        weights[heavy[:rest]] += 1
    return Units(real, fake, 2.0**52, (a, b))


def staircase(a: Tensor, b: Tensor) -> Staircase:
    """The north-west-corner plan.

    Args:
        a: Weights (N,) in whole units.
        b: Weights (M,) of the same sum.

    Returns:
        Its cells, whose flows have the weights as marginals.
    """
    ends = torch.cat([a.cumsum(0)[:-1], b.cumsum(0)[:-1]])
    order = ends.argsort(stable=True)
    down = (order < len(a) - 1).long()
    start = down.new_zeros(1)
    rows = torch.cat([start, down.cumsum(0)])
    columns = torch.cat([start, (1 - down).cumsum(0)])
    ends = torch.cat([ends.new_zeros(1), ends[order], a.sum()[None]])
    return Staircase(rows, columns, ends.diff())


def line_optimum(real: Tensor, fake: Tensor, order: float, weights: Units) -> Optimum:
    """Optimal plan and potentials on the line. Time O((N + M) log (N + M)).

    Costs |x - y|^p of sorted points have the Monge property, so that the staircase is optimal, and
    the potentials that are tight along it respect all pairs (Hoffman, On simple linear programming
    problems, 1963).

    Args:
        real: Values (N,) in float64.
        fake: Values (M,).
        order: The order p >= 1.
        weights: Their weights.

    Returns:
        The optimum.
    """
    by_real, by_fake = real.argsort(), fake.argsort()
    a, b = weights.given
    path = staircase(weights.real[by_real], weights.fake[by_fake])
    rows, columns = by_real[path.rows], by_fake[path.columns]
    costs = power((real[rows] - fake[columns]).square(), order)
    steps = costs.diff()
    down = path.rows.diff().bool()
    f, g = torch.empty_like(real), torch.empty_like(fake)
    f[by_real] = torch.cat([costs[:1], costs[0] + steps[down].cumsum(0)])
    g[by_fake] = torch.cat([costs.new_zeros(1), steps[~down].cumsum(0)])
    shift = ((a @ f) - (b @ g)) / 2
    f, g = f - shift, g + shift
    used = path.flows > 0
    masses = path.flows[used] / weights.total
    upper = masses @ costs[used]
    # By the theorem the plan is optimal; all that is uncertain is the rounding of its masses.
    uncertain = upper if is_uniform(a) and is_uniform(b) else costs.sum()
    rounding = (len(a) + len(b)) * torch.finfo(torch.float64).eps * uncertain
    return Optimum(rows[used], columns[used], masses, (f, g), upper - rounding, upper, rounding)
