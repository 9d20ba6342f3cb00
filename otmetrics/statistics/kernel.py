"""Kernel distances: unbiased squared maximum mean discrepancies (MMD), KID's among them."""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from otmetrics.checks import check_positive, checked_clouds
from otmetrics.machine import ieee_float32
from otmetrics.transport.costs import (
    centre_clouds,
    mean_squared_distance,
    row_blocks,
    squared_distances,
)
from otmetrics.transport.gradients import differentiable_once, is_differentiated
from otmetrics.unknown_options import told_options

_FAR = 1e4  # squared distance of the mean from the origin, in variances, that cubes do not bear
_DROWNING = 1e3  # how far a diagonal may exceed the rest of a sum that it is taken from


@told_options
def kernel_distance(
    real: Tensor,
    fake: Tensor,
    *,
    kernel: Literal["polynomial", "rbf"] = "polynomial",
    bandwidth: float | None = None,
) -> Tensor:
    """Unbiased estimate of MMD^2 over all pairs: E k(x, x') + E k(y, y') - 2 E k(x, y).

    The polynomial kernel (x.y / D + 1)^3 on Inception features is KID; published KID averages the
    same estimator over subsets of 1000, which has the same expectation and more variance. The RBF
    kernel is exp(-|x - y|^2 / (2 bandwidth^2)). Time O((N + M)^2 D), in blocks of rows unless a
    gradient is needed.

    Args:
        real: Features (N, D) or (B, N, D), N >= 2.
        fake: Features (M, D) or (B, M, D), M >= 2.
        kernel: "polynomial" or "rbf".
        bandwidth: Of the RBF kernel, in units of the features; None takes the root of half the mean
            squared distance between real and fake, a constant for the gradient, which for that
            reason is not differentiated again.

    Returns:
        Scalar or (B,), computed in float64. Unbiased, so negative values occur where the
        distributions agree.
        Differentiable in both clouds.

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If a shape or an option breaks its rule.

    References:
        Binkowski et al., Demystifying MMD GANs, 2018, section 4; Gretton et al., A kernel
        two-sample test, 2012, equation (3).

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> kernel_distance(x, x).item()  # (1 + 1)/1 - 2 (1 + 1 + 1 + 125)/4
        -62.0
    """
    check_kernel(kernel, bandwidth)
    order = 6 if kernel == "polynomial" else 2  # the cube of a product, a squared distance
    real, fake = checked_clouds(real, fake, min_samples=2, order=order)

    x, y = real.double(), fake.double()
    if real.ndim == 2:
        value = _mmd(x, y, kernel, bandwidth).to(real.dtype)
    else:
        pairs = zip(x, y, strict=True)
        value = torch.stack([_mmd(*pair, kernel, bandwidth) for pair in pairs]).to(real.dtype)

    if not torch.isfinite(value.detach()).all():
        raise ValueError(
            "`real` and `fake` must be small enough for their kernel to fit "
            f"{real.dtype}: scale both clouds down."
        )
    # The width that follows the data is held constant: a second derivative would lack its part.
    if value.requires_grad and kernel == "rbf" and bandwidth is None:
        value = differentiable_once(value, real, fake)
    return value


def check_kernel(kernel: str, bandwidth: float | None) -> None:
    """Raise unless the options of a kernel fit."""
    if kernel not in ("polynomial", "rbf"):
        raise ValueError(f'`kernel` must be "polynomial" or "rbf", got {kernel!r}.')
    if bandwidth is not None:
        check_positive("bandwidth", bandwidth)
        if kernel != "rbf":
            raise ValueError(f'`bandwidth` belongs to the "rbf" kernel, got kernel {kernel!r}.')


class PairSums(NamedTuple):
    """Sums of a kernel over the pairs of some samples, by sample; none is paired with itself.

    `by_row` (N,) and `by_column` (M,) add up its values.
    """

    by_row: Tensor
    by_column: Tensor

    @classmethod
    def none(cls, x: Tensor, y: Tensor) -> "PairSums":
        """Zeros to add to."""
        return cls(x.new_zeros(len(x)), y.new_zeros(len(y)))

    def add(self, rows: slice, block: Tensor) -> None:
        """Add the pairs of a block of rows."""
        self.by_row[rows] += block.sum(1)
        self.by_column.add_(block.sum(0))

    def leave_out(self, own: Tensor) -> None:
        """Take the pairs of samples with themselves away."""
        self.by_row.sub_(own)
        self.by_column.sub_(own)


class KernelSums(NamedTuple):
    """MMD^2 and the sums that it is made of: within real, within fake, and across."""

    value: Tensor
    real: PairSums
    fake: PairSums
    across: PairSums


@torch.no_grad()
def kernel_sums(real: Tensor, fake: Tensor) -> KernelSums:
    """`kernel_distance` with the polynomial kernel of features (N, D) and (M, D), and its sums."""
    real, fake = checked_clouds(real, fake, min_samples=2, order=6)
    x, y = real.double(), fake.double()
    sums = PairSums.none(x, x), PairSums.none(y, y), PairSums.none(x, y)
    return KernelSums(_mmd(x, y, "polynomial", None, sums), *sums)


def pooled_kernel(pool: Tensor) -> tuple[Tensor, Iterator[tuple[slice, Tensor]]]:
    """The cubic kernel of float64 points (n, D): of each with itself (n,), and blocks of its rows.

    Up to terms of one point alone, which no MMD feels, where the points lie far from the origin.
    """
    values: _Values = _cubic
    own = (pool.square().sum(1) / pool.shape[1] + 1) ** 3
    if (centre := _far_centre(pool, pool)) is not None:
        pool, values = pool - centre, _cubic_around(centre)
        own = torch.cat([values(part, part, None).diagonal() for part in pool.split(64)])

    def blocks() -> Iterator[tuple[slice, Tensor]]:
        room = None
        for rows in row_blocks(len(pool), len(pool)):
            room = pool.new_empty(rows.stop, len(pool)) if room is None else room
            yield rows, values(pool[rows], pool, room[: rows.stop - rows.start])

    return own, blocks()


_ThreeSums = tuple[PairSums, PairSums, PairSums]


def _mmd(
    x: Tensor, y: Tensor, kernel: str, bandwidth: float | None, sums: _ThreeSums | None = None
) -> Tensor:
    """MMD^2 of one pair of clouds; the sums that are given are added to."""
    n, m, dimension = len(x), len(y), x.shape[1]

    # The kernel of each sample with itself, where it is known, is taken from the sum of all pairs.
    own_x = own_y = None
    if kernel == "rbf":
        x, y = centre_clouds(x, y)
        # Where all samples are equal, any width gives 0.
        values = _gaussian(bandwidth or (mean_squared_distance(x, y) / 2) ** 0.5 or 1.0)
        own_x, own_y = x.new_ones(n), x.new_ones(m)
    elif (centre := _far_centre(x, y)) is not None:
        x, y, values = x - centre, y - centre, _cubic_around(centre)
    else:
        values = _cubic
        own_x, own_y = ((c.square().sum(1) / dimension + 1) ** 3 for c in (x, y))

    of_x, of_y, across = sums or (None, None, None)
    within_x = _total_of_others(values, x, own_x, of_x) / (n * (n - 1))
    within_y = _total_of_others(values, y, own_y, of_y) / (m * (m - 1))
    return within_x + within_y - 2 * _total(values, x, y, sums=across) / (n * m)


_Values = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _gaussian(width: float) -> _Values:
    """The RBF kernel."""

    def values(a: Tensor, b: Tensor, room: Tensor | None) -> Tensor:
        return (squared_distances(a, b) / (-2 * width**2)).exp()

    return values


def _cubic(a: Tensor, b: Tensor, room: Tensor | None) -> Tensor:
    """The polynomial kernel (x.y / D + 1)^3."""
    with ieee_float32(a.device):
        base = torch.mm(a, b.T, out=room)
    base = base.div_(a.shape[1]).add_(1)
    return base**3 if room is None else base.pow_(3)  # a graph needs the base itself


def _cubic_around(centre: Tensor) -> _Values:
    """The polynomial kernel of clouds far from the origin, given less their centre c."""
    # MMD does not feel what is added for each sample alone, so that k(x, y) may give way to
    # k(x, y) - k(x, c) - k(c, y) + k(c, c). Its terms, with q = c.(x - c) / D, r = c.(y - c) / D
    # and w = (x - c).(y - c) / D, cancel no more than the answer does.
    dimension = len(centre)
    square = centre.square().sum() / dimension + 1

    def values(a: Tensor, b: Tensor, room: Tensor | None) -> Tensor:
        with ieee_float32(a.device):
            w = (a @ b.T) / dimension
        q, r = (a @ centre)[:, None] / dimension, (b @ centre) / dimension
        base = square + q + r
        return 3 * q * r * (square + base) + w * (3 * base * (base + w) + w.square())

    return values


def _far_centre(x: Tensor, y: Tensor) -> Tensor | None:
    """The centre of both clouds, where it is so far out that its cube would drown the answer."""
    centre = (x.detach().mean(0) + y.detach().mean(0)) / 2

    spread = max(float((cloud.detach() - centre).square().sum(1).mean()) for cloud in (x, y))
    return centre if float(centre.square().sum()) > _FAR * spread else None


def _total_of_others(
    values: _Values, x: Tensor, own: Tensor | None, sums: PairSums | None = None
) -> Tensor:
    """Sum of the kernel over all pairs of two samples; that of samples with themselves may help."""
    # A subtraction is cheaper than a mask over all pairs, but the diagonal must not drown the rest.
    if own is not None:
        whole = None if sums is None else PairSums.none(x, x)
        total = _total(values, x, x, sums=whole) - own.sum()
        if own.sum().detach() <= _DROWNING * total.detach().abs():
            if sums is not None and whole is not None:
                whole.leave_out(own)
                for place, part in zip(sums, whole, strict=True):
                    place.add_(part)
            return total
    return _total(values, x, x, others=True, sums=sums)


def _total(
    values: _Values, x: Tensor, y: Tensor, others: bool = False, sums: PairSums | None = None
) -> Tensor:
    """Sum of the kernel over all pairs, block by block; without graph in the same memory."""
    total, room = x.new_zeros(()), None
    graphed = any(map(is_differentiated, (x, y)))
    for rows in row_blocks(len(x), len(y)):
        if room is None and not graphed:
            room = x.new_empty(rows.stop, len(y))
        part = None if room is None else room[: rows.stop - rows.start]

        block = values(x[rows], y, part)
        if others:  # x is y, and no sample is paired with itself
            everyone = torch.arange(len(x), device=x.device)
            block = torch.where(everyone[rows, None] == everyone, 0.0, block)
        total = total + block.sum()
        if sums is not None:
            sums.add(rows, block)
    return total
