"""Heights of a Brenier potential: first ones, rounds of steps, and what samples say of them."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.functional.exact import exact_in_float64
from otmetrics.functional.hashing import hashed
from otmetrics.functional.laguerre import cells
from otmetrics.functional.optimum import ExactOptions
from otmetrics.functional.sources import sample_parts, source_samples

ROUND = 60
"""Steps of a round, whose second half is averaged."""

_EXACT = 4096  # points up to which the first heights come from four samples a point
_DECAY = 0.9  # of both moments of Adam


class Problem(NamedTuple):
    """Points to send a source to.

    Attributes:
        points: Different points (M, D) of mean 0 and the second moment of the source.
        weights: Weights (M,) in float64 that sum to 1.
        source: One of `sources.SOURCES`.
        block: Bytes of a block of scores.
        seed: Decides all samples.
    """

    points: Tensor
    weights: Tensor
    source: str
    block: int
    seed: int

    def generator(self, number: int) -> torch.Generator:
        """The generator of a round, counted from 1; of the first heights for 0."""
        seed = int(hashed(torch.tensor(number), self.seed))
        return torch.Generator().manual_seed(seed)


class Measured(NamedTuple):
    """Means over samples, in the units of a problem.

    Attributes:
        volumes: Shares of the samples in the cells, (M,).
        centres: Means of those in each cell, (M, D) in float64; NaN where there is none.
        highest: E max_i <x, p_i> + h_i.
        cost: The dual cost of the heights.
        spread: Its standard error.
        size: How many samples.
    """

    volumes: Tensor
    centres: Tensor
    highest: Tensor
    cost: Tensor
    spread: Tensor
    size: int


def first_heights(problem: Problem, generator: torch.Generator) -> tuple[Tensor, float]:
    """Heights from the dual potentials of exact transport, from two samples of the source.

    Args:
        problem: The problem.
        generator: That of round 0.

    Returns:
        The mean of both (M,), of weighted mean 0, and their root mean squared difference.
    """
    m, dimension = problem.points.shape
    if m == 1:
        return problem.weights.new_zeros(1), 0.0
    size = max(1000, 4 * m if m <= _EXACT else m)
    pair = []
    for _ in range(2):
        samples = source_samples(problem.source, dimension, size, generator=generator)
        samples = samples.to(problem.points)
        result = exact_in_float64(samples, problem.points, None, problem.weights, ExactOptions())
        assert result.potentials is not None
        # Of g_i >= |x - p_i|^2 - f(x) with equality on the cell: h_i = (g_i - |p_i|^2) / 2.
        heights = (result.potentials[1].double() - problem.points.double().square().sum(1)) / 2
        pair.append(heights - problem.weights @ heights)
    error = (pair[0] - pair[1]).square().mean().sqrt()
    return (pair[0] + pair[1]) / 2, float(error)


def after_round(
    problem: Problem, heights: Tensor, rate: float, size: int, generator: torch.Generator
) -> Tensor:
    """Heights after `ROUND` steps of Adam on fresh samples, at a rate that falls to 0.

    Args:
        problem: The problem.
        heights: Heights (M,) before.
        rate: The first rate, about the largest move of a step.
        size: Samples of a step.
        generator: That of the round.

    Returns:
        The mean of the heights of the second half of the steps, of weighted mean 0.
    """
    first, second = torch.zeros_like(heights), torch.zeros_like(heights)
    total = torch.zeros_like(heights)
    for step in range(1, ROUND + 1):
        counts = torch.zeros(len(heights), dtype=torch.int64, device=heights.device)
        for _, ids in _assigned(problem, heights, size, generator):
            counts += ids.bincount(minlength=len(heights))
        gradient = counts / size / problem.weights - 1
        first.lerp_(gradient, 1 - _DECAY)
        second.lerp_(gradient.square(), 1 - _DECAY)
        unbiased = 1 - _DECAY**step
        move = first / unbiased / ((second / unbiased).sqrt() + 0.1)
        heights = heights - rate * (1 - step / (ROUND + 1)) * move
        if step > ROUND // 2:
            total += heights
    heights = total / (ROUND - ROUND // 2)
    return heights - problem.weights @ heights


def measured_heights(
    problem: Problem, heights: Tensor, size: int, generator: torch.Generator
) -> Measured:
    """What fresh samples say of heights.

    Args:
        problem: The problem.
        heights: Heights (M,).
        size: How many samples.
        generator: That of the round.

    Returns:
        Volumes, centres, and means of u and of the dual cost.
    """
    exact = problem.points.double()
    dual = 2 * heights + exact.square().sum(1)
    counts = torch.zeros(len(exact), dtype=torch.int64, device=exact.device)
    within, sums = torch.zeros_like(exact), exact.new_zeros(3)
    for samples, ids in _assigned(problem, heights, size, generator):
        counts += ids.bincount(minlength=len(exact))
        within.index_add_(0, ids, samples)
        # |x - p_i|^2 less the potential of p_i: the smallest over all i.
        own = (samples - exact[ids]).square().sum(1) - dual[ids]
        high = (samples * exact[ids]).sum(1) + heights[ids]
        sums += torch.stack([high.sum(), own.sum(), own.square().sum()])
    high, own, square = (sums / size).unbind()
    spread = ((square - own**2).clamp_min(0) / size).sqrt()
    cost = own + problem.weights @ dual
    return Measured(counts / size, within / counts[:, None], high, cost, spread, size)


def _assigned(
    problem: Problem, heights: Tensor, size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Fresh samples in float64 and their cells, a part at a time."""
    points = problem.points
    part = max(1, problem.block // (8 * points.shape[1]))
    for samples in sample_parts(problem.source, points.shape[1], size, part, generator=generator):
        samples = samples.to(points.device)
        yield samples, cells(samples.to(points.dtype), points, heights, problem.block)
