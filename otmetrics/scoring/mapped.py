"""The one rule of memory: arrays above a limit are files, mapped, that end with the process."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmetrics.errors import Argument, DataError
from otmetrics.images.limits import lacks_room, mapped_file
from otmetrics.scoring.cache import VARIABLE, cache_folder

_BLOCK_BYTES = 2**24


def new_array(shape: tuple[int, ...], dtype: Any, limit: float) -> np.ndarray:
    """Make room for an array, whose values are not set.

    Above `limit` bytes it is a file without a name in the cache's folder, whose pages leave the
    memory when others need it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= limit:
        return np.empty(shape, dtype)

    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return mapped_file(size, folder).view(dtype).reshape(shape)
    except OSError as error:
        raise DataError(
            f"{size / 1e6:.0f} MB of features need a file, for which `{folder}` "
            f"{lacks_room(error)}: set {VARIABLE} to another folder, or raise ",
            Argument("memory_limit"),
            ".",
        ) from error


def rows_of(cloud: Tensor, rows: Tensor, limit: float) -> Tensor:
    """Copy rows of features (N, D), by ascending indices (n,) on the same device, to (n, D).

    On the CPU a copy above `limit` bytes is a file.
    """
    return _fill(len(rows), cloud, cloud.dtype, limit, lambda part: cloud[rows[part]])


def transform_rows(
    cloud: Tensor, change: Callable[[Tensor], Tensor], dtype: torch.dtype, limit: float
) -> Tensor:
    """Change features (N, D) by what maps any number of rows to as many, as `rows_of` copies."""
    return _fill(len(cloud), cloud, dtype, limit, lambda part: change(cloud[part]).to(dtype))


def _fill(
    num: int,
    cloud: Tensor,
    dtype: torch.dtype,
    limit: float,
    values: Callable[[slice], Tensor],
) -> Tensor:
    """Compute (num, D), next to a cloud: at once in memory, or some megabytes at a time."""
    # A file on the CPU is no help to a GPU, whose solvers need all of it there.
    dimension = cloud.shape[1]
    if cloud.device.type != "cpu" or num * dimension * dtype.itemsize <= limit:
        return values(slice(None))

    numpy_dtype = torch.empty(0, dtype=dtype).numpy().dtype
    filled = torch.from_numpy(new_array((num, dimension), numpy_dtype, limit))
    step = max(1, _BLOCK_BYTES // (dimension * dtype.itemsize))
    for start in range(0, num, step):
        part = slice(start, start + step)
        filled[part] = values(part)
    return filled
