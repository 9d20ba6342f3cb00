"""Entropic transport: Sinkhorn iterations in scaled form, and the debiased divergence."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.errors import ConvergenceWarning
from otmetrics.functional.checks import (
    check_at_least,
    check_flag,
    check_order,
    check_positive,
    check_share,
    checked_clouds,
    checked_weights,
)
from otmetrics.functional.cost import pairwise_costs
from otmetrics.functional.result import TransportResult, root, stacked

# First steps that average both scalings with their updates: between equal or nearly equal clouds
# they keep the symmetry that alternating steps break, and lose only slowly.
_AVERAGED_STEPS = 20
_ABSORB_AT = 50.0  # natural logarithm of a scaling at which it moves into its potential


class SinkhornOptions(NamedTuple):
    """Options that every entropic problem shares; see `sinkhorn_result`."""

    order: float = 2.0
    epsilon: float = 0.05
    relative: bool = True
    tolerance: float = 1e-5
    max_iterations: int = 2000


class _Solved(NamedTuple):
    """One entropic term in float64: dual value, potentials of all points, and how far it got."""

    value: Tensor
    f: Tensor
    g: Tensor
    num_iterations: int
    marginal_error: float


def sinkhorn_result(
    real: Tensor,
    fake: Tensor,
    *,
    order: float = 2.0,
    epsilon: float = 0.05,
    relative: bool = True,
    tolerance: float = 1e-5,
    max_iterations: int = 2000,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
) -> TransportResult:
    """Sinkhorn divergence S = OT(real, fake) - OT(real, real) / 2 - OT(fake, fake) / 2.

    OT is the entropic cost min <P, C> + epsilon KL(P | a x b) with C_ij = |x_i - y_j|^p. All three
    terms share one absolute epsilon. Time O(N M) an iteration, memory O(N M), in float64.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D); M may differ from N.
        order: The order p >= 1 of the cost.
        epsilon: Entropic regularisation > 0.
        relative: Whether `epsilon` is a share of the mean cost between real and fake; that mean is
            a constant for the gradient.
        tolerance: Largest L1 error of a marginal of the plan, in (0, 1).
        max_iterations: Most iterations for each of the three terms.
        real_weights: Non-negative weights (N,) or (B, N), normalised here; None for uniform.
        fake_weights: The same for `fake`.

    Returns:
        S as `cost` and its p-th root as `value`, the debiased potentials (the first variation of S
        in the weights of each cloud), iterations and convergence. Differentiable in both clouds by
        the envelope theorem: the plans carry no graph.

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If a shape, a weight or an option breaks its rule.

    References:
        Cuturi, Sinkhorn distances, 2013; Feydy et al., Interpolating between optimal transport and
        MMD using Sinkhorn divergences, 2019, equations (3) and (25); Schmitzer, Stabilized sparse
        scaling algorithms, 2019 (absorption).

    Differs from geomloss: the cost is |x - y|^p, not |x - y|^p / p, so its blur b at p = 2 is
    epsilon = 2 b^2 here, and S is twice its value.
    """
    options = SinkhornOptions(order, epsilon, relative, tolerance, max_iterations)
    return _by_problem(_divergence, real, fake, options, real_weights, fake_weights)


def sinkhorn_divergence(
    real: Tensor,
    fake: Tensor,
    *,
    order: float = 2.0,
    epsilon: float = 0.05,
    relative: bool = True,
    tolerance: float = 1e-5,
    max_iterations: int = 2000,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
) -> Tensor:
    """Debiased Sinkhorn divergence, unrooted as the field writes it.

    `sinkhorn_result` has the same arguments, cost, errors and references.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D).
        order: The order p >= 1 of the cost.
        epsilon: Entropic regularisation > 0.
        relative: Whether `epsilon` is a share of the mean cost between real and fake.
        tolerance: Largest L1 error of a marginal of the plan.
        max_iterations: Most iterations for each of the three terms.
        real_weights: Non-negative weights (N,) or (B, N); None for uniform.
        fake_weights: The same for `fake`.

    Returns:
        Scalar or (B,), in units of the features to the power p, >= 0 up to rounding at convergence,
        differentiable in both clouds.

    Example:
        >>> x = torch.randn(64, 4, dtype=torch.float64)
        >>> abs(sinkhorn_divergence(x, x.flip(0)).item()) < 1e-9
        True
    """
    options = SinkhornOptions(order, epsilon, relative, tolerance, max_iterations)
    return _by_problem(_divergence, real, fake, options, real_weights, fake_weights).cost


def entropic_cost(
    real: Tensor,
    fake: Tensor,
    *,
    order: float = 2.0,
    epsilon: float = 0.05,
    relative: bool = True,
    tolerance: float = 1e-5,
    max_iterations: int = 2000,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
) -> Tensor:
    """Entropic cost min <P, C> + epsilon KL(P | a x b), not debiased.

    It exceeds W_p^p by at most epsilon log(min(N, M)) for uniform weights, and is not zero between
    equal clouds. `sinkhorn_result` has the same arguments, cost, errors and references.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D).
        order: The order p >= 1 of the cost.
        epsilon: Entropic regularisation > 0.
        relative: Whether `epsilon` is a share of the mean cost between real and fake.
        tolerance: Largest L1 error of a marginal of the plan.
        max_iterations: Most iterations.
        real_weights: Non-negative weights (N,) or (B, N); None for uniform.
        fake_weights: The same for `fake`.

    Returns:
        Scalar or (B,), in units of the features to the power p, differentiable in both clouds.

    Example:
        >>> x = torch.zeros(1, 2)
        >>> entropic_cost(x, x + 3.0, epsilon=1.0, relative=False)
        tensor(18.)
    """
    options = SinkhornOptions(order, epsilon, relative, tolerance, max_iterations)
    return _by_problem(_entropic, real, fake, options, real_weights, fake_weights).cost


def check_sinkhorn_options(options: SinkhornOptions) -> None:
    """Raise unless every option keeps its rule.

    Args:
        options: The options of an entropic problem.

    Raises:
        ValueError: If one does not.
    """
    check_order(options.order)
    check_positive("epsilon", options.epsilon)
    check_at_least("max_iterations", options.max_iterations, 1)
    check_share("tolerance", options.tolerance)
    check_flag("relative", options.relative)


def _by_problem(
    problem: Callable[[Tensor, Tensor, Tensor, Tensor, SinkhornOptions], TransportResult],
    real: Tensor,
    fake: Tensor,
    options: SinkhornOptions,
    real_weights: Tensor | None,
    fake_weights: Tensor | None,
) -> TransportResult:
    """Check once, solve each problem of a batch, warn once."""
    check_sinkhorn_options(options)
    real, fake = checked_clouds(real, fake, order=options.order)
    a, b = _filled("real_weights", real_weights, real), _filled("fake_weights", fake_weights, fake)
    if real.ndim == 2:
        result = problem(real, fake, a, b, options)
    else:
        batch = zip(real, fake, a, b, strict=True)
        result = stacked([problem(*item, options) for item in batch])
    if not result.converged:
        warnings.warn(result.message, ConvergenceWarning, stacklevel=3)
    return result


def _filled(name: str, weights: Tensor | None, cloud: Tensor) -> Tensor:
    """Checked weights, uniform where none are given."""
    checked = checked_weights(name, weights, cloud)
    if checked is not None:
        return checked
    size = cloud.shape[-2]
    return torch.full(cloud.shape[:-1], 1 / size, dtype=torch.float64, device=cloud.device)


def _divergence(
    real: Tensor, fake: Tensor, a: Tensor, b: Tensor, options: SinkhornOptions
) -> TransportResult:
    """Solve the cross term and both self terms at one absolute epsilon."""
    x, y = real.double(), fake.double()
    epsilon = _absolute_epsilon(x, y, a, b, options)
    cross = _term(x, y, a, b, epsilon, options)
    self_x, self_y = _term(x, x, a, a, epsilon, options), _term(y, y, b, b, epsilon, options)
    potentials = (cross.f - self_x.f, cross.g - self_y.f)
    cost = cross.value - (self_x.value + self_y.value) / 2
    return _result(cost, potentials, [cross, self_x, self_y], real, options)


def _entropic(
    real: Tensor, fake: Tensor, a: Tensor, b: Tensor, options: SinkhornOptions
) -> TransportResult:
    """Solve the cross term alone."""
    x, y = real.double(), fake.double()
    cross = _term(x, y, a, b, _absolute_epsilon(x, y, a, b, options), options)
    return _result(cross.value, (cross.f, cross.g), [cross], real, options)


def _result(
    cost: Tensor,
    potentials: tuple[Tensor, Tensor],
    solved: list[_Solved],
    like: Tensor,
    options: SinkhornOptions,
) -> TransportResult:
    """Assemble the result of one problem, saying what to raise where it did not converge."""
    error = max(term.marginal_error for term in solved)
    iterations = max(term.num_iterations for term in solved)
    converged = error <= options.tolerance
    message = f"marginal error {error:.1e} after {iterations} iterations"
    if not converged:
        message = (
            f"Sinkhorn stopped at a marginal error of {error:.1e} > {options.tolerance:.1e}: raise "
            f"`max_iterations` ({options.max_iterations}) or `epsilon` ({options.epsilon})."
        )
    return TransportResult(
        value=root(cost, options.order).to(like.dtype),
        cost=cost.to(like.dtype),
        potentials=potentials,
        num_iterations=iterations,
        converged=converged,
        message=message,
    )


def _absolute_epsilon(
    x: Tensor, y: Tensor, a: Tensor, b: Tensor, options: SinkhornOptions
) -> float:
    """Epsilon in units of the cost; coinciding single points have no scale and take it as it is."""
    if not options.relative:
        return options.epsilon
    with torch.no_grad():
        mean_cost = float(a @ pairwise_costs(x, y, options.order) @ b)
    return options.epsilon * (mean_cost or 1.0)


def _term(
    x: Tensor, y: Tensor, a: Tensor, b: Tensor, epsilon: float, options: SinkhornOptions
) -> _Solved:
    """Solve one term on the points that carry weight; its value has the envelope gradient."""
    rows, columns = a > 0, b > 0
    kept_a, kept_b = a[rows], b[columns]
    with torch.no_grad():
        costs = pairwise_costs(x, y, options.order)
        part = costs[rows][:, columns]
        symmetric = x is y and a is b  # a self term, not a cloud against itself with new weights
        solved = on_support = _scaled(part, kept_a, kept_b, epsilon, options, symmetric)
        if not (rows.all() and columns.all()):
            f = _soft_minimum(costs[:, columns], solved.g, kept_b, epsilon)
            g = _soft_minimum(costs.T[:, rows], solved.f, kept_a, epsilon)
            solved = solved._replace(f=f, g=g)
    if not (x.requires_grad or y.requires_grad):
        return solved
    with torch.no_grad():
        plan = _kernel(on_support.f, on_support.g, part, epsilon) * kept_a[:, None] * kept_b
    transported = (plan * pairwise_costs(x[rows], y[columns], options.order)).sum()
    return solved._replace(value=solved.value + transported - transported.detach())


def _scaled(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    epsilon: float,
    options: SinkhornOptions,
    symmetric: bool,
) -> _Solved:
    """Scale rows and columns until both marginals are right; a self term needs one scaling."""
    # The plan is a_i u_i K_ij v_j b_j with K = exp((f + g - C) / epsilon), so that an iteration is
    # two matrix-vector products; u and v move into the potentials before they overflow.
    f, g = _annealed(cost, a, b, epsilon, symmetric)
    error, iteration, mass = float("inf"), 0, a.sum()
    while error > options.tolerance and iteration < options.max_iterations:
        kernel = _kernel(f, g, cost, epsilon)
        u, v, largest = torch.ones_like(a), torch.ones_like(b), 0.0
        while (
            error > options.tolerance
            and iteration < options.max_iterations
            and largest < _ABSORB_AT
        ):
            rows = kernel @ (b * v)
            error = float(a @ (u * rows - 1).abs())
            if symmetric:
                u = v = (u / rows).sqrt()
            elif iteration < _AVERAGED_STEPS:
                columns = (a * u) @ kernel
                error += float(b @ (v * columns - 1).abs())
                u, v = (u / rows).sqrt(), (v / columns).sqrt()
            else:
                u = 1 / rows
                v = 1 / ((a * u) @ kernel)
            largest = max(float(u.log().abs().max()), float(v.log().abs().max()))
            iteration += 1
        mass = (a * u) @ kernel @ (b * v)
        f, g = f + epsilon * u.log(), g + epsilon * v.log()
    # The dual objective, a lower bound of the optimum for any potentials.
    return _Solved(a @ f + b @ g - epsilon * (mass - 1), f, g, iteration, error)


def _annealed(
    cost: Tensor, a: Tensor, b: Tensor, epsilon: float, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Potentials from one averaged log-domain step at each epsilon, halved from the mean cost."""
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    current = max(float(a @ cost @ b), epsilon)
    while True:
        rows = _soft_minimum(cost, g, b, current)
        columns = rows if symmetric else _soft_minimum(cost.T, f, a, current)
        f, g = (f + rows) / 2, (g + columns) / 2
        if current <= epsilon:
            return f, g
        current = max(current / 2, epsilon)


def _kernel(f: Tensor, g: Tensor, cost: Tensor, epsilon: float) -> Tensor:
    """exp((f + g - C) / epsilon), the density of the plan."""
    return ((f[:, None] + g - cost) / epsilon).exp_()


def _soft_minimum(cost: Tensor, potential: Tensor, weights: Tensor, epsilon: float) -> Tensor:
    """Soft c-transform -epsilon log sum_j w_j exp((g_j - C_ij) / epsilon), for each row i."""
    return -epsilon * ((potential - cost) / epsilon + weights.log()).logsumexp(1)
