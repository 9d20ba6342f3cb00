"""The debiased Sinkhorn divergence and the entropic cost, of one problem or a batch."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otmetrics.checks import (
    check_at_least,
    check_flag,
    check_order,
    check_positive,
    check_share,
    checked_clouds,
    filled_weights,
    weights_note,
)
from otmetrics.errors import Argument, Message, warn_unconverged
from otmetrics.machine import ieee_float32, memory_budget
from otmetrics.transport.costs import narrow
from otmetrics.transport.gradients import with_gradient
from otmetrics.transport.result import TransportResult, outward, root
from otmetrics.transport.sinkhorn.gibbs import Workspace
from otmetrics.transport.sinkhorn.iterations import Measure, Wanted
from otmetrics.transport.sinkhorn.terms import (
    Solved,
    extrapolate,
    join_groups,
    merge_repeated,
    scale_problem,
    solve_terms,
    spread,
)
from otmetrics.transport.solver import Solver
from otmetrics.unknown_options import options_of, told_options

_FEW_PAIRS = 2**20  # up to this many pairs float64 is nearly free
# Beyond these float32 does not suffice.
_FINE = 1e-6  # tolerance
_HIGH = 4.0  # order
_WIDE = 10.0  # relative epsilon
_UNEVEN = 1e-8  # smallest weight


@dataclass(frozen=True)
class Sinkhorn(Solver):
    """Sinkhorn divergence S = OT(real, fake) - OT(real, real) / 2 - OT(fake, fake) / 2.

    OT is the entropic cost min <P, C> + epsilon KL(P | a x b) with C_ij = |x_i - y_j|^p. All three
    terms share one absolute epsilon. Iterations run on an absorbed kernel, from a large epsilon
    down, with Anderson's extrapolation. Time O(N M D) once and O(N M) per iteration; memory O(N M),
    or O((N + M) D) beyond `memory_limit`, where kernel and costs are computed again in blocks.

    Potentials and sums are float64, and rounded in the result; costs and kernel have the dtype of
    the clouds, and are float64 too up to 2^20 pairs in all, for a tolerance below 1e-6, p above 4,
    a relative epsilon above 10 or a weight below 1e-8. In float32 S is off by about 3e-7 of the
    mean cost.

    Attributes:
        order: The order p >= 1 of the cost.
        epsilon: Entropic regularisation > 0.
        relative: Whether `epsilon` is a share of the mean cost between real and fake; that mean is
            a constant for the gradient.
        tolerance: Largest L1 error of a marginal of the plan, in (0, 1).
        max_iterations: Most iterations for each of the three terms, plus two at each larger
            epsilon on the way down.
        memory_limit: Bytes for costs and kernel; None for half of the memory of the device.
        richardson: Whether to return 2 S_epsilon - S_(sqrt(2) epsilon), at about twice the time.
            At p = 2 and between smooth distributions S_epsilon is off by O(epsilon^2), and this by
            O(epsilon^4); between samples only while epsilon blurs them. It may be negative.

    Raises:
        ValueError: If an option breaks its rule.

    References:
        Cuturi, Sinkhorn distances, 2013; Feydy et al., Interpolating between optimal transport and
        MMD using Sinkhorn divergences, 2019, equations (3) and (25); Schmitzer, Stabilized sparse
        scaling algorithms, 2019 (absorption); Chizat et al., Faster Wasserstein distance estimation
        with the Sinkhorn divergence, 2020 (Richardson); Altschuler, Weed, Rigollet, Near-linear
        time approximation algorithms for optimal transport via Sinkhorn iteration, 2017 (rounding).

    Differs from geomloss: the cost is |x - y|^p, not |x - y|^p / p, so its blur b at p = 2 is
    epsilon = 2 b^2 here, and S is twice its value.
    """

    order: float = 2.0
    epsilon: float = 0.05
    relative: bool = True
    tolerance: float = 1e-5
    max_iterations: int = 2000
    memory_limit: float | None = None
    richardson: bool = False

    def __post_init__(self) -> None:
        check_order(self.order)
        check_positive("epsilon", self.epsilon)
        check_flag("relative", self.relative)
        check_share("tolerance", self.tolerance)
        check_at_least("max_iterations", self.max_iterations, 1)
        if self.memory_limit is not None:
            check_positive("memory_limit", self.memory_limit)
        check_flag("richardson", self.richardson)

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
            real_weights: Non-negative weights (N,) or (B, N), normalised here; None for uniform.
            fake_weights: The same for `fake`.

        Returns:
            S as `cost` and its p-th root as `value`, bounds on S from the dual values and from
            rounded plans of its terms, up to the rounding of the kernel, the debiased potentials
            (the first variation of S in the weights of each cloud), iterations and convergence.
            Differentiable once in both clouds by the envelope theorem: the plans carry no graph.
            Also in the weights: their gradients are the potentials.

        Raises:
            TypeError: If a cloud is not a floating tensor.
            ValueError: If a shape or a weight breaks its rule.
        """
        return self._solve(real, fake, real_weights, fake_weights, bounds=True)[0]

    def solve_from(
        self,
        real: Tensor,
        fake: Tensor,
        potentials: tuple[Tensor, Tensor] | None = None,
        *,
        debiased: bool = True,
    ) -> tuple[TransportResult, tuple[Tensor, Tensor]]:
        """Solve for S, without bounds, from the potentials of a similar problem.

        Args:
            real: Features (N, D) or (B, N, D).
            fake: Features (M, D) or (B, M, D).
            potentials: Cross potentials (B, N) and (B, M), B = 1 without a batch, taken where they
                are better than the usual ones. They move the answer within `tolerance` only.
            debiased: Whether to solve for S, or for the cross term alone.

        Returns:
            The result, and its cross potentials.
        """
        return self._solve(real, fake, None, None, start=potentials, debiased=debiased)

    def _solve(
        self,
        real: Tensor,
        fake: Tensor,
        real_weights: Tensor | None,
        fake_weights: Tensor | None,
        **wanted: Any,
    ) -> tuple[TransportResult, tuple[Tensor, Tensor]]:
        """What is `Wanted`, with its gradient attached, and the cross potentials."""
        real, fake = checked_clouds(real, fake, order=self.order)
        a = filled_weights("real_weights", real_weights, real)
        b = filled_weights("fake_weights", fake_weights, fake)
        # One problem is a batch of one.
        sources = x, y, a, b = [t if real.ndim == 3 else t[None] for t in (real, fake, a, b)]
        grad = torch.is_grad_enabled()
        wanted["gradients"] = (grad and real.requires_grad, grad and fake.requires_grad)
        measures = Measure(x.detach(), a.detach()), Measure(y.detach(), b.detach())
        solved = entropic_batch(self, *measures, **wanted)

        # The potentials are the first variation in the weights. At the optimum all gradients are
        # those for the plan and the potentials held fixed, so no graph of the iterations is needed.
        cost = solved.cost
        for source, gradient in zip(sources, (*solved.gradients, *solved.potentials), strict=True):
            if grad and source.requires_grad:
                assert gradient is not None
                cost = with_gradient(cost, source, gradient, *sources)

        note = weights_note(real_weights, fake_weights)
        return self._result(solved._replace(cost=cost), real, note), solved.cross_potentials

    def _result(self, solved: Solved, like: Tensor, note: str) -> TransportResult:
        """Warn once, and round to the dtype of the clouds."""
        # One warning for a batch: the worst of its problems.
        error, iterations = float(solved.error.max()), int(solved.num_iterations.max())
        converged = error <= self.tolerance
        message = f"marginal error {error:.1e} after {iterations} iterations"
        if not converged:
            message = Message(
                f"Sinkhorn stopped at a marginal error of {error:.1e} > {self.tolerance:.1e}: "
                "raise ",
                Argument("max_iterations"),
                f" ({self.max_iterations}) or ",
                Argument("epsilon"),
                f" ({self.epsilon}).",
            )
            warn_unconverged(message)

        def shaped(values: Tensor) -> Tensor:
            return values if like.ndim == 3 else values[0]

        lower = upper = None
        if solved.lower is not None and solved.upper is not None:
            lower, upper = map(shaped, outward(solved.lower, solved.upper, like.dtype))
        f, g = (shaped(potential).to(like.dtype) for potential in solved.potentials)
        return TransportResult(
            value=shaped(root(solved.cost, self.order)).to(like.dtype),
            cost=narrow(shaped(solved.cost), like.dtype),
            lower_bound=lower,
            upper_bound=upper,
            potentials=(f, g),
            num_iterations=iterations,
            converged=converged,
            message=message + note,
        )


@options_of(Sinkhorn)
def sinkhorn_divergence(
    real: Tensor,
    fake: Tensor,
    *,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Debiased Sinkhorn divergence, unrooted as the field writes it, without its bounds.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D); M may differ from N.
        real_weights: Non-negative weights (N,) or (B, N), normalised here; None for uniform.
        fake_weights: The same for `fake`.
        **options: The fields of `Sinkhorn`.

    Returns:
        Scalar or (B,), in units of the features to the power p, differentiable in both clouds. At
        convergence >= 0 up to rounding for p <= 2; for higher orders it may be negative.

    Raises:
        TypeError: If a cloud is not a floating tensor, or an option is unknown.
        ValueError: If a shape, a weight or an option breaks its rule.

    Example:
        >>> x = torch.randn(64, 4, dtype=torch.float64)
        >>> abs(sinkhorn_divergence(x, x.flip(0)).item()) < 1e-9
        True
    """
    return Sinkhorn(**options)._solve(real, fake, real_weights, fake_weights)[0].cost


@options_of(Sinkhorn, without="richardson")
def entropic_cost(
    real: Tensor,
    fake: Tensor,
    *,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Entropic cost min <P, C> + epsilon KL(P | a x b), not debiased.

    It exceeds W_p^p by at most epsilon log(min(N, M)) for uniform weights, and is not zero between
    equal clouds.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D); M may differ from N.
        real_weights: Non-negative weights (N,) or (B, N), normalised here; None for uniform.
        fake_weights: The same for `fake`.
        **options: The fields of `Sinkhorn` but `richardson`, which is for the divergence.

    Returns:
        Scalar or (B,), in units of the features to the power p, differentiable in both clouds.

    Raises:
        TypeError: If a cloud is not a floating tensor, or an option is unknown.
        ValueError: If a shape, a weight or an option breaks its rule.

    Example:
        >>> x = torch.zeros(1, 2)
        >>> entropic_cost(x, x + 3.0, epsilon=1.0, relative=False)
        tensor(18.)
    """
    solver = Sinkhorn(**options)
    return solver._solve(real, fake, real_weights, fake_weights, debiased=False)[0].cost


@torch.no_grad()
def entropic_batch(solver: Sinkhorn, real: Measure, fake: Measure, **wanted: Any) -> Solved:
    """Solve a batch, as much of it at once as fits the memory limit, for the fields of `Wanted`.

    Weights have the sum 1.
    """
    wants = Wanted(solver.tolerance, solver.max_iterations, **wanted)
    if solver.richardson and not wants.debiased:
        raise ValueError("`richardson` is for the divergence, not the entropic cost.")

    # Iterations on equal points cost the square of their number and find the same for all of them.
    places = merge_repeated(real), merge_repeated(fake)
    real, fake = places[0].measure, places[1].measure
    size = max(real.points.shape[1], fake.points.shape[1])
    device, dtype = real.points.device, torch.float64
    if _suffices_in_single(solver, size, real.weights, fake.weights):
        dtype = real.points.dtype

    # As many problems at once as have room for costs and kernel of each term.
    limit = memory_budget(device, solver.memory_limit)
    workspace = Workspace(dtype, device, limit)
    num = max(1, int(limit / (2 * size**2 * dtype.itemsize)))
    groups = []
    for first in range(0, len(real.points), num):
        part = slice(first, first + num)
        sides = Measure(*(t[part] for t in real)), Measure(*(t[part] for t in fake))
        some = wants
        if wants.start is not None:
            warm = wants.start[0][part, places[0].ids], wants.start[1][part, places[1].ids]
            some = wants._replace(start=warm)
        with ieee_float32(device):
            problem = scale_problem(
                *sides, solver.order, solver.epsilon, solver.relative, workspace
            )
            solved = solve_terms(problem, some)
            if solver.richardson:
                wider = problem._replace(epsilon=2**0.5 * problem.epsilon)
                solved = extrapolate(solved, solve_terms(wider, some))
        groups.append(solved)
    return spread(join_groups(groups), places)


def _suffices_in_single(solver: Sinkhorn, size: int, a: Tensor, b: Tensor) -> bool:
    """Whether costs and kernel need no float64, and are too many for it to be free."""
    smallest = min(float(torch.where(w > 0, w, 1.0).min()) for w in (a, b))
    return (
        len(a) * size**2 > _FEW_PAIRS
        and solver.tolerance >= _FINE
        and solver.order <= _HIGH
        and not (solver.relative and solver.epsilon > _WIDE)
        and smallest >= _UNEVEN
    )
