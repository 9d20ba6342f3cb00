"""Exact Wasserstein distances: the network simplex of POT, with a duality gap as certificate."""

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from otmetrics.errors import ConvergenceWarning
from otmetrics.functional.checks import (
    check_order,
    check_tensor,
    checked_clouds,
    checked_weights,
)
from otmetrics.functional.cost import pairwise_costs, power
from otmetrics.functional.result import TransportResult, outward, root, stacked

_T = TypeVar("_T")
_RELATIVE_GAP = 1e-6
_ROUNDING = 16 * torch.finfo(torch.float64).eps
_ATTEMPTS = 3
_MAX_PIVOTS = 10**9  # POT's default of 1e5 stops large problems on an infeasible plan


class _Optimum(NamedTuple):
    """A plan as its support (rows, columns, masses) and feasible potentials, on the CPU."""

    rows: Tensor
    columns: Tensor
    masses: Tensor
    potentials: tuple[Tensor, Tensor]
    lower_bound: Tensor
    closed: bool


def exact_transport(
    cost: Tensor,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
) -> TransportResult:
    """Minimal cost min <P, C> over all plans P with the given marginals.

    Time about O(N^2.5) on the CPU wherever `cost` lies, memory O(N M) in float64.

    Args:
        cost: Finite costs (N, M) of any sign, for example |x - y|^p.
        real_weights: Non-negative weights (N,), normalised here; None for uniform.
        fake_weights: Non-negative weights (M,), normalised here; None for uniform.

    Returns:
        Cost, plan, potentials and the bounds that enclose the optimum; `value` equals `cost`, since
        a cost matrix has no order. Differentiable in `cost`, with the plan as its gradient.

    Raises:
        TypeError: If `cost` is not a floating tensor.
        ValueError: If `cost` is not a finite (N, M) tensor or a weight breaks its rule.

    References:
        Bonneel et al., Displacement interpolation using Lagrangian mass transport, 2011 (the
        network simplex); Peyre and Cuturi, Computational Optimal Transport, 2019, section 3.

    Example:
        >>> exact_transport(torch.tensor([[0.0, 2.0], [3.0, 1.0]])).cost
        tensor(0.5000)
    """
    check_tensor("cost", cost)
    if not cost.is_floating_point():
        raise TypeError(f"`cost` must be floating, got {cost.dtype}: convert it first.")
    if cost.ndim != 2 or 0 in cost.shape or not torch.isfinite(cost).all():
        raise ValueError(f"`cost` must be finite of shape (N, M), got {tuple(cost.shape)}.")
    a = checked_weights("real_weights", real_weights, cost)
    b = checked_weights("fake_weights", fake_weights, cost.T)
    optimum = _optimum(cost.detach().double().cpu(), a, b)
    masses = optimum.masses.to(cost.device)
    rows, columns = optimum.rows.to(cost.device), optimum.columns.to(cost.device)
    total = (masses * cost[rows, columns].double()).sum()
    return _warned(_result(total, total, optimum, cost, cost.shape))


def exact_result(
    real: Tensor,
    fake: Tensor,
    *,
    order: float = 2.0,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
) -> TransportResult:
    """Exact W_p between two clouds, with its plan, potentials and certificate.

    Time about O(N^2.5 + N^2 D) a problem, memory O(N M) in float64. The optimisation runs on the
    CPU, problem by problem.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D); M may differ from N.
        order: The order p >= 1.
        real_weights: Non-negative weights (N,) or (B, N), normalised here; None for uniform.
        fake_weights: The same for `fake`.

    Returns:
        W_p as `value`, W_p^p as `cost`, evaluated in float64 from the differences of the paired
        points, and bounds on the cost. Differentiable in both clouds by the envelope theorem: the
        plan carries no graph.

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If a shape, a weight or the order breaks its rule.
    """
    check_order(order)
    real, fake = checked_clouds(real, fake, order=order)
    a = checked_weights("real_weights", real_weights, real)
    b = checked_weights("fake_weights", fake_weights, fake)
    if real.ndim == 2:
        return _warned(_solved(real, fake, order, a, b))
    weights = [(None if a is None else a[i], None if b is None else b[i]) for i in range(len(real))]
    problems = zip(real, fake, weights, strict=True)
    return _warned(stacked([_solved(x, y, order, *w) for x, y, w in problems]))


def exact_wasserstein(
    real: Tensor,
    fake: Tensor,
    *,
    order: float = 2.0,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
) -> Tensor:
    """Exact Wasserstein distance W_p between two clouds.

    `exact_result` has the same arguments, cost and errors, and returns the certificate too.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D).
        order: The order p >= 1.
        real_weights: Non-negative weights (N,) or (B, N); None for uniform.
        fake_weights: The same for `fake`.

    Returns:
        Scalar or (B,), in the units of the features, >= 0, differentiable in both clouds.

    Example:
        >>> x = torch.randn(50, 8, dtype=torch.float64)
        >>> round(exact_wasserstein(x, x + 3.0).item() / 8**0.5, 6)
        3.0
    """
    return exact_result(
        real, fake, order=order, real_weights=real_weights, fake_weights=fake_weights
    ).value


def _solved(
    real: Tensor, fake: Tensor, order: float, a: Tensor | None, b: Tensor | None
) -> TransportResult:
    """Solve one problem of two (N, D) clouds."""
    with torch.no_grad():
        costs = pairwise_costs(real.double(), fake.double(), order).cpu()
    optimum = _optimum(costs, a, b)
    rows, columns = optimum.rows.to(real.device), optimum.columns.to(real.device)
    difference = real.double()[rows] - fake.double()[columns]
    distances = power(difference.square().sum(-1), order)
    total = (optimum.masses.to(real.device) * distances).sum()
    return _result(root(total, order), total, optimum, real, (len(real), len(fake)))


def _optimum(cost: Tensor, a: Tensor | None, b: Tensor | None) -> _Optimum:
    """Solve on the points that carry weight, again with outliers cut where the gap stays open."""
    kept_rows, weights_a = _support(a, cost.shape[0])
    kept_columns, weights_b = _support(b, cost.shape[1])
    whole = a is None and b is None
    part = cost if whole else cost[kept_rows][:, kept_columns]
    least, limit = float(part.min()), float("inf")
    # The simplex works in float64 on potentials as large as the largest cost, so that costs far
    # above the optimum drown the others. A plan at hand bounds what an optimal one pays for moving
    # its smallest mass, so that costs above that may be cut; the bounds tell if it went wrong.
    for _ in range(_ATTEMPTS):
        optimum = _attempt(part, weights_a, weights_b, limit)
        total = float(optimum.masses @ part[optimum.rows, optimum.columns])
        if total - float(optimum.lower_bound) <= _RELATIVE_GAP * abs(total) or total <= least:
            break
        limit = least + (total - least) / float(optimum.masses.min())
    if whole:
        return optimum
    g = optimum.potentials[1]
    f = (cost[:, kept_columns] - g).amin(1)
    g = (cost - f[:, None]).amin(0)
    rows, columns = kept_rows[optimum.rows], kept_columns[optimum.columns]
    return optimum._replace(rows=rows, columns=columns, potentials=(f, g))


def _attempt(cost: Tensor, a: Tensor, b: Tensor, limit: float) -> _Optimum:
    """One run of the simplex on costs cut at `limit`, judged on the whole costs."""
    cut = cost if limit == float("inf") else cost.clamp(max=limit)
    # The simplex compares costs with absolute tolerances: give it costs of order one.
    scale = float(cut.abs().mean()) or 1.0
    plan, log = _network_simplex((cut / scale).numpy(), a.numpy(), b.numpy())
    support = np.nonzero(plan)
    rows, columns = (torch.from_numpy(index) for index in support)
    masses = torch.from_numpy(plan[support])
    g = torch.from_numpy(log["v"]) * scale
    f = (cost - g).amin(1)
    g = (cost - f[:, None]).amin(0)
    lower, upper = a @ f + b @ g, masses @ cost[rows, columns]
    rounding = _ROUNDING * (a @ f.abs() + b @ g.abs())
    closed = bool(upper - lower <= _RELATIVE_GAP * upper.abs() + rounding)
    return _Optimum(rows, columns, masses, (f, g), lower, closed)


def _support(weights: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
    """Indices of the points with positive weight, and their weights, on the CPU."""
    if weights is None:
        return torch.arange(size), torch.full((size,), 1 / size, dtype=torch.float64)
    kept = weights.cpu().nonzero().squeeze(1)
    return kept, weights.cpu()[kept]


def _network_simplex(
    cost: np.ndarray, a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """POT's solver; an answer that it does not vouch for is an error, never a number."""
    import ot  # takes a second, and nothing else here needs it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # repeated in log["warning"]
        plan, log = _interruptible(
            lambda: ot.emd(a, b * (a.sum() / b.sum()), cost, numItermax=_MAX_PIVOTS, log=True)
        )
    if log["warning"] is not None:
        raise RuntimeError(f"The network simplex did not finish: {log['warning']}")
    return plan, log


def _interruptible(work: Callable[[], _T]) -> _T:
    """Do compiled work in a thread of its own, so that Ctrl-C need not wait for its end."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result()


def _result(
    value: Tensor, cost: Tensor, optimum: _Optimum, like: Tensor, shape: tuple[int, ...]
) -> TransportResult:
    """Assemble the result in the dtype and on the device of the input."""
    upper = cost.detach()
    # Rounding can push the bound past the optimum by an ulp or two.
    lower = torch.minimum(optimum.lower_bound.to(upper.device), upper)
    lower_bound, upper_bound = outward(lower, upper, like.dtype)
    f, g = optimum.potentials
    plan = torch.sparse_coo_tensor(
        torch.stack([optimum.rows, optimum.columns]),
        optimum.masses,
        shape,
        check_invariants=False,  # rows and columns come sorted and unique from np.nonzero
        is_coalesced=True,
    ).to(like.device)
    gap = float(upper - lower)
    return TransportResult(
        value=value.to(like.dtype),
        cost=cost.to(like.dtype),
        lower_bound=lower_bound,
        upper_bound=upper_bound,
        potentials=(f.to(like.device), g.to(like.device)),
        plan=plan,
        converged=optimum.closed,
        message="optimal"
        if optimum.closed
        else f"The duality gap {gap:.2e} stays open: the costs span too many orders of magnitude "
        "for float64; leave out the outliers.",
    )


def _warned(result: TransportResult) -> TransportResult:
    """Say once that a gap stays open."""
    if not result.converged:
        warnings.warn(result.message, ConvergenceWarning, stacklevel=3)
    return result
