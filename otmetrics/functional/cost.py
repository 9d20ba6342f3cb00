"""Pairwise costs |x - y|^p that keep their digits: centred, clamped, exact where points meet."""

import os
from collections.abc import Iterator

import torch
from torch import Tensor

from otmetrics.functional.checks import check_order, checked_clouds
from otmetrics.functional.option_names import told_options
from otmetrics.precision import ieee_float32

# Below this share of |x|^2 + |y|^2 the matrix-product form has lost half of its digits,
# so the entry is recomputed from the difference of its two points.
_CANCELLATION = 1e-6
BLOCK_ELEMENTS = 2**22
"""Entries of a block of pairs of samples."""
_SAFE = 1e-15, 1e15  # longest vectors whose squares keep their digits in float32
_MODEST = 4e9  # bytes for costs where the memory of the machine is unknown


def centred(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Shift both clouds by their pooled mean, which changes no distance between points.

    Args:
        real: Features (..., N, D).
        fake: Features (..., M, D).

    Returns:
        The shifted clouds; far from the origin they have more correct digits.
    """
    count = real.shape[-2] + fake.shape[-2]
    total = real.detach().sum(-2, keepdim=True) + fake.detach().sum(-2, keepdim=True)
    return real - total / count, fake - total / count


def squared_distances(real: Tensor, fake: Tensor) -> Tensor:
    """Squared Euclidean distances, accurate also where points coincide.

    One matrix product; entries that lost digits to cancellation are recomputed from the difference
    of their points, so that duplicates give exactly 0. Time O(N M D), memory O(N M).

    Args:
        real: Features (N, D) in float64, already checked, of a cloud around the origin.
        fake: Features (M, D) in float64.

    Returns:
        Distances (N, M), >= 0, differentiable in both clouds.
    """
    norms = real.square().sum(-1)[:, None] + fake.square().sum(-1)[None, :]
    with ieee_float32(real.device):
        squared = norms.addmm(real, fake.T, alpha=-2).clamp_min_(0)
    close = squared.detach() <= norms.detach().mul_(_CANCELLATION)
    rows, columns = close.nonzero(as_tuple=True)
    if len(rows) > len(real) + len(fake):  # tight clusters, a collapsed generator
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(real, fake, compute_mode=exact).square()
    if len(rows):
        difference = real[rows] - fake[columns]
        squared = squared.index_put((rows, columns), difference.square().sum(-1))
    return squared


def power(squared: Tensor, order: float) -> Tensor:
    """Turn squared distances into |x - y|^p, with gradient 0 where the points coincide.

    Args:
        squared: Squared distances of any shape.
        order: The order p >= 1.

    Returns:
        Costs of the same shape.
    """
    if order == 2:
        return squared
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1.0).pow(order / 2), 0.0)


def pairwise_costs(real: Tensor, fake: Tensor, order: float) -> Tensor:
    """Costs |x_i - y_j|^p of two clouds that are already checked.

    Args:
        real: Features (N, D) in float64.
        fake: Features (M, D) in float64.
        order: The order p >= 1.

    Returns:
        Costs (N, M), differentiable in both clouds.
    """
    return power(squared_distances(*centred(real, fake)), order)


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
        return narrowed(pairwise_costs(x, y, order), real.dtype)
    costs = torch.stack([pairwise_costs(*p, order) for p in zip(x, y, strict=True)])
    return narrowed(costs, real.dtype)


def held(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A float64 value in another dtype where that holds it, else as it is.

    Squares of float32 values from 1e19 on are beyond float32: inf would be wrong.

    Args:
        value: Values of any shape, finite.
        dtype: The dtype of the input that they belong to.

    Returns:
        The values.
    """
    rounded = value.to(dtype)
    return value if torch.isinf(rounded.detach()).any() else rounded


def narrowed(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A float64 value in the dtype of the input, which has to hold it.

    Args:
        value: Values of any shape, finite.
        dtype: The dtype.

    Returns:
        The values in `dtype`.

    Raises:
        ValueError: If one of them is beyond its range.
    """
    found = held(value, dtype)
    if found.dtype != dtype:
        largest = float(value.detach().abs().amax())
        raise ValueError(
            f"The result, up to {largest:.1e}, does not fit {dtype}: give both sides in float64 "
            "(`.double()`), or scale both down."
        )
    return found


def lengths_in_float64(cloud: Tensor) -> Tensor:
    """Lengths of vectors, taken in float64 where their squares would leave float32.

    Args:
        cloud: Vectors (..., D).

    Returns:
        Lengths (...) in float64.
    """
    lengths = torch.linalg.vector_norm(cloud, dim=-1).double()
    if _SAFE[0] <= float(lengths.detach().amax()) <= _SAFE[1]:
        return lengths
    return torch.linalg.vector_norm(cloud, dim=-1, dtype=torch.float64)


def row_blocks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Cut an (N, M) computation into slices of rows that hold about `BLOCK_ELEMENTS` entries each.

    Args:
        num_rows: N.
        num_columns: M.

    Yields:
        Slices that cover `range(num_rows)` in order.
    """
    size = max(1, BLOCK_ELEMENTS // max(1, num_columns))
    for start in range(0, num_rows, size):
        yield slice(start, min(start + size, num_rows))


def memory_budget(device: torch.device, memory_limit: float | None) -> float:
    """Bytes that costs may take.

    Args:
        device: Where they lie.
        memory_limit: The limit that was asked for, or None for half of the memory of the device.

    Returns:
        The limit.
    """
    if memory_limit is not None:
        return memory_limit
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    return _MODEST  # Windows does not say
