"""What proves an optimum: a plan from above, potentials that respect all pairs from below."""

import math
import time
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.checks import is_uniform
from otmetrics.transport.costs import Pairs, blocks

_EPSILON = torch.finfo(torch.float64).eps
_ROUNDINGS = 64  # of a product, a difference, and pairwise sums of up to 2^50 weights
_WORK, _LEAST_STEPS, _MOST_STEPS = 2**30, 4, 50  # pairs, and passes over them, for a better proof
_FAINT = 1e-6  # of a weight: below it and the rounding of weights, a mass may be rounding itself
_CLOSE = 64  # pairs per row, on average, that are evaluated exactly for a better proof
_NEAR = 8  # pairs per row that are evaluated exactly; a row with more is computed again


class Limits(NamedTuple):
    """How far to go: to a gap relative to the cost, until a time, with so many bytes of costs."""

    tolerance: float
    deadline: float
    memory: float | None  # None for half of that of the device

    @classmethod
    def from_now(
        cls, tolerance: float, seconds: float | None, memory: float | None = None
    ) -> "Limits":
        """With the clock running; None for as long as it takes."""
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        return cls(tolerance, deadline, memory)

    def is_late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.deadline


class Units(NamedTuple):
    """Weights (N,), (M,) as whole numbers in float64, whose sums and differences are not rounded.

    Both sum to `total`; `given` are the weights of sum 1 that they stand for, to which the bounds
    belong.
    """

    real: Tensor
    fake: Tensor
    total: float
    given: tuple[Tensor, Tensor]


def units(a: Tensor, b: Tensor) -> Units:
    """Positive weights (N,), (M,) of sum 1 in a common unit, at least one each.

    Exactly for uniform ones, else in parts of 2^52.
    """
    n, m = len(a), len(b)
    if is_uniform(a) and is_uniform(b):
        # In parts of lcm(N, M) uniform weights are whole numbers as they are.
        common = math.gcd(n, m)
        real, fake = a.new_full((n,), m // common), b.new_full((m,), n // common)
        return Units(real, fake, n * m // common, (a, b))

    # Float64 counts up to 2^53 exactly. A weight below one unit gets one, as each has to move.
    real, fake = ((weights * 2.0**52).round().clamp_min(1) for weights in (a, b))
    for weights in (real, fake):  # what rounding took is shared among those that hardly feel it
        heavy = (weights >= 2.0**51 / len(weights)).nonzero().squeeze(1)
        each, rest = divmod(int(2.0**52 - weights.sum()), len(heavy))
        weights[heavy] += each
        weights[heavy[:rest]] += 1
    return Units(real, fake, 2.0**52, (a, b))


class Optimum(NamedTuple):
    """A plan as its support and masses, and feasible potentials."""

    rows: Tensor  # (K,) of the support
    columns: Tensor  # (K,)
    masses: Tensor  # (K,) in float64
    potentials: tuple[Tensor, Tensor]  # f (N,) and g (M,) with f + g <= C
    lower_bound: Tensor  # <a, f> + <b, g> less its rounding
    upper_bound: Tensor  # the cost of the plan
    rounding: Tensor  # that the lower bound was lowered by
    noise: Tensor | float = 0.0  # a gap that rounding leaves with any potentials, where known

    def is_open(self, tolerance: float) -> bool:
        """Whether the proof falls short of a tolerance."""
        upper = float(self.upper_bound)
        return not upper - float(self.lower_bound) <= tolerance * abs(upper)

    def in_units(self, scale: float) -> "Optimum":
        """The same in other units of cost."""
        f, g = self.potentials
        bounds = {name: getattr(self, name) * scale for name in Optimum._fields[4:]}
        return self._replace(potentials=(f * scale, g * scale), **bounds)


class Dual(NamedTuple):
    """What proves a lower bound; fields as those of `Optimum`."""

    potentials: tuple[Tensor, Tensor]
    lower_bound: Tensor
    rounding: Tensor


def dual(a: Tensor, b: Tensor, f: Tensor, g: Tensor) -> Dual:
    """The dual value <a, f> + <b, g> less its rounding, for weights (N,) and (M,) of sum 1.

    f (N,) has to be the minimum of differences to g (M,), whose rounding is counted here.
    """
    products = a * f, b * g
    # Summed without rounding: potentials may be far larger than the cost, and cancel.
    value = f.new_tensor(sum(math.fsum(side.tolist()) for side in products))

    # Of products and differences, and of the weights, which were divided by sums and summed.
    size = products[0].abs().sum() + products[1].abs().sum() + g.abs().amax()
    rounding = _ROUNDINGS * _EPSILON * size
    return Dual((f, g), value - rounding, rounding)


def tighter(one: Optimum, other: Optimum) -> Optimum:
    """The cheaper of two plans with the potentials that prove more."""
    # Any plan bounds the optimum from above and any potentials from below: they need no common
    # origin.
    cheaper = min((one, other), key=lambda each: each.upper_bound)
    proof = max((one, other), key=lambda each: each.lower_bound)
    return cheaper._replace(**{name: getattr(proof, name) for name in Dual._fields})


def faint(optimum: Optimum, a: Tensor, b: Tensor) -> Tensor:
    """Which masses (K,) of a plan are no more than the rounding of weights may have made."""
    ends = torch.minimum(a[optimum.rows], b[optimum.columns])
    rounding = 8 * (len(a) + len(b)) * _EPSILON
    return (optimum.masses <= rounding) & (optimum.masses <= _FAINT * ends)


def missed_masses(optimum: Optimum, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """By how much, (N,) and (M,), the masses of a plan miss each weight."""
    rows, columns, masses = optimum[:3]
    return (
        torch.zeros_like(a).index_add_(0, rows, masses).sub_(a).abs_(),
        torch.zeros_like(b).index_add_(0, columns, masses).sub_(b).abs_(),
    )


def is_rounding(
    missed: tuple[Tensor, Tensor], weights: tuple[Tensor, Tensor], reaches: tuple[Tensor, Tensor]
) -> bool:
    """Whether masses miss weights by rounding alone.

    Each is counted with its reach: a cost of the order of those to move a unit of it. A far point
    with hardly any weight may be most of the cost, and then its rounding matters.
    """
    sides = list(zip(missed, weights, reaches, strict=True))
    rounding = 8 * sum(map(len, missed)) * _EPSILON
    lost, whole = (sum(float(side[k] @ side[2]) for side in sides) for k in (0, 1))
    return lost <= rounding * whole


def prove_by_paths(
    optimum: Optimum, pairs: Pairs, weights: tuple[Tensor, Tensor], limits: Limits
) -> Optimum:
    """The same plan with a bound by the smallest potentials that fit it, if that proves more.

    Rounding is relative to the potentials, which solvers leave as large as the largest cost. Where
    clouds are nearly equal the cost is far smaller, and potentials of its size prove it: shortest
    paths from f = 0 in the graph of the pairs that the plan uses (Ahuja, Magnanti, Orlin, Network
    Flows, 1993, section 9.2), with one c-transform per step. Whatever they are, the bound holds.
    """
    rows, columns, masses = optimum[:3]
    costs = pairs.exact(rows, columns)
    upper = masses @ costs
    n, m = pairs.shape

    # Faint masses may be rounding, and their pairs far too dear; but each column needs one.
    used = ~faint(optimum, *weights)
    served = torch.zeros(m, dtype=torch.bool, device=pairs.device)
    served[columns[used]] = True
    used |= ~served[columns]
    rows, columns, costs = rows[used], columns[used], costs[used]

    best = optimum._replace(upper_bound=upper)
    f, g = torch.zeros_like(weights[0]), optimum.potentials[1]
    for step in range(1 + max(_LEAST_STEPS, min(_MOST_STEPS, _WORK // (n * m)))):
        if limits.is_late():
            break

        if step:  # the first one takes the potentials of the solver
            g = torch.full_like(g, -torch.inf)
            g.scatter_reduce_(0, columns, costs - f[rows], "amax")
        values = c_transform(pairs, g, refined=True).values
        proof = dual(*weights, values, g)
        if proof.lower_bound > best.lower_bound:
            best = best._replace(**proof._asdict())
        if not best.is_open(limits.tolerance):
            break
        if not step:
            continue

        lower = torch.minimum(f, values)
        slack = 8 * _EPSILON * (f.abs().amax() + g.abs().amax())
        if (lower >= f - slack).all():  # they fit the plan: what is left is rounding
            return best._replace(noise=2 * best.rounding)
        f = lower
    return best


class Transform(NamedTuple):
    """The c-transform f_i = min_j (C_ij - g_j), and the pairs near those minima, exactly."""

    values: Tensor  # f (N,) in float64, from costs less their rounding
    rows: Tensor  # (K,) of the pairs
    columns: Tensor  # (K,)
    costs: Tensor  # (K,) in float64


def c_transform(pairs: Pairs, g: Tensor, refined: bool = False) -> Transform:
    """The largest f with f_i + g_j <= C_ij for all pairs, never above it by more than rounding.

    Float32 lower bounds of all costs of a row leave few pairs that may be its minimum, and those
    are evaluated exactly; where they leave many, the row is computed again in float64, and with
    `refined` pairs that this does not tell apart are evaluated exactly too. Time O(N M D) or
    O(N M), memory that of a block.
    """
    parts = [_transform_rows(pairs, g, rows, refined) for rows in blocks(pairs)]
    return Transform(*map(torch.cat, zip(*parts, strict=True)))


def _transform_rows(pairs: Pairs, g: Tensor, rows: slice, refined: bool) -> Transform:
    """The c-transform of some rows."""
    lower = pairs.lower(rows)
    lower -= g.to(lower.dtype)
    ids = torch.arange(rows.start, rows.stop, device=g.device)
    lowest = lower.topk(min(_NEAR, lower.shape[1]), dim=1, largest=False)
    bounds, columns = lowest.values.double(), lowest.indices

    # One exact cost per row: only pairs whose bound lies below it can be the minimum.
    sure = 1 - pairs.rounding
    values = pairs.exact(ids, columns[:, 0]) * sure - g[columns[:, 0]]
    rounding = torch.finfo(lower.dtype)
    # What the subtraction may have rounded away.
    slack = 4 * rounding.eps * (values.abs() + g.abs().amax()) + rounding.tiny
    near = bounds <= (values + slack)[:, None]
    i, k = near.nonzero(as_tuple=True)
    j = columns[i, k]
    costs = pairs.exact(ids[i], j)
    values.scatter_reduce_(0, i, costs * sure - g[j], "amin")

    # Where the last one listed is near, so may be others that were not listed.
    many = near[:, -1].nonzero().squeeze(1)
    if not len(many) or lower.shape[1] <= _NEAR:
        return Transform(values, ids[i], j, costs)
    for some in many.split(max(1, len(ids) // 2)):  # float64 takes twice the memory
        doubles, above = pairs.lower_in_float64(ids[some]) - g, values[some]
        values[some], nearest = doubles.min(1)
        if refined and pairs.rounding:
            slack = 4 * _EPSILON * (above.abs() + g.abs().amax())
            close = doubles <= (above + slack)[:, None]
            if int(close.sum()) <= _CLOSE * len(some):
                row, column = close.nonzero(as_tuple=True)
                exact = pairs.exact(ids[some[row]], column) * sure - g[column]
                values[some] = above.scatter_reduce(0, row, exact, "amin")
        i, j = torch.cat([i, some]), torch.cat([j, nearest])
        costs = torch.cat([costs, pairs.exact(ids[some], nearest)])
    return Transform(values, ids[i], j, costs)
