"""Entropic transport and the debiased Sinkhorn divergence, of one problem or a batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from otmetrics.checks import (
    check_at_least,
    check_flag,
    check_order,
    check_positive,
    check_share,
    checked_clouds,
    checked_weights,
    weights_note,
)
from otmetrics.errors import warn_unconverged
from otmetrics.transport.costs import narrow
from otmetrics.transport.gradients import with_gradient
from otmetrics.transport.result import TransportResult, outward, root
from otmetrics.transport.sinkhorn.terms import SinkhornOptions, Solved, entropic_batch
from otmetrics.unknown_options import ToldOptions, told_options


@told_options
def sinkhorn_result(
    real: Tensor,
    fake: Tensor,
    *,
    order: float = 2.0,
    epsilon: float = 0.05,
    relative: bool = True,
    tolerance: float = 1e-5,
    max_iterations: int = 2000,
    memory_limit: float | None = None,
    richardson: bool = False,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
) -> TransportResult:
    """Sinkhorn divergence S = OT(real, fake) - OT(real, real) / 2 - OT(fake, fake) / 2.

    OT is the entropic cost min <P, C> + epsilon KL(P | a x b) with C_ij = |x_i - y_j|^p. All three
    terms share one absolute epsilon. Iterations run on an absorbed kernel, from a large epsilon
    down, with Anderson's extrapolation. Time O(N M D) once and O(N M) an iteration; memory O(N M),
    or O((N + M) D) beyond `memory_limit`, where kernel and costs are computed again in blocks.

    Potentials and sums are float64, and rounded in the result; costs and kernel have the dtype of
    the clouds, and are float64 too up to 2^20 pairs in all, for a tolerance below 1e-6, p above 4,
    a relative epsilon above 10 or a weight below 1e-8. In float32 S is off by about 3e-7 of the
    mean cost.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D); M may differ from N.
        order: The order p >= 1 of the cost.
        epsilon: Entropic regularisation > 0.
        relative: Whether `epsilon` is a share of the mean cost between real and fake; that mean is
            a constant for the gradient.
        tolerance: Largest L1 error of a marginal of the plan, in (0, 1).
        max_iterations: Most iterations for each of the three terms, beside two at each larger
            epsilon on the way down.
        memory_limit: Bytes for costs and kernel; None for half of the memory of the device.
        richardson: Whether to return 2 S_epsilon - S_(sqrt(2) epsilon), at about twice the time.
            At p = 2 and between smooth laws S_epsilon is off by O(epsilon^2), and this by
            O(epsilon^4); between samples only while epsilon blurs them. It may be negative.
        real_weights: Non-negative weights (N,) or (B, N), normalised here; None for uniform.
        fake_weights: The same for `fake`.

    Returns:
        S as `cost` and its p-th root as `value`, bounds on S from the dual values and from rounded
        plans of its terms, up to the rounding of the kernel, the debiased potentials (the first
        variation of S in the weights of each cloud), iterations and convergence. Differentiable
        once in both clouds by the envelope theorem: the plans carry no graph. So it is in the
        weights, whose gradient are the potentials.

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If a shape, a weight or an option breaks its rule.

    References:
        Cuturi, Sinkhorn distances, 2013; Feydy et al., Interpolating between optimal transport and
        MMD using Sinkhorn divergences, 2019, equations (3) and (25); Schmitzer, Stabilized sparse
        scaling algorithms, 2019 (absorption); Chizat et al., Faster Wasserstein distance estimation
        with the Sinkhorn divergence, 2020 (Richardson); Altschuler, Weed, Rigollet, Near-linear
        time approximation algorithms for optimal transport via Sinkhorn iteration, 2017 (rounding).

    Differs from geomloss: the cost is |x - y|^p, not |x - y|^p / p, so its blur b at p = 2 is
    epsilon = 2 b^2 here, and S is twice its value.
    """
    options = SinkhornOptions(
        order, epsilon, relative, tolerance, max_iterations, memory_limit, richardson
    )
    return _result(real, fake, options, real_weights, fake_weights, debiased=True, bounds=True)[0]


@told_options
def sinkhorn_divergence(
    real: Tensor,
    fake: Tensor,
    *,
    order: float = 2.0,
    epsilon: float = 0.05,
    relative: bool = True,
    tolerance: float = 1e-5,
    max_iterations: int = 2000,
    memory_limit: float | None = None,
    richardson: bool = False,
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
        memory_limit: Bytes for costs and kernel; None for half of the memory of the device.
        richardson: Whether to extrapolate to epsilon = 0.
        real_weights: Non-negative weights (N,) or (B, N); None for uniform.
        fake_weights: The same for `fake`.

    Returns:
        Scalar or (B,), in units of the features to the power p, differentiable in both clouds. At
        convergence >= 0 up to rounding for p <= 2; for higher orders it may be negative.

    Example:
        >>> x = torch.randn(64, 4, dtype=torch.float64)
        >>> abs(sinkhorn_divergence(x, x.flip(0)).item()) < 1e-9
        True
    """
    options = SinkhornOptions(
        order, epsilon, relative, tolerance, max_iterations, memory_limit, richardson
    )
    return _result(real, fake, options, real_weights, fake_weights, debiased=True)[0].cost


@told_options
def entropic_cost(
    real: Tensor,
    fake: Tensor,
    *,
    order: float = 2.0,
    epsilon: float = 0.05,
    relative: bool = True,
    tolerance: float = 1e-5,
    max_iterations: int = 2000,
    memory_limit: float | None = None,
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
        memory_limit: Bytes for costs and kernel; None for half of the memory of the device.
        real_weights: Non-negative weights (N,) or (B, N); None for uniform.
        fake_weights: The same for `fake`.

    Returns:
        Scalar or (B,), in units of the features to the power p, differentiable in both clouds.

    Example:
        >>> x = torch.zeros(1, 2)
        >>> entropic_cost(x, x + 3.0, epsilon=1.0, relative=False)
        tensor(18.)
    """
    options = SinkhornOptions(order, epsilon, relative, tolerance, max_iterations, memory_limit)
    return _result(real, fake, options, real_weights, fake_weights, debiased=False)[0].cost


def divergence_from(
    real: Tensor,
    fake: Tensor,
    options: SinkhornOptions,
    start: tuple[Tensor, Tensor] | None,
) -> tuple[TransportResult, tuple[Tensor, Tensor]]:
    """Sinkhorn divergence, without bounds, from the potentials of a similar problem.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D).
        options: The options; see `sinkhorn_result`.
        start: Cross potentials (B, N) and (B, M), B = 1 without a batch, taken where they are
            better than the usual start. They move the answer within `tolerance` only.

    Returns:
        The result, and its cross potentials.
    """
    return _result(real, fake, options, None, None, debiased=True, start=start)


def check_sinkhorn_options(options: SinkhornOptions) -> None:
    """Raise unless every option keeps its rule.

    Args:
        options: The options of an entropic problem.

    Raises:
        ValueError: If one does not.
    """
    check_order(options.order)
    check_positive("epsilon", options.epsilon)
    check_share("tolerance", options.tolerance)
    check_at_least("max_iterations", options.max_iterations, 1)
    check_flag("relative", options.relative)
    check_flag("richardson", options.richardson)
    if options.memory_limit is not None:
        check_positive("memory_limit", options.memory_limit)


def _result(
    real: Tensor,
    fake: Tensor,
    options: SinkhornOptions,
    real_weights: Tensor | None,
    fake_weights: Tensor | None,
    *,
    debiased: bool,
    bounds: bool = False,
    start: tuple[Tensor, Tensor] | None = None,
) -> tuple[TransportResult, tuple[Tensor, Tensor]]:
    """Check, solve, warn once, and attach the gradient; the cross potentials come along."""
    check_sinkhorn_options(options)
    real, fake = checked_clouds(real, fake, order=options.order)
    a, b = (
        _fill_weights("real_weights", real_weights, real),
        _fill_weights("fake_weights", fake_weights, fake),
    )
    x, y, a, b = (t if real.ndim == 3 else t.unsqueeze(0) for t in (real, fake, a, b))
    grad = torch.is_grad_enabled()
    gradients = grad and real.requires_grad, grad and fake.requires_grad
    sources = x, y, a, b
    solved = entropic_batch(
        x.detach(),
        y.detach(),
        a.detach(),
        b.detach(),
        options,
        debiased=debiased,
        bounds=bounds,
        gradients=gradients,
        start=start,
    )
    cost = solved.cost
    # The potentials are the first variation in the weights.
    known = *solved.gradients, *solved.potentials
    for variable, gradient in zip(sources, known, strict=True):
        if grad and variable.requires_grad:
            assert gradient is not None
            cost = with_gradient(cost, variable, gradient, *sources)
    message, converged = _message(solved, options)
    if not converged:
        warn_unconverged(message)

    def shaped(values: Tensor) -> Tensor:
        return values if real.ndim == 3 else values[0]

    lower = upper = None
    if solved.lower is not None and solved.upper is not None:
        lower, upper = map(shaped, outward(solved.lower, solved.upper, real.dtype))
    f, g = map(shaped, solved.potentials)
    result = TransportResult(
        value=shaped(root(cost, options.order)).to(real.dtype),
        cost=narrow(shaped(cost), real.dtype),
        lower_bound=lower,
        upper_bound=upper,
        potentials=(f.to(real.dtype), g.to(real.dtype)),
        num_iterations=int(solved.num_iterations.max()),
        converged=converged,
        message=message + weights_note(real_weights, fake_weights),
    )
    return result, solved.start


def _fill_weights(name: str, weights: Tensor | None, cloud: Tensor) -> Tensor:
    """Checked weights, uniform where none are given."""
    checked = checked_weights(name, weights, cloud)
    if checked is not None:
        return checked
    size = cloud.shape[-2]
    return torch.full(cloud.shape[:-1], 1 / size, dtype=torch.float64, device=cloud.device)


def _message(solved: Solved, options: SinkhornOptions) -> tuple[str, bool]:
    """How far it got and, where it did not converge, what to raise."""
    error, iterations = float(solved.error.max()), int(solved.num_iterations.max())
    if error <= options.tolerance:
        return f"marginal error {error:.1e} after {iterations} iterations", True
    return (
        f"Sinkhorn stopped at a marginal error of {error:.1e} > {options.tolerance:.1e}: raise "
        f"`max_iterations` ({options.max_iterations}) or `epsilon` ({options.epsilon}).",
        False,
    )


@dataclass(frozen=True)
class Sinkhorn(ToldOptions):
    """Debiased Sinkhorn divergence; see `functional.sinkhorn_result`.

    Attributes:
        order: The order p >= 1 of the cost.
        epsilon: Entropic regularisation.
        relative: Whether `epsilon` is a share of the mean cost between real and fake.
        tolerance: Largest L1 error of a marginal of the plan.
        max_iterations: Most iterations for each of the three terms.
        memory_limit: Bytes for costs and kernel, beyond which they are computed again in blocks.
            None for half of the memory of the device.
        richardson: Whether to extrapolate to epsilon = 0; see `functional.sinkhorn_result`.

    Raises:
        ValueError: If an option breaks its rule.
    """

    order: float = 2.0
    epsilon: float = 0.05
    relative: bool = True
    tolerance: float = 1e-5
    max_iterations: int = 2000
    memory_limit: float | None = None
    richardson: bool = False

    def __post_init__(self) -> None:
        check_sinkhorn_options(SinkhornOptions(**vars(self)))

    @told_options
    def solve(
        self,
        real: Tensor,
        fake: Tensor,
        *,
        real_weights: Tensor | None = None,
        fake_weights: Tensor | None = None,
    ) -> TransportResult:
        """Solve for the divergence S, its bounds, its potentials and its convergence.

        Args:
            real: Features (N, D) or (B, N, D).
            fake: Features (M, D) or (B, M, D); M may differ from N.
            real_weights: Non-negative weights (N,) or (B, N); None for uniform.
            fake_weights: The same for `fake`.

        Returns:
            S as cost, its p-th root as value, bounds, potentials and convergence.
        """
        return sinkhorn_result(
            real,
            fake,
            **vars(self),
            real_weights=real_weights,
            fake_weights=fake_weights,
        )

    @told_options
    def __call__(
        self,
        real: Tensor,
        fake: Tensor,
        *,
        real_weights: Tensor | None = None,
        fake_weights: Tensor | None = None,
    ) -> Tensor:
        """S^(1/p), in the units of the features, scalar or (B,), differentiable as `solve` is."""
        return self.solve(real, fake, real_weights=real_weights, fake_weights=fake_weights).value
