"""Many points: column generation, and the potentials that it begins with."""

from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.transport.costs import MatrixPairs, Pairs, block_room, blocks
from otmetrics.transport.exact.certificate import (
    Dual,
    Limits,
    Optimum,
    Units,
    c_transform,
    dual,
    tighter,
)
from otmetrics.transport.exact.simplex import sparse_simplex
from otmetrics.transport.line import Staircase, staircase

_COARSE, _LEAST = 1500, 300  # points per side of a first, smaller problem, half of all
_WIDEST, _FINEST, _STEPS, _REPEATS = 2.0, 0.05, 8, 2  # epsilon, in standard deviations of the cost
_FAINT = 1e-30  # smaller weights are raised to this
_FIRST = 8  # pairs per row and column to begin with
_MORE = 8  # pairs per row and column to add at most in a round
_IDLE = 16  # price of staying idle, in ranges of the first costs
_GROUPS = 3  # groups of rows for each pair that a column may get
_ROUGH = 3e-5  # relative gap down to which float32 costs do
_MAX_ROUNDS = 50


def near_potentials(pairs: Pairs, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Potentials f (N,), g (M,) near the optimal ones, in float64; some pairs have f + g > C.

    Sinkhorn on some points, for positive weights of sum 1, then once on all.
    """
    generator = torch.Generator().manual_seed(0)
    rows, columns = (
        torch.randperm(size, generator=generator)[: min(_COARSE, max(_LEAST, size // 2))]
        for size in pairs.shape
    )
    rows, columns = rows.to(pairs.device), columns.to(pairs.device)
    strip = pairs.part(rows, torch.arange(pairs.shape[1], device=pairs.device))
    part = strip[:, columns]
    coarse = MatrixPairs(part)
    a, b = (side.to(part.dtype).clamp_min(_FAINT) for side in (a, b))
    weights = a[rows] / a[rows].sum(), b[columns] / b[columns].sum()

    g, deviation = part.new_zeros(len(columns)), float(part.std()) or 1.0
    for step in range(_STEPS):
        epsilon = deviation * _WIDEST * (_FINEST / _WIDEST) ** (step / (_STEPS - 1))
        for _ in range(_REPEATS if step == _STEPS - 1 else 1):
            f, g = _sinkhorn_step(coarse, g, *weights, epsilon)

    # From some rows to all columns by the soft minimum, and from these to all rows.
    g, _ = _sinkhorn_step(MatrixPairs(strip.T), f, b, weights[0], epsilon)
    f, g = _sinkhorn_step(pairs, g, a, b, epsilon)
    return f.double(), g.double()


def _sinkhorn_step(
    pairs: Pairs, g: Tensor, a: Tensor, b: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """One Sinkhorn iteration on all pairs, the kernel computed once for both of its halves."""
    columns = torch.zeros_like(g)
    potentials, room = [], block_room(pairs)
    for rows in blocks(pairs):
        block = pairs.block(rows)
        kernel = torch.sub(g, block, out=room[: len(block)]).div_(epsilon)
        top = kernel.amax(1)
        # Below e^-80 nothing counts, and underflow is a hundred times slower.
        kernel.sub_(top[:, None]).clamp_(min=-80).exp_()
        sums = kernel @ b
        potentials.append(-epsilon * (top + sums.log()))
        columns += (a[rows] / sums) @ kernel

    tiny = torch.finfo(g.dtype).tiny
    return torch.cat(potentials), g - epsilon * columns.clamp_min(tiny).log()


class _Arcs(NamedTuple):
    """Pairs in the simplex, and their costs less the first potentials."""

    rows: Tensor
    columns: Tensor
    costs: Tensor


def optimum_by_columns(
    pairs: Pairs, weights: Units, limits: Limits, offset: float = 0.0
) -> Optimum:
    """Optimal plan and potentials of a large problem, by column generation.

    An optimal plan uses at most N + M - 1 of the N M pairs, which are the columns of the linear
    program, and potentials near the optimal ones tell which these may be. So the simplex gets only
    the pairs of lowest C - f - g. Its potentials, u and v on top of f and g, price all other pairs:
    those with C - f - g - u - v < 0 may make the plan cheaper. The most negative ones of each row
    and column join, few enough for the simplex to stay fast. The row minima of the same pass bound
    the optimum from below, and where no pair is below 0 the plan is optimal among all.

    Passes in float32 do until the gap is small or no pair joins. From then on passes are rigorous,
    and these decide to stop: by the gap, by the clock, or because float64 has no other pairs.

    `pairs` are of points that all differ. The gap is relative to the cost with `offset` added.
    """
    a, b = weights.given
    first = near_potentials(pairs, a, b)
    f, g = first
    zeros = torch.zeros_like(f), torch.zeros_like(g)
    arcs, bound = _price_pairs(pairs, weights.given, first, zeros, _FIRST, torch.inf)
    prices, warm = zeros[1], None
    idle_price = _idle_price(arcs.costs)
    best: Optimum | None = None
    rough = True

    for rounds_left in reversed(range(_MAX_ROUNDS)):
        solved = _solve_arcs(arcs, weights, idle_price, warm)
        warm, (u, v) = solved.potentials, (side[:-1] for side in solved.potentials)
        idle = len(solved.idle.rows) > 0
        if idle and rounds_left < _MAX_ROUNDS - 2:
            idle_price *= 4
        late = limits.is_late() or not rounds_left

        if rough and not late:
            cost = float(solved.masses @ (arcs.costs + f[arcs.rows] + g[arcs.columns]))
            below = -limits.tolerance * abs(cost + offset)
            missing, value = _price_pairs(pairs, weights.given, first, (u, v), _MORE, below)
            if value >= bound:
                bound, prices = value, v
            before, arcs = arcs, _join_pairs(pairs, arcs, missing)
            if idle:  # now there is a plan, also where ties let all rows choose the same columns
                path = _exact_arcs(pairs, solved.idle.rows, solved.idle.columns, first)
                arcs = _join_pairs(pairs, arcs, path)
            if len(arcs.rows) > len(before.rows):
                rough = idle or cost - max(bound, pairs.floor) > _ROUGH * abs(cost + offset)
                continue

        if not (rough and late):  # else the best prices so far prove more than the last ones
            prices = v
        rough = False
        plan, optimum, near = _prove_plan(pairs, weights.given, arcs, solved, first, g + prices)
        best = optimum if best is None else tighter(optimum, best)
        gap, cost = float(best.upper_bound - best.lower_bound), float(best.upper_bound)
        if late or gap <= limits.tolerance * abs(cost + offset) + 2 * float(best.rounding):
            break

        # Pairs near the row minima join with float64 costs, which replace those of float32.
        before, arcs = arcs, _join_pairs(pairs, plan, near, arcs)
        same = len(arcs.rows) == len(before.rows) and torch.equal(arcs.costs, before.costs)
        if same and not idle:
            break  # float64 does not resolve this gap
    assert best is not None
    return best


class _Solved(NamedTuple):
    """A solution on some pairs, in which masses may stay idle at a price."""

    masses: Tensor  # (K,) of the pairs
    idle: Staircase  # a plan of the masses that stayed idle
    potentials: tuple[Tensor, Tensor]  # (N + 1,) and (M + 1,), the last those of staying idle


def _idle_price(costs: Tensor) -> float:
    """What staying idle costs each side at first: far more than nearly all of the first pairs."""
    # Points that these pairs serve badly would else raise the potentials of all others, and the
    # next round would chase them.
    sample = costs[:: max(1, len(costs) // 100_000)]
    low, high = (float(sample.quantile(share)) for share in (0.001, 0.99))
    return (high + _IDLE * (max(high - low, abs(high)) or 1.0)) / 2


def _solve_arcs(
    arcs: _Arcs, weights: Units, idle_price: float, warm: tuple[Tensor, Tensor] | None
) -> _Solved:
    """The network simplex on some pairs, which need not admit a plan."""
    n, m = len(weights.real), len(weights.fake)
    rows, columns = (torch.arange(size, device=arcs.rows.device) for size in (n, m))

    # One more row and column, which take all that stays idle, and pay nothing to each other.
    lists = (
        torch.cat([arcs.rows, rows, torch.full_like(columns, n), rows.new_tensor([n])]),
        torch.cat([arcs.columns, torch.full_like(rows, m), columns, rows.new_tensor([m])]),
        torch.cat([arcs.costs, arcs.costs.new_full((n + m,), idle_price), arcs.costs.new_zeros(1)]),
    )
    order = (lists[0] * (m + 1) + lists[1]).argsort()
    total = weights.real.new_tensor([weights.total])
    extended = weights._replace(
        real=torch.cat([weights.real, total]), fake=torch.cat([weights.fake, total])
    )
    rows, columns, costs = (part[order] for part in lists)
    ordered, u, v = sparse_simplex(rows, columns, costs, extended, warm)
    flows = torch.empty_like(ordered)
    flows[order] = ordered
    flows, idle_rows, idle_columns, _ = flows.split([len(arcs.rows), n, m, 1])

    rows, columns = (side.nonzero().squeeze(1) for side in (idle_rows, idle_columns))
    idle = Staircase(rows, columns, flows.new_zeros(0))  # empty
    if len(rows):
        path = staircase(idle_rows[rows], idle_columns[columns])
        idle = Staircase(rows[path.rows], columns[path.columns], path.flows / weights.total)
    return _Solved(flows / weights.total, idle, (u, v))


def _prove_plan(
    pairs: Pairs,
    weights: tuple[Tensor, Tensor],
    arcs: _Arcs,
    solved: _Solved,
    first: tuple[Tensor, Tensor],
    prices: Tensor,
) -> tuple[_Arcs, Optimum, _Arcs]:
    """A rigorous pass over all pairs.

    It gives the pairs of a plan of all masses, its cost and the bound that prices (M,) prove, and
    the pairs near the row minima, all with their exact costs less the first potentials.
    """
    used, moved = solved.masses > 0, solved.idle.flows > 0
    rows = torch.cat([arcs.rows[used], solved.idle.rows[moved]])
    columns = torch.cat([arcs.columns[used], solved.idle.columns[moved]])
    parts = torch.cat([solved.masses[used], solved.idle.flows[moved]])
    keys, places = (rows * pairs.shape[1] + columns).unique(return_inverse=True)
    masses = parts.new_zeros(len(keys)).index_add_(0, places, parts)
    plan = _exact_arcs(pairs, keys // pairs.shape[1], keys % pairs.shape[1], first)

    (f, g), transform = first, c_transform(pairs, prices)
    upper = masses @ (plan.costs + f[plan.rows] + g[plan.columns])
    proof = dual(*weights, transform.values, prices)
    if proof.lower_bound < pairs.floor:  # constant potentials prove more
        constant = torch.full_like(f, pairs.floor), torch.zeros_like(g)
        proof = Dual(constant, upper.new_tensor(pairs.floor), proof.rounding)
    optimum = Optimum(plan.rows, plan.columns, masses, upper_bound=upper, **proof._asdict())

    near = _Arcs(*transform[1:])
    near = near._replace(costs=near.costs - f[near.rows] - g[near.columns])
    return plan, optimum, near


def _price_pairs(
    pairs: Pairs,
    weights: tuple[Tensor, Tensor],
    first: tuple[Tensor, Tensor],
    changes: tuple[Tensor, Tensor],
    count: int,
    below: float,
) -> tuple[_Arcs, float]:
    """Pairs whose cost less f + u and g + v is lowest in a row or a column, and below a limit.

    With them, which keep their costs less the first potentials f and g, comes the lower bound of
    f + u and g + v, up to float32 rounding.
    """
    (u, v), f, g = changes, first[0] + changes[0], first[1] + changes[1]
    slices = list(blocks(pairs))
    num_groups = min(len(slices), _GROUPS * count)
    minima, found = [], []
    lowest: dict[int, tuple[Tensor, Tensor]] = {}  # of each column, with its row, by groups of rows
    room, f_near, g_near = block_room(pairs), f[:, None].to(pairs.dtype), g.to(pairs.dtype)

    for number, rows in enumerate(slices):
        block = pairs.block(rows)
        reduced = torch.sub(block, g_near, out=room[: len(block)])
        minima.append(reduced.amin(1, keepdim=True) - f_near[rows])
        low = (minima[-1] < below).nonzero()[:, 0]  # no other row has a pair below
        some = reduced if len(low) == len(reduced) else reduced[low]
        some.sub_(f_near[rows][low])
        top = some.topk(min(count, pairs.shape[1]), dim=1, largest=False, sorted=False)
        i, k = (top.values < below).nonzero(as_tuple=True)
        found.append((low[i] + rows.start, top.indices[i, k], top.values[i, k]))
        if not len(low):
            continue

        # Of each group of rows a column keeps its lowest pair: a minimum per block, no sort.
        values, ids = some.min(0)
        ids = low[ids] + rows.start
        group = number * num_groups // len(slices)
        if group in lowest:
            others, other_ids = lowest[group]
            ids = torch.where(values < others, ids, other_ids)
            values = torch.minimum(values, others)
        lowest[group] = values, ids

    if lowest:
        values, ids = (torch.stack(part) for part in zip(*lowest.values(), strict=True))
        top = values.topk(min(count, len(values)), dim=0, largest=False, sorted=False)
        k, j = (top.values < below).nonzero(as_tuple=True)
        found.append((ids[top.indices[k, j], j], j, top.values[k, j]))
    arcs = _Arcs(*map(torch.cat, zip(*found, strict=True)))
    arcs = _join_pairs(pairs, arcs._replace(costs=arcs.costs.double()))
    bound = weights[0] @ (torch.cat(minima)[:, 0].double() + f) + weights[1] @ g
    return arcs._replace(costs=arcs.costs + u[arcs.rows] + v[arcs.columns]), float(bound)


def _exact_arcs(pairs: Pairs, rows: Tensor, columns: Tensor, first: tuple[Tensor, Tensor]) -> _Arcs:
    """Pairs with their exact costs less the first potentials."""
    f, g = first
    return _Arcs(rows, columns, pairs.exact(rows, columns) - f[rows] - g[columns])


def _join_pairs(pairs: Pairs, *parts: _Arcs) -> _Arcs:
    """Pairs of all parts, each once; where parts disagree on a cost, the first is right."""
    rows, columns, costs = map(torch.cat, zip(*parts, strict=True))
    keys, order = (rows * pairs.shape[1] + columns).sort(stable=True)
    first = torch.ones_like(keys, dtype=torch.bool)
    first[1:] = keys[1:] != keys[:-1]
    kept = order[first]
    return _Arcs(rows[kept], columns[kept], costs[kept])
