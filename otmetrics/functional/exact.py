"""Exact Wasserstein distances with a certificate: which solver, at which size."""

import os
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.errors import ConvergenceWarning
from otmetrics.functional.certificate import Optimum, c_transform
from otmetrics.functional.checks import (
    check_order,
    check_positive,
    check_tensor,
    checked_clouds,
    checked_weights,
)
from otmetrics.functional.cost import pairwise_costs, power
from otmetrics.functional.dense import assignments, dense_optimum, in_threads
from otmetrics.functional.generation import generated_optimum
from otmetrics.functional.pairs import CloudPairs, MatrixPairs
from otmetrics.functional.result import TransportResult, outward, root, stacked
from otmetrics.functional.staircase import line_optimum

_DENSE = 900**2  # pairs up to which the dense simplex is fastest
_MATRIX = 2500**2  # pairs up to which a float64 matrix is
_EPSILON = torch.finfo(torch.float64).eps


class ExactOptions(NamedTuple):
    """Options of exact transport, those of `exact_result`."""

    order: float = 2.0
    tolerance: float = 1e-6
    memory_limit: float | None = None
    time_limit: float | None = None


def check_exact_options(options: ExactOptions) -> None:
    """Raise unless all options hold their rules.

    Args:
        options: The options.

    Raises:
        ValueError: If one does not.
    """
    check_order(options.order)
    check_positive("tolerance", options.tolerance)
    for name in ("memory_limit", "time_limit"):
        if getattr(options, name) is not None:
            check_positive(name, getattr(options, name))


def exact_transport(
    cost: Tensor,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
    *,
    tolerance: float = 1e-6,
    time_limit: float | None = None,
) -> TransportResult:
    """Minimal cost min <P, C> over all plans P with the given marginals.

    Time about O(N^2.5), the simplex on the CPU wherever `cost` lies; memory O(N M) in float64.

    Args:
        cost: Finite costs (N, M) of any sign, for example |x - y|^p.
        real_weights: Non-negative weights (N,), normalised here; None for uniform.
        fake_weights: Non-negative weights (M,), normalised here; None for uniform.
        tolerance: Largest duality gap relative to the cost.
        time_limit: Seconds after which a large problem stops, with the bounds that it has.

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
    options = ExactOptions(1.0, tolerance, None, time_limit)
    check_exact_options(options)
    a = _Weights.of(checked_weights("real_weights", real_weights, cost), cost)
    b = _Weights.of(checked_weights("fake_weights", fake_weights, cost.T), cost.T)
    whole = cost.detach().double()
    part = whole if a.whole and b.whole else whole[a.kept][:, b.kept]
    optimum = _of_matrix(part, a.values, b.values, options)
    if not (a.whole and b.whole):
        optimum = _indexed(optimum, a, b)
        f = (whole[:, b.kept] - optimum.potentials[1]).amin(1)
        optimum = optimum._replace(potentials=(f, (whole - f[:, None]).amin(0)))
    total = (optimum.masses * cost[optimum.rows, optimum.columns].double()).sum()
    return _warned(_result(total, total, optimum, cost, cost.shape, options))


def exact_result(
    real: Tensor,
    fake: Tensor,
    *,
    order: float = 2.0,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
    tolerance: float = 1e-6,
    memory_limit: float | None = None,
    time_limit: float | None = None,
) -> TransportResult:
    """Exact W_p between two clouds, with its plan, potentials and certificate.

    Up to 900 points a side POT's network simplex solves the whole problem; more are solved by
    column generation, in a few times the O(N M D) of the costs where points are spread out; D = 1
    is sorted. Costs and potentials are computed where the clouds are, the simplex runs on the CPU.
    Memory is 4 N M bytes up to `memory_limit`, beyond which costs are computed again in blocks.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D); M may differ from N.
        order: The order p >= 1.
        real_weights: Non-negative weights (N,) or (B, N), normalised here; None for uniform.
        fake_weights: The same for `fake`.
        tolerance: Largest gap between the bounds, relative to the cost.
        memory_limit: Bytes for costs that are kept; None for half of the memory of the device.
        time_limit: Seconds after which a large problem stops, with the bounds that it has; a step
            that has begun is finished.

    Returns:
        W_p as `value`, W_p^p as `cost`, evaluated in float64 from the differences of the paired
        points, and bounds on the cost that hold also where `converged` is False. Differentiable in
        both clouds by the envelope theorem: the plan carries no graph. Batches of equal sizes
        without weights are solved as assignments, which have no potentials and no bounds.

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If a shape, a weight or the order breaks its rule.
    """
    options = ExactOptions(order, tolerance, memory_limit, time_limit)
    check_exact_options(options)
    real, fake = checked_clouds(real, fake, order=order)
    a = checked_weights("real_weights", real_weights, real)
    b = checked_weights("fake_weights", fake_weights, fake)
    if real.ndim == 2:
        return _warned(_solved(real, fake, _optimum(real, fake, a, b, options), options))
    _, n, _ = real.shape
    if a is None and b is None and fake.shape[1] == n and n**2 <= _DENSE:
        return _assigned(real, fake, order)
    weights = [(None if a is None else a[i], None if b is None else b[i]) for i in range(len(real))]
    problems = list(zip(real, fake, weights, strict=True))
    optima = in_threads(lambda problem: _optimum(*problem[:2], *problem[2], options), problems)
    results = [
        _solved(x, y, optimum, options) for (x, y, _), optimum in zip(problems, optima, strict=True)
    ]
    return _warned(stacked(results))


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


class _Weights(NamedTuple):
    """Weights of the points that carry any, on the device of the points.

    Attributes:
        values: Positive weights of sum 1.
        kept: Indices of their points.
        whole: Whether that is all points.
    """

    values: Tensor
    kept: Tensor
    whole: bool

    @classmethod
    def of(cls, weights: Tensor | None, points: Tensor) -> "_Weights":
        """Weights that were checked, or uniform ones."""
        count = len(points)
        if weights is None:
            values = torch.full((count,), 1 / count, dtype=torch.float64, device=points.device)
            return cls(values, torch.arange(count, device=points.device), True)
        kept = weights.nonzero().squeeze(1)
        return cls(weights[kept], kept, len(kept) == count)


@torch.no_grad()
def _optimum(
    real: Tensor, fake: Tensor, a: Tensor | None, b: Tensor | None, options: ExactOptions
) -> Optimum:
    """Plan, potentials and bounds of one problem of two clouds."""
    rows, columns = _Weights.of(a, real), _Weights.of(b, fake)
    x, y = real.detach().double(), fake.detach().double()
    order = options.order
    optimum = _on_support(x[rows.kept], y[columns.kept], rows.values, columns.values, options)
    if rows.whole and columns.whole:
        return optimum
    # Points without weight get the largest potentials that the others allow.
    optimum = _indexed(optimum, rows, columns)
    shift = y.mean(0)
    x, y = x - shift, y - shift
    f, g = x.new_empty(len(x)), y.new_empty(len(y))
    f[rows.kept], g[columns.kept] = optimum.potentials
    for potential, own, cloud, other in ((f, rows, x, columns), (g, columns, y, rows)):
        if not own.whole:
            dropped = torch.ones(len(cloud), dtype=torch.bool, device=cloud.device)
            dropped[own.kept] = False
            against, known = (y[other.kept], g[other.kept]) if potential is f else (x, f)
            pairs = CloudPairs(cloud[dropped], against, order, stored=False)
            potential[dropped] = c_transform(pairs, known / pairs.scale).values * pairs.scale
    return optimum._replace(potentials=(f, g))


def _on_support(x: Tensor, y: Tensor, a: Tensor, b: Tensor, options: ExactOptions) -> Optimum:
    """Plan, potentials and bounds of points that all carry weight."""
    order = options.order
    if x.shape[1] == 1:
        return line_optimum(x[:, 0], y[:, 0], order, a, b)
    if 1 in (len(x), len(y)):
        return _only_plan(x, y, order, a, b)
    # Squared costs split into those of centred clouds and the distance of the centres.
    centre_x, centre_y = a @ x, b @ y
    if order != 2:
        centre_x = centre_y = (centre_x + centre_y) / 2
    x, y = x - centre_x, y - centre_y
    shift = centre_x - centre_y
    norms_x, norms_y = x.square().sum(1), y.square().sum(1)
    size = a @ norms_x.pow(order / 2) + b @ norms_y.pow(order / 2)
    if len(x) * len(y) <= _MATRIX:
        optimum = _of_matrix(pairwise_costs(x, y, order), a, b, options)
        # Costs that lost more than six digits to cancellation were computed from differences.
        error = (x.shape[1] + 8) * _EPSILON * size * (1 if order == 2 else 2**order * 1000)
    else:
        pairs = CloudPairs(x, y, order, _fits(x, y, options.memory_limit))
        optimum = generated_optimum(pairs, a, b, options.tolerance, options.time_limit)
        optimum = _scaled(optimum, pairs.scale)
        error = 8 * _EPSILON * size
    if order == 2:
        along_x, along_y = 2 * x @ shift, 2 * y @ shift
        apart = shift.square().sum()
        moved = a @ along_x - b @ along_y + apart
        error += 4 * x.shape[1] * _EPSILON * (a @ along_x.abs() + b @ along_y.abs() + apart)
        f, g = optimum.potentials
        optimum = optimum._replace(
            potentials=(f + along_x + apart, g - along_y),
            lower_bound=optimum.lower_bound + moved,
            upper_bound=optimum.upper_bound + moved,
        )
    return optimum._replace(
        lower_bound=optimum.lower_bound - error, rounding=optimum.rounding + 2 * error
    )


def _only_plan(x: Tensor, y: Tensor, order: float, a: Tensor, b: Tensor) -> Optimum:
    """Plan, potentials and bounds where one side is a single point: there is one plan."""
    costs = power((x - y).square().sum(1), order)
    ids = torch.arange(len(costs), device=x.device)
    zeros = torch.zeros_like(ids)
    total = a @ costs if len(y) == 1 else b @ costs
    rounding = (x.shape[1] + len(costs) + 8) * _EPSILON * total
    if len(y) == 1:
        return Optimum(ids, zeros, a, (costs, 0 * b), total - rounding, total, rounding)
    return Optimum(zeros, ids, b, (0 * a, costs), total - rounding, total, rounding)


def _of_matrix(cost: Tensor, a: Tensor, b: Tensor, options: ExactOptions) -> Optimum:
    """Plan, potentials and bounds of a matrix of costs."""
    if cost.numel() > _DENSE:
        return generated_optimum(MatrixPairs(cost), a, b, options.tolerance, options.time_limit)
    return dense_optimum(cost, a, b)


def _fits(x: Tensor, y: Tensor, memory_limit: float | None) -> bool:
    """Whether the costs may be kept."""
    if memory_limit is None:
        if x.device.type == "cuda":
            memory_limit = torch.cuda.mem_get_info(x.device)[0] / 2
        else:
            memory_limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    return 4 * len(x) * len(y) <= memory_limit


def _scaled(optimum: Optimum, scale: float) -> Optimum:
    """An optimum in other units of cost."""
    f, g = optimum.potentials
    bounds = {name: getattr(optimum, name) * scale for name in Optimum._fields[4:]}
    return optimum._replace(potentials=(f * scale, g * scale), **bounds)


def _indexed(optimum: Optimum, rows: _Weights, columns: _Weights) -> Optimum:
    """An optimum of some points with the indices of all."""
    return optimum._replace(rows=rows.kept[optimum.rows], columns=columns.kept[optimum.columns])


def _solved(real: Tensor, fake: Tensor, optimum: Optimum, options: ExactOptions) -> TransportResult:
    """The cost of a plan from the differences of its points, and the certificate."""
    difference = real.double()[optimum.rows] - fake.double()[optimum.columns]
    total = (optimum.masses * power(difference.square().sum(-1), options.order)).sum()
    shape = len(real), len(fake)
    return _result(root(total, options.order), total, optimum, real, shape, options)


def _assigned(real: Tensor, fake: Tensor, order: float) -> TransportResult:
    """A batch of assignment problems."""
    x, y = real.double(), fake.double()
    columns = assignments(x.detach(), y.detach(), order)
    difference = x - y.gather(1, columns[:, :, None].expand_as(x))
    cost = power(difference.square().sum(2), order).mean(1)
    size, n = columns.shape
    problems = torch.arange(size, device=columns.device).repeat_interleave(n)
    rows = torch.arange(n, device=columns.device).repeat(size)
    plan = torch.sparse_coo_tensor(
        torch.stack([problems, rows, columns.flatten()]),
        cost.new_full((size * n,), 1 / n).detach(),
        (size, n, n),
        check_invariants=False,  # an assignment has one column a row
        is_coalesced=True,
    )
    value = root(cost, order)
    return TransportResult(
        value=value.to(real.dtype), cost=cost.to(real.dtype), plan=plan, message="optimal"
    )


def _result(
    value: Tensor,
    cost: Tensor,
    optimum: Optimum,
    like: Tensor,
    shape: tuple[int, ...],
    options: ExactOptions,
) -> TransportResult:
    """Assemble the result in the dtype and on the device of the input."""
    upper = cost.detach()
    # Rounding can push the bound past the optimum by an ulp or two.
    lower = torch.minimum(optimum.lower_bound, upper)
    closed = bool(upper - lower <= options.tolerance * upper.abs() + 2 * optimum.rounding)
    lower_bound, upper_bound = outward(lower, upper, like.dtype)
    order = (optimum.rows * shape[1] + optimum.columns).argsort()
    plan = torch.sparse_coo_tensor(
        torch.stack([optimum.rows, optimum.columns])[:, order],
        optimum.masses[order],
        shape,
        check_invariants=False,  # sorted, and each pair once
        is_coalesced=True,
    )
    return TransportResult(
        value=value.to(like.dtype),
        cost=cost.to(like.dtype),
        lower_bound=lower_bound,
        upper_bound=upper_bound,
        potentials=optimum.potentials,
        plan=plan,
        converged=closed,
        message="optimal"
        if closed
        else f"The duality gap {float(upper - lower):.2e} stays open: raise `time_limit`, or leave "
        "out outliers where costs span too many orders of magnitude for float64.",
    )


def _warned(result: TransportResult) -> TransportResult:
    """Say once that a gap stays open."""
    if not result.converged:
        warnings.warn(result.message, ConvergenceWarning, stacklevel=3)
    return result
