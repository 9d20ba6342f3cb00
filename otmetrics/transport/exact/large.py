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
    # At random: clouds are often sorted, by class or by time.
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

    # Each epsilon begins from the potentials of a larger one, where few steps suffice.
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
        # Exponents of at most 0 cannot overflow. Below e^-80 nothing counts, and underflow is a
        # hundred times slower.
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
    and these decide to stop: by the gap, by the clock, or because float64 has no other pairs. Only
    they make the plan, the potentials and the bounds that come back.

    `pairs` are of points that all differ. The gap is relative to the cost with `offset` added.
    """
    reduced = _ReducedPairs(pairs, weights.given)
    prices = torch.zeros_like(reduced.g)
    arcs, bound = reduced.price(torch.zeros_like(reduced.f), prices, _FIRST, torch.inf)
    idle_price, warm = _idle_price(arcs.costs), None
    best: Optimum | None = None
    rough = True  # float32 costs do so far

    for rounds_left in reversed(range(_MAX_ROUNDS)):
        solved = _solve_arcs(arcs, weights, idle_price, warm)
        warm, v = solved.potentials, solved.potentials[1][:-1]
        late = limits.is_late() or not rounds_left
        idle = len(solved.idle.rows) > 0
        # The first rounds find pairs for what is idle. Later it has to be dearer than any pair, or
        # the best solution would go on leaving masses out.
        if idle and rounds_left < _MAX_ROUNDS - 2:
            idle_price *= 4

        if rough and not late:
            cost = float(reduced.cost(arcs, solved.masses))
            # Masses sum to 1: where no pair lies lower than this, the gap is within the tolerance.
            below = -limits.tolerance * abs(cost + offset)
            wider, value = reduced.add_cheaper(arcs, solved, below)
            if value >= bound:
                bound, prices = value, v
            grown, arcs = len(wider.rows) > len(arcs.rows), wider
            if grown:
                # Rigorous passes are dearer, but from this gap on one or two of them mostly do.
                # While masses stay idle, the cost lacks theirs and tells of no gap.
                rough = idle or cost - max(bound, pairs.floor) > _ROUGH * abs(cost + offset)
                continue

        if not (rough and late):  # else the best prices so far prove more than the last ones
            prices = v
        rough = False
        plan, optimum, near = reduced.prove(arcs, solved, prices)
        best = optimum if best is None else tighter(optimum, best)
        gap, cost = float(best.upper_bound - best.lower_bound), float(best.upper_bound)
        # The bounds stay apart by what they were widened for rounding: no round closes that.
        if late or gap <= limits.tolerance * abs(cost + offset) + 2 * float(best.rounding):
            break

        # Pairs near the row minima join with float64 costs, which replace those of float32.
        before, arcs = arcs, reduced.join(plan, near, arcs)
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
    # next round would chase them. The few highest and lowest costs themselves do not count.
    sample = costs[:: max(1, len(costs) // 100_000)]  # quantiles sort, and torch limits their size
    low, high = (float(sample.quantile(share)) for share in (0.001, 0.99))
    return (high + _IDLE * (max(high - low, abs(high)) or 1.0)) / 2


def _solve_arcs(
    arcs: _Arcs, weights: Units, idle_price: float, warm: tuple[Tensor, Tensor] | None
) -> _Solved:
    """The network simplex on some pairs, which need not admit a plan."""
    n, m = len(weights.real), len(weights.fake)
    rows, columns = (torch.arange(size, device=arcs.rows.device) for size in (n, m))

    # One more row and column, which take all that stays idle, and pay nothing to each other. Each
    # weighs as much as all points of the other side, so that there is a plan whatever the pairs.
    lists = (
        torch.cat([arcs.rows, rows, torch.full_like(columns, n), rows.new_tensor([n])]),
        torch.cat([arcs.columns, torch.full_like(rows, m), columns, rows.new_tensor([m])]),
        torch.cat([arcs.costs, arcs.costs.new_full((n + m,), idle_price), arcs.costs.new_zeros(1)]),
    )
    order = (lists[0] * (m + 1) + lists[1]).argsort()
    rows, columns, costs = (part[order] for part in lists)
    total = weights.real.new_tensor([weights.total])
    extended = weights._replace(
        real=torch.cat([weights.real, total]), fake=torch.cat([weights.fake, total])
    )
    ordered, u, v = sparse_simplex(rows, columns, costs, extended, warm)
    flows = torch.empty_like(ordered)
    flows[order] = ordered
    flows, idle_rows, idle_columns, _ = flows.split([len(arcs.rows), n, m, 1])

    # What stayed idle on both sides is as much: any plan between them completes that of the pairs.
    rows, columns = (side.nonzero().squeeze(1) for side in (idle_rows, idle_columns))
    idle = Staircase(rows, columns, flows.new_zeros(0))  # empty
    if len(rows):
        path = staircase(idle_rows[rows], idle_columns[columns])
        idle = Staircase(rows[path.rows], columns[path.columns], path.flows / weights.total)
    return _Solved(flows / weights.total, idle, (u, v))


class _ReducedPairs:
    """All pairs, and the first potentials f (N,) and g (M,) that costs are counted from."""

    def __init__(self, pairs: Pairs, weights: tuple[Tensor, Tensor]) -> None:
        self.pairs, self.weights = pairs, weights
        self.f, self.g = near_potentials(pairs, *weights)

    def exact(self, rows: Tensor, columns: Tensor) -> _Arcs:
        """Pairs with their exact costs less the first potentials."""
        costs = self.pairs.exact(rows, columns) - self.f[rows] - self.g[columns]
        return _Arcs(rows, columns, costs)

    def cost(self, arcs: _Arcs, masses: Tensor) -> Tensor:
        """The whole cost of masses on some pairs."""
        return masses @ (arcs.costs + self.f[arcs.rows] + self.g[arcs.columns])

    def join(self, *parts: _Arcs) -> _Arcs:
        """Pairs of all parts, each once; where parts disagree on a cost, the first is right."""
        rows, columns, costs = map(torch.cat, zip(*parts, strict=True))
        keys, order = (rows * self.pairs.shape[1] + columns).sort(stable=True)
        first = torch.ones_like(keys, dtype=torch.bool)
        first[1:] = keys[1:] != keys[:-1]
        kept = order[first]
        return _Arcs(rows[kept], columns[kept], costs[kept])

    def price(self, u: Tensor, v: Tensor, count: int, below: float) -> tuple[_Arcs, float]:
        """Pairs whose cost less f + u and g + v is lowest in a row or a column, and below a limit.

        With them comes the lower bound of f + u and g + v, up to float32 rounding.
        """
        pairs, f, g = self.pairs, self.f + u, self.g + v
        room, f_near, g_near = block_room(pairs), f[:, None].to(pairs.dtype), g.to(pairs.dtype)
        slices = list(blocks(pairs))
        minima, found = [], []
        # Of each group of rows a column keeps its lowest pair alone: a minimum per block, where the
        # `count` lowest would need a sort down the columns of each block.
        num_groups = min(len(slices), _GROUPS * count)
        lowest: dict[int, tuple[Tensor, Tensor]] = {}

        for number, rows in enumerate(slices):
            block = pairs.block(rows)
            reduced = torch.sub(block, g_near, out=room[: len(block)])
            minima.append(reduced.amin(1, keepdim=True) - f_near[rows])

            # No other row has a pair below, neither for itself nor for a column: near the end
            # hardly any has.
            low = (minima[-1] < below).nonzero()[:, 0]
            some = reduced if len(low) == len(reduced) else reduced[low]
            some.sub_(f_near[rows][low])
            top = some.topk(min(count, pairs.shape[1]), dim=1, largest=False, sorted=False)
            i, k = (top.values < below).nonzero(as_tuple=True)
            found.append((low[i] + rows.start, top.indices[i, k], top.values[i, k]))
            if len(low):
                values, ids = some.min(0)
                group = number * num_groups // len(slices)
                lowest[group] = _lower(lowest.get(group), values, low[ids] + rows.start)

        if lowest:
            values, ids = (torch.stack(part) for part in zip(*lowest.values(), strict=True))
            top = values.topk(min(count, len(values)), dim=0, largest=False, sorted=False)
            k, j = (top.values < below).nonzero(as_tuple=True)
            found.append((ids[top.indices[k, j], j], j, top.values[k, j]))
        arcs = _Arcs(*map(torch.cat, zip(*found, strict=True)))
        arcs = self.join(arcs._replace(costs=arcs.costs.double()))

        # Row minima of C - g are the largest f that fit g: a dual value, but for their rounding.
        a, b = self.weights
        bound = a @ (torch.cat(minima)[:, 0].double() + f) + b @ g
        return arcs._replace(costs=arcs.costs + u[arcs.rows] + v[arcs.columns]), float(bound)

    def add_cheaper(self, arcs: _Arcs, solved: _Solved, below: float) -> tuple[_Arcs, float]:
        """The pairs with those that a solution prices too high, and the bound of its prices."""
        u, v = (side[:-1] for side in solved.potentials)
        missing, value = self.price(u, v, _MORE, below)
        if not len(solved.idle.rows):
            return self.join(arcs, missing), value
        # With these there is a plan, also where ties let all rows choose the same columns.
        path = self.exact(solved.idle.rows, solved.idle.columns)
        return self.join(arcs, missing, path), value

    def prove(self, arcs: _Arcs, solved: _Solved, v: Tensor) -> tuple[_Arcs, Optimum, _Arcs]:
        """A rigorous pass over all pairs.

        It gives the pairs of a plan of all masses, its cost and the bound that prices g + v prove,
        and the pairs near the row minima, all with their exact costs less the first potentials.
        """
        # The idle masses move along their staircase, perhaps on pairs that others use too.
        used, moved = solved.masses > 0, solved.idle.flows > 0
        rows = torch.cat([arcs.rows[used], solved.idle.rows[moved]])
        columns = torch.cat([arcs.columns[used], solved.idle.columns[moved]])
        parts = torch.cat([solved.masses[used], solved.idle.flows[moved]])
        num_columns = self.pairs.shape[1]
        keys, places = (rows * num_columns + columns).unique(return_inverse=True)
        masses = parts.new_zeros(len(keys)).index_add_(0, places, parts)
        plan = self.exact(keys // num_columns, keys % num_columns)

        prices, floor = self.g + v, self.pairs.floor
        transform = c_transform(self.pairs, prices)
        upper = self.cost(plan, masses)
        proof = dual(*self.weights, transform.values, prices)
        if proof.lower_bound < floor:  # constant potentials prove more
            constant = torch.full_like(self.f, floor), torch.zeros_like(self.g)
            proof = Dual(constant, upper.new_tensor(floor), proof.rounding)
        optimum = Optimum(plan.rows, plan.columns, masses, upper_bound=upper, **proof._asdict())

        near = _Arcs(*transform[1:])
        near = near._replace(costs=near.costs - self.f[near.rows] - self.g[near.columns])
        return plan, optimum, near


def _lower(
    kept: tuple[Tensor, Tensor] | None, values: Tensor, ids: Tensor
) -> tuple[Tensor, Tensor]:
    """The lower of two values (M,), with its id."""
    if kept is None:
        return values, ids
    return torch.minimum(values, kept[0]), torch.where(values < kept[0], ids, kept[1])
