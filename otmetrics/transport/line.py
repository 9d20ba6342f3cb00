"""Transport on the line: many costs at once, or one plan in order."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from otmetrics.checks import as_tensor, check_order, checked_clouds, checked_weights, is_uniform
from otmetrics.machine import in_threads
from otmetrics.transport.costs import power
from otmetrics.transport.exact.certificate import Optimum, Units
from otmetrics.unknown_options import told_options

_CACHED = 2**16  # values per side of a piece that stays in the cache
_MANY = 2**17  # values from which a second thread is worth its start


@told_options
def univariate_cost(
    real: Tensor,
    fake: Tensor,
    *,
    order: float = 2.0,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
) -> Tensor:
    """W_p^p between one-dimensional samples, int_0^1 |F^-1(t) - G^-1(t)|^p dt.

    Equal sizes pair sorted values; unequal sizes merge the quantile levels i/N and j/M on the
    integer lattice of N M, which all rows share; weights merge the cumulative weights row by row.
    Nothing is subsampled. Time O((N + M) log (N + M)) per row.

    Args:
        real: Values (N,) or (B, N), in any order.
        fake: Values (M,) or (B, M).
        order: The order p >= 1.
        real_weights: Non-negative weights (N,) or (B, N), normalised here; None for uniform.
        fake_weights: The same for `fake`.

    Returns:
        Costs, scalar or (B,), accumulated in float64. Differentiable in values and weights; at ties
        it is a valid subgradient, one of many.

    Raises:
        TypeError: If an argument is not a floating tensor.
        ValueError: If a shape, a weight or the order breaks its rule.

    References:
        Peyre and Cuturi, Computational Optimal Transport, 2019, section 2.6.

    Example:
        >>> univariate_cost(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 5.0]), order=1)
        tensor(3., dtype=torch.float64)
    """
    check_order(order)
    real, fake = as_tensor("real", real, floating=True), as_tensor("fake", fake, floating=True)
    _check_columns(real, fake)
    real, fake = checked_clouds(real[..., None], fake[..., None], order=order)
    a = checked_weights("real_weights", real_weights, real)
    b = checked_weights("fake_weights", fake_weights, fake)

    return line_costs(real[..., 0], fake[..., 0], order, a, b)


def _check_columns(real: Tensor, fake: Tensor) -> None:
    """Raise unless both are values on lines; a column (N, 1) would be N problems of one sample."""
    for name, values in (("real", real), ("fake", fake)):
        if values.ndim == 2 and len(values) > 1 and values.shape[1] == 1:
            other = fake if values is real else real
            if other.ndim != 2 or len(other) != len(values) or other.shape[1] == 1:
                raise ValueError(
                    f"`{name}` must have shape (N,) or (B, N), got the column "
                    f"{tuple(values.shape)}: give {name}.squeeze(1)."
                )

    shapes = [tuple(values.shape) for values in (real, fake)]
    if not all(len(shape) in (1, 2) for shape in shapes) or shapes[0][:-1] != shapes[1][:-1]:
        raise ValueError(
            "`real` and `fake` must be values (N,) and (M,), or B rows of them, (B, N) and (B, M), "
            f"got {shapes[0]} and {shapes[1]}: for features (N, D) take `exact_wasserstein` or "
            "`sliced_wasserstein`."
        )
    for name, shape in zip(("real", "fake"), shapes, strict=True):
        if 0 in shape:
            raise ValueError(f"`{name}` must not be empty, got shape {shape}.")


def line_costs(
    real: Tensor,
    fake: Tensor,
    order: float,
    real_weights: Tensor | None,
    fake_weights: Tensor | None,
) -> Tensor:
    """W_p^p (...) in float64 of checked samples (..., N) and (..., M), in any order.

    Weights are float64, sum to one and broadcast to their samples; None for uniform.
    """
    if real_weights is not None or fake_weights is not None:
        if order == 1:
            return _weighted_area(real, fake, real_weights, fake_weights)
        return _weighted_cost(real, fake, order, real_weights, fake_weights)

    if real.shape[-1] == fake.shape[-1]:
        # Without a graph numpy sorts and sums a piece while it lies in the cache.
        if real.device.type == "cpu" and not (real.requires_grad or fake.requires_grad):
            return _paired_costs(real, fake, order)
        return _powers(sorted_values(real) - sorted_values(fake), order).mean(-1)

    real, fake = sorted_values(real), sorted_values(fake)
    rows, columns, widths = _merged_on(real.shape[-1], fake.shape[-1], real.device)
    difference = real.index_select(-1, rows) - fake.index_select(-1, columns)
    return (_powers(difference, order) * widths).sum(-1)


def _paired_costs(real: Tensor, fake: Tensor, order: float) -> Tensor:
    """Costs between samples of one size, in pieces of rows that a cache holds."""
    x, y = (side.numpy().reshape(-1, side.shape[-1]) for side in (real, fake))
    costs, step = np.empty(len(x)), max(1, _CACHED // x.shape[-1])

    def sort_and_sum(rows: range) -> None:
        for start in rows:
            part = slice(start, start + step)
            pairs = np.sort(x[part], axis=-1), np.sort(y[part], axis=-1)
            difference = np.subtract(*pairs, dtype=np.float64)
            if order == 2:
                costs[part] = np.einsum("ij,ij->i", difference, difference)
            else:
                costs[part] = (np.abs(difference, out=difference) ** order).sum(-1)

    # Every num-th piece per thread; numpy lets the others run.
    starts = range(0, len(x), step)
    num = torch.get_num_threads() if x.size >= _MANY else 1
    in_threads(sort_and_sum, [starts[i::num] for i in range(num)], num)
    return torch.from_numpy(costs / x.shape[-1]).reshape(real.shape[:-1])


def sorted_values(values: Tensor) -> Tensor:
    """Ascending values (..., N), differentiable; numpy sorts several times faster on the CPU."""
    if values.device.type != "cpu":
        return values.sort(dim=-1).values
    if values.requires_grad:
        # numpy has no graph: it ranks the values, and torch gathers them.
        return values.gather(-1, ranking_of(values))
    rows = _by_rows(lambda part: np.sort(part, axis=-1), values.numpy())
    return torch.from_numpy(rows)


def ranking_of(values: Tensor) -> Tensor:
    """The permutation (..., N) that sorts the last dimension, by numpy on the CPU."""
    if values.device.type != "cpu":
        return values.argsort(dim=-1)
    rows = values.detach().numpy()
    return torch.from_numpy(_by_rows(lambda part: np.argsort(part, axis=-1), rows))


def _by_rows(work: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
    """Work on rows (..., N), in threads where they are many."""
    rows = values.reshape(-1, values.shape[-1])
    num = min(torch.get_num_threads(), len(rows)) if values.size >= _MANY else 1
    if num == 1:
        return work(rows).reshape(values.shape)
    parts = in_threads(work, np.array_split(rows, num), num)
    return np.concatenate(parts).reshape(values.shape)


@torch.no_grad()
def line_potentials(real: Tensor, fake: Tensor, order: float) -> tuple[Tensor, Tensor]:
    """Optimal potentials (..., N), (..., M) in float64 for the cost |x - y|^p on each line.

    Where several are optimal the middle of their extremes, which differ by what the next sorted
    sample of the other side would cost: their variance errs less than that of either end. For
    uniform weights. Time O((N + M) log (N + M)) per line.
    """
    by_real, by_fake = ranking_of(real), ranking_of(fake)
    x, y = real.gather(-1, by_real).double(), fake.gather(-1, by_fake).double()
    first, last, partner = _partners_on(real.shape[-1], fake.shape[-1], real.device)

    # From one sorted sample to the next f grows by the change of the cost against what the former
    # one is matched with last, or the latter one first, or anything between.
    steps = torch.zeros_like(x)
    for others in (y[..., last[:-1]], y[..., first[1:]]):
        steps[..., 1:] += _powers(x[..., 1:] - others, order) - _powers(x[..., :-1] - others, order)
    f = (steps / 2).cumsum(-1)
    g = _powers(x[..., partner] - y, order) - f[..., partner]
    return f.scatter(-1, by_real, f), g.scatter(-1, by_fake, g)


@lru_cache(maxsize=4)
def _partners_on(num_real: int, num_fake: int, device: torch.device) -> tuple[Tensor, ...]:
    """First and last partner of each sorted real sample, and one of each fake sample."""
    rows, columns, _ = merged_quantiles(num_real, num_fake)
    every_real, every_fake = torch.arange(num_real), torch.arange(num_fake)
    first = columns[torch.searchsorted(rows, every_real)]
    last = columns[torch.searchsorted(rows, every_real, right=True) - 1]
    partner = rows[torch.searchsorted(columns, every_fake)]
    with torch.inference_mode(False):
        return first.to(device), last.to(device), partner.to(device)


def mean_square(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of squares (...) in float64 of values (..., N), whose weights sum to one."""
    if weights is not None:
        return (values.double().square() * weights).sum(-1)
    return torch.linalg.vector_norm(values, dim=-1, dtype=torch.float64).square() / values.shape[-1]


def _powers(difference: Tensor, order: float) -> Tensor:
    """|difference|^p in float64."""
    difference = difference.double()
    return difference.square() if order == 2 else difference.abs().pow(order)


def merged_quantiles(num_real: int, num_fake: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where the quantile functions of N and of M samples of equal weight are constant.

    For each of the K = N + M - gcd(N, M) intervals of [0, 1] the index of its sorted real and of
    its sorted fake sample (int64), and its width (float64).
    """
    # Levels i/N and j/M are i*M and j*N on the lattice of N*M: exact in integers.
    levels = torch.cat(
        [torch.arange(1, num_real + 1) * num_fake, torch.arange(1, num_fake + 1) * num_real]
    ).unique()
    assert len(levels) == num_real + num_fake - math.gcd(num_real, num_fake)
    starts = torch.cat([levels.new_zeros(1), levels[:-1]])
    widths = (levels - starts).double() / (num_real * num_fake)
    return starts // num_fake, starts // num_real, widths


@lru_cache(maxsize=4)
def _merged_on(num_real: int, num_fake: int, device: torch.device) -> tuple[Tensor, ...]:
    """`merged_quantiles` on a device: every chunk of slices needs the same."""
    with torch.inference_mode(False):  # what is kept must serve a later backward pass too
        return tuple(part.to(device) for part in merged_quantiles(num_real, num_fake))


def _weighted_area(
    real: Tensor, fake: Tensor, real_weights: Tensor | None, fake_weights: Tensor | None
) -> Tensor:
    """The area between both distribution functions, which is W_1: one sort of all values."""
    # int |F(t) - G(t)| dt: between neighbours of all values both functions are constant.
    values = torch.cat([real, fake], -1)
    ranking = ranking_of(values)
    a, b = _fill_weights(real, real_weights), _fill_weights(fake, fake_weights)
    above = cumulative(torch.cat([a, torch.zeros_like(b)], -1).gather(-1, ranking))
    below = cumulative(torch.cat([torch.zeros_like(a), b], -1).gather(-1, ranking))

    gaps = values.gather(-1, ranking).double().diff(dim=-1)
    return (gaps * (above - below).abs()[..., :-1]).sum(-1)


def cumulative(weights: Tensor) -> Tensor:
    """Cumulative weights (..., N), 1 to the bit at the end: nothing reaches a weightless point."""
    levels = weights.cumsum(-1)
    return levels / levels[..., -1:]


def _fill_weights(values: Tensor, weights: Tensor | None) -> Tensor:
    """Weights (..., N) in float64, uniform where none are given."""
    if weights is not None:
        return weights.expand(values.shape)
    return torch.full_like(values, 1 / values.shape[-1], dtype=torch.float64)


def _weighted_cost(
    real: Tensor,
    fake: Tensor,
    order: float,
    real_weights: Tensor | None,
    fake_weights: Tensor | None,
) -> Tensor:
    """Cost between weighted samples by merging both sets of cumulative weights."""
    real, real_moving = _quantile_function(real, real_weights)
    fake, fake_moving = _quantile_function(fake, fake_weights)
    real_levels, fake_levels = real_moving.detach(), fake_moving.detach()
    rows, columns, widths = merged_levels(real_levels, fake_levels)
    difference = real.gather(-1, rows) - fake.gather(-1, columns)
    cost = (_powers(difference, order) * widths).sum(-1)

    # Where levels are equal, first the real one moves on, then the fake one: on one staircase both
    # gradients are dual potentials, where the order in which a sort leaves ties gives none.
    if real_moving.requires_grad:
        places = torch.searchsorted(fake_levels, real_levels)
        cost = cost + _level_term(real, real_moving, fake, places, order)
    if fake_moving.requires_grad:
        places = torch.searchsorted(real_levels, fake_levels, right=True)
        cost = cost + _level_term(fake, fake_moving, real, places, order)
    return cost


def merged_levels(real_levels: Tensor, fake_levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where both quantile functions are constant, given the cumulative weights (..., N), (..., M).

    For each of the N + M intervals of [0, 1] the index of its sorted real and of its sorted fake
    sample, and its width.
    """
    levels = torch.cat([real_levels, fake_levels], -1).sort(-1).values
    widths = torch.diff(levels, dim=-1, prepend=torch.zeros_like(levels[..., :1]))
    rows = torch.searchsorted(real_levels, levels)
    return rows, torch.searchsorted(fake_levels, levels), widths


def _level_term(
    values: Tensor, levels: Tensor, others: Tensor, places: Tensor, order: float
) -> Tensor:
    """0, with the derivative of a cost in the levels: mass between two values changes over."""
    other = others.gather(-1, places.clamp_max(others.shape[-1] - 1))[..., :-1]
    slopes = _powers(values[..., :-1] - other, order) - _powers(values[..., 1:] - other, order)
    return ((levels - levels.detach())[..., :-1] * slopes).sum(-1)


def _quantile_function(values: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sorted values and the cumulative weight (float64) up to and including each."""
    ranking = ranking_of(values)
    sorted_weights = _fill_weights(values, weights).gather(-1, ranking)
    return values.gather(-1, ranking), cumulative(sorted_weights)


class Staircase(NamedTuple):
    """A path through the matrix of pairs from corner to corner, one step down or right at a time.

    Its N + M - 1 cells move `flows`, in units of the weights; 0 where both weights end together.
    """

    rows: Tensor
    columns: Tensor
    flows: Tensor


def staircase(a: Tensor, b: Tensor) -> Staircase:
    """The north-west-corner plan between weights (N,) and (M,) in whole units of one sum."""
    # Each step ends where a weight is used up: sorted, the ends of both sides are the path.
    ends = torch.cat([a.cumsum(0)[:-1], b.cumsum(0)[:-1]])
    order = ends.argsort(stable=True)
    down = (order < len(a) - 1).long()

    start = down.new_zeros(1)
    rows = torch.cat([start, down.cumsum(0)])
    columns = torch.cat([start, (1 - down).cumsum(0)])
    ends = torch.cat([ends.new_zeros(1), ends[order], a.sum()[None]])
    return Staircase(rows, columns, ends.diff())


def line_optimum(real: Tensor, fake: Tensor, order: float, weights: Units) -> Optimum:
    """Optimal plan and potentials of values (N,) and (M,). Time O((N + M) log (N + M)).

    Costs |x - y|^p of sorted points have the Monge property, so that the staircase is optimal, and
    the potentials that are tight along it respect all pairs (Hoffman, On simple linear programming
    problems, 1963).
    """
    by_real, by_fake = real.argsort(), fake.argsort()
    a, b = weights.given
    path = staircase(weights.real[by_real], weights.fake[by_fake])
    rows, columns = by_real[path.rows], by_fake[path.columns]
    costs = power((real[rows] - fake[columns]).square(), order)

    # A step down changes f alone, a step to the right g alone: both by the change of the cost.
    steps = costs.diff()
    down = path.rows.diff().bool()
    f, g = torch.empty_like(real), torch.empty_like(fake)
    f[by_real] = torch.cat([costs[:1], costs[0] + steps[down].cumsum(0)])
    g[by_fake] = torch.cat([costs.new_zeros(1), steps[~down].cumsum(0)])
    # Only f + g is known; equal means keep both small, and with them their rounding.
    shift = ((a @ f) - (b @ g)) / 2
    f, g = f - shift, g + shift

    used = path.flows > 0
    masses = path.flows[used] / weights.total
    upper = masses @ costs[used]

    # By the theorem the plan is optimal; all that is uncertain is the rounding of its masses.
    uncertain = upper if is_uniform(a) and is_uniform(b) else costs.sum()
    rounding = (len(a) + len(b)) * torch.finfo(torch.float64).eps * uncertain
    return Optimum(rows[used], columns[used], masses, (f, g), upper - rounding, upper, rounding)
