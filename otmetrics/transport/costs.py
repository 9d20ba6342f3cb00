"""Pairwise costs |x - y|^p, whole or in blocks: the one place that multiplies clouds."""

import math
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from otmetrics.checks import check_order, checked_clouds
from otmetrics.errors import RangeError
from otmetrics.machine import ieee_float32
from otmetrics.transport.gradients import is_differentiated
from otmetrics.unknown_options import told_options

CANCELLED = 1e-6
"""Below this share of |x|^2 + |y|^2 a product in float64 has lost half of the digits of a squared
distance, which then comes from the difference of its two points."""
BLOCK_ELEMENTS = 2**22
"""Entries of a block of pairs of samples."""


def row_blocks(
    num_rows: int, num_columns: int, block_elements: int = BLOCK_ELEMENTS
) -> Iterator[slice]:
    """Slices of the rows of an (N, M) computation, in order, of about so many entries each."""
    size = max(1, block_elements // max(1, num_columns))
    for start in range(0, num_rows, size):
        yield slice(start, min(start + size, num_rows))


def pooled_mean(real: Tensor, fake: Tensor) -> Tensor:
    """The mean (..., 1, D) of the points of both clouds, without a graph."""
    total = real.detach().sum(-2, keepdim=True) + fake.detach().sum(-2, keepdim=True)
    return total / (real.shape[-2] + fake.shape[-2])


def centre_clouds(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Both clouds less their pooled mean: no distance changes, and near 0 they have more digits."""
    centre = pooled_mean(real, fake)
    return real - centre, fake - centre


def power_of_two(largest: float) -> float:
    """The power of two that brings a size into [1/2, 1): to multiply by it loses no digit.

    Squares and powers of what is below 1 do not leave float32 upwards, and what they lose below is
    nothing next to the largest. A cost |x - y|^p of clouds times u is divided by u^p. Where the
    power or its inverse would leave float64 the nearest one that does not: sizes from 2^1023 on
    come below 2, subnormal ones anywhere below 1.
    """
    return math.ldexp(1.0, min(max(-math.frexp(largest)[1], -1023), 1023))


def distances_by_product(
    x: Tensor, y: Tensor, squares: tuple[Tensor, Tensor], out: Tensor | None = None
) -> Tensor:
    """Squared distances |x|^2 + |y|^2 - 2 x.y, (N, M), by one matrix product.

    `squares` are |x|^2 (N,) and |y|^2 (M,). An entry errs by up to D roundings of their sum, which
    `refine_cancelled` mends where little is left of it.
    """
    # The product is added in place: a block of all pairs is the largest thing in memory.
    sums = torch.add(squares[0][:, None], squares[1], out=out)
    with ieee_float32(x.device):
        return sums.addmm_(x, y.T, alpha=-2).clamp_min_(0)


def refine_cancelled(
    squared: Tensor,
    x: Tensor,
    y: Tensor,
    squares: tuple[Tensor, Tensor],
    share: float = CANCELLED,
    few: float | None = None,
) -> Tensor:
    """Put squared distances (..., N, M) from differences, in place, where a product lost them.

    That is where they are at most a share of |x|^2 + |y|^2: equal points are exactly 0 apart. Up to
    `few` pairs are taken one by one, which a graph would remember with all their coordinates; None
    for as many as there are points. Of more, all distances are taken at once.
    """
    lengths, norms = squares[0].detach(), squares[1].detach()
    # No limit of a pair is larger than this one: mostly few pairs, or only those of a point and
    # itself, are within it, and a whole block of limits need not be made.
    close = squared.detach() <= (lengths.amax() + norms.amax()) * share
    few = lengths.numel() + norms.numel() if few is None else few
    count = int(close.count_nonzero())
    if count > few:
        limits = (lengths[..., :, None] + norms[..., None, :]).mul_(share)
        close = squared.detach() <= limits
        count = int(close.count_nonzero())

    if count > few:  # tight clusters far apart, a collapsed generator: one by one takes too long
        exact = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(x, y, compute_mode=exact).square()
        return squared.masked_scatter_(close, distances[close])

    places = close.nonzero(as_tuple=True)
    size = max(1, BLOCK_ELEMENTS // x.shape[-1])
    for part in zip(*(index.split(size) for index in places), strict=True):
        rows, columns = part[:-1], (*part[:-2], part[-1])
        # The limit above was that of the longest vectors; each pair has its own.
        near = squared.detach()[part] <= (lengths[rows] + norms[columns]) * share
        rows, columns = (tuple(index[near] for index in side) for side in (rows, columns))
        difference = x[rows] - y[columns]
        squared.index_put_((*rows, columns[-1]), difference.square().sum(-1))
    return squared


def mean_squared_distance(x: Tensor, y: Tensor) -> float:
    """Mean of |x_i - y_j|^2 over all pairs, from first and second moments."""
    x, y = x.detach(), y.detach()
    shift = (x.mean(0) - y.mean(0)).square().sum()
    return float(shift + x.var(0, correction=0).sum() + y.var(0, correction=0).sum())


def squared_distances(real: Tensor, fake: Tensor) -> Tensor:
    """Squared distances (N, M) of float64 clouds around the origin, accurate where points coincide.

    Differentiable in both. Time O(N M D), memory O(N M).
    """
    squares = real.square().sum(-1), fake.square().sum(-1)
    squared = distances_by_product(real, fake, squares)
    return refine_cancelled(squared, real, fake, squares)


def power(squared: Tensor, order: float) -> Tensor:
    """|x - y|^p from squared distances, with derivative 0 where the points coincide."""
    if order == 2:
        return squared
    if not is_differentiated(squared):
        return squared.pow(order / 2)

    # The power has no finite slope at 0, and infinity times a derivative of 0 would be NaN.
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1.0).pow(order / 2), 0.0)


def pairwise_costs(real: Tensor, fake: Tensor, order: float) -> Tensor:
    """Costs |x_i - y_j|^p (N, M) of float64 clouds that are checked, differentiable in both."""
    return power(squared_distances(*centre_clouds(real, fake)), order)


@told_options
def cost_matrix(real: Tensor, fake: Tensor, *, order: float = 2.0) -> Tensor:
    """Transport costs C_ij = |x_i - y_j|^p, without the factor 1/2 of some texts.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D).
        order: The order p >= 1.

    Returns:
        Costs (N, M) or (B, N, M), computed in float64, differentiable in both clouds. Time
        O(N M D), memory O(N M).

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If a shape or the order breaks its rule, or a cost does not fit the dtype.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
        >>> cost_matrix(x, x, order=1)
        tensor([[0., 5.],
                [5., 0.]], dtype=torch.float64)
    """
    check_order(order)
    real, fake = checked_clouds(real, fake, order=order)

    x, y = real.double(), fake.double()
    if real.ndim == 2:
        return narrow(pairwise_costs(x, y, order), real.dtype)
    # One by one: each problem has its own centre, and its own few pairs that need their digits.
    costs = torch.stack([pairwise_costs(*p, order) for p in zip(x, y, strict=True)])
    return narrow(costs, real.dtype)


def held(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A finite float64 value in another dtype where that holds it, else as it is.

    Squares of float32 values from 1e19 on are beyond float32: inf would be wrong.
    """
    rounded = value.to(dtype)
    return value if torch.isinf(rounded.detach()).any() else rounded


def narrow(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A finite float64 value in the dtype of the input; raise where that does not hold it."""
    found = held(value, dtype)
    if found.dtype != dtype:
        largest = float(value.detach().abs().amax())
        raise RangeError(
            f"The result, up to {largest:.1e}, does not fit {dtype}: give both sides in float64 "
            "(`.double()`), or scale both down."
        )
    return found


@torch.no_grad()
def extended_potential(
    points: Tensor,
    others: Tensor,
    potential: Tensor,
    order: float,
    log_weights: Tensor,
    epsilon: float,
) -> Tensor:
    """The entropic potential f (N,) in float64 at points without weight, which solvers leave out.

    f_i = -epsilon log sum_j b_j exp((g_j - C_ij) / epsilon) from the potential g (M,) of the other
    side and the logarithms of its weights b. In blocks; time O(N M D).
    """
    others = others.double()

    parts = [potential.new_zeros(0)]
    for rows in row_blocks(len(points), len(others)):
        costs = pairwise_costs(points[rows].double(), others, order)
        exponents = potential / epsilon + log_weights - costs / epsilon
        parts.append(-epsilon * exponents.logsumexp(1))
    return torch.cat(parts)


_PART = 2**17  # numbers at a time: 1 MB, of the size of a cache; fresh memory would cost more


class Cloud:
    """Points (N, D) in float32 or float64 less a centre (D,) in float64, the origin by default.

    Only `whole` keeps all of them in float64.
    """

    def __init__(self, points: Tensor, centre: Tensor | None = None) -> None:
        origin = points.new_zeros(points.shape[1:], dtype=torch.float64)
        self._points, self._centre = points, origin if centre is None else centre
        self.shape = (points.shape[0], points.shape[1])
        self.device = points.device

    def __len__(self) -> int:
        return len(self._points)

    def at(self, ids: Tensor) -> Tensor:
        """Some points (K, D)."""
        return self._points[ids].double().sub_(self._centre)

    def plain(self) -> "Cloud":
        """The points as they are."""
        return Cloud(self._points)

    def whole(self) -> Tensor:
        """All points (N, D)."""
        return self._points.double() - self._centre

    def single(self, scale: float) -> Tensor:
        """All points (N, D) times a scale, in float32."""
        # In parts, as the whole cloud in float64 would take twice the memory of the result.
        found = torch.empty(self.shape, dtype=torch.float32, device=self.device)
        for rows, part in self._parts():
            found[rows] = part.mul_(scale)
        return found

    def norms(self) -> Tensor:
        """Their norms (N,)."""
        return torch.cat([torch.linalg.vector_norm(part, dim=1) for _, part in self._parts()])

    def along(self, direction: Tensor) -> Tensor:
        """Their products (N,) with a direction (D,)."""
        return torch.cat([part @ direction for _, part in self._parts()])

    def mean(self, weights: Tensor) -> Tensor:
        """Their weighted sum (D,), for weights (N,) of sum 1."""
        return torch.stack([weights[rows] @ part for rows, part in self._parts()]).sum(0)

    def _parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive points, and where they are."""
        for rows in row_blocks(*self.shape, _PART):
            yield rows, self._points[rows].double() - self._centre


_BLOCK = 2**21  # entries of a block: 8 MB in float32, of the size of a cache
_MODEST_NORMS = 2.0**-20, 2.0**20  # largest norms that float32 squares leave their digits


class CloudPairs:
    """Costs C_ij = |x_i - y_j|^p of two clouds, which need not be in memory, none below `floor`.

    A float32 matrix product gives |x|^2 + |y|^2 - 2 x.y up to gamma (|x|^2 + |y|^2), in whatever
    order the D products are summed: gamma = (D + 12) u / (1 - (D + 12) u), u = 2^-24 (Higham,
    Accuracy and Stability of Numerical Algorithms, 2002, section 3.1); 12 more roundings are those
    of the inputs, the norms, the sums and of taking the bound itself away. Points of extreme norms
    are brought below 1 by a power of two, so that nothing over- or underflows; costs are in units
    of `scale`.

    `stored` keeps the float32 costs, 4 N M bytes, instead of computing them again. With `plain`
    exact costs are those of the points as they are, not less their centres, which then must be one:
    far from the origin it keeps the digits of close points.
    """

    def __init__(
        self, real: Cloud, fake: Cloud, order: float, stored: bool, plain: bool = False
    ) -> None:
        norms = real.norms(), fake.norms()
        largest = max(float(side.amax()) for side in norms)
        # Squares of modest norms fit float32 as they are; powers above 2 leave it much sooner.
        self._unit = power_of_two(largest)
        if order <= 2 and _MODEST_NORMS[0] <= largest <= _MODEST_NORMS[1]:
            self._unit = 1.0

        self._real, self._fake = real, fake
        self._ends = (real.plain(), fake.plain()) if plain else (real, fake)
        self._order = order
        self.scale = self._unit**-order

        self.shape = (len(real), len(fake))
        self.device, self.dtype = real.device, torch.float32
        # Of D squares and their sum; the power multiplies a relative error by p / 2.
        self.rounding = max(1.0, order / 2) * (real.shape[1] + 8) * torch.finfo(torch.float64).eps
        self.floor = 0.0

        self._rows, self._columns = (side.single(self._unit) for side in (real, fake))
        self._squares = tuple((side * self._unit).square_() for side in norms)
        self._row_squares, self._column_squares = (side.float() for side in self._squares)

        # Matrix products need blocks of many rows, passes over memory those of the cache.
        self.block_size = _BLOCK if stored else 8 * _BLOCK
        self._rooms = block_room(self), block_room(self)
        self._stored: Tensor | None = None
        if stored:
            self._stored = torch.empty(self.shape, device=self.device)
            for rows in row_blocks(*self.shape, 8 * _BLOCK):
                self._squared_distances(rows, out=self._stored[rows])

    def block(self, rows: slice) -> Tensor:
        """Costs (R, M) of some rows of `blocks`, roughly; to be read before the next block."""
        return power(self._block(rows), self._order)

    def lower(self, rows: slice) -> Tensor:
        """Numbers (R, M) not above the costs, nor far below; to be used before the next block."""
        # Gamma (|x|^2 + |y|^2), taken away in two steps: their sum would be a block of its own.
        error = self._relative_error(torch.float32)
        lower = self._rooms[1][: rows.stop - rows.start]
        torch.sub(self._block(rows), error * self._column_squares, out=lower)
        lower.sub_(error * self._row_squares[rows, None])
        # Of a bound below 0 there is no power, and 0 is a bound as well.
        return lower if self._order == 2 else power(lower.clamp_min_(0), self._order)

    def lower_in_float64(self, rows: Tensor) -> Tensor:
        """The same for single rows, not below the costs by more than the rounding of float64."""
        squares = self._squares[0][rows], self._squares[1]
        squared = distances_by_product(self._real.at(rows) * self._unit, self._whole_fake, squares)
        errors = (squares[0][:, None] + squares[1]).mul_(self._relative_error(torch.float64))
        return power(squared.sub_(errors).clamp_min_(0), self._order)

    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Costs (K,) in float64 at K places, up to a relative error `rounding`."""
        size = max(1, _PART // self._real.shape[1])
        real, fake = self._ends

        parts = [
            real.at(i).sub_(fake.at(j)).mul_(self._unit).square_().sum(1)
            for i, j in zip(rows.split(size), columns.split(size), strict=True)
        ]
        return power(torch.cat(parts), self._order)

    def part(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Costs (K, L) of some rows and columns, roughly."""
        if self._stored is not None:
            return power(self._stored[rows][:, columns], self._order)
        squares = self._row_squares[rows], self._column_squares[columns]
        squared = distances_by_product(self._rows[rows], self._columns[columns], squares)
        return power(squared, self._order)

    @cached_property
    def _whole_fake(self) -> Tensor:
        """The scaled fake points in float64, which few problems need, but those for many rows."""
        return self._fake.whole().mul_(self._unit)

    def _relative_error(self, dtype: torch.dtype) -> float:
        """Gamma of a dtype."""
        # In float64 the norms are rounded like the product.
        terms = self._real.shape[1] * (2 if dtype == torch.float64 else 1) + 12
        error = terms * torch.finfo(dtype).eps / 2
        return error / (1 - error)

    def _block(self, rows: slice) -> Tensor:
        """Squared distances of some rows, as stored or computed again."""
        if self._stored is not None:
            return self._stored[rows]
        return self._squared_distances(rows, out=self._rooms[0][: rows.stop - rows.start])

    def _squared_distances(self, rows: slice, out: Tensor) -> Tensor:
        """Squared distances of some rows by one matrix product."""
        squares = self._row_squares[rows], self._column_squares
        return distances_by_product(self._rows[rows], self._columns, squares, out)


class MatrixPairs:
    """Costs (N, M) that are given, with the methods of `CloudPairs`; exact everywhere."""

    def __init__(self, cost: Tensor) -> None:
        self._cost = cost
        self.shape = (cost.shape[0], cost.shape[1])
        self.device, self.dtype = cost.device, cost.dtype
        self.rounding = 0.0
        self.floor = float(cost.min())
        self.block_size = _BLOCK

    def block(self, rows: slice | Tensor) -> Tensor:
        """The costs of some rows."""
        return self._cost[rows]

    lower_in_float64 = block

    def lower(self, rows: slice) -> Tensor:
        """A copy of them, which may be changed."""
        return self._cost[rows].clone()

    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Single costs."""
        return self._cost[rows, columns]

    def part(self, rows: Tensor, columns: Tensor) -> Tensor:
        """A smaller problem."""
        return self._cost[rows[:, None], columns]


Pairs = CloudPairs | MatrixPairs


def blocks(pairs: Pairs) -> Iterator[slice]:
    """Slices of rows that cover the problem, each of about `block_size` entries."""
    return row_blocks(*pairs.shape, pairs.block_size)


def block_room(pairs: Pairs) -> Tensor:
    """Memory for the largest block; new memory for each block would cost more than its numbers."""
    largest = next(blocks(pairs))
    return torch.empty(largest.stop, pairs.shape[1], dtype=pairs.dtype, device=pairs.device)
