"""Exact Wasserstein distances with a plan, potentials and bounds that prove them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otmetrics.checks import (
    as_tensor,
    check_at_least,
    check_order,
    check_positive,
    check_seed,
    checked_clouds,
    checked_weights,
    filled_weights,
    is_uniform,
    weights_note,
)
from otmetrics.errors import warn_unconverged
from otmetrics.machine import in_threads
from otmetrics.transport.costs import Cloud, held, power
from otmetrics.transport.exact.certificate import Limits, Optimum, faint, is_rounding, missed_masses
from otmetrics.transport.exact.problem import DENSE, cloud_optimum, matrix_optimum
from otmetrics.transport.exact.small import assignments
from otmetrics.transport.gradients import differentiable_once, with_gradient
from otmetrics.transport.result import TransportResult, outward, root, stack_results
from otmetrics.transport.solver import Solver
from otmetrics.unknown_options import options_of, told_options

_EPSILON = torch.finfo(torch.float64).eps
_CHUNK = 2**17  # numbers in the differences of a plan at a time: 1 MB, of the size of a cache
_LARGEST_ORDER = 256  # above it 4^p and the power of two of the costs leave float64


@dataclass(frozen=True)
class Exact(Solver):
    """Exact Wasserstein distance W_p between two clouds, with its certificate.

    Up to 700 points per side a dense solver takes the whole problem, scipy's assignment or POT's
    network simplex; more are solved by column generation, in a few times the O(N M D) of the costs
    where points are spread out; D = 1 is sorted. Equal points are solved as one. Costs and
    potentials are computed where the clouds are, the rest runs on the CPU.

    Attributes:
        order: The order, 1 <= p <= 256.
        tolerance: Largest gap between the bounds on the cost, relative to the cost.
        max_samples: Most samples per side: of more, a uniform random subset is solved, and its
            value and bounds are returned. None takes all.
        memory_limit: Bytes for costs that are kept, 4 N M where they fit; beyond that they are
            computed again in blocks. None for half of the memory of the device.
        time_limit: Seconds after which a large problem stops, with the bounds that it has; a step
            that has begun is finished.
        seed: Of the subset.

    Raises:
        ValueError: If an option breaks its rule.
    """

    order: float = 2.0
    tolerance: float = 1e-6
    max_samples: int | None = None
    memory_limit: float | None = None
    time_limit: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_order(self.order)
        if self.order > _LARGEST_ORDER:
            raise ValueError(f"`order` must be at most {_LARGEST_ORDER}, got {self.order:g}.")
        check_positive("tolerance", self.tolerance)
        for name in ("memory_limit", "time_limit"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        check_seed(self.seed)
        if self.max_samples is not None:
            check_at_least("max_samples", self.max_samples, 1)

    @told_options
    def solve(
        self,
        real: Tensor,
        fake: Tensor,
        *,
        real_weights: Tensor | None = None,
        fake_weights: Tensor | None = None,
    ) -> TransportResult:
        """Solve for W_p, its plan, potentials and bounds.

        Args:
            real: Features (N, D) or (B, N, D).
            fake: Features (M, D) or (B, M, D); M may differ from N.
            real_weights: Non-negative weights (N,) or (B, N), normalised here; None for uniform.
            fake_weights: The same for `fake`.

        Returns:
            W_p as `value`, W_p^p as `cost`, evaluated in float64 from the differences of the paired
            points, and bounds on the cost that hold also where `converged` is False. Differentiable
            in both clouds by the envelope theorem: the plan carries no graph. In the weights once:
            their gradient are the potentials, and mixed second derivatives raise. Plan and
            potentials have the dtype of the clouds, bounds are made in float64. Batches of equal
            sizes without weights are solved as assignments, which have no potentials and no bounds.
            With `max_samples` all of this is that of the subsets, which `message` tells.

        Raises:
            TypeError: If a cloud is not a floating tensor.
            ValueError: If a shape or a weight breaks its rule.
        """
        real, fake = checked_clouds(real, fake, order=self.order)
        # One generator for both sides, so that their subsets are independent.
        generator = torch.Generator().manual_seed(self.seed)
        x, a = self._subset("real_weights", real, real_weights, generator)
        y, b = self._subset("fake_weights", fake, fake_weights, generator)
        n, uniform = x.shape[-2], real_weights is None and fake_weights is None
        if x.ndim == 2:
            result = self._evaluate(x, y, a, b, self._optimum(x, y, a, b))
        elif uniform and y.shape[1] == n and n**2 <= DENSE:
            # Assignments alone: to find their potentials takes longer than to solve them.
            result = _solve_assignments(x, y, self.order)
        else:
            problems = list(zip(x, y, a, b, strict=True))
            optima = in_threads(lambda problem: self._optimum(*problem), problems)
            pairs = zip(problems, optima, strict=True)
            result = stack_results([self._evaluate(*problem, one) for problem, one in pairs])

        message = result.message + weights_note(real_weights, fake_weights)
        if x is not real or y is not fake:
            kept = [f"{p.shape[-2]} of {q.shape[-2]}" for p, q in ((x, real), (y, fake))]
            message += f"; {kept[0]} real, {kept[1]} fake samples"
        if not result.converged:
            warn_unconverged(result.message)
        return result._replace(message=message)

    def _subset(
        self, name: str, cloud: Tensor, weights: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """At most `max_samples` points, the same of each problem of a batch, and their weights."""
        if self.max_samples is None:
            return cloud, filled_weights(name, weights, cloud)
        # Checked on all points; those that are left are normalised again.
        weights, size = checked_weights(name, weights, cloud), cloud.shape[-2]
        if size > self.max_samples:
            ids = torch.randperm(size, generator=generator)[: self.max_samples].sort().values
            ids = ids.to(cloud.device)
            cloud, weights = cloud[..., ids, :], None if weights is None else weights[..., ids]
        return cloud, filled_weights(name, weights, cloud)

    def _optimum(self, real: Tensor, fake: Tensor, a: Tensor, b: Tensor) -> Optimum:
        """Plan, potentials and bounds of one problem."""
        limits = Limits.from_now(self.tolerance, self.time_limit, self.memory_limit)
        return cloud_optimum(real, fake, a, b, self.order, limits)

    def _evaluate(
        self, real: Tensor, fake: Tensor, a: Tensor, b: Tensor, optimum: Optimum
    ) -> TransportResult:
        """The cost of a plan from the differences of its points, and the certificate."""
        order, parts = self.order, []
        # With a graph the parts would each take the memory of a whole cloud in the backward pass.
        graph = real.requires_grad or fake.requires_grad
        size = len(optimum.masses) if graph else _CHUNK // real.shape[1]
        pieces = (part.split(max(1, size)) for part in optimum[:3])
        for rows, columns, masses in zip(*pieces, strict=True):
            difference = real[rows].double() - fake[columns].double()
            parts.append(masses @ power(difference.square().sum(-1), order))
        total = _attach_weight_gradient(torch.stack(parts).sum(), optimum, (a, b), real, fake)

        cost = total.detach()
        rounding = (order * (real.shape[1] + 8) + len(optimum.masses)) * _EPSILON * cost
        with torch.no_grad():
            x, y = (side if (w > 0).all() else side[w > 0] for side, w in ((real, a), (fake, b)))
            missed, weighed = missed_masses(optimum, a, b), True
            missing = missed[0].sum() + missed[1].sum()
            if missing > 0:
                # No mass is farther from where it belongs than the clouds are long.
                centre = x.mean(0, dtype=torch.float64)
                apart = sum(Cloud(side, centre).norms().amax() for side in (x, y))
                missing *= apart**order
                reaches = (Cloud(side, centre).norms() ** order for side in (real, fake))
                weighed = is_rounding(missed, (a, b), (next(reaches), next(reaches)))

            # What the coordinates, and masses made of rounding, leave unknown.
            known = sum(Cloud(side).norms().amax() for side in (x, y))
            noise = (64 * _EPSILON * known) ** order
            doubtful = _doubtful_masses(optimum, a, b)
            rows, columns, masses = (part[doubtful] for part in optimum[:3])
            difference = real[rows].double() - fake[columns].double()
            noise = noise + masses @ power(difference.square().sum(-1), order)
        enclosure = _Enclosure(rounding, missing, torch.zeros_like(cost), float(noise), weighed)
        return _result(root(total, order), total, enclosure, optimum, real, self)


@options_of(Exact)
def exact_wasserstein(
    real: Tensor,
    fake: Tensor,
    *,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Exact Wasserstein distance W_p between two clouds: `Exact(**options).solve(...).value`.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D); M may differ from N.
        real_weights: Non-negative weights (N,) or (B, N), normalised here; None for uniform.
        fake_weights: The same for `fake`.
        **options: The fields of `Exact`.

    Returns:
        Scalar or (B,), in the units of the features, >= 0, differentiable in both clouds.

    Raises:
        TypeError: If a cloud is not a floating tensor, or an option is unknown.
        ValueError: If a shape, a weight or an option breaks its rule.

    Example:
        >>> x = torch.randn(50, 8, dtype=torch.float64)
        >>> round(exact_wasserstein(x, x + 3.0).item() / 8**0.5, 6)
        3.0
    """
    solver = Exact(**options)
    return solver(real, fake, real_weights=real_weights, fake_weights=fake_weights)


@told_options
def exact_transport(
    cost: Tensor,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
    *,
    tolerance: float = Exact.tolerance,
    time_limit: float | None = Exact.time_limit,
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
        a cost matrix has no order. Differentiable in `cost`, with the plan as its gradient, and
        once in the weights, with the potentials.

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
    solver = Exact(tolerance=tolerance, time_limit=time_limit)
    cost = as_tensor("cost", cost, floating=True)
    if cost.ndim != 2 or 0 in cost.shape:
        raise ValueError(f"`cost` must have shape (N, M), got {tuple(cost.shape)}.")
    infinite = cost.numel() - int(torch.isfinite(cost.detach()).sum())
    if infinite:
        raise ValueError(
            f"`cost` must be finite, got {infinite} NaN or infinite entries: for pairs that are "
            "forbidden give a large cost, such as 1000 times the largest other one, and check "
            "whether the plan has mass there."
        )
    a = filled_weights("real_weights", real_weights, cost)
    b = filled_weights("fake_weights", fake_weights, cost.T)

    costs = cost.detach().double()
    optimum = matrix_optimum(costs, a, b, Limits.from_now(tolerance, time_limit))
    paid = optimum.masses * cost[optimum.rows, optimum.columns].double()
    total = _attach_weight_gradient(paid.sum(), optimum, (a, b), cost)

    paid, sizes = paid.detach().abs(), costs.abs()
    rounding = (len(optimum.masses) + 8) * _EPSILON * paid.sum()
    with torch.no_grad():
        missed = missed_masses(optimum, a, b)
        # To move a unit of mass elsewhere changes the cost by two entries at most, of either sign.
        repair = (missed[0].sum() + missed[1].sum()) * 2 * sizes.amax()
        weighed = is_rounding(missed, (a, b), (sizes.amax(1), sizes.amax(0)))
        noise = 4 * rounding + optimum.noise + paid[_doubtful_masses(optimum, a, b)].sum()
    enclosure = _Enclosure(rounding, repair, costs.amin(), float(noise), weighed)
    result = _result(total, total, enclosure, optimum, cost, solver)
    if not result.converged:
        warn_unconverged(result.message)
    return result._replace(message=result.message + weights_note(real_weights, fake_weights))


class _Enclosure(NamedTuple):
    """What turns the cost of a plan and a dual value into bounds."""

    above: Tensor  # what the optimum may cost more than the plan: rounding of its sum
    repair: Tensor  # the same for what its masses miss of the weights
    floor: Tensor  # what no plan can cost less than
    noise: float  # a gap that says nothing, as the input is not known better
    weighed: bool  # whether masses miss weights by rounding alone, which says nothing either


def _result(
    value: Tensor,
    cost: Tensor,
    enclosure: _Enclosure,
    optimum: Optimum,
    like: Tensor,
    solver: Exact,
) -> TransportResult:
    """Assemble the result in the dtype and on the device of the input."""
    # A dual value above the cost of the plan is rounding as well, whatever made it.
    total = cost.detach() + enclosure.above
    upper = torch.maximum(total + enclosure.repair, optimum.lower_bound)
    lower = torch.maximum(torch.minimum(optimum.lower_bound, cost.detach()), enclosure.floor)
    gap = float(upper - lower)
    open_by = float(total - lower) if enclosure.weighed else gap
    closed = open_by <= solver.tolerance * abs(float(cost.detach())) + enclosure.noise

    shape = tuple(map(len, optimum.potentials))
    order = (optimum.rows * shape[1] + optimum.columns).argsort()
    indices = torch.stack([optimum.rows, optimum.columns])[:, order]
    lower_bound, upper_bound = outward(lower, upper, like.dtype)
    f, g = (potential.to(like.dtype) for potential in optimum.potentials)
    return TransportResult(
        value=value.to(like.dtype),
        cost=held(cost, like.dtype),
        lower_bound=lower_bound,
        upper_bound=upper_bound,
        potentials=(f, g),
        plan=_sorted_plan(indices, optimum.masses[order].to(like.dtype), shape),
        converged=closed,
        message="optimal" if closed else _advice(gap, solver.time_limit),
    )


def _advice(gap: float, time_limit: float | None) -> str:
    """What leaves a gap open, and what helps."""
    advice = (
        "the costs span too many orders of magnitude for float64: leave out points that lie far "
        "from all others, or take a lower order."
    )
    if time_limit is not None:
        advice = f"raise `time_limit` ({time_limit:g} s). If that does not help, {advice}"
    return f"The duality gap {gap:.2e} stays open: {advice} The true cost lies between both bounds."


def _solve_assignments(real: Tensor, fake: Tensor, order: float) -> TransportResult:
    """A batch of assignment problems."""
    x, y = real.double(), fake.double()
    uniform = x.new_full((x.shape[1],), 1 / x.shape[1])
    # All in one go; where rounding may have decided, the solver with a certificate decides again.
    columns = assignments(x.detach(), y.detach(), order)
    for problem in _doubtful(x.detach(), y.detach(), columns):
        clouds = x[problem].detach(), y[problem].detach()
        optimum = Exact(order)._optimum(*clouds, uniform, uniform)
        if torch.equal(optimum.rows, torch.arange(len(columns[problem]), device=x.device)):
            columns[problem] = optimum.columns

    difference = x - y.gather(1, columns[:, :, None].expand_as(x))
    cost = power(difference.square().sum(2), order).mean(1)
    size, n = columns.shape
    problems = torch.arange(size, device=columns.device).repeat_interleave(n)
    rows = torch.arange(n, device=columns.device).repeat(size)
    indices = torch.stack([problems, rows, columns.flatten()])  # one column per row
    plan = _sorted_plan(indices, real.new_full((size * n,), 1 / n), (size, n, n))
    value = root(cost, order).to(real.dtype)
    return TransportResult(value, held(cost, real.dtype), plan=plan, message="optimal")


def _doubtful(real: Tensor, fake: Tensor, columns: Tensor) -> list[int]:
    """Problems whose costs lost what decides between assignments, to points far from the others."""
    centre = (real.mean(1, keepdim=True) + fake.mean(1, keepdim=True)) / 2
    largest = torch.maximum(
        *(torch.linalg.vector_norm(side - centre, dim=2).amax(1) for side in (real, fake))
    )
    paired = fake.gather(1, columns[:, :, None].expand_as(fake))
    cost = torch.linalg.vector_norm(real - paired, dim=2).square().mean(1)
    lost = (real.shape[2] + 8) * _EPSILON * largest.square()
    return (lost > 1e-7 * cost).nonzero().squeeze(1).tolist()


def _doubtful_masses(optimum: Optimum, a: Tensor, b: Tensor) -> Tensor:
    """Which masses (K,) of a plan the rounding of weights may have made; uniform ones have none."""
    if is_uniform(a) and is_uniform(b):
        return torch.zeros_like(optimum.masses, dtype=torch.bool)
    return faint(optimum, a, b)


def _attach_weight_gradient(
    total: Tensor, optimum: Optimum, weights: tuple[Tensor, Tensor], *costs: Tensor
) -> Tensor:
    """The cost of a plan with its gradient in the weights, the potentials."""
    if not any(side.requires_grad for side in weights):
        return total
    # The masses of the plan depend on the weights too, without a graph.
    total = differentiable_once(total, *weights)
    for one, potential in zip(weights, optimum.potentials, strict=True):
        if one.requires_grad:
            total = with_gradient(total, one, potential, *costs, *weights)
    return total


def _sorted_plan(indices: Tensor, masses: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A sparse plan of pairs that are sorted, and each there once."""
    # Said by the context manager too: torch 2.11 warns of the choice that it is told by argument.
    with torch.sparse.check_sparse_tensor_invariants(enable=False):
        return torch.sparse_coo_tensor(
            indices, masses, shape, check_invariants=False, is_coalesced=True
        )
