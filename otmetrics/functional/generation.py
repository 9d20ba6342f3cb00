"""Exact transport of many points by column generation: few pairs in the simplex, all in the proof.

An optimal plan uses at most N + M - 1 of the N M pairs. Sinkhorn's potentials tell which ones may
matter; the network simplex is exact on those; its potentials are then checked against all pairs,
and pairs that they overprice join, until a lower bound from all pairs meets the cost of the plan.
"""

import math
import time
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.functional.certificate import Optimum, c_transform
from otmetrics.functional.pairs import MatrixPairs, Pairs, blocks
from otmetrics.functional.simplex import sparse_simplex
from otmetrics.functional.staircase import staircase, units

_COARSE = 1500  # points a side of the first, smaller problem
_WIDEST, _FINEST, _STEPS, _REPEATS = 2.0, 0.05, 16, 3  # epsilon, in standard deviations of the cost
_FIRST = 8  # pairs a row and a column to begin with
_MORE = 8  # pairs a row and a column to add at most in a round
_GROUPS = 3  # groups of rows for each pair that a column may get
_ROUGH = 3e-3  # relative gap down to which float32 costs do
_MAX_ROUNDS = 50


class _Arcs(NamedTuple):
    """Pairs in the simplex, and their costs less the first potentials."""

    rows: Tensor
    columns: Tensor
    costs: Tensor


class _Priced(NamedTuple):
    """Pairs with low reduced costs, and a lower bound that holds up to float32 rounding."""

    arcs: _Arcs
    bound: float


def generated_optimum(
    pairs: Pairs, a: Tensor, b: Tensor, tolerance: float, time_limit: float | None
) -> Optimum:
    """Optimal plan and potentials of a large problem.

    Args:
        pairs: Costs (N, M).
        a: Positive weights (N,) of sum 1, in float64, on the device of the pairs.
        b: Positive weights (M,) of sum 1.
        tolerance: Largest gap relative to the cost.
        time_limit: Seconds after which no further round begins; None for no limit.

    Returns:
        The best plan and bounds found; their gap tells whether that is the optimum.
    """
    deadline = math.inf if time_limit is None else time.monotonic() + time_limit
    f, g = _first_potentials(pairs, a, b)
    priced = _priced(pairs, f, g, a, b, _FIRST, math.inf)
    weights = units(a, b)
    path = staircase(weights)  # the pairs of some plan, so that there is one
    arcs = _joined(pairs, priced.arcs, _exact_arcs(pairs, path.rows, path.columns, f, g))
    bound, prices = priced.bound, g
    best: Optimum | None = None
    rough = True
    start = None
    for _ in range(_MAX_ROUNDS):
        masses, u, v = sparse_simplex(*arcs, weights, start)
        upper = float(masses @ (arcs.costs + f[arcs.rows] + g[arcs.columns]))
        late = time.monotonic() > deadline
        if rough and not late:
            priced = _priced(pairs, f + u, g + v, a, b, _MORE, -tolerance * abs(upper))
            if priced.bound >= bound:
                bound, prices = priced.bound, g + v
            # Potentials of few pairs lie too far from those of all to begin with.
            start = (u, v) if upper - bound < abs(upper) / 10 else None
            missing = priced.arcs
            missing = missing._replace(costs=missing.costs + u[missing.rows] + v[missing.columns])
            before, arcs = arcs, _joined(pairs, arcs, missing)
            grown = len(arcs.rows) > len(before.rows)
            rough = grown and upper - bound > _ROUGH * abs(upper)
            continue
        used = masses > 0
        plan = _exact_arcs(pairs, arcs.rows[used], arcs.columns[used], f, g)
        if not (rough and late):
            prices = g + v
        transform = c_transform(pairs, prices)
        best = _better(best, pairs, a, b, plan, masses[used], f, g, transform.values, prices)
        gap, cost = float(best.upper_bound - best.lower_bound), float(best.upper_bound)
        if late or gap <= tolerance * abs(cost) + float(best.rounding):
            break
        start = u, v
        near = _Arcs(*transform[1:])
        near = near._replace(costs=near.costs - f[near.rows] - g[near.columns])
        before, arcs = arcs, _joined(pairs, plan, near, arcs)
        if len(arcs.rows) == len(before.rows) and torch.equal(arcs.costs, before.costs):
            break  # float64 does not resolve this gap
    assert best is not None
    return best


def _first_potentials(pairs: Pairs, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Potentials near the optimal ones: Sinkhorn on some points, then once on all."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = (
        torch.randperm(size, generator=generator)[:_COARSE].to(pairs.device) for size in pairs.shape
    )
    part = pairs.part(rows, columns)
    coarse = MatrixPairs(part)
    a, b = a.to(part.dtype), b.to(part.dtype)
    weights = a[rows] / a[rows].sum(), b[columns] / b[columns].sum()
    g, deviation = part.new_zeros(len(columns)), float(part.std()) or 1.0
    for step in range(_STEPS):
        epsilon = deviation * _WIDEST * (_FINEST / _WIDEST) ** (step / (_STEPS - 1))
        for _ in range(_REPEATS if step == _STEPS - 1 else 1):
            f, g = _sinkhorn_step(coarse, g, *weights, epsilon)
    everywhere = torch.arange(pairs.shape[1], device=pairs.device)
    across = MatrixPairs(pairs.part(rows, everywhere).T)
    g, _ = _sinkhorn_step(across, f, b, weights[0], epsilon)
    f, g = _sinkhorn_step(pairs, g, a, b, epsilon)
    return f.double(), g.double()


def _sinkhorn_step(
    pairs: Pairs, g: Tensor, a: Tensor, b: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """One Sinkhorn iteration on all pairs, the kernel computed once for both of its halves."""
    columns = torch.zeros_like(g)
    potentials = []
    for rows in blocks(pairs):
        kernel = (g - pairs.block(rows)).div_(epsilon)
        top = kernel.amax(1)
        # Below e^-80 nothing counts, and underflow is a hundred times slower.
        kernel.sub_(top[:, None]).clamp_(min=-80).exp_()
        sums = kernel @ b
        potentials.append(-epsilon * (top + sums.log()))
        columns += (a[rows] / sums) @ kernel
    tiny = torch.finfo(g.dtype).tiny
    return torch.cat(potentials), g - epsilon * columns.clamp_min(tiny).log()


def _priced(
    pairs: Pairs, f: Tensor, g: Tensor, a: Tensor, b: Tensor, count: int, below: float
) -> _Priced:
    """The pairs of lowest C - f - g, some a row and a column, where that is below a limit."""
    slices = list(blocks(pairs))
    count_rows = min(count, pairs.shape[1])
    num_groups = min(len(slices), _GROUPS * count)
    minima, found = [], []
    lows: list[tuple[Tensor, Tensor]] = []
    for number, rows in enumerate(slices):
        block = pairs.block(rows)
        reduced = (block - g.to(block.dtype)).sub_(f[rows, None].to(block.dtype))
        top = reduced.topk(count_rows, dim=1, largest=False, sorted=False)
        minima.append(top.values.amin(1))
        i, k = (top.values < below).nonzero(as_tuple=True)
        found.append((i + rows.start, top.indices[i, k], top.values[i, k]))
        values, ids = reduced.min(0)
        ids += rows.start
        if number * num_groups // len(slices) == len(lows):
            lows.append((values, ids))
        else:
            lower = values < lows[-1][0]
            lows[-1] = torch.where(lower, values, lows[-1][0]), torch.where(lower, ids, lows[-1][1])
    values, ids = (torch.stack(part) for part in zip(*lows, strict=True))
    top = values.topk(min(count, len(values)), dim=0, largest=False, sorted=False)
    k, j = (top.values < below).nonzero(as_tuple=True)
    found.append((ids[top.indices[k, j], j], j, top.values[k, j]))
    arcs = _Arcs(*map(torch.cat, zip(*found, strict=True)))
    bound = a @ (torch.cat(minima).double() + f) + b @ g
    return _Priced(_joined(pairs, arcs._replace(costs=arcs.costs.double())), float(bound))


def _exact_arcs(pairs: Pairs, rows: Tensor, columns: Tensor, f: Tensor, g: Tensor) -> _Arcs:
    """Pairs with their exact costs less first potentials."""
    return _Arcs(rows, columns, pairs.exact(rows, columns) - f[rows] - g[columns])


def _joined(pairs: Pairs, *parts: _Arcs) -> _Arcs:
    """Pairs of all parts, each once; where parts disagree on a cost, the first is right."""
    rows, columns, costs = map(torch.cat, zip(*parts, strict=True))
    keys, order = (rows * pairs.shape[1] + columns).sort(stable=True)
    first = torch.ones_like(keys, dtype=torch.bool)
    first[1:] = keys[1:] != keys[:-1]
    kept = order[first]
    return _Arcs(rows[kept], columns[kept], costs[kept])


def _better(
    best: Optimum | None,
    pairs: Pairs,
    a: Tensor,
    b: Tensor,
    plan: _Arcs,
    masses: Tensor,
    f0: Tensor,
    g0: Tensor,
    f: Tensor,
    g: Tensor,
) -> Optimum:
    """The tighter bound of either side."""
    rounding = (pairs.rounding + (len(a) + len(b)) * torch.finfo(torch.float64).eps) * (
        a @ f.abs() + b @ g.abs()
    )
    lower = a @ f + b @ g - rounding
    upper = masses @ (plan.costs + f0[plan.rows] + g0[plan.columns])
    optimum = Optimum(plan.rows, plan.columns, masses, (f, g), lower, upper, rounding)
    if best is None:
        return optimum
    if best.upper_bound < optimum.upper_bound:
        optimum = best._replace(potentials=(f, g), lower_bound=lower, rounding=rounding)
    if best.lower_bound > optimum.lower_bound:
        optimum = optimum._replace(
            potentials=best.potentials, lower_bound=best.lower_bound, rounding=best.rounding
        )
    return optimum
