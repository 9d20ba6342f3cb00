"""Pillow's antialiased filters as products with banded matrices: on floats, never rounded."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_KEPT_SIDE = 2**13
_BLOCK = 32  # outputs that share a window of inputs: fewer make thin products, more count zeros


class _Bands(NamedTuple):
    """A banded matrix in blocks of rows: block b has its weights at the columns from b * step."""

    weights: Tensor  # (blocks, rows, columns)
    step: int


def resampled(images: Tensor, shape: tuple[int, int], mode: str) -> Tensor:
    """Resize by a separable filter that widens as images shrink, as Pillow's does.

    The weights are computed in float64 and applied in float32: within 1e-3 grey levels of Pillow's
    filter on float channels (autocast and TF32, where they are on, are as far off as they are).
    Each image is treated on its own.

    Args:
        images: (N, C, H, W), of any dtype; float32 is made of it.
        shape: Wanted height and width.
        mode: "bicubic" or "bilinear".

    Returns:
        float32 (N, C, *shape); bicubic may leave the range of the input. Time O(N C (W h + w h)
        taps), with H x W brought to h x w.
    """
    (height, width), (high, wide) = images.shape[-2:], shape
    # Those of long sides are large, 150 bytes a pixel of the side, and are not kept.
    rows, columns = (
        (_bands if size <= _KEPT_SIDE else _bands.__wrapped__)(size, new, mode, str(images.device))
        for size, new in ((height, high), (width, wide))
    )
    # One image at a time stays in a CPU's cache.
    parts = images.split(1 if images.device.type == "cpu" else max(len(images), 1))
    return _joined([_filtered(part, rows, columns, shape) for part in parts])


def _joined(parts: list[Tensor]) -> Tensor:
    """Parts of a batch together; no copy where there is one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _filtered(images: Tensor, rows: _Bands, columns: _Bands, shape: tuple[int, int]) -> Tensor:
    """Filter down, with the height first so that products are long, then across."""
    count, channels, _, width = images.shape
    first = images.permute(2, 0, 1, 3).to(torch.float32, memory_format=torch.contiguous_format)
    windows = first.flatten(1).unfold(0, rows.weights.shape[2], rows.step)  # views of (b, row, k)
    down = (rows.weights @ windows.transpose(1, 2)).flatten(0, 1)[: shape[0]].view(-1, width)
    windows = down.unfold(1, columns.weights.shape[2], columns.step).transpose(0, 1)
    across = (windows @ columns.weights.transpose(1, 2)).unflatten(1, (shape[0], count, channels))
    return across.permute(2, 3, 1, 0, 4).flatten(3)[..., : shape[1]].contiguous()


@lru_cache(maxsize=512)
def _bands(size: int, wanted: int, mode: str, device: str) -> _Bands:
    """Weights that bring `size` pixels to `wanted`, in blocks of outputs."""
    first, stop, weights = _taps(size, wanted, mode)
    rows = min(range(_BLOCK - 8, _BLOCK + 9), key=lambda rows: -wanted % rows)
    rows = rows if size > 2 * _BLOCK else wanted
    blocks = -(-wanted // rows)
    # Windows lie at even distances: as far apart as leaves all inputs of their outputs inside.
    index = np.arange(blocks)
    ends = np.array([stop[rows * b : rows * (b + 1)].max() for b in index])
    step = min([*(first[::rows][1:] // index[1:]), *((size - ends[:-1]) // index[:0:-1]), size])
    columns = size - int(step) * (blocks - 1) if blocks > 1 else size
    dense = np.zeros((blocks * rows, columns + weights.shape[1]), np.float32)
    into = (first - step * (np.arange(wanted) // rows))[:, None] + np.arange(weights.shape[1])
    np.put_along_axis(dense[:wanted], into, weights, axis=1)
    with torch.inference_mode(False):  # else no gradient could pass the cached weights
        matrix = torch.from_numpy(dense[:, :columns].copy()).view(blocks, rows, columns)
        return _Bands(matrix.to(device), max(int(step), 1))


def _taps(size: int, wanted: int, mode: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each output the inputs `first` to `stop` and, (wanted, taps), weights from `first` on."""
    scale = size / wanted
    stretch = max(scale, 1.0)
    support = (2.0 if mode == "bicubic" else 1.0) * stretch
    centres = (np.arange(wanted) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(int), 0)
    stop = np.minimum((centres + support + 0.5).astype(int), size)
    inputs = first[:, None] + np.arange((stop - first).max())
    distances = np.abs((inputs - centres[:, None] + 0.5) / stretch)
    weights = _FILTERS[mode](distances) * (inputs < stop[:, None])
    return first, stop, weights / weights.sum(1, keepdims=True)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution with a = -1/2, for x >= 0."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _triangle(x: np.ndarray) -> np.ndarray:
    """Linear interpolation, for x >= 0."""
    return np.maximum(1 - x, 0)


_FILTERS = {"bicubic": _cubic, "bilinear": _triangle}
