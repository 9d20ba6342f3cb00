"""Pairwise costs |x - y|^p that keep their digits: centred, clamped, exact where points meet."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# Below this share of |x|^2 + |y|^2 the matrix-product form has lost half of its digits,
# so the entry is recomputed from the difference of its two points.
_CANCELLATION = 1e-6
_BLOCK_ELEMENTS = 2**24


@contextmanager
def ieee_matmul(device: torch.device) -> Iterator[None]:
    """Compute matrix products in their own precision: no autocast, no TF32.

    Args:
        device: Where the products run.

    Yields:
        Nothing; the former settings are back at the end, also after an error.
    """
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


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

    One matrix product, then every entry that lost digits to cancellation is recomputed from the
    difference of its points: duplicates give exactly 0. Time O(N M D), memory O(N M).

    Args:
        real: Features (N, D), best in float64.
        fake: Features (M, D) of the same dtype.

    Returns:
        Distances (N, M), >= 0, differentiable in both clouds.
    """
    real, fake = centred(real, fake)
    norms = real.square().sum(-1)[:, None] + fake.square().sum(-1)[None, :]
    with ieee_matmul(real.device):
        squared = (norms - 2 * real @ fake.T).clamp_min(0)
    rows, columns = (squared.detach() <= _CANCELLATION * norms.detach()).nonzero(as_tuple=True)
    size = max(1, _BLOCK_ELEMENTS // real.shape[-1])
    for start in range(0, len(rows), size):
        i, j = rows[start : start + size], columns[start : start + size]
        squared = squared.index_put((i, j), (real[i] - fake[j]).square().sum(-1))
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


def cost_matrix(real: Tensor, fake: Tensor, *, order: float = 2.0) -> Tensor:
    """Transport costs C_ij = |x_i - y_j|^p, without the factor 1/2 of some texts.

    Args:
        real: Features (N, D).
        fake: Features (M, D).
        order: The order p >= 1.

    Returns:
        Costs (N, M), differentiable in both clouds. Time O(N M D), memory O(N M).

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
        >>> cost_matrix(x, x, order=1)
        tensor([[0., 5.],
                [5., 0.]], dtype=torch.float64)
    """
    return power(squared_distances(real, fake), order)


def row_blocks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Cut an (N, M) computation into slices of rows that hold about 2^24 entries each.

    Args:
        num_rows: N.
        num_columns: M.

    Yields:
        Slices that cover `range(num_rows)` in order.
    """
    size = max(1, _BLOCK_ELEMENTS // max(1, num_columns))
    for start in range(0, num_rows, size):
        yield slice(start, min(start + size, num_rows))
