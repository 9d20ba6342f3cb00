"""Exact Wasserstein distances with a plan, potentials and a certificate."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.checks import (
    as_tensor,
    check_at_least,
    check_seed,
    checked_clouds,
    checked_weights,
    weights_note,
)
from otmetrics.errors import warn_unconverged
from otmetrics.machine import in_threads
from otmetrics.transport.costs import Cloud, held, power
from otmetrics.transport.exact.certificate import (
    Optimum,
    both_weights,
    faint,
    is_rounding,
    missed_masses,
)
from otmetrics.transport.exact.problem import (
    DENSE,
    ExactOptions,
    check_exact_options,
    cloud_optimum,
    matrix_optimum,
)
from otmetrics.transport.exact.small import assignments
from otmetrics.transport.gradients import detach_weights, differentiable_once, with_gradient
from otmetrics.transport.result import TransportResult, outward, root, round_result, stack_results
from otmetrics.unknown_options import ToldOptions, told_options

_EPSILON = torch.finfo(torch.float64).eps
_CHUNK = 2**17  # numbers in the differences of a plan at a time: 1 MB, of the size of a cache


@told_options
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
    cost = as_tensor("cost", cost, floating=True)
    if cost.ndim != 2 or 0 in cost.shape:
        raise ValueError(f"`cost` must have shape (N, M), got {tuple(cost.shape)}.")
    infinite = cost.numel() - int(torch.isfinite(cost.detach()).sum())
    if infinite:
        raise ValueError(
            f"`cost` must be finite, got {infinite} NaN or infinite entries: for pairs that are "
            "forbidden give a large cost, such as 1000 times the largest other one, and look "
            "whether the plan has mass there."
        )
    options = ExactOptions(1.0, tolerance, None, time_limit)
    check_exact_options(options)
    a = checked_weights("real_weights", real_weights, cost)
    b = checked_weights("fake_weights", fake_weights, cost.T)
    costs = cost.detach().double()
    optimum = matrix_optimum(costs, detach_weights(a), detach_weights(b), options)
    paid = optimum.masses * cost[optimum.rows, optimum.columns].double()
    total, size = (
        _attach_weight_gradient(paid.sum(), optimum, (a, b), cost),
        paid.detach().abs().sum(),
    )
    rounding = (len(optimum.masses) + 8) * _EPSILON * size
    weights = both_weights(
        detach_weights(a), detach_weights(b), (len(cost), len(cost.T)), optimum.masses
    )
    missed, sizes = missed_masses(optimum, weights), costs.abs()
    repair = (missed[0].sum() + missed[1].sum()) * 2 * sizes.amax()
    weighed = is_rounding(missed, weights, (sizes.amax(1), sizes.amax(0)))
    noise = 4 * rounding + optimum.noise
    if a is not None or b is not None:
        noise = noise + paid.detach().abs()[faint(optimum, *weights)].sum()
    enclosure = _Enclosure(rounding, repair, costs.amin(), float(noise), weighed)
    result = _warn_if_open(_result(total, total, enclosure, optimum, cost, options))
    note = weights_note(real_weights, fake_weights)
    return round_result(result, cost.dtype)._replace(message=result.message + note)


@told_options
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

    Up to 700 points a side a dense solver takes the whole problem, scipy's assignment or POT's
    network simplex; more are solved by column generation, in a few times the O(N M D) of the costs
    where points are spread out; D = 1 is sorted. Equal points are solved as one. Costs and
    potentials are computed where the clouds are, the rest runs on the CPU. Memory is 4 N M bytes up
    to `memory_limit`, beyond which costs are computed again in blocks.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D); M may differ from N.
        order: The order, 1 <= p <= 256.
        real_weights: Non-negative weights (N,) or (B, N), normalised here; None for uniform.
        fake_weights: The same for `fake`.
        tolerance: Largest gap between the bounds, relative to the cost.
        memory_limit: Bytes for costs that are kept; None for half of the memory of the device.
        time_limit: Seconds after which a large problem stops, with the bounds that it has; a step
            that has begun is finished.

    Returns:
        W_p as `value`, W_p^p as `cost`, evaluated in float64 from the differences of the paired
        points, and bounds on the cost that hold also where `converged` is False. Differentiable in
        both clouds by the envelope theorem: the plan carries no graph. In the weights once: their
        gradient are the potentials, and mixed second derivatives raise. Plan and potentials have
        the dtype of the clouds, bounds are made in float64. Batches of equal sizes without weights
        are solved as assignments, which have no potentials and no bounds.

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If a shape, a weight or the order breaks its rule.
    """
    options = ExactOptions(order, tolerance, memory_limit, time_limit)
    result = exact_in_float64(real, fake, real_weights, fake_weights, options)
    note = weights_note(real_weights, fake_weights)
    return round_result(result, result.value.dtype)._replace(message=result.message + note)


def exact_in_float64(
    real: Tensor,
    fake: Tensor,
    real_weights: Tensor | None,
    fake_weights: Tensor | None,
    options: ExactOptions,
) -> TransportResult:
    """`exact_result` before its plan and potentials are rounded to the dtype of the clouds.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D).
        real_weights: Weights (N,) or (B, N), or None.
        fake_weights: Weights (M,) or (B, M), or None.
        options: The options.

    Returns:
        The result.
    """
    order = options.order
    check_exact_options(options)
    real, fake = checked_clouds(real, fake, order=order)
    a = checked_weights("real_weights", real_weights, real)
    b = checked_weights("fake_weights", fake_weights, fake)
    if real.ndim == 2:
        optimum = cloud_optimum(real, fake, detach_weights(a), detach_weights(b), options)
        return _warn_if_open(_evaluate_plan(real, fake, a, b, optimum, options))
    _, n, _ = real.shape
    if a is None and b is None and fake.shape[1] == n and n**2 <= DENSE:
        return _solve_assignments(real, fake, order)
    problems = [
        (real[i], fake[i], None if a is None else a[i], None if b is None else b[i])
        for i in range(len(real))
    ]

    def solve(problem: tuple[Tensor, Tensor, Tensor | None, Tensor | None]) -> Optimum:
        x, y, c, d = problem
        return cloud_optimum(x, y, detach_weights(c), detach_weights(d), options)

    optima = in_threads(solve, problems)
    results = [
        _evaluate_plan(*problem, optimum, options)
        for problem, optimum in zip(problems, optima, strict=True)
    ]
    return _warn_if_open(stack_results(results))


@told_options
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
        order: The order, 1 <= p <= 256.
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


class _Enclosure(NamedTuple):
    """What turns the cost of a plan and a dual value into bounds.

    Attributes:
        above: What the optimum may cost more than the plan: rounding of its sum.
        repair: The same for what its masses miss of the weights.
        floor: What no plan can cost less than.
        noise: A gap that says nothing, as the input is not known better.
        weighed: Whether the masses miss the weights by rounding alone, which then says nothing
            either.
    """

    above: Tensor
    repair: Tensor
    floor: Tensor
    noise: float
    weighed: bool


def _evaluate_plan(
    real: Tensor,
    fake: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    optimum: Optimum,
    options: ExactOptions,
) -> TransportResult:
    """The cost of a plan from the differences of its points, and the certificate."""
    parts = []
    # With a graph the parts would each take the memory of a whole cloud in the backward pass.
    graph = real.requires_grad or fake.requires_grad
    size = len(optimum.masses) if graph else _CHUNK // real.shape[1]
    pieces = (part.split(max(1, size)) for part in optimum[:3])
    for rows, columns, masses in zip(*pieces, strict=True):
        difference = real[rows].double() - fake[columns].double()
        parts.append(masses @ power(difference.square().sum(-1), options.order))
    total = _attach_weight_gradient(torch.stack(parts).sum(), optimum, (a, b), real, fake)
    order, cost = options.order, total.detach()
    rounding = (order * (real.shape[1] + 8) + len(optimum.masses)) * _EPSILON * cost
    with torch.no_grad():
        x, y = (
            side if weights is None else side[weights > 0]
            for side, weights in ((real, a), (fake, b))
        )
        weights = both_weights(a, b, (len(real), len(fake)), optimum.masses)
        missed, weighed = missed_masses(optimum, weights), True
        missing = missed[0].sum() + missed[1].sum()
        if missing > 0:
            centre = x.mean(0, dtype=torch.float64)
            apart = sum(Cloud(side, centre).norms().amax() for side in (x, y))
            missing *= apart**order
            reaches = (Cloud(side, centre).norms() ** order for side in (real, fake))
            weighed = is_rounding(missed, weights, (next(reaches), next(reaches)))
        known = sum(Cloud(side).norms().amax() for side in (x, y))
        noise = (64 * _EPSILON * known) ** order
        if a is not None or b is not None:
            doubtful = faint(optimum, *weights)
            rows, columns, masses = (part[doubtful] for part in optimum[:3])
            difference = real[rows].double() - fake[columns].double()
            noise = noise + masses @ power(difference.square().sum(-1), order)
        enclosure = _Enclosure(rounding, missing, torch.zeros_like(cost), float(noise), weighed)
    return _result(root(total, order), total, enclosure, optimum, real, options)


def _attach_weight_gradient(
    total: Tensor, optimum: Optimum, weights: tuple[Tensor | None, Tensor | None], *costs: Tensor
) -> Tensor:
    """The cost of a plan with its gradient in the weights, the potentials."""
    if not any(w is not None and w.requires_grad for w in weights):
        return total
    # The masses of the plan depend on the weights too, without a graph.
    total = differentiable_once(total, *weights)
    for one, potential in zip(weights, optimum.potentials, strict=True):
        if one is not None and one.requires_grad:
            total = with_gradient(total, one, potential, *costs, *weights)
    return total


def _solve_assignments(real: Tensor, fake: Tensor, order: float) -> TransportResult:
    """A batch of assignment problems."""
    x, y = real.double(), fake.double()
    columns = assignments(x.detach(), y.detach(), order)
    for problem in _doubtful(x.detach(), y.detach(), columns):
        options = ExactOptions(order)
        optimum = cloud_optimum(x[problem].detach(), y[problem].detach(), None, None, options)
        if torch.equal(optimum.rows, torch.arange(len(columns[problem]), device=x.device)):
            columns[problem] = optimum.columns
    difference = x - y.gather(1, columns[:, :, None].expand_as(x))
    cost = power(difference.square().sum(2), order).mean(1)
    size, n = columns.shape
    problems = torch.arange(size, device=columns.device).repeat_interleave(n)
    rows = torch.arange(n, device=columns.device).repeat(size)
    plan = _sorted_plan(
        torch.stack([problems, rows, columns.flatten()]),  # one column a row
        cost.new_full((size * n,), 1 / n).detach(),
        (size, n, n),
    )
    value = root(cost, order)
    return TransportResult(
        value=value.to(real.dtype), cost=held(cost, real.dtype), plan=plan, message="optimal"
    )


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


def _result(
    value: Tensor,
    cost: Tensor,
    enclosure: _Enclosure,
    optimum: Optimum,
    like: Tensor,
    options: ExactOptions,
) -> TransportResult:
    """Assemble the result in the dtype and on the device of the input."""
    # A dual value above the cost of the plan is rounding as well, whatever made it.
    total = cost.detach() + enclosure.above
    upper = torch.maximum(total + enclosure.repair, optimum.lower_bound)
    lower = torch.maximum(torch.minimum(optimum.lower_bound, cost.detach()), enclosure.floor)
    gap = float(upper - lower)
    open_by = float(total - lower) if enclosure.weighed else gap
    closed = open_by <= options.tolerance * abs(float(cost.detach())) + enclosure.noise
    shape = tuple(map(len, optimum.potentials))
    lower_bound, upper_bound = outward(lower, upper, like.dtype)
    order = (optimum.rows * shape[1] + optimum.columns).argsort()
    indices = torch.stack([optimum.rows, optimum.columns])[:, order]
    plan = _sorted_plan(indices, optimum.masses[order], shape)
    return TransportResult(
        value=value.to(like.dtype),
        cost=held(cost, like.dtype),
        lower_bound=lower_bound,
        upper_bound=upper_bound,
        potentials=optimum.potentials,
        plan=plan,
        converged=closed,
        message="optimal" if closed else _advice(gap, options),
    )


def _advice(gap: float, options: ExactOptions) -> str:
    """What leaves a gap open, and what helps."""
    text = f"The duality gap {gap:.2e} stays open: "
    if options.time_limit is not None:
        text += f"raise `time_limit` ({options.time_limit:g} s), or, if time is not what it lacks: "
    return text + (
        "the costs span too many orders of magnitude for float64, leave out the points that lie "
        "far from all others, or take a lower order. The true cost lies between both bounds."
    )


def _warn_if_open(result: TransportResult) -> TransportResult:
    """Say once that a gap stays open."""
    if not result.converged:
        warn_unconverged(result.message)
    return result


def _sorted_plan(indices: Tensor, masses: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A sparse plan of pairs that are sorted, and each there once."""
    # Said by the context manager too: torch 2.11 warns of the choice that it is told by argument.
    with torch.sparse.check_sparse_tensor_invariants(enable=False):
        return torch.sparse_coo_tensor(
            indices, masses, shape, check_invariants=False, is_coalesced=True
        )


@dataclass(frozen=True)
class Exact(ToldOptions):
    """Exact Wasserstein distance with its certificate; see `functional.exact_result`.

    Attributes:
        order: The order p >= 1.
        tolerance: Largest gap between the bounds on the cost, relative to the cost.
        max_samples: Most samples a side: of more, a uniform random subset is solved, and its
            value and bounds are returned. None takes all.
        memory_limit: Bytes for costs that are kept, 4 N M where they fit; beyond that they are
            computed again in blocks. None for half of the memory of the device.
        time_limit: Seconds after which a large problem stops, with the bounds that it has.
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
        check_exact_options(self._options)
        check_seed(self.seed)
        if self.max_samples is not None:
            check_at_least("max_samples", self.max_samples, 1)

    @property
    def _options(self) -> ExactOptions:
        """The options of the solution itself."""
        return ExactOptions(self.order, self.tolerance, self.memory_limit, self.time_limit)

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
            real_weights: Non-negative weights (N,) or (B, N); None for uniform.
            fake_weights: The same for `fake`.

        Returns:
            Value, cost, bounds, potentials and plan; with `max_samples`, of the subsets, which
            `message` tells.
        """
        if self.max_samples is None:
            return exact_result(
                real,
                fake,
                real_weights=real_weights,
                fake_weights=fake_weights,
                **self._options._asdict(),
            )
        real, fake = checked_clouds(real, fake, order=self.order)
        a = checked_weights("real_weights", real_weights, real)
        b = checked_weights("fake_weights", fake_weights, fake)
        sizes = real.shape[-2], fake.shape[-2]
        generator = torch.Generator().manual_seed(self.seed)
        real, a = self._subset(real, a, generator)
        fake, b = self._subset(fake, b, generator)
        result = exact_in_float64(real, fake, a, b, self._options)
        message = result.message + weights_note(real_weights, fake_weights)
        result = round_result(result, real.dtype)._replace(message=message)
        if sizes == (real.shape[-2], fake.shape[-2]):
            return result
        sides = zip((real, fake), sizes, ("real", "fake"), strict=True)
        kept = ", ".join(f"{cloud.shape[-2]} of {size} {side}" for cloud, size, side in sides)
        return result._replace(message=f"{result.message}; {kept} samples")

    def _subset(
        self, cloud: Tensor, weights: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """At most `max_samples` points, the same of each problem of a batch, and their weights."""
        size = cloud.shape[-2]
        if self.max_samples is None or size <= self.max_samples:
            return cloud, weights
        ids = torch.randperm(size, generator=generator)[: self.max_samples].sort().values
        ids = ids.to(cloud.device)
        return cloud[..., ids, :], None if weights is None else weights[..., ids]

    @told_options
    def __call__(
        self,
        real: Tensor,
        fake: Tensor,
        *,
        real_weights: Tensor | None = None,
        fake_weights: Tensor | None = None,
    ) -> Tensor:
        """W_p alone, scalar or (B,), differentiable as `solve` is."""
        return self.solve(real, fake, real_weights=real_weights, fake_weights=fake_weights).value
