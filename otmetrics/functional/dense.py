"""Exact transport of few points: all costs in POT's network simplex, the proof beside it."""

import numpy as np
import torch
from torch import Tensor

from otmetrics.functional.certificate import Optimum, dual
from otmetrics.functional.simplex import dense_simplex
from otmetrics.functional.staircase import Units

_RELATIVE_GAP = 1e-6
_ATTEMPTS = 3


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
    potentials, lower, rounding = dual(*weights.given, f, g)
    return Optimum(rows, columns, masses, potentials, lower, upper, rounding)
