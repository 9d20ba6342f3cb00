"""Max-sliced Wasserstein: the one direction along which two clouds differ most, by ascent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from otmetrics.checks import (
    check_at_least,
    check_order,
    check_seed,
    check_share,
    checked_clouds,
    checked_generator,
    checked_weights,
    weights_note,
)
from otmetrics.errors import warn_unconverged
from otmetrics.machine import ieee_float32
from otmetrics.transport.costs import held, pooled_mean
from otmetrics.transport.gradients import detach_weights, differentiable_once
from otmetrics.transport.line import (
    cumulative,
    line_costs,
    merged_levels,
    merged_quantiles,
    ranking_of,
)
from otmetrics.transport.result import TransportResult, root, stack_results
from otmetrics.transport.solver import Solver
from otmetrics.unknown_options import options_of, told_options

_NUM_RANDOM = 256  # random directions, of which the best become starts
_POWER_STEPS = 10
_OVERSAMPLING = 8  # directions of the power iteration beyond those that it is asked for
_PATIENCE = 500  # a start is given up if that many steps as good as the next leave it behind
_CHUNK_ELEMENTS = 2**24


class MaxSlicedResult(NamedTuple):
    """The largest one-dimensional transport cost that was found, and where.

    Attributes:
        result: Value and cost along `direction`. Every direction bounds the maximum, and W_p^p with
            it, from below: `lower_bound` is `cost`, and there is no upper bound.
        direction: The direction, (D,) or (B, D), of length one, turned so that the mean of fake is
            not below that of real along it.
    """

    result: TransportResult
    direction: Tensor

    @property
    def value(self) -> Tensor:
        """The distance W_p along the direction."""
        return self.result.value


class _Problem(NamedTuple):
    """Two clouds of one dtype, their weights, and their merged quantiles if those are uniform."""

    real: Tensor
    fake: Tensor
    real_weights: Tensor
    fake_weights: Tensor
    grid: tuple[Tensor, Tensor, Tensor] | None


@dataclass(frozen=True)
class MaxSliced(Solver):
    """Max-sliced Wasserstein distance, max_theta W_p(theta . real, theta . fake) with |theta| = 1.

    Riemannian gradient ascent on the sphere, from the difference of the means, from eigenvectors
    of the difference of the covariances with the largest |eigenvalue|, and from the best of 256
    random directions. Where a step does not raise the cost it is taken back, shortened, and turned
    to the mean of both slopes that is shortest, so no start ends below where it began. The maximum
    has no certificate: what comes back is a lower bound of it, and so of W_p^p. For a translation
    it is exact; else more starts may find more, the fewer samples the likelier.

    Time O(K (N + M) (D + log(N + M))) an iteration for K starts, and as much for each K of the
    random directions; memory O((N + M) (D + K)).

    Differs from `ot.max_sliced_wasserstein_distance`, the largest cost over random directions
    without a search: in many dimensions those all miss a difference that lies in one direction.

    Attributes:
        order: The order p >= 1.
        num_starts: Number of starts K: the difference of the means, K // 2 eigenvectors, or D if
            that is less, and random directions.
        max_iterations: Most steps of a start, those taken back included.
        tolerance: A start ends when its gradient promises less than this relative increase of the
            cost for the next step.
        seed: Seed of the random directions.

    Raises:
        ValueError: If an option breaks its rule.

    References:
        Deshpande et al., Max-sliced Wasserstein distance and its use for GANs, CVPR 2019;
        Kolouri et al., Generalized sliced Wasserstein distances, NeurIPS 2019.
    """

    order: float = 2.0
    num_starts: int = 8
    max_iterations: int = 500
    tolerance: float = 1e-6
    seed: int = 0

    def __post_init__(self) -> None:
        check_order(self.order)
        check_at_least("num_starts", self.num_starts, 1)
        check_at_least("max_iterations", self.max_iterations, 1)
        check_share("tolerance", self.tolerance)
        check_seed(self.seed)

    @told_options
    def solve(
        self,
        real: Tensor,
        fake: Tensor,
        *,
        real_weights: Tensor | None = None,
        fake_weights: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> MaxSlicedResult:
        """Climb to the direction along which both clouds differ most.

        Args:
            real: Features (N, D) or (B, N, D).
            fake: Features (M, D) or (B, M, D); M may differ from N.
            real_weights: Non-negative weights (N,) or (B, N), normalised here; None for uniform.
            fake_weights: The same for `fake`.
            generator: CPU generator of the random directions; None takes one of `seed`.

        Returns:
            The cost, its p-th root, and the direction. Directions are sought in the dtype of the
            clouds, cost and value are computed in float64. Both are differentiable once in both
            clouds and weights by the envelope theorem: the direction carries no graph. Where the
            maximum lies on a tie of projections, which is common for few samples, it is a gradient
            of one side.

        Raises:
            TypeError: If a cloud is not a floating tensor.
            ValueError: If a shape or a weight breaks its rule.

        Warns:
            ConvergenceWarning: If a start that may still win has used up `max_iterations`.
        """
        real, fake = checked_clouds(real, fake, order=self.order)
        a = checked_weights("real_weights", real_weights, real)
        b = checked_weights("fake_weights", fake_weights, fake)
        generator = checked_generator(generator, torch.Generator().manual_seed(self.seed))
        size = _NUM_RANDOM + self.num_starts + _OVERSAMPLING, real.shape[-1]
        # One draw for all problems of a batch, so that each finds what it finds alone.
        normal = torch.randn(size, generator=generator, dtype=torch.float64).to(real)

        if real.ndim == 2:
            found = self._solve_one(real, fake, (a, b), normal)
        else:
            problems = [
                self._solve_one(
                    real[i], fake[i], [w if w is None else w[i] for w in (a, b)], normal
                )
                for i in range(len(real))
            ]
            results, directions = zip(*problems, strict=True)
            found = MaxSlicedResult(stack_results(list(results)), torch.stack(directions))

        if not found.result.converged:
            warn_unconverged(found.result.message)
        note = weights_note(real_weights, fake_weights)
        return found._replace(result=found.result._replace(message=found.result.message + note))

    def _solve_one(
        self, real: Tensor, fake: Tensor, weights: Sequence[Tensor | None], normal: Tensor
    ) -> MaxSlicedResult:
        """One problem: the direction without a graph, then the cost along it."""
        a, b = map(detach_weights, weights)
        with torch.no_grad(), ieee_float32(real.device):
            problem, centre = _problem(real.detach(), fake.detach(), a, b)
            starts = _starts(problem, normal, self)
            direction, promise, num_iterations = _ascend(problem, starts, self)
            real_mean, fake_mean = _means(problem)
            # Both signs cost the same: the answer is the one along which fake lies ahead.
            backwards = (fake_mean - real_mean).double() @ direction < 0
            direction = torch.where(backwards, -direction, direction)

        x, y = ((side - centre).double() @ direction for side in (real, fake))
        cost = line_costs(x, y, self.order, *weights)
        if cost.requires_grad:  # the direction moves with what it depends on
            cost = differentiable_once(cost, real, fake, *weights)

        converged = promise < self.tolerance
        message = f"best of {len(starts)} ascents, a lower bound of the maximum"
        if not converged:
            message = (
                f"Max-sliced ascent stopped after {num_iterations} iterations: a step still "
                f"promised {promise:.1e} of the cost, above the tolerance {self.tolerance:.1e}; "
                "raise `max_iterations` or `tolerance`."
            )
        result = TransportResult(
            value=root(cost, self.order).to(real.dtype),
            cost=held(cost, real.dtype),
            lower_bound=held(cost.detach(), real.dtype),
            num_iterations=num_iterations,
            converged=converged,
            message=message,
        )
        return MaxSlicedResult(result, direction.to(real.dtype))


@options_of(MaxSliced)
def max_sliced_wasserstein(
    real: Tensor,
    fake: Tensor,
    *,
    generator: torch.Generator | None = None,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Max-sliced Wasserstein distance, the largest W_p along one direction that ascent finds.

    The value is never above W_p. `MaxSliced(**options).solve` returns the direction too.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D).
        generator: CPU generator of the random directions; None takes one of the option `seed`.
        real_weights: Non-negative weights (N,) or (B, N); None for uniform.
        fake_weights: The same for `fake`.
        **options: Options: the fields of `MaxSliced`.

    Returns:
        Scalar or (B,), in the units of the features, >= 0, differentiable in both clouds.

    Example:
        >>> x = torch.randn(100, 64, dtype=torch.float64)
        >>> shift = torch.eye(64, dtype=torch.float64)[0] * 3
        >>> round(max_sliced_wasserstein(x, x.flip(0) + shift).item(), 9)
        3.0
    """
    weights = {"real_weights": real_weights, "fake_weights": fake_weights}
    return MaxSliced(**options)(real, fake, generator=generator, **weights)


def _problem(
    real: Tensor, fake: Tensor, a: Tensor | None, b: Tensor | None
) -> tuple[_Problem, Tensor]:
    """The points that carry weight, less their centre, which comes along, and scaled below 1."""
    if a is not None:
        real, a = real[a > 0], a[a > 0]
    if b is not None:
        fake, b = fake[b > 0], b[b > 0]
    centre = pooled_mean(real, fake)
    real, fake = real - centre, fake - centre
    scale = torch.maximum(real.abs().max(), fake.abs().max())
    scale = torch.where(scale > 0, scale, 1.0)

    grid = None
    if a is None and b is None:
        rows, columns, widths = merged_quantiles(len(real), len(fake))
        grid = rows.to(real.device), columns.to(real.device), widths.to(real.device)
    a, b = (
        torch.full_like(cloud[:, 0], 1 / len(cloud)).double() if weights is None else weights
        for cloud, weights in ((real, a), (fake, b))
    )
    return _Problem(real / scale, fake / scale, a, b, grid), centre


def _means(problem: _Problem) -> tuple[Tensor, Tensor]:
    """Weighted means (D,) of both clouds."""
    real, fake = problem.real, problem.fake
    return problem.real_weights.to(real) @ real, problem.fake_weights.to(fake) @ fake


def _starts(problem: _Problem, normal: Tensor, solver: MaxSliced) -> Tensor:
    """Unit directions (K, D): the mean difference, eigenvectors, and the best random ones."""
    dimension = normal.shape[1]
    if dimension == 1:
        # There is one direction only.
        return normal.new_ones(1, 1)

    real_mean, fake_mean = _means(problem)
    starts = [(fake_mean - real_mean)[None]]
    num_eigenvectors = min(solver.num_starts // 2, dimension)
    if num_eigenvectors:
        starts.append(_eigenvectors(problem, normal[_NUM_RANDOM:], num_eigenvectors))

    random = normalize(normal[:_NUM_RANDOM], dim=1)
    size = max(1, _CHUNK_ELEMENTS // (len(problem.real) + len(problem.fake)))
    costs = torch.cat([_climb(problem, c, solver.order)[0] for c in random.split(size)])
    starts.append(random[costs.argsort(descending=True)])

    directions = torch.cat(starts)
    lengths = directions.norm(dim=1, keepdim=True)
    used = lengths[:, 0] > 0  # equal means give no direction
    return (directions[used] / lengths[used])[: solver.num_starts]


def _eigenvectors(problem: _Problem, normal: Tensor, count: int) -> Tensor:
    """Unit eigenvectors (count, D) of S_real - S_fake, largest |eigenvalue| first, roughly."""

    def difference_times(directions: Tensor) -> Tensor:
        return _spread(problem.real, problem.real_weights, directions) - _spread(
            problem.fake, problem.fake_weights, directions
        )

    basis = normal[: normal.shape[1]]
    for _ in range(_POWER_STEPS):  # products with the clouds alone: no D x D matrix
        basis = torch.linalg.qr(difference_times(basis).T).Q.T
    values, vectors = torch.linalg.eigh(basis @ difference_times(basis).T)
    return vectors.T[values.abs().topk(count).indices] @ basis


def _spread(cloud: Tensor, weights: Tensor, directions: Tensor) -> Tensor:
    """Products (L, D) of the covariance of a cloud with directions (L, D)."""
    weights = weights.to(cloud)
    projected = directions @ cloud.T
    return ((projected - (projected @ weights)[:, None]) * weights) @ cloud


def _ascend(problem: _Problem, directions: Tensor, solver: MaxSliced) -> tuple[Tensor, float, int]:
    """Climb from all starts (K, D) at once: the best end, what a step still promises, and when."""
    eps = torch.finfo(directions.dtype).eps
    reach = max(float(cloud.norm(dim=1).max()) for cloud in (problem.real, problem.fake))
    floor = (4 * eps * reach) ** solver.order  # below it projections differ by rounding alone

    costs, slopes = _climb(problem, directions, solver.order)
    slopes = _tangent(slopes, directions)
    ways, steps = slopes.clone(), costs.new_ones(len(costs))
    for iteration in range(solver.max_iterations + 1):
        promise = solver.order * steps * ways.square().sum(1)
        hopeless = (costs <= floor) | (costs * (1 + _PATIENCE * promise) < costs.max())
        promise = torch.where(hopeless, 0.0, promise)
        most = float(promise.max())
        if most < solver.tolerance or iteration == solver.max_iterations:
            break

        k = (promise >= solver.tolerance).nonzero()[:, 0]
        end = normalize(directions[k] + steps[k, None].to(ways) * ways[k], dim=1)
        end_costs, end_slopes = _climb(problem, end, solver.order)

        # As in a line search: a step that keeps a tenth of its promise doubles the next one. One
        # that fails turns towards the slope at its end, where the cost bends the other way.
        gain = end_costs - costs[k]
        steps[k] *= torch.where(gain > 0.1 * promise[k] * costs[k], 2.0, 0.7)
        ways[k] = _shortest(ways[k], _tangent(end_slopes, directions[k]))
        better = k[gain > 0]
        directions[better], costs[better] = end[gain > 0], end_costs[gain > 0]
        ways[better] = slopes[better] = _tangent(end_slopes, end)[gain > 0]

        # Slopes that cancel out mean that the top is within the step: look closer.
        spent = k[solver.order * steps[k] * ways[k].square().sum(1) < solver.tolerance]
        ways[spent] = slopes[spent]
        steps[spent] *= 0.1
    return normalize(directions[costs.argmax()].double(), dim=0), most, iteration


def _tangent(vectors: Tensor, directions: Tensor) -> Tensor:
    """The part of each vector (K, D) at right angles to its direction."""
    return vectors - (vectors * directions).sum(1, keepdim=True) * directions


def _shortest(first: Tensor, second: Tensor) -> Tensor:
    """The point next to 0 on each segment: where two slopes meet in a ridge, the way along it."""
    difference = first - second
    length = difference.square().sum(1).clamp_min(torch.finfo(first.dtype).tiny)
    share = ((first * difference).sum(1) / length).clamp(0, 1)
    return first - share[:, None] * difference


def _climb(problem: _Problem, directions: Tensor, order: float) -> tuple[Tensor, Tensor]:
    """Costs (K,) in float64 and their gradients (K, D), divided by p times the cost."""
    # Homogeneity gives such a gradient length one along its direction, whatever the units: at p = 2
    # a unit step along its tangent is a step of the power method.
    x, y = directions @ problem.real.T, directions @ problem.fake.T
    rows, columns, masses = _pair_quantiles(x, y, problem)

    difference = (x.gather(1, rows) - y.gather(1, columns)).double()
    costs = (difference.abs().pow(order) * masses).sum(1)

    pull = difference.abs().pow(order - 1) * difference.sign() * masses
    pull = (pull / costs.clamp_min(torch.finfo(costs.dtype).tiny)[:, None]).to(x)
    slopes = torch.zeros_like(x).scatter_add_(1, rows, pull) @ problem.real
    slopes -= torch.zeros_like(y).scatter_add_(1, columns, pull) @ problem.fake
    return costs, slopes


def _pair_quantiles(x: Tensor, y: Tensor, problem: _Problem) -> tuple[Tensor, Tensor, Tensor]:
    """The optimal pairs of projections (L, N) and (L, M), those of equal quantiles.

    Indices (L, K) of real and fake, and masses, (K,) or (L, K).
    """
    x_order, y_order = ranking_of(x), ranking_of(y)
    if problem.grid is not None:
        rows, columns, widths = problem.grid
        return x_order[:, rows], y_order[:, columns], widths

    x_levels = cumulative(problem.real_weights[x_order])
    y_levels = cumulative(problem.fake_weights[y_order])
    rows, columns, masses = merged_levels(x_levels, y_levels)
    return x_order.gather(1, rows), y_order.gather(1, columns), masses
