"""Arrays that may be larger than the memory: beyond a limit they are files, mapped."""

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmetrics.errors import DataError
from otmetrics.images.limits import lacks_room
from otmetrics.scoring.cache import cache_folder

_BLOCK_BYTES = 2**24


def new_array(shape: tuple[int, ...], dtype: Any, limit: float) -> np.ndarray:
    """Make room for an array.

    Args:
        shape: Its shape.
        dtype: Its dtype.
        limit: Bytes from which it is a file without a name in the cache's folder, which ends with
            the process and whose pages leave the memory when others need it.

    Returns:
        The array, whose values are not set.

    Raises:
        DataError: The folder cannot be written to, or its disk is full.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= limit:
        return np.empty(shape, dtype)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is told now, not by a signal later
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, "w+", shape=shape)
    except OSError as error:
        raise DataError(
            f"{size / 1e6:.0f} MB of features need a file, for which `{folder}` "
            f"{lacks_room(error)}: set OTMETRICS_CACHE to another folder, or raise --memory-limit."
        ) from error


def rows_of(cloud: Tensor, rows: Tensor, limit: float) -> Tensor:
    """Copy some rows of features.

    Args:
        cloud: Features (N, D), perhaps mapped.
        rows: Ascending indices of n rows, on the same device.
        limit: Bytes from which the copy is a file, as for `new_array`; on the CPU.

    Returns:
        Features (n, D).

    Raises:
        DataError: There is no room for the file.
    """
    if _fits(cloud, len(rows), cloud.dtype, limit):
        return cloud[rows]
    copy = _room_for(len(rows), cloud, cloud.dtype, limit)
    for part in _parts(copy):
        copy[part] = cloud[rows[part]]
    return copy


def transform_rows(
    cloud: Tensor, change: Callable[[Tensor], Tensor], dtype: torch.dtype, limit: float
) -> Tensor:
    """Change features row by row.

    Args:
        cloud: Features (N, D), perhaps mapped.
        change: Maps any number of rows to as many.
        dtype: Dtype of the result.
        limit: Bytes from which the result is a file, as for `new_array`; on the CPU.

    Returns:
        Features (N, D).

    Raises:
        DataError: There is no room for the file.
    """
    if _fits(cloud, len(cloud), dtype, limit):
        return change(cloud).to(dtype)
    copy = _room_for(len(cloud), cloud, dtype, limit)
    for part in _parts(copy):
        copy[part] = change(cloud[part]).to(dtype)
    return copy


def _fits(cloud: Tensor, num: int, dtype: torch.dtype, limit: float) -> bool:
    """Whether so many rows stay in memory."""
    return cloud.device.type != "cpu" or num * cloud.shape[1] * dtype.itemsize <= limit


def _room_for(num: int, cloud: Tensor, dtype: torch.dtype, limit: float) -> Tensor:
    """Room for rows like those of a cloud."""
    numpy_dtype = torch.empty(0, dtype=dtype).numpy().dtype
    return torch.from_numpy(new_array((num, cloud.shape[1]), numpy_dtype, limit))


def _parts(cloud: Tensor) -> Iterator[slice]:
    """Slices of rows, each of some megabytes."""
    step = max(1, _BLOCK_BYTES // (cloud.shape[1] * cloud.element_size()))
    for start in range(0, len(cloud), step):
        yield slice(start, start + step)
