"""Sliced Wasserstein from a stream: one mergeable histogram per direction, of fixed size.

Bins are dyadic: at level e they are [i 2^e, (i + 1) 2^e), and each direction uses the finest level
at which all of its values fit. Coarsening a level merges bins in pairs, exactly and in integers, so
the sketch of a set of projected values is one and the same whatever their order and batches.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.checks import check_order
from otmetrics.transport.costs import row_blocks
from otmetrics.transport.result import TransportResult, root
from otmetrics.transport.sliced.directions import (
    apply_controls,
    error_of_mean,
    error_of_root,
    errors_of_blocks,
)

NUM_BINS = 4096
"""Bins a direction: 16 MiB of counts for 1024 directions."""

_MASK = NUM_BINS - 1
_RESOLUTION = 40  # bins are at least 2^-40 of the largest value, so that their numbers fit int64
_SMALLEST_LEVEL = -1000
_MOST_SAMPLES = 2**31 - 1
_CHUNK_DIRECTIONS = 64


class Sketch(NamedTuple):
    """Histograms of projected samples along L directions.

    Counts are int32 (L, K), where bin number i is kept at i mod K, a ring that never has to shift;
    the window, int64 (L, 3), tells the level and the lowest and highest bin number with a value.
    """

    counts: Tensor
    window: Tensor

    @property
    def num_samples(self) -> int:
        """Number N of samples."""
        return int(self.counts[0].sum())


def sketch(projected: Tensor) -> Sketch:
    """Sketch of finite projected samples (L, N) in float64. Time and memory O(L (N + K))."""
    low, high = projected.aminmax(dim=1)
    level = _level(low, high)
    numbers = _numbers(projected, level[:, None])
    window = torch.stack([level, _numbers(low, level), _numbers(high, level)], 1)
    return Sketch(_count_bins(numbers, torch.ones_like(numbers, dtype=torch.int32)), window)


def merged_sketches(first: Sketch, second: Sketch) -> Sketch:
    """Sketch of two sets of samples along the same directions, equal to that of their union."""
    if first.num_samples + second.num_samples > _MOST_SAMPLES:
        raise ValueError(f"A sketch holds at most {_MOST_SAMPLES} samples: score in parts.")

    # Coarser, level by level, until the bins of both fit one ring.
    levels = torch.maximum(first.window[:, 0], second.window[:, 0])
    while True:
        (first_low, first_high), (second_low, second_high) = (
            (one.window[:, 1:] >> (levels - one.window[:, 0])[:, None]).unbind(1)
            for one in (first, second)
        )
        low, high = torch.minimum(first_low, second_low), torch.maximum(first_high, second_high)
        wide = high - low >= NUM_BINS
        if not wide.any():
            break
        levels = levels + wide.long()

    counts = _coarsen(first, levels) + _coarsen(second, levels)
    return Sketch(counts, torch.stack([levels, low, high], 1))


def sketched_result(
    real: Sketch,
    fake: Sketch,
    order: float,
    *,
    block: int = 1,
    controls: Tensor | None = None,
) -> TransportResult:
    """Sliced Wasserstein distance between two sketches, with a bound on the error of sketching.

    Within a bin the samples are taken to be spread evenly. They are at most one bin away, so W_p
    along a direction errs by at most (w + v) / (p + 1)^(1/p), w and v the bin widths of both
    sketches: `lower_bound` and `upper_bound` hold the cost of the unsketched samples along the same
    directions. The true error is far smaller, as the errors of many bins cancel. Time O(L K log K).

    Both sketches are along the same L directions, of which those of a `block` depend on each other
    (see `directions.block_size`). Cost and value are those of the plain mean over the directions,
    or with `controls` (L, Q) of the one that `Sliced` takes; `standard_error` is that of the value.
    """
    check_order(order)
    slices = torch.cat(
        [
            _slice_costs(_part(real, rows), _part(fake, rows), order)
            for rows in row_blocks(len(real.counts), 1, _CHUNK_DIRECTIONS)
        ]
    )
    if not torch.isfinite(slices).all():
        raise ValueError(
            f"`real` and `fake` must be small enough for |x - y|^{order:g} to fit float64: "
            "scale both clouds down."
        )
    cost, deviations, weights = _mean_of(slices, controls)
    value, standard_error, direction_errors = root(cost, order), None, None
    if len(slices) > block:
        direction_errors = errors_of_blocks(deviations, block)
        standard_error = error_of_root(error_of_mean(deviations, block), cost, order)

    reach = sum(_width(one.window[:, 0]) for one in (real, fake)) / (order + 1) ** (1 / order)
    lengths = root(slices, order)
    above = (lengths + reach).pow(order) - slices
    below = slices - (lengths - reach).clamp_min(0).pow(order)
    # A direction with a negative weight moves the mean the other way.
    up = torch.where(weights >= 0, weights * above, -weights * below).sum()
    down = torch.where(weights >= 0, weights * below, -weights * above).sum()
    return TransportResult(
        value=value,
        cost=cost,
        lower_bound=(cost - down).clamp_min(0),
        upper_bound=cost + up,
        standard_error=standard_error,
        message=f"mean over {len(slices)} directions, from histograms of {NUM_BINS} bins",
        direction_errors=direction_errors,
    )


def _mean_of(slices: Tensor, controls: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of costs (L,), their deviations from what is expected of each, and their weights."""
    if controls is None:
        mean = slices.mean()
        return mean, slices - mean, torch.full_like(slices, 1 / len(slices))
    # The mean is linear in the costs: its slopes are their weights.
    with torch.inference_mode(False), torch.enable_grad():
        costs = slices.clone().requires_grad_()
        adjusted, deviations = apply_controls(costs, controls.clone())
        mean = adjusted.mean()
        (weights,) = torch.autograd.grad(mean, costs)
    return mean.detach(), deviations, weights


def _width(level: Tensor) -> Tensor:
    """2^level in float64, exact: written into the exponent bits."""
    return ((level + 1023) << 52).view(torch.float64)


def _numbers(values: Tensor, level: Tensor) -> Tensor:
    """Numbers of the bins that hold the values."""
    numbers = (values * _width(-level)).floor().long()
    # A product too small for float64 becomes -0, whose floor is not that of a negative number.
    return torch.where(values < 0, numbers.clamp_max(-1), numbers)


def _level(low: Tensor, high: Tensor) -> Tensor:
    """The finest level at which K bins hold all values between low and high."""
    largest = torch.maximum(low.abs(), high.abs())
    finest = torch.frexp(largest).exponent.long() - _RESOLUTION
    finest = torch.where(largest > 0, finest, _SMALLEST_LEVEL)
    fitting = torch.frexp((high - low) / NUM_BINS).exponent.long() - 1
    level = torch.where(high > low, torch.maximum(finest, fitting), finest)
    level = level.clamp_min(_SMALLEST_LEVEL)

    for _ in range(2):  # 2^level is within a factor of 2 of range / K, and may still be too fine
        wide = _numbers(high, level) - _numbers(low, level) >= NUM_BINS
        level = level + wide.long()
    return level


def _count_bins(numbers: Tensor, weights: Tensor) -> Tensor:
    """Counts (L, K) of bin numbers (L, N) with their weights."""
    counts = weights.new_zeros(len(numbers), NUM_BINS)
    return counts.scatter_add_(1, numbers & _MASK, weights)


def _coarsen(one: Sketch, levels: Tensor) -> Tensor:
    """Counts of a sketch at coarser levels (L,)."""
    steps = levels - one.window[:, 0]
    rows = steps.nonzero().flatten()
    if not len(rows):
        return one.counts
    counts = one.counts.clone()
    # Numbers of bins take several times the memory of their counts.
    for some in rows.split(_CHUNK_DIRECTIONS):
        numbers, ordered = _unroll_bins(_part(one, some))
        # Bins above the window are empty; their numbers must not wrap into it.
        numbers = torch.minimum(numbers, one.window[some, 2:])
        counts[some] = _count_bins(numbers >> steps[some, None], ordered)
    return counts


def _unroll_bins(one: Sketch) -> tuple[Tensor, Tensor]:
    """Bin numbers (L, K) from the lowest on, and their counts."""
    # A window is no longer than the ring: each place of it holds one bin.
    numbers = one.window[:, 1:2] + torch.arange(NUM_BINS, device=one.counts.device)
    return numbers, one.counts.gather(1, numbers & _MASK)


def _part(one: Sketch, rows: slice | Tensor) -> Sketch:
    """The histograms of some directions."""
    return Sketch(one.counts[rows], one.window[rows])


def _slice_costs(real: Sketch, fake: Sketch, order: float) -> Tensor:
    """W_p^p (L,) between the histograms: both quantile functions are linear between the levels."""
    n, m = real.num_samples, fake.num_samples

    # Levels i/N and j/M are i*M and j*N on the lattice of N*M: exact in integers.
    real_levels, fake_levels = _levels(real, m), _levels(fake, n)
    ends = torch.cat([real_levels, fake_levels], 1).sort(dim=1).values
    starts = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)

    real_ends = _quantiles(real, real_levels, starts, ends)
    fake_ends = _quantiles(fake, fake_levels, starts, ends)
    left, right = (a - b for a, b in zip(real_ends, fake_ends, strict=True))
    widths = (ends - starts).double() / (n * m)
    return (_mean_power(left, right, order) * widths).sum(1)


def _levels(one: Sketch, factor: int) -> Tensor:
    """Cumulative counts (L, K) times a factor."""
    return _unroll_bins(one)[1].long().cumsum(1) * factor


def _quantiles(one: Sketch, levels: Tensor, starts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Quantile function at the starts and ends of intervals that lie within one bin each."""
    # The first bin that reaches beyond the start; empty intervals at the very end have none.
    bins = torch.searchsorted(levels, starts, right=True).clamp_max(NUM_BINS - 1)
    above = levels.gather(1, bins)
    below = torch.cat([torch.zeros_like(levels[:, :1]), levels], 1).gather(1, bins)

    # Linear within the bin: its mass is spread evenly from one edge to the other.
    mass = (above - below).clamp_min(1).double()
    width = _width(one.window[:, :1])
    edges = (one.window[:, 1:2] + bins).double() * width
    return edges + width * ((starts - below) / mass), edges + width * ((ends - below) / mass)


def _mean_power(left: Tensor, right: Tensor, order: float) -> Tensor:
    """Mean of |d|^p for d running evenly from left to right."""
    if order == 2:
        return (left.square() + left * right + right.square()) / 3

    def integral(d: Tensor) -> Tensor:
        return d.sign() * d.abs().pow(order + 1) / (order + 1)

    step = right - left
    # Where the ends nearly meet the quotient loses its digits, and the midpoint errs by less.
    close = step.abs() <= 1e-5 * torch.maximum(left.abs(), right.abs())
    quotient = (integral(right) - integral(left)) / torch.where(close, 1.0, step)
    return torch.where(close, ((left + right) / 2).abs().pow(order), quotient)
