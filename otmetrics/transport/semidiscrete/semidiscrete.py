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
    checked_generator,
    checked_weights,
)
from otmetrics.errors import warn_unconverged
from otmetrics.transport.costs import held
from otmetrics.transport.result import root
from otmetrics.transport.semidiscrete.heights import (
    BLOCK,
    ROUND,
    Measured,
    Problem,
    after_round,
    first_heights,
    measured_heights,
)
from otmetrics.transport.semidiscrete.sources import check_source, second_moment, standardise
from otmetrics.unknown_options import ToldOptions, told_options

_FEWEST = 4096  # samples of a step
_RATE = 0.1  # of the first round, in the error of the first heights


class SemiDiscreteStart(NamedTuple):
    """Where rounds of `semidiscrete_result` go on.

    Attributes:
        heights: Heights (M,) in float64.
        rate: How far a step moves a height at most, in their units.
        num_iterations: Steps so far, a multiple of `ROUND`.
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


class SemiDiscreteOptions(NamedTuple):
    """Options of `semidiscrete_result`."""

    source: str = "cube"
    tolerance: float = 0.25
    max_samples: int = 2**21
    max_rounds: int = 6
    memory_limit: float | None = None


def check_semidiscrete_options(options: SemiDiscreteOptions) -> None:
    """Raise unless every option keeps its rule.

    Args:
        options: The options.

    Raises:
        ValueError: If one does not.
    """
    check_source(options.source)
    check_positive("tolerance", options.tolerance)
    check_at_least("max_samples", options.max_samples, _FEWEST)
    check_at_least("max_rounds", options.max_rounds, 0)
    if options.memory_limit is not None:
        check_positive("memory_limit", options.memory_limit)


@torch.no_grad()
@told_options
def semidiscrete_result(
    points: Tensor,
    *,
    weights: Tensor | None = None,
    source: str = "cube",
    tolerance: float = 0.25,
    max_samples: int = 2**21,
    max_rounds: int = 6,
    memory_limit: float | None = None,
    start: SemiDiscreteStart | None = None,
    generator: torch.Generator | None = None,
) -> SemiDiscreteResult:
    """Optimal transport of order 2 from a continuous law to M weighted points.

    The map sends x to the point p_i with the largest <x, p_i> + h_i (Brenier); the heights minimise
    the convex energy E(h) = E max_i (<x, p_i> + h_i) - sum_i b_i h_i, whose gradient is w_i - b_i
    for the shares w_i of the cells. Points are centred and scaled to the spread of the source.
    First heights are the mean of the dual potentials of two samples of the source, solved exactly;
    how far both differ is the scale of the steps that follow. Rounds of Adam on fresh scrambled
    Sobol points, of which the second halves are averaged, take twice the samples and half the rate
    each, until the volumes of fresh samples fit, or misfit by no more than noise.

    Time O(n M D) for each step on n samples, n from 10 M on, and for the measurement on up to
    `max_samples`; memory O(M D) and blocks of scores, and at first that of `Exact` on 4 M
    samples (M beyond 4096 points), which stores their costs where these fit half of the memory.

    Ours: published code steps from equal heights, by Adam and then by averaged steps without it,
    and doubles its samples when the misfit stagnates. That left most cells of clustered points
    empty; here all steps are Adam's, from heights that nearly fit, and every round doubles.

    Args:
        points: Points (M, D). Equal points share a cell, in proportion to their weights.
        weights: Positive weights (M,), normalised here; None for uniform.
        source: "cube", uniform on [-1/2, 1/2]^D; "ball", uniform on the unit ball; "gaussian".
        tolerance: Largest max_i |w_i - b_i| / b_i. Samples are added until their noise, over all
            cells, is half of it.
        max_samples: Most samples of a step and of a measurement.
        max_rounds: Most rounds of 60 steps, with those of `start`; 0 measures the first heights.
        memory_limit: Bytes of a block of scores in steps and measurements; None for 4 MiB.
        start: The `start` of a result for the same points, weights, source and seed, to go on from
            with at least one round. Rounds one by one give what all of them at once do.
        generator: CPU generator of all samples; None seeds one with 0.

    Returns:
        Heights, cells, cost and convergence. The heights are float64; scores have the dtype of the
        points, float32 for points that are close to each other tells them apart less well.

    Raises:
        TypeError: If the points are not a floating tensor.
        ValueError: If a shape, a weight or an option breaks its rule.

    Warns:
        ConvergenceWarning: If the volumes do not fit the weights to the tolerance.

    References:
        Kitagawa, Merigot, Thibert, Convergence of a Newton algorithm for semi-discrete optimal
        transport, 2019 (energy and gradient); Gu, Luo, Sun, Yau, Variational principles for
        Minkowski type problems, discrete optimal transport, and discrete Monge-Ampere equations,
        2016; An et al., AE-OT: a new generative model based on extended semi-discrete optimal
        transport, 2020 (Adam on Monte-Carlo volumes).

    Example:
        >>> points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        >>> result = semidiscrete_result(points, weights=torch.tensor([0.25, 0.75]))
        >>> abs(result.volumes[0].item() - 0.25) < 0.01
        True
    """
    options = SemiDiscreteOptions(source, tolerance, max_samples, max_rounds, memory_limit)
    check_semidiscrete_options(options)
    points = checked_cloud("points", points)
    b = checked_weights("weights", weights, points)
    if b is None:
        b = torch.full((len(points),), 1 / len(points), dtype=torch.float64, device=points.device)
    if (b == 0).any():
        raise ValueError("`weights` must be > 0: leave out points without weight.")
    if start is not None:
        _check_start(start, b, max_rounds)
    generator = checked_generator(generator, torch.Generator().manual_seed(0))
    seed = int(torch.randint(2**62, (), generator=generator))
    different, inverse = torch.unique(points, dim=0, return_inverse=True)
    merged = b.new_zeros(len(different)).index_add_(0, inverse, b)
    unit, centre, scale = standardise(different, merged, source)
    problem = Problem(unit, merged, source, int(memory_limit or BLOCK), seed)
    if start is not None:
        heights = merged.new_empty(len(merged)).index_copy_(0, inverse, start.heights.to(merged))
        start = start._replace(heights=heights / scale, rate=start.rate / float(scale))
    heights, measured, steps, rate = _solve_heights(problem, options, start)
    residual, empty = _misfit(problem, measured)
    noise = _noise(merged, measured.size)
    volumes = b / merged[inverse] * measured.volumes[inverse]
    heights = (scale * heights)[inverse]
    # |x - s q - c|^2 = s |x - q|^2 + (1 - s) |x|^2 + s (s - 1) |q|^2 + |c|^2 + terms of mean 0.
    moment = merged @ unit.double().square().sum(1)
    own = second_moment(source, points.shape[1])
    cost = scale * measured.cost + (1 - scale) * own + scale * (scale - 1) * moment
    cost = (cost + centre.square().sum()).clamp_min(0)
    return SemiDiscreteResult(
        value=root(cost, 2).to(points.dtype),
        cost=held(cost, points.dtype),
        standard_error=held(scale * measured.spread, points.dtype),
        heights=heights - b @ heights,
        volumes=volumes,
        volume_errors=(volumes * (1 - volumes) / measured.size).sqrt(),
        centres=measured.centres[inverse].to(points.dtype),
        energy=scale * measured.highest,
        residual=residual,
        residual_error=noise,
        num_empty=empty,
        num_samples=measured.size,
        num_iterations=steps,
        rate=float(scale) * rate,
        converged=_fits(residual, empty, tolerance),
        message=_message((residual, noise, empty), tolerance),
    )


def _check_start(start: SemiDiscreteStart, weights: Tensor, max_rounds: int) -> None:
    """Raise unless rounds can go on from there."""
    if not isinstance(start, SemiDiscreteStart):
        raise TypeError(
            f"`start` must be a SemiDiscreteStart, got {type(start).__name__}: take `start` of a "
            "result."
        )
    if start.heights.shape != weights.shape:
        raise ValueError(
            f"`start` must have a height for each of {len(weights)} points, "
            f"got {len(start.heights)}."
        )
    fine = torch.isfinite(start.heights).all() and math.isfinite(start.rate) and start.rate >= 0
    if not fine or start.num_iterations < 0 or start.num_iterations % ROUND:
        raise ValueError(
            f"`start` must have finite heights, a rate >= 0 and whole rounds of {ROUND} steps, got "
            f"rate {start.rate!r} and {start.num_iterations} steps: take `start` of a result."
        )
    if start.num_iterations >= ROUND * max_rounds:
        raise ValueError(
            f"`max_rounds` must be above the {start.num_iterations // ROUND} of `start`, "
            f"got {max_rounds}."
        )


def _solve_heights(
    problem: Problem, options: SemiDiscreteOptions, start: SemiDiscreteStart | None
) -> tuple[Tensor, Measured, int, float]:
    """Heights, what was measured of them, steps and the next rate."""
    needed, measured = _count_needed(problem, options), None
    attainable = max(options.tolerance, _noise(problem.weights, needed))
    if start is None:
        generator = problem.generator(0)
        heights, error = first_heights(problem, generator)
        measured = measured_heights(problem, heights, needed, generator)
        start = SemiDiscreteStart(heights, _RATE * error, 0)
    heights, rate, steps = start
    for number in range(steps // ROUND, options.max_rounds):
        if measured is not None and _fits(*_misfit(problem, measured), attainable):
            break
        generator = problem.generator(number + 1)
        size = max(_FEWEST, 10 * len(problem.points)) * 2**number
        heights = after_round(problem, heights, rate, min(size, options.max_samples), generator)
        measured = measured_heights(problem, heights, needed, generator)
        steps, rate = steps + ROUND, rate / 2
    assert measured is not None
    return heights, measured, steps, rate


def _count_needed(problem: Problem, options: SemiDiscreteOptions) -> int:
    """Samples whose noise is half of the tolerance."""
    if len(problem.points) == 1:
        return _FEWEST
    noise = _noise(problem.weights, 1)
    wanted = math.ceil((noise / (options.tolerance / 2)) ** 2)
    return min(max(_FEWEST, wanted), options.max_samples)


def _noise(weights: Tensor, size: int) -> float:
    """What the largest |w_i - b_i| / b_i stays below with probability 95 % by noise alone."""
    share = torch.tensor(0.025 / len(weights), dtype=torch.float64)
    quantile = -torch.special.ndtri(share)
    least = weights.min()
    return float(quantile * ((1 - least) / least / size).sqrt())


def _misfit(problem: Problem, measured: Measured) -> tuple[float, int]:
    """The largest |w_i - b_i| / b_i, and the number of empty cells."""
    residual = ((measured.volumes - problem.weights).abs() / problem.weights).max()
    return float(residual), int((measured.volumes == 0).sum())


def _fits(residual: float, num_empty: int, tolerance: float) -> bool:
    """Whether all volumes are near their weights."""
    return residual <= tolerance and not num_empty


def _message(measured: tuple[float, float, int], tolerance: float) -> str:
    """One line of the misfit, its noise and the empty cells; a warning where they do not do."""
    residual, noise, empty = measured
    text = (
        f"volumes within {residual:.1%} of their weights (noise {noise:.1%}), {empty} cells empty"
    )
    if not _fits(residual, empty, tolerance):
        remedy = "`max_samples`" if residual <= noise else "`max_samples`, `max_rounds`"
        text += f": not within `tolerance` {tolerance:g}; raise {remedy} or `tolerance`"
        warn_unconverged(f"semi-discrete transport: {text}.")
    return text


@dataclass(frozen=True)
class SemiDiscrete(ToldOptions):
    """Transport from a continuous source to weighted points; see `functional.semidiscrete_result`.

    Attributes:
        source: "cube", uniform on [-1/2, 1/2]^D; "ball", uniform on the unit ball; "gaussian".
        tolerance: Largest relative misfit of the share of a cell and its weight.
        max_samples: Most samples of a step and of the measurement of the shares.
        max_rounds: Most rounds of 60 steps.
        memory_limit: Bytes of a block of scores; None for 4 MiB.
        seed: Of all samples.

    Raises:
        ValueError: If an option breaks its rule.
    """

    source: str = "cube"
    tolerance: float = 0.25
    max_samples: int = 2**21
    max_rounds: int = 6
    memory_limit: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_semidiscrete_options(self._options)
        check_seed(self.seed)

    @property
    def _options(self) -> SemiDiscreteOptions:
        """All but the seed."""
        return SemiDiscreteOptions(
            self.source, self.tolerance, self.max_samples, self.max_rounds, self.memory_limit
        )

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
            points: Points (M, D).
            weights: Positive weights (M,); None for uniform.
            start: The `start` of a result for the same points and weights by this solver, or one of
                more rounds, to go on from.

        Returns:
            Heights, shares, cost, energy and convergence.
        """
        generator = torch.Generator().manual_seed(self.seed)
        return semidiscrete_result(
            points, weights=weights, **self._options._asdict(), start=start, generator=generator
        )

    @told_options
    def __call__(self, points: Tensor, *, weights: Tensor | None = None) -> Tensor:
        """W_2 between source and points alone, in the units of the points."""
        return self.solve(points, weights=weights).value
