"""Heights of a Brenier potential, and the cells that they cut out."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.checks import check_positive, checked_heights, checked_samples
from otmetrics.hashing import hash_counters
from otmetrics.machine import ieee_float32
from otmetrics.transport.costs import row_blocks
from otmetrics.transport.exact.exact import Exact
from otmetrics.transport.semidiscrete.sources import sample_parts, source_samples
from otmetrics.unknown_options import told_options

ROUND = 60
"""Steps of a round, whose second half is averaged."""

_BLOCK = 2**22  # bytes of scores at a time, unless the caller says otherwise: they fit a cache
_EXACT = 4096  # points up to which the first heights come from four samples per point
_DECAY = 0.9  # of both moments of Adam


def block_bytes(memory_limit: float | None, default: int = _BLOCK) -> int:
    """Bytes of a block for an option `memory_limit`; ValueError unless it is None or positive."""
    if memory_limit is None:
        return default
    check_positive("memory_limit", memory_limit)
    return int(memory_limit)


@torch.no_grad()
@told_options
def laguerre_cells(
    samples: Tensor, points: Tensor, heights: Tensor, *, memory_limit: float | None = None
) -> Tensor:
    """The cell of each sample: the i with the largest <x, p_i> + h_i, the first of equal ones.

    Time O(N M D), memory O(N + M) and blocks of scores.

    Args:
        samples: Samples x (N, D).
        points: Points p (M, D).
        heights: Heights h (M,).
        memory_limit: Bytes of a block of scores; None for 4 MiB.

    Returns:
        Indices (N,), int64.

    Raises:
        TypeError: If samples or points are not floating tensors, or heights are not a tensor.
        ValueError: If shapes do not fit each other, a value is not finite, or the limit is not
            positive.
    """
    block = block_bytes(memory_limit)
    samples, points = checked_samples(samples, points)
    heights = checked_heights(heights, points)
    return highest_faces(samples, points, heights, 1, block)[:, 0]


def highest_faces(
    samples: Tensor, points: Tensor, heights: Tensor, num_faces: int, block: int
) -> Tensor:
    """The faces (N, k) of the potential that are highest at each sample, in order.

    Of equally high ones the first comes first for k = 1.
    """
    offsets = heights.to(points)

    def pick(scores: Tensor) -> Tensor:
        if num_faces == 1:
            return scores.max(1, keepdim=True).indices
        return scores.topk(num_faces, 1).indices

    blocks = row_blocks(len(samples), len(points), block // points.element_size())
    with ieee_float32(points.device):
        ids = [pick(torch.addmm(offsets, samples[rows], points.T)) for rows in blocks]
    return torch.cat(ids)


class Problem(NamedTuple):
    """Points to send a source to."""

    points: Tensor  # different ones (M, D), of mean 0 and the second moment of the source
    weights: Tensor  # (M,) in float64, of sum 1
    source: str
    block: int  # bytes of a block of scores
    seed: int  # decides all samples

    def generator(self, number: int) -> torch.Generator:
        """The generator of a round, counted from 1; of the first heights for 0."""
        seed = int(hash_counters(torch.tensor(number), self.seed))
        return torch.Generator().manual_seed(seed)


class Measured(NamedTuple):
    """Means over samples, in the units of a problem."""

    volumes: Tensor  # shares of the samples in the cells, (M,)
    centres: Tensor  # means of those in each cell, (M, D) in float64; NaN where there is none
    highest: Tensor  # E max_i <x, p_i> + h_i
    cost: Tensor  # the dual cost of the heights
    spread: Tensor  # its standard error
    size: int  # how many samples


def first_heights(problem: Problem, generator: torch.Generator) -> tuple[Tensor, float]:
    """Heights (M,) of weighted mean 0 from the exact dual potentials of two samples of the source.

    They are the mean over both samples; their root mean squared difference comes along.
    """
    m, dimension = problem.points.shape
    if m == 1:
        return problem.weights.new_zeros(1), 0.0

    # Two samples: how far their heights differ is the error of both, and the size of steps.
    size = max(1000, 4 * m if m <= _EXACT else m)
    pair = []
    for _ in range(2):
        samples = source_samples(problem.source, dimension, size, generator=generator)
        samples = samples.to(problem.points)
        clouds = samples.double(), problem.points.double()  # for potentials in float64
        result = Exact().solve(*clouds, fake_weights=problem.weights)
        assert result.potentials is not None

        # Of g_i >= |x - p_i|^2 - f(x) with equality on the cell: h_i = (g_i - |p_i|^2) / 2.
        heights = (result.potentials[1].double() - problem.points.double().square().sum(1)) / 2
        pair.append(heights - problem.weights @ heights)

    error = (pair[0] - pair[1]).square().mean().sqrt()
    return (pair[0] + pair[1]) / 2, float(error)


def improve_heights(
    problem: Problem, heights: Tensor, rate: float, size: int, generator: torch.Generator
) -> Tensor:
    """Heights (M,) after `ROUND` steps of Adam on `size` fresh samples each.

    The rate, about the largest move of a step, falls to 0. What is returned is the mean of the
    heights of the second half of the steps, shifted to the weighted mean 0.
    """
    first, second = torch.zeros_like(heights), torch.zeros_like(heights)
    total = torch.zeros_like(heights)
    for step in range(1, ROUND + 1):
        counts = torch.zeros(len(heights), dtype=torch.int64, device=heights.device)
        for _, ids in _assign_samples(problem, heights, size, generator):
            counts += ids.bincount(minlength=len(heights))

        # Relative misfits, not those of shares: light points move as fast as heavy ones.
        gradient = counts / size / problem.weights - 1
        first.lerp_(gradient, 1 - _DECAY)
        second.lerp_(gradient.square(), 1 - _DECAY)

        # 0.1 instead of Adam's 1e-8: cells that fit must not move as far as those that do not.
        unbiased = 1 - _DECAY**step
        move = first / unbiased / ((second / unbiased).sqrt() + 0.1)
        heights = heights - rate * (1 - step / (ROUND + 1)) * move
        if step > ROUND // 2:
            total += heights

    heights = total / (ROUND - ROUND // 2)
    return heights - problem.weights @ heights


def measure_heights(
    problem: Problem, heights: Tensor, size: int, generator: torch.Generator
) -> Measured:
    """What fresh samples say of heights: volumes, centres, means of u and of the dual cost."""
    exact = problem.points.double()
    dual = 2 * heights + exact.square().sum(1)
    counts = torch.zeros(len(exact), dtype=torch.int64, device=exact.device)
    within, sums = torch.zeros_like(exact), exact.new_zeros(3)
    for samples, ids in _assign_samples(problem, heights, size, generator):
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


def _assign_samples(
    problem: Problem, heights: Tensor, size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Fresh samples in float64 and their cells, a part at a time."""
    points = problem.points
    part = max(1, problem.block // (8 * points.shape[1]))
    for samples in sample_parts(problem.source, points.shape[1], size, part, generator=generator):
        samples = samples.to(points.device)
        narrow = samples.to(points.dtype)
        yield samples, highest_faces(narrow, points, heights, 1, problem.block)[:, 0]
