"""Few points: scipy's assignment, also in batches, or all pairs in the simplex."""

import numpy as np
import torch
from torch import Tensor

from otmetrics.machine import ieee_float32, in_threads
from otmetrics.transport.exact.certificate import Optimum, Units, dual
from otmetrics.transport.exact.simplex import dense_simplex

_CHUNK = 2**19  # costs of a batch at a time: 4 MB, of the size of a cache
_NEAR = 16  # pairs per row that settle most potentials
_SHARPENING = [2 * 0.005 ** (step / 7) for step in (*range(8), 7)]  # epsilon, in deviations
_PLAIN = 200  # rows up to which the search is shorter than finding potentials for it
_MAX_PASSES = 1000
_RELATIVE_GAP = 1e-6  # of a plan for which the simplex is not run again
_ATTEMPTS = 3
_EPSILON = torch.finfo(torch.float64).eps


def assigned_optimum(cost: Tensor) -> Optimum:
    """Optimal assignment of rows and columns of one weight, and potentials that prove it.

    Potentials change no optimal assignment of costs (N, N) in float64, and those of a few steps of
    Sinkhorn shorten its search where clouds differ. The optimal ones are then distances of shortest
    paths between the columns, along which an assigned column gives its row to another. Where
    float64 does not resolve the costs, the bounds stay apart.

    References:
        Crouse, On implementing 2D rectangular assignment algorithms, 2016 (scipy's algorithm);
        Ahuja, Magnanti, Orlin, Network Flows, 1993, section 9.2 (potentials from shortest paths).
    """
    rows = torch.arange(len(cost), device=cost.device)
    reduced, g = _reduced_costs(cost)
    columns = _solve_assignment(reduced)

    g += _path_lengths(reduced, rows, columns)
    f = torch.sub(cost, g, out=reduced).amin(1)
    masses = cost.new_full((len(cost),), 1 / len(cost))
    proof = dual(masses, masses, f, g)
    upper = cost[rows, columns].mean()
    return Optimum(rows, columns, masses, upper_bound=upper, **proof._asdict())


def assigned_columns(cost: Tensor) -> Tensor:
    """The column (N,) of each row in an optimal assignment of costs (N, N), without a proof."""
    if len(cost) <= _PLAIN:
        return _solve_assignment(cost)
    return _solve_assignment(_reduced_costs(cost)[0])


def _reduced_costs(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Costs (N, N) >= 0 less potentials near the optimal ones, and those of the columns (N,)."""
    g = _soft_potential(cost)
    reduced = cost.double() - g
    # No cost below 0, which the shortest paths rely on.
    reduced -= reduced.amin(1, keepdim=True)
    lowest = reduced.amin(0)
    reduced -= lowest
    return reduced, g + lowest


def _soft_potential(cost: Tensor) -> Tensor:
    """Potential (N,) of the columns in float64 after a few steps of Sinkhorn in float32."""
    # Between -1 and 1: float32 need not hold the costs.
    unit = float(cost.abs().amax()) or 1.0
    scaled = (cost / unit).float()
    deviation = float(scaled.std()) or 1.0
    g, room = torch.zeros_like(scaled[0]), torch.empty_like(scaled)
    for share in _SHARPENING:
        epsilon = deviation * share
        kernel = torch.sub(g, scaled, out=room).div_(epsilon)
        # Exponents of at most 0 cannot overflow, and underflow is a hundred times slower.
        kernel.sub_(kernel.amax(1, keepdim=True)).clamp_(min=-80).exp_()
        sums = kernel.sum(1).reciprocal() @ kernel
        g = g - epsilon * sums.clamp_min(torch.finfo(sums.dtype).tiny).log()
    return g.double() * unit


def _solve_assignment(cost: Tensor) -> Tensor:
    """The column (N,) of each row that scipy assigns, on the device of the costs (N, N)."""
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.from_numpy(columns).to(cost.device)


def _path_lengths(cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Lengths d (N,) <= 0 of shortest paths to each column of costs (N, N) >= 0.

    They solve d_j <= d_k + C_ij - C_ik for all i assigned to k.
    """
    # What is shorter by rounding alone would keep the passes going.
    slack = 8 * _EPSILON * cost.amax()
    paid = cost[rows, columns]
    distances = torch.zeros_like(paid)

    # First along the lowest costs of each row alone, which are soon gone through.
    near = cost.topk(min(_NEAR, len(cost)), dim=1, largest=False, sorted=False)
    targets = near.indices.flatten()
    for _ in range(_MAX_PASSES):
        paths = near.values + (distances[columns] - paid)[:, None]
        shorter = distances.scatter_reduce(0, targets, paths.flatten(), "amin")
        if (shorter >= distances - slack).all():
            break
        distances = shorter

    # Then along all, from rows whose column has come closer since the last pass.
    room, rows_of, changed = torch.empty_like(cost), columns.argsort(), rows
    for _ in range(_MAX_PASSES):
        starts = (distances[columns] - paid)[changed, None]
        part = cost if len(changed) == len(cost) else cost[changed]
        shorter = torch.add(part, starts, out=room[: len(changed)]).amin(0)
        better = (shorter < distances - slack).nonzero().squeeze(1)
        if not len(better):
            break
        distances[better] = shorter[better]
        changed = rows_of[better]
    return distances


def assignments(real: Tensor, fake: Tensor, order: float) -> Tensor:
    """Columns (B, N) of optimal assignments of B pairs of clouds (B, N, D) in float64, in threads.

    They stay on the device of the clouds.
    """
    from scipy.optimize import linear_sum_assignment

    centre = (real.mean(1, keepdim=True) + fake.mean(1, keepdim=True)) / 2
    size, n, _ = real.shape
    costs = real.new_empty(size, n, n)
    step = max(1, _CHUNK // n**2)
    for first in range(0, size, step):
        part = slice(first, first + step)
        x, y, cost = real[part] - centre[part], fake[part] - centre[part], costs[part]
        with ieee_float32(real.device):
            torch.bmm(x, y.mT, out=cost)
        cost.mul_(-2).add_(y.square().sum(2)[:, None]).add_(x.square().sum(2)[:, :, None])
        if order != 2:
            cost.clamp_min_(0).pow_(order / 2)

        # Potentials change no optimum, and these save half of the time.
        cost.sub_(cost.amin(2, keepdim=True))
        cost.sub_(cost.amin(1, keepdim=True))
    solved = in_threads(linear_sum_assignment, costs.cpu().numpy())
    return torch.from_numpy(np.stack([columns for _, columns in solved])).to(real.device)


def dense_optimum(cost: Tensor, weights: Units) -> Optimum:
    """Optimal plan and potentials of costs (N, M) in float64 by the network simplex.

    The simplex works in float64 on potentials as large as the largest cost, so that costs far above
    the optimum drown the others. A plan at hand bounds what an optimal one pays for moving its
    smallest mass, so that costs above that may be cut; the bounds, which are those of the costs as
    they are given, tell if it went wrong.
    """
    least, limit = float(cost.min()), float("inf")
    for _ in range(_ATTEMPTS):
        optimum = _solve_below(cost, weights, limit)
        total = float(optimum.upper_bound)
        if not optimum.is_open(_RELATIVE_GAP) or total <= least:
            break
        limit = least + (total - least) / float(optimum.masses.min())
    return optimum


def _solve_below(cost: Tensor, weights: Units, limit: float) -> Optimum:
    """One run of the simplex on costs cut at `limit`, judged on the whole costs."""
    cut = cost if limit == float("inf") else cost.clamp(max=limit)
    # The simplex compares costs with absolute tolerances: give it costs of order one.
    largest = float(cut.abs().amax()) or 1.0
    scale = largest * float((cut / largest).abs().mean()) or 1.0
    sides = (side.cpu().numpy() for side in weights[:2])
    plan, potential = dense_simplex((cut / scale).cpu().numpy(), *sides)

    support = np.nonzero(plan)
    rows, columns = (torch.from_numpy(index).to(cost.device) for index in support)
    masses = torch.from_numpy(plan[support]).to(cost.device) / weights.total
    g = torch.from_numpy(potential).to(cost.device) * scale
    # The simplex saw costs that were cut; transforms make its potentials fit the whole ones.
    f = (cost - g).amin(1)
    g = (cost - f[:, None]).amin(0)
    proof = dual(*weights.given, f, g)
    upper = masses @ cost[rows, columns]
    return Optimum(rows, columns, masses, upper_bound=upper, **proof._asdict())
