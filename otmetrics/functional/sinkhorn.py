"""Entropic transport: Sinkhorn iterations in scaled form, and the debiased divergence."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.errors import ConvergenceWarning
from otmetrics.functional.checks import (
    check_at_least,
    check_order,
    check_positive,
    checked_clouds,
    checked_weights,
)
from otmetrics.functional.cost import cost_matrix
from otmetrics.functional.result import TransportResult, root, stacked

_ABSORB_AT = 50.0  # natural logarithm of a scaling at which it moves into its potential


class SinkhornOptions(NamedTuple):
    """Options that every entropic problem shares; see `sinkhorn_result`."""

    order: float = 2.0
    epsilon: float = 0.05
    relative: bool = True
    tolerance: float = 1e-5
    max_iterations: int = 2000


class _Solved(NamedTuple):
    """One entropic problem: dual value, potentials, and how far it got (float64)."""

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
    if not 0 < options.tolerance < 1:
        raise ValueError(f"`tolerance` must be in (0, 1), got {options.tolerance}.")


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
    real, fake = checked_clouds(real, fake)
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
    cross, cross_value = _term(x, y, a, b, epsilon, options)
    self_x, self_x_value = _term(x, None, a, a, epsilon, options)
    self_y, self_y_value = _term(y, None, b, b, epsilon, options)
    potentials = (cross.f - self_x.f, cross.g - self_y.f)
    cost = cross_value - (self_x_value + self_y_value) / 2
    return _result(cost, potentials, [cross, self_x, self_y], real, options)


def _entropic(
    real: Tensor, fake: Tensor, a: Tensor, b: Tensor, options: SinkhornOptions
) -> TransportResult:
    """Solve the cross term alone."""
    x, y = real.double(), fake.double()
    epsilon = _absolute_epsilon(x, y, a, b, options)
    cross, value = _term(x, y, a, b, epsilon, options)
    return _result(value, (cross.f, cross.g), [cross], real, options)


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
        mean_cost = float(a @ cost_matrix(x, y, order=options.order) @ b)
    return options.epsilon * (mean_cost or 1.0)


def _term(
    x: Tensor,
    y: Tensor | None,
    a: Tensor,
    b: Tensor,
    epsilon: float,
    options: SinkhornOptions,
) -> tuple[_Solved, Tensor]:
    """Solve one term, y None for a self term, and give its value the envelope gradient."""
    with torch.no_grad():
        costs = cost_matrix(x, x if y is None else y, order=options.order)
        iterate = _self_term if y is None else _cross_term
        solved = iterate(costs, a, b, epsilon, options.tolerance, options.max_iterations)
    y = x if y is None else y
    if not (x.requires_grad or y.requires_grad):
        return solved, solved.value
    plan = ((solved.f[:, None] + solved.g - costs) / epsilon).exp_() * a[:, None] * b
    transported = (plan * cost_matrix(x, y, order=options.order)).sum()
    return solved, solved.value + transported - transported.detach()


def _cross_term(
    cost: Tensor, a: Tensor, b: Tensor, epsilon: float, tolerance: float, max_iterations: int
) -> _Solved:
    """Alternate row and column scalings until the row marginals are right too."""
    # The plan is a_i u_i K_ij v_j b_j with K = exp((f + g - C) / epsilon), so that an iteration is
    # two matrix-vector products; u and v move into the potentials before they overflow.
    f, g = _annealed(cost, a, b, epsilon)
    error, iteration = float("inf"), 0
    while error > tolerance and iteration < max_iterations:
        kernel = ((f[:, None] + g - cost) / epsilon).exp_()
        u, v, largest = torch.ones_like(a), torch.ones_like(b), 0.0
        while error > tolerance and iteration < max_iterations and largest < _ABSORB_AT:
            rows = kernel @ (b * v)
            error = float(a @ (u * rows - 1).abs())
            u = 1 / rows
            v = 1 / ((a * u) @ kernel)
            largest = max(float(u.log().abs().max()), float(v.log().abs().max()))
            iteration += 1
        f, g = f + epsilon * u.log(), g + epsilon * v.log()
    # After a column step the plan has mass one: the dual objective is this sum, a lower bound.
    return _Solved(a @ f + b @ g, f, g, iteration, error)


def _self_term(
    cost: Tensor, a: Tensor, b: Tensor, epsilon: float, tolerance: float, max_iterations: int
) -> _Solved:
    """One potential serves both sides; averaging it with its transform converges in a few steps."""
    f, _ = _annealed(cost, a, b, epsilon, symmetric=True)
    error, iteration = float("inf"), 0
    mass = a.sum()
    while error > tolerance and iteration < max_iterations:
        kernel = ((f[:, None] + f - cost) / epsilon).exp_()
        u, largest = torch.ones_like(a), 0.0
        while error > tolerance and iteration < max_iterations and largest < _ABSORB_AT:
            rows = kernel @ (a * u)
            error = float(a @ (u * rows - 1).abs())
            u = (u / rows).sqrt()
            largest = float(u.log().abs().max())
            iteration += 1
        mass = (a * u) @ kernel @ (a * u)
        f = f + epsilon * u.log()
    return _Solved(2 * (a @ f) - epsilon * (mass - 1), f, f, iteration, error)


def _annealed(
    cost: Tensor, a: Tensor, b: Tensor, epsilon: float, symmetric: bool = False
) -> tuple[Tensor, Tensor]:
    """Potentials from one log-domain step at each epsilon, halved from the mean cost down."""
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    current = max(float(a @ cost @ b), epsilon)
    while True:
        transformed = _soft_minimum(cost, g, b, current)
        f = (f + transformed) / 2 if symmetric else transformed
        g = f if symmetric else _soft_minimum(cost.T, f, a, current)
        if current <= epsilon:
            return f, g
        current = max(current / 2, epsilon)


def _soft_minimum(cost: Tensor, potential: Tensor, weights: Tensor, epsilon: float) -> Tensor:
    """Soft c-transform -epsilon log sum_j w_j exp((g_j - C_ij) / epsilon), for each row i."""
    return -epsilon * ((potential - cost) / epsilon + weights.log()).logsumexp(1)
