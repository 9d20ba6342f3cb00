"""All N M costs of a transport problem: in blocks of rows with an error bound, or exact."""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from otmetrics.functional.cloud import Cloud
from otmetrics.functional.cost import power
from otmetrics.precision import ieee_float32

_BLOCK = 2**21  # entries of a block: 8 MB in float32, of the size of a cache
_CHUNK = 2**17  # numbers in the differences of exact costs: 1 MB
_MODEST = 2.0**-20, 2.0**20  # largest norms that float32 squares leave their digits


class Pairs(Protocol):
    """Costs C of shape (N, M) that need not be in memory, none below `floor`."""

    shape: tuple[int, int]
    device: torch.device
    dtype: torch.dtype
    rounding: float
    floor: float
    block_size: int

    def block(self, rows: slice) -> Tensor:
        """Costs of some rows of `blocks`, approximately, (R, M); to be read before the next one."""

    def lower(self, rows: slice) -> Tensor:
        """Numbers (R, M) not above the costs, nor far below; to be used up before the next one."""

    def lower_in_float64(self, rows: Tensor) -> Tensor:
        """The same for single rows, not below by more than the rounding of float64."""

    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Costs (K,) in float64 at K places, up to a relative error `rounding`."""

    def part(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Costs (K, L) of some rows and columns, approximately."""


class CloudPairs:
    """Costs |x_i - y_j|^p of two clouds.

    A float32 matrix product gives |x|^2 + |y|^2 - 2 x.y up to gamma (|x|^2 + |y|^2), in whatever
    order the D products are summed: gamma = (D + 12) u / (1 - (D + 12) u), u = 2^-24 (Higham,
    Accuracy and Stability of Numerical Algorithms, 2002, section 3.1); 12 more roundings are those
    of the inputs, the norms, the sums and of taking the bound itself away. Points of extreme norms
    are brought below 1 by a power of two, so that nothing over- or underflows; costs are in units
    of `scale`.

    Args:
        real: Points (N, D).
        fake: Points (M, D).
        order: The order p >= 1.
        stored: Whether to keep the float32 costs, 4 N M bytes, instead of computing them anew.
        plain: Whether exact costs are those of the points as they are, not less their centres,
            which then must be one: far from the origin it keeps the digits of close points.
    """

    def __init__(
        self, real: Cloud, fake: Cloud, order: float, stored: bool, plain: bool = False
    ) -> None:
        norms = real.norms(), fake.norms()
        largest = max(float(side.amax()) for side in norms)
        self._unit = 0.5 ** math.frexp(largest)[1]
        if order <= 2 and _MODEST[0] <= largest <= _MODEST[1]:
            self._unit = 1.0
        self._real, self._fake = real, fake
        self._ends = (real.plain(), fake.plain()) if plain else (real, fake)
        self._order = order
        self.scale = self._unit**-order
        self.shape = (len(real), len(fake))
        self.device, self.dtype = real.device, torch.float32
        self.rounding = max(1.0, order / 2) * (real.shape[1] + 8) * torch.finfo(torch.float64).eps
        self.floor = 0.0
        self._rows, self._columns = (side.single(self._unit) for side in (real, fake))
        self._norms = tuple((side * self._unit).square_() for side in norms)
        self._row_norms, self._column_norms = (side.float() for side in self._norms)
        # Matrix products need blocks of many rows, passes over memory those of the cache.
        self.block_size = _BLOCK if stored else 8 * _BLOCK
        self._rooms = block_room(self), block_room(self)
        self._stored: Tensor | None = None
        if stored:
            self._stored = torch.empty(self.shape, device=self.device)
            for rows in _slices(self.shape, 8 * _BLOCK):
                self._squared(rows, out=self._stored[rows])

    def block(self, rows: slice) -> Tensor:
        """Costs of some rows."""
        return _power(self._block(rows), self._order)

    def lower(self, rows: slice) -> Tensor:
        """Squared distances less their error bound, to the power."""
        error = self._relative_error(torch.float32)
        lower = self._rooms[1][: rows.stop - rows.start]
        torch.sub(self._block(rows), error * self._column_norms, out=lower)
        lower.sub_(error * self._row_norms[rows, None])
        return lower if self._order == 2 else _power(lower.clamp_min_(0), self._order)

    def lower_in_float64(self, rows: Tensor) -> Tensor:
        """The same by a product in float64."""
        norms = self._norms[0][rows, None] + self._norms[1]
        with ieee_float32(self.device):
            scale = -2 * self._unit**2
            squared = norms.addmm(self._real.at(rows), self._whole_fake.T, alpha=scale)
        errors = norms.mul_(self._relative_error(torch.float64))
        return _power(squared.sub_(errors).clamp_min_(0), self._order)

    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Costs from the differences, a bounded number of them at a time."""
        size = max(1, _CHUNK // self._real.shape[1])
        real, fake = self._ends
        parts = [
            real.at(i).sub_(fake.at(j)).mul_(self._unit).square_().sum(1)
            for i, j in zip(rows.split(size), columns.split(size), strict=True)
        ]
        return power(torch.cat(parts), self._order)

    def part(self, rows: Tensor, columns: Tensor) -> Tensor:
        """A smaller problem."""
        if self._stored is not None:
            return _power(self._stored[rows][:, columns], self._order)
        norms = self._row_norms[rows, None] + self._column_norms[columns]
        with ieee_float32(self.device):
            squared = norms.addmm_(self._rows[rows], self._columns[columns].T, alpha=-2)
        return _power(squared.clamp_min_(0), self._order)

    @cached_property
    def _whole_fake(self) -> Tensor:
        """The fake points in float64, which few problems need, but those for many rows."""
        return self._fake.whole()

    def _relative_error(self, dtype: torch.dtype) -> float:
        """Gamma of a dtype."""
        # In float64 the norms are rounded like the product.
        terms = self._real.shape[1] * (2 if dtype == torch.float64 else 1) + 12
        error = terms * torch.finfo(dtype).eps / 2
        return error / (1 - error)

    def _block(self, rows: slice) -> Tensor:
        """Squared distances of some rows, as stored or anew."""
        if self._stored is not None:
            return self._stored[rows]
        return self._squared(rows, out=self._rooms[0][: rows.stop - rows.start])

    def _squared(self, rows: slice, out: Tensor) -> Tensor:
        """Squared distances of some rows by one matrix product."""
        torch.add(self._row_norms[rows, None], self._column_norms, out=out)
        with ieee_float32(self.device):
            out.addmm_(self._rows[rows], self._columns.T, alpha=-2)
        return out.clamp_min_(0)


class MatrixPairs:
    """Costs that are given, in float64; exact everywhere.

    Args:
        cost: Costs (N, M) in float64.
    """

    def __init__(self, cost: Tensor) -> None:
        self._cost = cost
        self.shape = (cost.shape[0], cost.shape[1])
        self.device, self.dtype = cost.device, cost.dtype
        self.rounding = 0.0
        self.floor = float(cost.min())
        self.block_size = _BLOCK

    def block(self, rows: slice) -> Tensor:
        """The costs of some rows."""
        return self._cost[rows]

    def lower(self, rows: slice) -> Tensor:
        """The costs of some rows."""
        return self._cost[rows].clone()

    def lower_in_float64(self, rows: Tensor) -> Tensor:
        """The costs of some rows."""
        return self._cost[rows]

    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Single costs."""
        return self._cost[rows, columns]

    def part(self, rows: Tensor, columns: Tensor) -> Tensor:
        """A smaller problem."""
        return self._cost[rows[:, None], columns]


def blocks(pairs: Pairs) -> Iterator[slice]:
    """Slices of rows that cover the problem, each of about `block_size` entries.

    Args:
        pairs: The problem.

    Yields:
        The slices, in order.
    """
    yield from _slices(pairs.shape, pairs.block_size)


def _slices(shape: tuple[int, int], block_size: int) -> Iterator[slice]:
    """Slices of rows, each of about so many entries."""
    size = max(1, block_size // shape[1])
    for start in range(0, shape[0], size):
        yield slice(start, min(start + size, shape[0]))


def block_room(pairs: Pairs) -> Tensor:
    """Memory for the largest block; new memory for each block would cost more than its numbers.

    Args:
        pairs: The problem.

    Returns:
        An empty tensor of all columns.
    """
    size = min(pairs.shape[0], max(1, pairs.block_size // pairs.shape[1]))
    return torch.empty(size, pairs.shape[1], dtype=pairs.dtype, device=pairs.device)


def _power(squared: Tensor, order: float) -> Tensor:
    """`cost.power` without its care for gradients, which blocks of all pairs would pay for."""
    if order == 2:
        return squared
    return squared.sqrt() if order == 1 else squared.pow(order / 2)
