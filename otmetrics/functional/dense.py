"""Exact transport of few points: all costs in a matrix, a compiled solver, the proof beside it."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from otmetrics.functional.certificate import Optimum, dual
from otmetrics.functional.cost import ieee_matmul
from otmetrics.functional.simplex import dense_simplex
from otmetrics.functional.staircase import Units

_T = TypeVar("_T")
_S = TypeVar("_S")
_CHUNK = 2**19  # costs of a batch at a time: 4 MB, of the size of a cache
_RELATIVE_GAP = 1e-6
_ATTEMPTS = 3
_EPSILON = torch.finfo(torch.float64).eps


def dense_optimum(cost: Tensor, weights: Units) -> Optimum:
    """Optimal plan and potentials by the network simplex.

    The simplex works in float64 on potentials as large as the largest cost, so that costs far above
    the optimum drown the others. A plan at hand bounds what an optimal one pays for moving its
    smallest mass, so that costs above that may be cut; the bounds tell if it went wrong.

    Args:
        cost: Costs (N, M) in float64; the simplex runs on the CPU.
        weights: Weights of the rows and columns.

    Returns:
        The optimum; its bounds are those of the matrix as it is given.
    """
    least, limit = float(cost.min()), float("inf")
    for _ in range(_ATTEMPTS):
        optimum = _attempt(cost, weights, limit)
        total = float(optimum.upper_bound)
        if total - float(optimum.lower_bound) <= _RELATIVE_GAP * abs(total) or total <= least:
            break
        limit = least + (total - least) / float(optimum.masses.min())
    return optimum


def _attempt(cost: Tensor, weights: Units, limit: float) -> Optimum:
    """One run of the simplex on costs cut at `limit`, judged on the whole costs."""
    cut = cost if limit == float("inf") else cost.clamp(max=limit)
    # The simplex compares costs with absolute tolerances: give it costs of order one.
    largest = float(cut.abs().amax()) or 1.0
    scale = largest * float((cut / largest).abs().mean()) or 1.0
    moved = (side.cpu().numpy() for side in weights[:2])
    plan, log = dense_simplex((cut / scale).cpu().numpy(), *moved)
    support = np.nonzero(plan)
    rows, columns = (torch.from_numpy(index).to(cost.device) for index in support)
    masses = torch.from_numpy(plan[support]).to(cost.device) / weights.total
    g = torch.from_numpy(log["v"]).to(cost.device) * scale
    f = (cost - g).amin(1)
    g = (cost - f[:, None]).amin(0)
    upper = masses @ cost[rows, columns]
    potentials, lower, rounding = dual(*weights.shares(), f, g)
    return Optimum(rows, columns, masses, potentials, lower, upper, rounding)


def assignments(real: Tensor, fake: Tensor, order: float) -> Tensor:
    """Optimal assignments of B pairs of clouds of one size, problem by problem in threads.

    Args:
        real: Features (B, N, D) in float64.
        fake: Features (B, N, D).
        order: The order p >= 1.

    Returns:
        The column of each row (B, N), on the device of the clouds.
    """
    from scipy.optimize import linear_sum_assignment

    centre = (real.mean(1, keepdim=True) + fake.mean(1, keepdim=True)) / 2
    size, n, _ = real.shape
    costs = real.new_empty(size, n, n)
    step = max(1, _CHUNK // n**2)
    for start in range(0, size, step):
        part = slice(start, start + step)
        x, y, cost = real[part] - centre[part], fake[part] - centre[part], costs[part]
        with ieee_matmul(real.device):
            torch.bmm(x, y.mT, out=cost)
        cost.mul_(-2).add_(y.square().sum(2)[:, None]).add_(x.square().sum(2)[:, :, None])
        if order != 2:
            cost.clamp_min_(0).pow_(order / 2)
        # Potentials change no optimum, and these save half of the time.
        cost.sub_(cost.amin(2, keepdim=True))
        cost.sub_(cost.amin(1, keepdim=True))
    solved = in_threads(linear_sum_assignment, costs.cpu().numpy())
    return torch.from_numpy(np.stack([columns for _, columns in solved])).to(real.device)


def in_threads(work: Callable[[_T], _S], items: Iterable[_T]) -> list[_S]:
    """Compiled work on many items, on all cores.

    Args:
        work: Work that lets other threads run.
        items: What it is done on.

    Returns:
        Its results in order.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, items))
