"""Semi-discrete transport: from a continuous source to weighted points, by a Brenier potential."""

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.errors import ConvergenceWarning
from otmetrics.functional.checks import (
    check_at_least,
    check_positive,
    checked_clouds,
    checked_weights,
)
from otmetrics.functional.exact import exact_result
from otmetrics.functional.laguerre import BLOCK, cells
from otmetrics.functional.result import root
from otmetrics.functional.sources import SOURCES, sample_parts, second_moment, source_samples

_EXACT = 4096  # points up to which the first heights come from four samples a point
_FEWEST = 4096  # samples of a step
_STEPS = 60  # of a round, whose second half is averaged
_RATE = 0.1  # of the first round, in the error of the first heights
_DECAY = 0.9  # of both moments of Adam


class SemiDiscreteResult(NamedTuple):
    """A Brenier potential u(x) = max_i <x, p_i> + h_i, and how well its cells fit the weights.

    Attributes:
        value: W_2 between source and points, in the units of the points.
        cost: W_2^2: the dual value of `heights`, of which no other heights have a larger one.
        standard_error: Standard error of `cost` over the samples of the source.
        heights: h (M,) in float64, of weighted mean 0.
        volumes: Shares w_i of the source in the cells {x: <x, p_i> + h_i largest}, (M,).
        volume_errors: Their standard errors, as of independent samples, (M,).
        energy: E u(x) - sum_i b_i h_i, which the heights minimise.
        residual: max_i |w_i - b_i| / b_i, of fresh samples.
        residual_error: What the noise of the volumes alone keeps `residual` below with probability
            95 % where all cells fit exactly.
        num_empty: Cells that no sample fell into.
        num_samples: Samples that volumes, energy and cost were measured by.
        num_iterations: Steps of the heights.
        converged: Whether `residual` is at most the tolerance and no cell is empty.
        message: One line for people.
    """

    value: Tensor
    cost: Tensor
    standard_error: Tensor
    heights: Tensor
    volumes: Tensor
    volume_errors: Tensor
    energy: Tensor
    residual: float
    residual_error: float
    num_empty: int
    num_samples: int
    num_iterations: int
    converged: bool
    message: str


class SemiDiscreteOptions(NamedTuple):
    """Options of `semidiscrete_result`."""

    source: str = "cube"
    tolerance: float = 0.25
    max_samples: int = 2**21
    max_rounds: int = 6
    memory_limit: float | None = None


class _Problem(NamedTuple):
    """Different points in units of the source, their weights, the source, bytes of a block."""

    points: Tensor
    weights: Tensor
    source: str
    block: int
    generator: torch.Generator


class _Measured(NamedTuple):
    """Means over samples, in the units of a problem."""

    volumes: Tensor
    highest: Tensor
    cost: Tensor
    spread: Tensor
    size: int


def check_semidiscrete_options(options: SemiDiscreteOptions) -> None:
    """Raise unless every option keeps its rule.

    Args:
        options: The options.

    Raises:
        ValueError: If one does not.
    """
    if options.source not in SOURCES:
        raise ValueError(f"`source` must be one of {', '.join(SOURCES)}, got {options.source!r}.")
    check_positive("tolerance", options.tolerance)
    check_at_least("max_samples", options.max_samples, _FEWEST)
    check_at_least("max_rounds", options.max_rounds, 0)
    if options.memory_limit is not None:
        check_positive("memory_limit", options.memory_limit)


@torch.no_grad()
def semidiscrete_result(
    points: Tensor,
    *,
    weights: Tensor | None = None,
    source: str = "cube",
    tolerance: float = 0.25,
    max_samples: int = 2**21,
    max_rounds: int = 6,
    memory_limit: float | None = None,
    generator: torch.Generator | None = None,
) -> SemiDiscreteResult:
    """Optimal transport of order 2 from a continuous law to M weighted points.

    The map sends x to the point p_i with the largest <x, p_i> + h_i (Brenier); the heights minimise
    the convex energy E(h) = E max_i (<x, p_i> + h_i) - sum_i b_i h_i, whose gradient is w_i - b_i
    for the shares w_i of the cells. Points are centred and scaled to the spread of the source.
    First heights are the mean of the dual potentials of two samples of the source, solved exactly;
    how far both differ is the scale of the steps that follow. Rounds of Adam on fresh scrambled
    Sobol points, of which the second halves are averaged, take twice the samples and half the rate
    each, until the volumes of fresh samples fit.

    Time O(n M D) for each step on n samples, n from 10 M on, and for the measurement on up to
    `max_samples`; memory O((n + M) D) and blocks of scores.

    Args:
        points: Points (M, D). Equal points share a cell, in proportion to their weights.
        weights: Positive weights (M,), normalised here; None for uniform.
        source: "cube", uniform on [-1/2, 1/2]^D; "ball", uniform on the unit ball; "gaussian".
        tolerance: Largest max_i |w_i - b_i| / b_i. Samples are added until their noise, over all
            cells, is half of it.
        max_samples: Most samples of a step and of a measurement.
        max_rounds: Most rounds of 60 steps; 0 measures the first heights.
        memory_limit: Bytes of a block of scores; None for 4 MiB.
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
    if isinstance(points, Tensor) and points.ndim != 2:
        raise ValueError(f"`points` must have shape (M, D), got {tuple(points.shape)}.")
    points, _ = _named_points(points)
    b = checked_weights("weights", weights, points)
    if b is None:
        b = torch.full((len(points),), 1 / len(points), dtype=torch.float64, device=points.device)
    if (b == 0).any():
        raise ValueError("`weights` must be > 0: leave out points without weight.")
    generator = generator or torch.Generator().manual_seed(0)
    different, inverse = torch.unique(points, dim=0, return_inverse=True)
    merged = b.new_zeros(len(different)).index_add_(0, inverse, b)
    problem, centre, scale = _standardised(different, merged, options, generator)
    heights, measured, steps = _solved(problem, options)
    shares = b / merged[inverse]
    return _result(
        (points, b),
        (scale * heights)[inverse],
        shares * measured.volumes[inverse],
        (measured, problem, centre, scale),
        steps,
        options,
    )


def _named_points(points: Tensor) -> tuple[Tensor, Tensor]:
    """Points as a cloud that is checked; errors name the argument."""
    try:
        return checked_clouds(points, points)
    except (TypeError, ValueError) as error:
        text = str(error).replace("`real` and `fake`", "`points`").replace("`real`", "`points`")
        raise type(error)(text) from None


def _standardised(
    points: Tensor, weights: Tensor, options: SemiDiscreteOptions, generator: torch.Generator
) -> tuple[_Problem, Tensor, Tensor]:
    """Points with mean 0 and the source's second moment; what they were moved and scaled by."""
    # <x, p> changes by <x, mean>, one number for all, and by a factor, which heights have too.
    exact = points.double()
    centre = weights @ exact
    moment = weights @ (exact - centre).square().sum(1)
    own = second_moment(options.source, points.shape[1])
    scale = torch.where(moment > 0, (moment / own).sqrt(), 1.0)
    block = int(options.memory_limit or BLOCK)
    unit = ((exact - centre) / scale).to(points.dtype)
    return _Problem(unit, weights, options.source, block, generator), centre, scale


def _solved(problem: _Problem, options: SemiDiscreteOptions) -> tuple[Tensor, _Measured, int]:
    """Heights, what was measured of them, and steps."""
    m = len(problem.points)
    if m == 1:
        heights = problem.weights.new_zeros(1)
        return heights, _measured(problem, heights, _FEWEST), 0
    heights, error = _first(problem)
    needed = _needed(problem, options)
    measured, steps = _measured(problem, heights, needed), 0
    for number in range(options.max_rounds):
        if _fits(measured.volumes, problem.weights, options.tolerance):
            break
        size = min(max(_FEWEST, 10 * m * 2**number), options.max_samples)
        heights = _round(problem, heights, _RATE * error / 2**number, size)
        measured, steps = _measured(problem, heights, needed), steps + _STEPS
    return heights, measured, steps


def _first(problem: _Problem) -> tuple[Tensor, Tensor]:
    """The mean of the heights of two samples of the source, and how far both are apart."""
    m, dimension = problem.points.shape
    size = max(1000, 4 * m if m <= _EXACT else m)
    pair = []
    for _ in range(2):
        samples = source_samples(problem.source, dimension, size, generator=problem.generator)
        samples = samples.to(problem.points)
        result = exact_result(samples, problem.points, fake_weights=problem.weights)
        assert result.potentials is not None
        # Of g_i >= |x - p_i|^2 - f(x) with equality on the cell: h_i = (g_i - |p_i|^2) / 2.
        heights = (result.potentials[1].double() - problem.points.double().square().sum(1)) / 2
        pair.append(heights - problem.weights @ heights)
    error = (pair[0] - pair[1]).square().mean().sqrt()
    return (pair[0] + pair[1]) / 2, error


def _round(problem: _Problem, heights: Tensor, rate: Tensor, size: int) -> Tensor:
    """Adam with a falling rate; the mean of the heights of the second half of the steps."""
    first, second = torch.zeros_like(heights), torch.zeros_like(heights)
    total = torch.zeros_like(heights)
    for step in range(1, _STEPS + 1):
        gradient = _measured(problem, heights, size).volumes - problem.weights
        gradient /= problem.weights
        first.lerp_(gradient, 1 - _DECAY)
        second.lerp_(gradient.square(), 1 - _DECAY)
        unbiased = 1 - _DECAY**step
        move = first / unbiased / ((second / unbiased).sqrt() + 0.1)
        heights = heights - rate * (1 - step / (_STEPS + 1)) * move
        if step > _STEPS // 2:
            total += heights
    heights = total / (_STEPS - _STEPS // 2)
    return heights - problem.weights @ heights


def _measured(problem: _Problem, heights: Tensor, size: int) -> _Measured:
    """Volumes, mean of u and of the dual cost, by fresh samples."""
    points, exact = problem.points, problem.points.double()
    dual = 2 * heights + exact.square().sum(1)
    counts = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    sums = exact.new_zeros(3)
    part = max(1, problem.block // (8 * points.shape[1]))
    for samples in sample_parts(
        problem.source, points.shape[1], size, part, generator=problem.generator
    ):
        samples = samples.to(points.device)
        ids = cells(samples.to(points.dtype), points, heights, problem.block)
        counts += ids.bincount(minlength=len(points))
        # |x - p_i|^2 less the potential of p_i: the smallest over all i.
        own = (samples - exact[ids]).square().sum(1) - dual[ids]
        high = (samples * exact[ids]).sum(1) + heights[ids]
        sums += torch.stack([high.sum(), own.sum(), own.square().sum()])
    high, own, square = (sums / size).unbind()
    spread = ((square - own**2).clamp_min(0) / size).sqrt()
    return _Measured(counts.double() / size, high, own + problem.weights @ dual, spread, size)


def _needed(problem: _Problem, options: SemiDiscreteOptions) -> int:
    """Samples whose noise is half of the tolerance."""
    noise = _noise(problem.weights, 1)
    wanted = math.ceil((noise / (options.tolerance / 2)) ** 2)
    return min(max(_FEWEST, wanted), options.max_samples)


def _noise(weights: Tensor, size: int) -> float:
    """What the largest |w_i - b_i| / b_i stays below with probability 95 % by noise alone."""
    share = torch.tensor(0.025 / len(weights), dtype=torch.float64)
    quantile = -torch.special.ndtri(share)
    least = weights.min()
    return float(quantile * ((1 - least) / least / size).sqrt())


def _fits(volumes: Tensor, weights: Tensor, tolerance: float) -> bool:
    """Whether all volumes are near their weights."""
    return bool(((volumes - weights).abs() <= tolerance * weights).all() & (volumes > 0).all())


def _result(
    target: tuple[Tensor, Tensor],
    heights: Tensor,
    volumes: Tensor,
    found: tuple[_Measured, _Problem, Tensor, Tensor],
    steps: int,
    options: SemiDiscreteOptions,
) -> SemiDiscreteResult:
    """In the units of the points, with a verdict."""
    points, weights = target
    measured, problem, centre, scale = found
    residual = float(((measured.volumes - problem.weights).abs() / problem.weights).max())
    error = _noise(problem.weights, measured.size)
    converged = _fits(measured.volumes, problem.weights, options.tolerance)
    own = second_moment(options.source, points.shape[1])
    # |x - s q - c|^2 = s |x - q|^2 + (1 - s) |x|^2 + s (s - 1) |q|^2 + |c|^2 + terms of mean 0.
    moment = problem.weights @ problem.points.double().square().sum(1)
    cost = scale * measured.cost + (1 - scale) * own + scale * (scale - 1) * moment
    cost = (cost + centre.square().sum()).clamp_min(0)
    empty = int((measured.volumes == 0).sum())
    message = (
        f"volumes within {residual:.1%} of their weights (noise {error:.1%}), {empty} cells empty"
    )
    if not converged:
        message += (
            f": not within `tolerance` {options.tolerance:g}; raise `max_samples`, `max_rounds` or "
            "`tolerance`"
        )
        warnings.warn(f"semi-discrete transport: {message}.", ConvergenceWarning, stacklevel=3)
    return SemiDiscreteResult(
        value=root(cost, 2).to(points.dtype),
        cost=cost.to(points.dtype),
        standard_error=(scale * measured.spread).to(points.dtype),
        heights=heights - weights @ heights,
        volumes=volumes,
        volume_errors=(volumes * (1 - volumes) / measured.size).sqrt(),
        energy=scale * measured.highest,
        residual=residual,
        residual_error=error,
        num_empty=empty,
        num_samples=measured.size,
        num_iterations=steps,
        converged=converged,
        message=message,
    )
