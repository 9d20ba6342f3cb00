"""Transport along many directions: projected, solved and differentiated in chunks."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from otmetrics.machine import ieee_float32
from otmetrics.transport.gradients import constant, detach_weights
from otmetrics.transport.line import line_costs, mean_square, sorted_values

CHUNK_ELEMENTS = 2**24
"""Values that a chunk of directions projects: fewer are slower, more not faster."""
PRODUCT_ELEMENTS = 2**26
"""Values that one product projects for several small chunks of large clouds."""
_PRODUCT_DIRECTIONS = 64  # with fewer a product waits for its clouds to come from memory

Weights = tuple[Tensor | None, Tensor | None]
"""Float64 weights (..., 1, N) and (..., 1, M) that sum to one, or None for uniform ones."""
Measure = Callable[[Tensor, Tensor, Weights, int], Tensor]
"""Numbers (..., C, K) in float64 from projections (..., C, N) and (..., C, M) of the C directions
from a given one on, and from the weights."""


def measure_along(
    real: Tensor,
    fake: Tensor,
    directions: Tensor,
    measure: Measure,
    block: int | None = None,
    weights: Weights = (None, None),
) -> Tensor:
    """Numbers (..., L, K) in float64 that a measure gives along directions (L, D).

    Clouds are (..., N, D) and (..., M, D) in the dtype of the directions; no chunk that the measure
    gets crosses a multiple of `block`, the directions that belong together. Differentiable once in
    both clouds and their weights: who differentiates that gradient is told by an error. Memory
    O((N + M) (D + chunk)) also with gradient, whatever L: the backward pass projects again.
    """
    return _Measured.apply((measure, block), directions, real, fake, *weights)


class _Measured(torch.autograd.Function):
    """A chunked map over directions that keeps nothing of its chunks.

    `way` are a measure and a block, `sides` both clouds and their weights.
    """

    @staticmethod
    def forward(
        ctx: Any, way: tuple[Measure, int | None], directions: Tensor, *sides: Tensor | None
    ) -> Tensor:
        given = directions, *sides
        if any(ctx.needs_input_grad):
            # What was made in inference mode cannot be saved, its copy can.
            ctx.save_for_backward(
                *(one.clone() if one is not None and one.is_inference() else one for one in given)
            )
        ctx.way = measure, block = way

        real, fake, *weights = map(detach_weights, sides)
        assert real is not None
        assert fake is not None
        numbers = []
        for parts in _products(real, fake, len(directions), block):
            first = parts[0].start
            lines = _project(real, fake, directions[first : parts[-1].stop])
            for part in parts:
                x, y = (line[..., part.start - first : part.stop - first, :] for line in lines)
                numbers.append(measure(x, y, (weights[0], weights[1]), part.start))
        return torch.cat(numbers, -2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        directions, *sides = ctx.saved_tensors
        needed = [place for place, need in enumerate(ctx.needs_input_grad[2:]) if need]
        with torch.no_grad():
            totals = _gradients(ctx.way, directions, sides, needed, gradient)
        by_place = {
            place: constant(total, gradient, *sides)
            for place, total in zip(needed, totals, strict=True)
        }
        return None, None, *(by_place.get(place) for place in range(4))


def _gradients(
    way: tuple[Measure, int | None],
    directions: Tensor,
    sides: list[Any],
    needed: list[int],
    gradient: Tensor,
) -> list[Tensor]:
    """Gradients in the clouds and weights that need them, chunk by chunk."""
    (measure, block), (real, fake, *weights) = way, sides
    totals = [torch.zeros_like(sides[place]) for place in needed]
    for part in _parts(real, fake, len(directions), block):
        # The projections are leaves: their gradient times the directions is that of the cloud.
        chunk = directions[part]
        leaves: list[Any] = [*_project(real, fake, chunk), *map(detach_weights, weights)]
        inputs = [leaves[place].requires_grad_() for place in needed]
        with torch.enable_grad():
            numbers = measure(leaves[0], leaves[1], (leaves[2], leaves[3]), part.start)
        along = torch.autograd.grad(numbers, inputs, gradient[..., part, :])

        with ieee_float32(real.device):
            for place, total, one in zip(needed, totals, along, strict=True):
                total += one.mT @ chunk if place < 2 else one
    return totals


def _project(real: Tensor, fake: Tensor, chunk: Tensor) -> tuple[Tensor, Tensor]:
    """Both clouds along some directions, (..., C, N) and (..., C, M)."""
    with ieee_float32(real.device):
        return chunk @ real.mT, chunk @ fake.mT


def _products(real: Tensor, fake: Tensor, num: int, block: int | None) -> Iterator[list[slice]]:
    """The chunks of `_parts`, those together that one product projects."""
    values = real[..., 0].numel() + fake[..., 0].numel()
    most = min(_PRODUCT_DIRECTIONS, PRODUCT_ELEMENTS // values)
    parts: list[slice] = []
    for part in _parts(real, fake, num, block):
        if parts and part.stop - parts[0].start > most:
            yield parts
            parts = []
        parts.append(part)
    yield parts


def _parts(real: Tensor, fake: Tensor, num: int, block: int | None) -> Iterator[slice]:
    """Cut the directions into chunks that bound the memory."""
    values = real[..., 0].numel() + fake[..., 0].numel()
    size = max(1, CHUNK_ELEMENTS // values)
    block = block or num
    for first in range(0, num, block):
        last = min(first + block, num)
        step = -(-(last - first) // -(-(last - first) // size))  # chunks of about one size
        for start in range(first, last, step):
            yield slice(start, min(start + step, last))


def costs_along(order: float) -> Measure:
    """Measure of the cost W_p^p alone, K = 1."""

    def measure(real: Tensor, fake: Tensor, weights: Weights, start: int) -> Tensor:
        return line_costs(real, fake, order, *weights).unsqueeze(-1)

    return measure


def costs_and_squares_along(order: float) -> Measure:
    """Measure of the cost W_p^p and of both mean squares, K = 3."""

    def measure(real: Tensor, fake: Tensor, weights: Weights, start: int) -> Tensor:
        costs = line_costs(real, fake, order, *weights)
        squares = mean_square(real, weights[0]), mean_square(fake, weights[1])
        return torch.stack([costs, *squares], -1)

    return measure


def split_costs_along(sizes: tuple[int, int], block: int, seeds: Tensor) -> Measure:
    """Measure of the split-half cost of `Sliced(debiased=True)` and of both mean squares, K = 3.

    `sizes` are N and M, at least 2; each block of directions shares one split, by its own seed. All
    four halves have one size, as quantiles of samples of two sizes differ on average.
    """
    half = min(sizes) // 2

    def measure(real: Tensor, fake: Tensor, weights: Weights, start: int) -> Tensor:
        generator = torch.Generator().manual_seed(int(seeds[start // block]))
        product = torch.ones((), dtype=torch.float64, device=real.device)
        drawn = [torch.randperm(size, generator=generator).to(real.device) for size in sizes]

        # The product of the differences of two independent pairs of halves: no square, no bias.
        for part in (slice(half), slice(half, 2 * half)):
            x, y = (
                sorted_values(line.index_select(-1, ids[part]))
                for line, ids in zip((real, fake), drawn, strict=True)
            )
            product = product * (x - y).double()

        squares = mean_square(real), mean_square(fake)
        return torch.stack([product.mean(-1), *squares], -1)

    return measure
