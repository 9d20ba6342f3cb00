"""Semi-discrete transport: from a continuous source to weighted points, by a Brenier potential."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.checks import (
    check_at_least,
    check_positive,
    check_seed,
    checked_cloud,
    filled_weights,
)
from otmetrics.errors import warn_unconverged
from otmetrics.transport.costs import held
from otmetrics.transport.result import root
from otmetrics.transport.semidiscrete.heights import (
    ROUND,
    Measured,
    Problem,
    block_bytes,
    first_heights,
    improve_heights,
    measure_heights,
)
from otmetrics.transport.semidiscrete.sources import check_source, second_moment, standardise
from otmetrics.transport.solver import Solver
from otmetrics.unknown_options import told_options

_FEWEST = 4096  # samples of a step
_RATE = 0.1  # of the first round, in the error of the first heights


class SemiDiscreteStart(NamedTuple):
    """Where the rounds of a `SemiDiscrete` go on.

    Attributes:
        heights: Heights (M,) in float64.
        rate: How far a step moves a height at most, in their units.
        num_iterations: Steps so far, a multiple of 60.
    """

    heights: Tensor
    rate: float
    num_iterations: int


class SemiDiscreteResult(NamedTuple):
    """A Brenier potential u(x) = max_i <x, p_i> + h_i, and how well its cells fit the weights.

    Attributes:
        value: W_2 between source and points, in the units of the points.
        cost: W_2^2: the dual value of `heights`, of which no other heights have a larger one.
        standard_error: Standard error of `cost` over the samples of the source.
        heights: h (M,) in float64, of weighted mean 0.
        volumes: Shares w_i of the source in the cells {x: <x, p_i> + h_i largest}, (M,).
        volume_errors: Their standard errors, as of independent samples, (M,).
        centres: Means of the source in the cells (M, D), of the samples in each; NaN where none is.
        energy: E u(x) - sum_i b_i h_i, which the heights minimise.
        residual: max_i |w_i - b_i| / b_i, of fresh samples.
        residual_error: What the noise of the volumes alone keeps `residual` below with probability
            95 % where all cells fit exactly.
        num_empty: Cells that no sample fell into.
        num_samples: Samples that volumes, energy and cost were measured by.
        num_iterations: Steps of the heights.
        rate: How far a step of the next round moves a height at most, in the units of heights.
        converged: Whether `residual` is at most the tolerance and no cell is empty.
        message: One line for people.
    """

    value: Tensor
    cost: Tensor
    standard_error: Tensor
    heights: Tensor
    volumes: Tensor
    volume_errors: Tensor
    centres: Tensor
    energy: Tensor
    residual: float
    residual_error: float
    num_empty: int
    num_samples: int
    num_iterations: int
    rate: float
    converged: bool
    message: str

    @property
    def start(self) -> SemiDiscreteStart:
        """What another call goes on from."""
        return SemiDiscreteStart(self.heights, self.rate, self.num_iterations)


class _Scaled(NamedTuple):
    """Points in the units of their source, equal ones as one.

    All points are `scale * problem.points[places] + centre`.
    """

    problem: Problem  # of the different points, with the sums of the weights of equal ones
    weights: Tensor  # b (M,) of all points
    places: Tensor  # which point of the problem each one is, (M,)
    centre: Tensor  # (D,)
    scale: Tensor

    def scale_start(self, start: SemiDiscreteStart) -> SemiDiscreteStart:
        """A start for all points as one in the units of the problem."""
        heights = torch.empty_like(self.problem.weights)
        heights.index_copy_(0, self.places, start.heights.to(heights))
        return SemiDiscreteStart(
            heights / self.scale, start.rate / float(self.scale), start.num_iterations
        )


class _Misfit(NamedTuple):
    """The largest |w_i - b_i| / b_i, what its noise stays below, and the number of empty cells."""

    residual: float
    noise: float
    num_empty: int

    def is_within(self, tolerance: float) -> bool:
        """Whether all volumes are near their weights."""
        return self.residual <= tolerance and not self.num_empty

    def message(self, tolerance: float) -> str:
        """One line, with what to raise where the volumes are not near enough."""
        text = (
            f"volumes within {self.residual:.1%} of their weights (noise {self.noise:.1%}), "
            f"{self.num_empty} cells empty"
        )
        if self.is_within(tolerance):
            return text
        # More rounds do not help where the misfit is no more than noise.
        rounds = ", `max_rounds`" if self.residual > self.noise else ""
        return (
            f"{text}: not within `tolerance` {tolerance:g}; raise `max_samples`{rounds} or "
            "`tolerance`"
        )


@dataclass(frozen=True)
class SemiDiscrete(Solver):
    """Optimal transport of order 2 from a continuous distribution to M weighted points.

    The map sends x to the point p_i with the largest <x, p_i> + h_i (Brenier); the heights minimise
    the convex energy E(h) = E max_i (<x, p_i> + h_i) - sum_i b_i h_i, whose gradient is w_i - b_i
    for the shares w_i of the cells. Points are centred and scaled to the spread of the source.
    First heights are the mean of the dual potentials of two samples of the source, solved exactly;
    how far both differ is the scale of the steps that follow. Rounds of Adam on fresh scrambled
    Sobol points, of which the second halves are averaged, take twice the samples and half the rate
    each, until the volumes of fresh samples fit, or misfit by no more than noise.

    Time O(n M D) for each step on n samples, n from 10 M on, and for the measurement on up to
    `max_samples`; memory O(M D) and blocks of scores, and at first that of `Exact` on 4 M samples
    (M beyond 4096 points), which stores their costs where these fit half of the memory.

    Ours: published code steps from equal heights, by Adam and then by averaged steps without it,
    and doubles its samples when the misfit stagnates. That left most cells of clustered points
    empty; here all steps are Adam's, from heights that nearly fit, and every round doubles.

    Attributes:
        source: "cube", uniform on [-1/2, 1/2]^D; "ball", uniform on the unit ball; "gaussian".
        tolerance: Largest max_i |w_i - b_i| / b_i. Samples are added until their noise, over all
            cells, is half of it.
        max_samples: Most samples of a step and of a measurement.
        max_rounds: Most rounds of 60 steps, with those of a `start`; 0 measures the first heights.
        memory_limit: Bytes of a block of scores in steps and measurements; None for 4 MiB.
        seed: Decides all samples.

    Raises:
        ValueError: If an option breaks its rule.

    References:
        Kitagawa, Merigot, Thibert, Convergence of a Newton algorithm for semi-discrete optimal
        transport, 2019 (energy and gradient); Gu, Luo, Sun, Yau, Variational principles for
        Minkowski type problems, discrete optimal transport, and discrete Monge-Ampere equations,
        2016; An et al., AE-OT: a new generative model based on extended semi-discrete optimal
        transport, 2020 (Adam on Monte-Carlo volumes).

    Example:
        >>> points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        >>> result = SemiDiscrete().solve(points, weights=torch.tensor([0.25, 0.75]))
        >>> abs(result.volumes[0].item() - 0.25) < 0.01
        True
    """

    source: str = "cube"
    tolerance: float = 0.25
    max_samples: int = 2**21
    max_rounds: int = 6
    memory_limit: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_source(self.source)
        check_positive("tolerance", self.tolerance)
        check_at_least("max_samples", self.max_samples, _FEWEST)
        check_at_least("max_rounds", self.max_rounds, 0)
        block_bytes(self.memory_limit)
        check_seed(self.seed)

    @torch.no_grad()
    @told_options
    def solve(
        self,
        points: Tensor,
        *,
        weights: Tensor | None = None,
        start: SemiDiscreteStart | None = None,
    ) -> SemiDiscreteResult:
        """Solve for the heights of the Brenier potential, the shares of its cells and W_2.

        Args:
            points: Points (M, D). Equal points share a cell, in proportion to their weights.
            weights: Positive weights (M,), normalised here; None for uniform.
            start: The `start` of a result for the same points and weights by this solver, or one of
                another `max_rounds`, to go on from with at least one round. Rounds one by one give
                what all of them at once do.

        Returns:
            Heights, cells, cost and convergence. The heights are float64; scores have the dtype of
            the points, float32 for points that are close to each other tells them apart less well.

        Raises:
            TypeError: If the points are not a floating tensor.
            ValueError: If a shape, a weight or the start breaks its rule.

        Warns:
            ConvergenceWarning: If the volumes do not fit the weights to the tolerance.
        """
        points = checked_cloud("points", points)
        b = filled_weights("weights", weights, points)
        if (b == 0).any():
            raise ValueError("`weights` must be > 0: leave out points without weight.")
        if start is not None:
            _check_start(start, b, self.max_rounds)

        scaled = self._scale(points, b)
        start = None if start is None else scaled.scale_start(start)
        end, measured = self._solve_heights(scaled.problem, start)
        result = self._result(points.dtype, scaled, end, measured)
        if not result.converged:
            warn_unconverged(f"semi-discrete transport: {result.message}.")
        return result

    def _scale(self, points: Tensor, weights: Tensor) -> _Scaled:
        """The problem in the units of the source, in which steps of all problems have one size."""
        different, places = torch.unique(points, dim=0, return_inverse=True)
        merged = weights.new_zeros(len(different)).index_add_(0, places, weights)
        unit, centre, scale = standardise(different, merged, self.source)

        generator = torch.Generator().manual_seed(self.seed)
        seed = int(torch.randint(2**62, (), generator=generator))
        problem = Problem(unit, merged, self.source, block_bytes(self.memory_limit), seed)
        return _Scaled(problem, weights, places, centre, scale)

    def _solve_heights(
        self, problem: Problem, start: SemiDiscreteStart | None
    ) -> tuple[SemiDiscreteStart, Measured]:
        """Heights with their steps and the next rate, and what was measured of them."""
        needed, measured = self._count_needed(problem), None
        # A misfit within its noise says nothing: more steps would chase the noise.
        attainable = max(self.tolerance, _noise(problem.weights, needed))
        if start is None:
            # From equal heights most cells of clustered points would stay empty.
            generator = problem.generator(0)
            heights, error = first_heights(problem, generator)
            measured = measure_heights(problem, heights, needed, generator)
            start = SemiDiscreteStart(heights, _RATE * error, 0)

        heights, rate, steps = start
        for number in range(steps // ROUND, self.max_rounds):
            if measured is not None and _misfit(problem, measured).is_within(attainable):
                break
            # A generator of its own for each round: a start goes on with the samples it had had.
            generator = problem.generator(number + 1)
            size = min(max(_FEWEST, 10 * len(problem.points)) * 2**number, self.max_samples)
            heights = improve_heights(problem, heights, rate, size, generator)
            measured = measure_heights(problem, heights, needed, generator)
            steps, rate = steps + ROUND, rate / 2

        assert measured is not None
        return SemiDiscreteStart(heights, rate, steps), measured

    def _count_needed(self, problem: Problem) -> int:
        """Samples whose noise is half of the tolerance."""
        if len(problem.points) == 1:
            return _FEWEST
        noise = _noise(problem.weights, 1)
        # Noise falls with the root of the number of samples.
        wanted = math.ceil((noise / (self.tolerance / 2)) ** 2)
        return min(max(_FEWEST, wanted), self.max_samples)

    def _result(
        self, dtype: torch.dtype, scaled: _Scaled, end: SemiDiscreteStart, measured: Measured
    ) -> SemiDiscreteResult:
        """What was found, for all points and in their units."""
        problem, b, places, centre, scale = scaled
        # Equal points share the volume of their cell in proportion to their weights.
        volumes = b / problem.weights[places] * measured.volumes[places]
        heights = (scale * end.heights)[places]
        misfit = _misfit(problem, measured)

        # |x - s q - c|^2 = s |x - q|^2 + (1 - s) |x|^2 + s (s - 1) |q|^2 + |c|^2 + terms of mean 0.
        moment = problem.weights @ problem.points.double().square().sum(1)
        own = second_moment(self.source, problem.points.shape[1])
        cost = scale * measured.cost + (1 - scale) * own + scale * (scale - 1) * moment
        cost = (cost + centre.square().sum()).clamp_min(0)
        return SemiDiscreteResult(
            value=root(cost, 2).to(dtype),
            cost=held(cost, dtype),
            standard_error=held(scale * measured.spread, dtype),
            heights=heights - b @ heights,
            volumes=volumes,
            volume_errors=(volumes * (1 - volumes) / measured.size).sqrt(),
            centres=measured.centres[places].to(dtype),
            energy=scale * measured.highest,
            residual=misfit.residual,
            residual_error=misfit.noise,
            num_empty=misfit.num_empty,
            num_samples=measured.size,
            num_iterations=end.num_iterations,
            rate=float(scale) * end.rate,
            converged=misfit.is_within(self.tolerance),
            message=misfit.message(self.tolerance),
        )


def _check_start(start: SemiDiscreteStart, weights: Tensor, max_rounds: int) -> None:
    """Raise unless rounds can go on from there."""
    if not isinstance(start, SemiDiscreteStart):
        name = type(start).__name__
        raise TypeError(f"`start` must be a SemiDiscreteStart, got {name}: pass `result.start`.")
    heights, rate, steps = start
    if heights.shape != weights.shape:
        raise ValueError(
            f"`start` must have a height for each of {len(weights)} points, got {len(heights)}."
        )
    finite = torch.isfinite(heights).all() and math.isfinite(rate)
    if not finite or rate < 0 or steps < 0 or steps % ROUND:
        raise ValueError(
            f"`start` must have finite heights, a rate >= 0 and whole rounds of {ROUND} steps, got "
            f"rate {rate!r} and {steps} steps: pass `result.start`."
        )
    rounds = steps // ROUND
    if rounds >= max_rounds:
        raise ValueError(f"`max_rounds` must be above the {rounds} of `start`, got {max_rounds}.")


def _noise(weights: Tensor, size: int) -> float:
    """What the largest |w_i - b_i| / b_i stays below with probability 95 % by noise alone."""
    share = torch.tensor(0.025 / len(weights), dtype=torch.float64)  # two sides, M cells
    quantile = -torch.special.ndtri(share)
    least = weights.min()
    return float(quantile * ((1 - least) / least / size).sqrt())


def _misfit(problem: Problem, measured: Measured) -> _Misfit:
    """How far the measured volumes are from the weights."""
    residual = ((measured.volumes - problem.weights).abs() / problem.weights).max()
    noise = _noise(problem.weights, measured.size)
    return _Misfit(float(residual), noise, int((measured.volumes == 0).sum()))
