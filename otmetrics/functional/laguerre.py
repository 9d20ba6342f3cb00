"""Cells of a Brenier potential, where one of its planes is the highest."""

import torch
from torch import Tensor

from otmetrics.functional.checks import check_positive, checked_heights, checked_samples
from otmetrics.functional.option_names import told_options
from otmetrics.precision import ieee_float32

BLOCK = 2**22
"""Bytes of scores at a time, unless the caller says otherwise: few enough for a cache."""


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
        TypeError: If samples or points are not floating tensors, or heights are no tensor.
        ValueError: If shapes do not fit each other, a value is not finite, or the limit is not
            positive.
    """
    if memory_limit is not None:
        check_positive("memory_limit", memory_limit)
    samples, points = checked_samples(samples, points)
    heights = checked_heights(heights, points)
    return cells(samples, points, heights, int(memory_limit or BLOCK))


def cells(samples: Tensor, points: Tensor, heights: Tensor, block: int) -> Tensor:
    """`laguerre_cells` of checked arguments.

    Args:
        samples: Samples (N, D).
        points: Points (M, D) of the same dtype.
        heights: Heights (M,).
        block: Bytes of a block of scores.

    Returns:
        Indices (N,), int64.
    """
    rows = max(1, block // (points.element_size() * len(points)))
    offsets = heights.to(points)
    with ieee_float32(points.device):
        ids = [torch.addmm(offsets, part, points.T).max(1).indices for part in samples.split(rows)]
    return torch.cat(ids)
